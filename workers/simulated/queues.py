"""One call queue, `support`, with two members, so that queue actions have something to show."""

from workers.simulated.received import Received, block, identity, with_list
from workers.simulated.registry import action
from workers.simulated.session import Session

QUEUE = "support"
MEMBERS = (("Anna", "Local/101@default"), ("Ben", "Local/102@default"))


@action("QueueStatus", synopsis="Show queue status.")
def queue_status(session: Session, action: Received) -> str:
    items: list[str] = []
    if action.get("Queue", QUEUE).lower() == QUEUE:
        wanted = action.get("Member")
        members = [each for each in MEMBERS if wanted in ("", *each)]
        items = [_params(action), *[_member(session, action, *each) for each in members]]
    return with_list(action, "Queue status will follow", items, "QueueStatusComplete")


@action("QueueSummary", synopsis="Show queue summary.")
def queue_summary(session: Session, action: Received) -> str:
    items: list[str] = []
    if action.get("Queue", QUEUE).lower() == QUEUE:
        counts = dict.fromkeys(("Callers", "HoldTime", "TalkTime", "LongestHoldTime"), 0)
        members = len(MEMBERS)
        pairs = ("Queue", QUEUE), ("LoggedIn", members), ("Available", members)
        items = [block(("Event", "QueueSummary"), *pairs, *counts.items(), *identity(action))]
    return with_list(action, "Queue summary will follow", items, "QueueSummaryComplete")


def _params(action: Received) -> str:
    return block(
        ("Event", "QueueParams"),
        ("Queue", QUEUE),
        ("Max", 0),
        ("Strategy", "ringall"),
        *dict.fromkeys(("Calls", "Holdtime", "TalkTime", "Completed", "Abandoned", "ServiceLevel"), 0).items(),
        ("ServicelevelPerf", "0.0"),
        ("ServicelevelPerf2", "0.0"),
        ("Weight", 0),
        *identity(action),
    )


def _member(session: Session, action: Received, name: str, location: str) -> str:
    return block(
        ("Event", "QueueMember"),
        ("Queue", QUEUE),
        ("Name", name),
        ("Location", location),
        ("StateInterface", location),
        ("Membership", "static"),
        *dict.fromkeys(("Penalty", "CallsTaken", "LastCall", "LastPause"), 0).items(),
        ("LoginTime", int(session.asterisk.started_at)),
        ("InCall", 0),
        ("Status", 1),
        ("Paused", 0),
        ("PausedReason", ""),
        ("Wrapuptime", 0),
        *identity(action),
    )
