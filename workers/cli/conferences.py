"""`amibus conferences`: the conferences that are going on, and who is in them."""

from typing import TYPE_CHECKING, Any

import click

from workers.cli.asking import asking_options, flag, person, question
from workers.cli.names import server_argument
from workers.cli.output import Cell
from workers.cli.result_view import duration

if TYPE_CHECKING:
    from broker.telephony.conferences import ConferenceMember, ConferenceRoom


@click.command()
@server_argument()
@click.argument("conference", required=False)
@asking_options
def conferences(server: str, conference: str | None, **given: Any) -> None:
    """Show all conferences (ConfBridge), or the members of one.

    \b
    Examples:
      amibus conferences pbx1
      amibus conferences pbx1 600

    \b
    Exit codes:
      0  shown, be there any or not
      1  it failed
      2  wrong use
      3  no answer in time
    """
    asked = question(server, given)
    if conference is None:
        rooms = asked.ask(lambda pbx: pbx.conferences(**asked.options))
        asked.show(rooms, "no conference is going on", ("conference", "parties", "marked", "locked", "muted"), _room)
        return
    members = asked.ask(lambda pbx: pbx.conference(conference).members(**asked.options))
    columns = ("caller", "channel", "for", "admin", "muted", "talking", "waiting", "Uniqueid")
    asked.show(members, f"conference {conference} is not going on", columns, _member)


def _room(room: "ConferenceRoom") -> list[Cell]:
    return [
        (room.name, "bold"),
        str(room.parties),
        str(room.marked),
        flag(room.is_locked, "locked"),
        flag(room.is_muted, "muted"),
    ]


def _member(member: "ConferenceMember") -> list[Cell]:
    return [
        (person(member.caller_name, member.caller_number), "bold"),
        member.channel,
        "" if member.since_s is None else duration(member.since_s),
        flag(member.is_admin, "admin", "cyan"),
        flag(member.is_muted, "muted"),
        flag(member.is_talking, "talking", "green"),
        flag(member.is_waiting, "waiting"),
        (member.uniqueid, "dim"),
    ]
