"""`amibus channels`: who is in a call now."""

from typing import TYPE_CHECKING, Any

import click

from workers.cli.asking import asking_options, person, place, question
from workers.cli.names import server_argument
from workers.cli.output import Cell
from workers.cli.result_view import duration

if TYPE_CHECKING:
    from broker.telephony.channels import Channel

_STATES = {"Up": "green", "Ringing": "yellow", "Ring": "yellow", "Down": "dim"}


@click.command()
@server_argument()
@asking_options
def channels(server: str, **given: Any) -> None:
    """Show the channels that are alive.

    The last column is the Uniqueid, by which `hangup`, `redirect` and `record` find the channel whatever its name
    becomes.

    \b
    Examples:
      amibus channels pbx1
      amibus channels pbx1 --json | jq -r 'select(.duration_s > 3600) | .uniqueid'

    \b
    Exit codes:
      0  shown
      1  it failed
      2  wrong use
      3  no answer in time
    """
    asked = question(server, given)
    found = sorted(
        asked.ask(lambda pbx: pbx.channels(**asked.options)), key=lambda each: (each.linkedid, each.uniqueid)
    )
    columns = ("channel", "state", "for", "caller", "connected to", "at", "application", "Uniqueid")
    asked.show(found, "no channel is alive", columns, _row)


def _row(channel: "Channel") -> list[Cell]:
    return [
        (channel.name, "bold"),
        (channel.state, _STATES.get(channel.state, "")),
        "" if channel.duration_s is None else duration(channel.duration_s),
        person(channel.caller_name, channel.caller_number),
        person(channel.connected_name, channel.connected_number),
        place(channel.exten, channel.context),
        channel.application,
        (channel.uniqueid, "dim"),
    ]
