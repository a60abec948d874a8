"""`amibus tail`: the events of a server as they come, from the stream, so that none is missed."""

import contextlib
from typing import TYPE_CHECKING, Final

import click
from click.exceptions import Exit

from workers.cli.names import event_arguments, server_argument
from workers.cli.open_bus import open_bus
from workers.cli.options import client_options, client_settings
from workers.cli.output import Output
from workers.cli.running import run
from workers.cli.since import NOW, place, since_option

if TYPE_CHECKING:
    from broker import BusEvent
    from workers.config import Settings

ALWAYS_SHOWN: Final = "BusGap"
"""Whoever asks for some events only must hear all the same that some of them may be missing."""


@click.command()
@server_argument()
@event_arguments
@click.option("--action-id", metavar="ID", help="Only the events of this action and its call.")
@since_option(
    NOW, "Begin after the event with this id, now ($), with the oldest kept (0), or so long ago (s, m, h or d)."
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line: the contract's event message, and its id."
)
@client_options
def tail(
    server: str, events: tuple[str, ...], action_id: str | None, since: str, count: int | None, as_json: bool,
    redis: str | None, prefix: str | None, config: str | None,
) -> None:  # fmt: skip
    """Show the events of an Asterisk server as they come.

    All of them or those named, one a line, until Ctrl-C. They are read from the server's events stream, so none is
    missed while the connection is away. Where some were lost before they got there, or were trimmed before they were
    read, a BusGap says so, whatever names are given.

    \b
    Examples:
      amibus tail pbx1
      amibus tail pbx1 Newchannel Hangup --since -10m
      amibus tail pbx1 --json | jq -r 'select(.name == "Hangup") | .headers.Channel'

    \b
    Exit codes:
      0  ended by Ctrl-C, --count, or a reader that has gone (| head)
      1  Redis cannot be reached
      2  wrong use
    """
    settings = client_settings(redis, prefix, config)
    try:
        run(_tail(settings, server, events, since, _Printer(Output(as_json=as_json), action_id, count)))
    except KeyboardInterrupt:
        raise Exit(0) from None


class _Printer:
    """Shows the events that are wanted, until there were enough."""

    def __init__(self, output: Output, action_id: str | None, count: int | None) -> None:
        self._output = output
        self._action_id = action_id
        self._left = count

    def show(self, event: "BusEvent") -> bool:
        """Show an event if it is wanted. True: that was the last one."""
        from workers.cli.event_view import show_event

        concerns_all = event.name == ALWAYS_SHOWN
        if self._action_id is not None and self._action_id not in event.action_ids and not concerns_all:
            return False
        show_event(self._output, event)
        if self._left is None:
            return False
        self._left -= 1
        return self._left == 0


async def _tail(settings: "Settings", server: str, names: tuple[str, ...], since: str, printer: _Printer) -> None:
    if names:
        names = (*names, ALWAYS_SHOWN)
    start = await place(settings.redis, since)
    async with (
        open_bus(settings.redis, settings.prefix) as bus,
        contextlib.aclosing(bus.server(server).events(*names, since=start)) as events,
    ):
        async for event in events:
            if printer.show(event):
                return
