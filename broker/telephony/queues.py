"""Queues: their parameters, who serves them, who waits in them."""

from dataclasses import dataclass, field
from typing import Final, Self, Unpack

from broker.ami import Headers
from broker.telephony.arguments import given, refused
from broker.telephony.asking import Asking, Options, items_of, known
from broker.telephony.reading import count, decimal, is_true, number, text

_ITEMS: Final = ("QueueParams", "QueueMember", "QueueEntry")

DEVICE_STATES: Final = (
    "UNKNOWN", "NOT_INUSE", "INUSE", "BUSY", "INVALID", "UNAVAILABLE", "RINGING", "RINGINUSE", "ONHOLD",
)  # fmt: skip
"""What the numbers of a member's Status mean (devicestate.h)."""


_IDLE: Final = ("NOT_INUSE", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class QueueMember:
    """One who serves a queue."""

    queue: str
    interface: str
    """What is dialled, and by what it is removed and paused."""
    name: str
    state_interface: str
    """The device by whose state it counts as free."""
    membership: str
    """`static` (queues.conf), `dynamic` (added) or `realtime`."""
    penalty: int
    calls_taken: int
    last_call_at: int | None
    """Unix seconds; None if there was none."""
    state: str
    """The device's state, such as `NOT_INUSE`, `INUSE`, `RINGING`, `UNAVAILABLE`."""
    is_in_call: bool
    is_paused: bool
    pause_reason: str
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @property
    def is_free(self) -> bool:
        """Whether it may be offered a call now: not paused, and its device idle, or of a state that Asterisk does not
        know, which it takes for idle (app_queue.c, is_member_available). `ringinuse` and wrap-up times are left out."""
        return not self.is_paused and self.state in _IDLE

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a QueueMember."""
        state = count(headers, "Status")
        return cls(
            queue=text(headers, "Queue"),
            interface=text(headers, "Location"),
            name=text(headers, "Name"),
            state_interface=text(headers, "StateInterface"),
            membership=text(headers, "Membership"),
            penalty=count(headers, "Penalty"),
            calls_taken=count(headers, "CallsTaken"),
            last_call_at=number(headers, "LastCall") or None,
            state=DEVICE_STATES[state] if 0 <= state < len(DEVICE_STATES) else str(state),
            is_in_call=is_true(headers, "InCall"),
            is_paused=is_true(headers, "Paused"),
            pause_reason=text(headers, "PausedReason"),
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class QueueCaller:
    """One who waits in a queue."""

    queue: str
    position: int
    """1 is the next."""
    channel: str
    uniqueid: str
    caller_number: str
    caller_name: str
    wait_s: int
    priority: int | None
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a QueueEntry."""
        return cls(
            queue=text(headers, "Queue"),
            position=count(headers, "Position"),
            channel=text(headers, "Channel"),
            uniqueid=text(headers, "Uniqueid"),
            caller_number=text(headers, "CallerIDNum"),
            caller_name=text(headers, "CallerIDName"),  # not escaped here, unlike that of a channel's snapshot
            wait_s=count(headers, "Wait"),
            priority=number(headers, "Priority"),
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it is now."""

    name: str
    strategy: str
    max_callers: int
    """0 is without limit."""
    calls: int
    """How many wait."""
    hold_time_s: int
    """The average wait of late."""
    talk_time_s: int
    """The average call of late."""
    completed: int
    """Since the start, or since the statistics were reset."""
    abandoned: int
    service_level_s: int
    service_level_percent: float | None
    """How many of all calls were answered within `service_level_s`."""
    weight: int
    members: tuple[QueueMember, ...]
    callers: tuple[QueueCaller, ...]
    """In the order in which they wait."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote of the queue itself."""

    @classmethod
    def of(cls, headers: Headers, members: tuple[QueueMember, ...], callers: tuple[QueueCaller, ...]) -> Self:
        """Read a QueueParams, with what came of its members and callers."""
        return cls(
            name=text(headers, "Queue"),
            strategy=text(headers, "Strategy"),
            max_callers=count(headers, "Max"),
            calls=count(headers, "Calls"),
            hold_time_s=count(headers, "Holdtime"),
            talk_time_s=count(headers, "TalkTime"),
            completed=count(headers, "Completed"),
            abandoned=count(headers, "Abandoned"),
            service_level_s=count(headers, "ServiceLevel"),
            service_level_percent=decimal(headers, "ServicelevelPerf"),
            weight=count(headers, "Weight"),
            members=members,
            callers=callers,
            headers=headers,
        )


class Queues(Asking):
    """Queues. All of it is of module app_queue.so."""

    async def queues(self, name: str | None = None, **options: Unpack[Options]) -> list[Queue]:
        """All queues, or the one of that name (none if there is no such queue), with members and callers.

        AMI: QueueStatus (16 to 22; no class needed). It locks each queue while it is listed.
        """
        asked = {"Queue": name if name is None else given("name", name)}
        items = await items_of(self, "QueueStatus", _ITEMS, headers=asked, **options)
        members = [QueueMember.of(each) for each in items if each.get("Event") == "QueueMember"]
        callers = [QueueCaller.of(each) for each in items if each.get("Event") == "QueueEntry"]
        return [
            Queue.of(
                each,
                tuple(member for member in members if member.queue == each.get("Queue")),
                tuple(sorted((caller for caller in callers if caller.queue == each.get("Queue")), key=_position)),
            )
            for each in items
            if each.get("Event") == "QueueParams"
        ]

    async def add_queue_member(
        self,
        queue: str,
        interface: str,
        *,
        name: str | None = None,
        penalty: int = 0,
        paused: bool = False,
        state_interface: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Let `interface`, such as `PJSIP/100`, serve a queue.

        `name` is for people and statistics (default: the interface). Members with a lower `penalty` are called first.
        `state_interface` is the device by whose state it counts as free (default: the interface). Raises
        `ActionFailed` if it serves the queue already ('Already there'), or there is no such queue.

        AMI: QueueAdd (16 to 22; class `agent`).
        """
        if penalty < 0:
            raise refused(f"penalty {penalty} is below 0")
        await self.request(
            "QueueAdd",
            Queue=given("queue", queue),
            Interface=given("interface", interface),
            MemberName=name,
            Penalty=penalty,
            Paused=paused,
            StateInterface=state_interface,
            **known(options),
        )

    async def remove_queue_member(self, queue: str, interface: str, **options: Unpack[Options]) -> None:
        """Let `interface` serve a queue no longer. Raises `ActionFailed` if it did not ('Not there'), if it is of
        queues.conf ('Member not dynamic'), or if there is no such queue.

        AMI: QueueRemove (16 to 22; class `agent`).
        """
        await self.request(
            "QueueRemove", Queue=given("queue", queue), Interface=given("interface", interface), **known(options)
        )

    async def pause_queue_member(
        self,
        interface: str,
        queue: str | None = None,
        *,
        paused: bool = True,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Let a member have no calls for a while (`paused=False`: have them again), of one queue or (without `queue`)
        of all that it serves. Raises `ActionFailed` if it serves none.

        AMI: QueuePause (16 to 22; class `agent`).
        """
        await self.request(
            "QueuePause",
            Interface=given("interface", interface),
            Paused=paused,
            Queue=queue if queue is None else given("queue", queue),
            Reason=reason,
            **known(options),
        )


def _position(caller: QueueCaller) -> int:
    return caller.position
