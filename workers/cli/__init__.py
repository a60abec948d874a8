"""The `amibus` command."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from workers.cli.call import call
from workers.cli.channels import channels
from workers.cli.completion import COMPLETE_VARIABLE, completion
from workers.cli.conferences import conferences
from workers.cli.demo import demo
from workers.cli.failures import Amibus
from workers.cli.hangup import hangup
from workers.cli.mailbox import mailbox
from workers.cli.queues import queues
from workers.cli.record import record
from workers.cli.redirect import redirect
from workers.cli.resolve import resolve
from workers.cli.send import send
from workers.cli.simulate import simulate
from workers.cli.spool import spool
from workers.cli.status import status
from workers.cli.tail import tail
from workers.cli.unknown import unknown
from workers.cli.worker import worker

__all__ = ["cli", "main"]


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from workers.version import amibus_version

        click.echo(f"amibus {amibus_version()}")
        context.exit()


@click.group(cls=Amibus, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Asterisk's manager interface (AMI) as a message bus on Redis.

    A worker beside Asterisk takes actions from a Redis stream, sends each at most once, and hands back its result and
    the events of its call. Try `amibus demo` first: it needs neither Redis nor Asterisk.

    Settings come from flags, the environment (AMIBUS_REDIS, AMIBUS_SERVER, ...) and a TOML file (--config, or
    AMIBUS_CONFIG) alike; a flag wins over the environment, that over the file. `amibus worker --help` lists them all.
    """


for _command in (
    demo, worker, send, tail, status, unknown, resolve,
    call, channels, queues, conferences, mailbox, hangup, redirect, record,
    spool, simulate, completion,
):  # fmt: skip
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, `sys.argv` by default, and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to end with an error.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    cli.main(args=arguments, prog_name="amibus", complete_var=COMPLETE_VARIABLE)
    raise AssertionError("click ends the process")
