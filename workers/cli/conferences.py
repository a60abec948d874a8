"""`amibus conferences`: the conferences that are going on, and who is in them."""

from typing import TYPE_CHECKING, Any

import click

from workers.cli.asking import Question, asking_options, flag, person, plain, question
from workers.cli.result_view import duration

if TYPE_CHECKING:
    from broker.telephony.conferences import ConferenceMember, ConferenceRoom


@click.command()
@asking_options
@click.argument("conference", required=False)
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
        _show_rooms(asked, asked.ask(lambda pbx: pbx.conferences(timeout=asked.wait_s)))
    else:
        members = asked.ask(lambda pbx: pbx.conference(conference).members(timeout=asked.wait_s))
        _show_members(asked, members)


def _show_rooms(asked: Question, rooms: list["ConferenceRoom"]) -> None:
    if asked.output.as_json:
        for each in rooms:
            asked.output.object(plain(each))
        return
    if not rooms and asked.output.terminal:
        asked.output.line("no conference is going on")
        return
    asked.output.table(
        ("conference", "parties", "marked", "locked", "muted"),
        [
            [
                (each.name, "bold"),
                str(each.parties),
                str(each.marked),
                flag(each.is_locked, "locked"),
                flag(each.is_muted, "muted"),
            ]
            for each in rooms
        ],
    )


def _show_members(asked: Question, members: list["ConferenceMember"]) -> None:
    if asked.output.as_json:
        for each in members:
            asked.output.object(plain(each))
        return
    if not members and asked.output.terminal:
        asked.output.line("nobody is in it")
        return
    asked.output.table(
        ("caller", "channel", "for", "admin", "muted", "talking", "waiting", "Uniqueid"),
        [
            [
                (person(each.caller_name, each.caller_number), "bold"),
                each.channel,
                "" if each.since_s is None else duration(each.since_s),
                flag(each.is_admin, "admin", "cyan"),
                flag(each.is_muted, "muted"),
                flag(each.is_talking, "talking", "green"),
                flag(each.is_waiting, "waiting"),
                (each.uniqueid, "dim"),
            ]
            for each in members
        ],
    )
