"""`amibus spool`: action files in a directory, and their answers."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from broker.errors import SettingsError
from workers.cli.failures import UNKNOWN
from workers.cli.options import SPOOL_SETTINGS, chosen_settings, setting_options

if TYPE_CHECKING:
    from workers.action_files.desk import Tally


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Take what is there, and end when all of it is answered.")
@click.option("--settle", "settle_s", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="S",
              help="How long a file that was not renamed into the directory must keep still.")  # fmt: skip
@click.option("--look", "look_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True, metavar="S",
              help="How often to look for files of which the kernel does not tell (NFS).")  # fmt: skip
@setting_options(SPOOL_SETTINGS)
def spool(directory: Path, once: bool, settle_s: float, look_s: float, config: str | None, **flags: Any) -> None:
    """Put action files on the bus, and leave the answers beside them.

    NAME.action holds an action: headers as on AMI, one a line; lines that begin with # are comments; blank lines
    separate several actions, which are executed one after the other. NAME.out is the answer, NAME.error says why
    nothing of it was executed (then NAME.refused is the file, to be mended). Both appear whole.

    Write under another name, and rename: `mv call.tmp call.action`. It runs on any host that reaches Redis, one for
    each directory; stopped or killed it goes on where it was, and no action is executed twice. SIGTERM or Ctrl-C lets
    the answers under way come first (for --drain-s at most), a second one does not.

    \b
    Examples:
      amibus spool --server pbx1 /var/spool/amibus
      amibus spool --server pbx1 --once . && grep ^Bus-State: *.out

    \b
    Exit codes:
      0   stopped as asked; with --once: all is done
      1   with --once: something failed, expired, or was refused; or the directory or Redis is away
      2   wrong use
      3   with --once: something is unknown, or not answered yet
      78  a setting cannot work, or the directory cannot be used
    """
    from workers.action_files.service import serve
    from workers.logs import configure

    settings = chosen_settings(SPOOL_SETTINGS, flags, config)
    if not settings.server:
        raise SettingsError("no server is named: give --server pbx1, AMIBUS_SERVER, or server in the settings file")
    configure(settings.log_format, settings.log_level)
    tally = asyncio.run(
        serve(
            directory,
            settings.server,
            redis=settings.redis,
            prefix=settings.prefix,
            settle_s=settle_s,
            look_s=look_s,
            drain_s=settings.drain_s,
            once=once,
        )
    )
    if once:
        raise Exit(_exit_code(tally))


def _exit_code(tally: "Tally") -> int:
    from broker import State

    if tally.left or tally.states[State.UNKNOWN]:
        return UNKNOWN
    return 0 if set(tally.states) <= {State.DONE} else 1
