"""`amibus channels`: who is in a call now."""

from typing import Any

import click

from workers.cli.asking import asking_options, person, place, plain, question
from workers.cli.result_view import duration

_STATES = {"Up": "green", "Ringing": "yellow", "Ring": "yellow", "Down": "dim"}


@click.command()
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
        asked.ask(lambda pbx: pbx.channels(timeout=asked.wait_s)), key=lambda each: (each.linkedid, each.uniqueid)
    )
    if asked.output.as_json:
        for each in found:
            asked.output.object(plain(each))
        return
    if not found and asked.output.terminal:
        asked.output.line("no channel is alive")
        return
    asked.output.table(
        ("channel", "state", "for", "caller", "connected to", "at", "application", "Uniqueid"),
        [
            [
                (each.name, "bold"),
                (each.state, _STATES.get(each.state, "")),
                "" if each.duration_s is None else duration(each.duration_s),
                person(each.caller_name, each.caller_number),
                person(each.connected_name, each.connected_number),
                place(each.exten, each.context),
                each.application,
                (each.uniqueid, "dim"),
            ]
            for each in found
        ],
    )
