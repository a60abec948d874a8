"""`amibus completion`: the script that teaches a shell our commands and names."""

from typing import Final

import click
from click.shell_completion import get_completion_class

COMPLETE_VARIABLE: Final = "_AMIBUS_COMPLETE"

_INSTALL: Final = {
    "bash": "amibus completion bash > ~/.local/share/bash-completion/completions/amibus",
    "zsh": "amibus completion zsh > ~/.zfunc/_amibus   (with fpath+=~/.zfunc before compinit in ~/.zshrc)",
    "fish": "amibus completion fish > ~/.config/fish/completions/amibus.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Commands, options, action names, event names and (where Redis answers quickly) server names are completed.

    \b
    Examples:
      amibus completion bash > ~/.local/share/bash-completion/completions/amibus
      eval "$(amibus completion bash)"          # this shell only
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "amibus", COMPLETE_VARIABLE).source()
    # The first line of a zsh script says what it completes, and must stay the first.
    first, _, rest = script.lstrip().partition("\n")
    comment = f"# To install: {_INSTALL[shell]}"
    lines = [first, comment] if first.startswith("#") else [comment, first]
    click.echo("\n".join([*lines, rest.rstrip()]))
