"""`amibus queues`: who waits in the queues, and who serves them."""

from typing import TYPE_CHECKING, Any

import click

from workers.cli.asking import Question, asking_options, flag, person, question
from workers.cli.failures import Failure
from workers.cli.names import server_argument
from workers.cli.output import Cell
from workers.cli.result_view import duration

if TYPE_CHECKING:
    from broker.telephony.queues import Queue, QueueMember

_STATES = {"NOT_INUSE": "green", "INUSE": "yellow", "RINGING": "yellow", "UNAVAILABLE": "red", "INVALID": "red"}


@click.command()
@server_argument()
@click.argument("queue", required=False)
@asking_options
def queues(server: str, queue: str | None, **given: Any) -> None:
    """Show all queues, or one with its members and callers.

    Free are the members that may be offered a call now: not paused, and idle as far as Asterisk knows.

    \b
    Examples:
      amibus queues pbx1
      amibus queues pbx1 support
      amibus queues pbx1 --json | jq '{name, calls}'

    \b
    Exit codes:
      0  shown
      1  there is no such queue, or it failed
      2  wrong use
      3  no answer in time
    """
    asked = question(server, given)
    found = asked.ask(lambda pbx: pbx.queues(queue, **asked.options))
    if queue is not None and not found:
        raise Failure(f"{server} has no queue {queue!a}")
    if queue is not None and not asked.output.as_json:
        _show_one(asked, found[0])
        return
    columns = (
        "queue", "waiting", "longest", "free", "members", "completed", "abandoned", "service level", "strategy",
    )  # fmt: skip
    asked.show(found, "there is no queue", columns, _row)


def _row(queue: "Queue") -> list[Cell]:
    return [
        (queue.name, "bold"),
        (str(queue.calls), "bold yellow" if queue.calls else ""),
        duration(max(caller.wait_s for caller in queue.callers)) if queue.callers else "",
        str(sum(member.is_free for member in queue.members)),
        str(len(queue.members)),
        str(queue.completed),
        str(queue.abandoned),
        _service_level(queue),
        queue.strategy,
    ]


def _show_one(asked: Question, queue: "Queue") -> None:
    asked.output.line((queue.name, "bold"), f"{queue.calls} waiting", queue.strategy, _service_level(queue))
    asked.output.heading("Members")
    asked.output.table(
        ("name", "interface", "state", "paused", "penalty", "calls taken", "membership"),
        [
            [
                (each.name, "bold"),
                each.interface,
                (each.state, _STATES.get(each.state, "")),
                _paused(each),
                str(each.penalty),
                str(each.calls_taken),
                each.membership,
            ]
            for each in queue.members
        ],
        "nobody",
    )
    asked.output.heading("Callers")
    asked.output.table(
        ("position", "caller", "waits", "channel", "Uniqueid"),
        [
            [
                str(each.position),
                person(each.caller_name, each.caller_number),
                duration(each.wait_s),
                each.channel,
                (each.uniqueid, "dim"),
            ]
            for each in queue.callers
        ],
        "nobody",
    )


def _paused(member: "QueueMember") -> Cell:
    return flag(member.is_paused, f"paused: {member.pause_reason}" if member.pause_reason else "paused")


def _service_level(queue: "Queue") -> str:
    if queue.service_level_percent is None or not queue.service_level_s:
        return ""
    return f"{queue.service_level_percent:g} % in {queue.service_level_s} s"
