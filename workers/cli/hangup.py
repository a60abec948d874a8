"""`amibus hangup`: end a call."""

from typing import Any

import click

from workers.cli.asking import asking_options, question
from workers.cli.names import server_argument


@click.command()
@server_argument()
@click.argument("channel")
@click.option("--cause", type=click.IntRange(0, 127), metavar="N", help="Q.850 cause for its other end.  [default: 16]")
@asking_options
def hangup(server: str, channel: str, cause: int | None, **given: Any) -> None:
    """Hang up a live channel, by its name or Uniqueid. It overtakes whatever else is queued.

    \b
    Examples:
      amibus hangup pbx1 PJSIP/100-0000002a
      amibus hangup pbx1 1795452000.42 --cause 17
      amibus hangup pbx1 'Local/100@default-0000002a;1'     # quoted: a semicolon ends a command of the shell

    \b
    Exit codes:
      0  hung up
      1  there is no such channel, or it was refused
      2  wrong use
      3  nobody knows, or no answer in time
    """
    asked = question(server, given)
    asked.ask(lambda pbx: pbx.hangup(channel, cause, **(asked.options | {"urgent": True})))
    if asked.output.as_json:
        asked.output.object({"hung_up": channel, "cause": cause})
    else:
        asked.output.line(("hung up", "green"), (channel, "bold"))
