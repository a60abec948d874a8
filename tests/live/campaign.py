"""A small campaign of calls, each planned by chance, and what must be true of every one of them at its end."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.live.calls import PlacedCall
from tests.live.observer import HeaderMap
from tests.live.producer import Message, Producer, new_id

APPLICATION = ("Application", "Wait", "Data", "1")
HUNG_UP: Final = "hung up"
"""The kind that somebody outside the bus ends while it rings."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "answered": ("Channel", "Local/102@default", *APPLICATION),
    "ringing": ("Channel", "Local/1@ring", *APPLICATION),
    "ringing long": ("Channel", "Local/3@ring", *APPLICATION),
    "not answered": ("Channel", "Local/30@ring", "Timeout", "1500", *APPLICATION),
    "busy": ("Channel", "Local/busy@default", *APPLICATION),
    "nobody there": ("Channel", "Local/nobody@nowhere", *APPLICATION),
    HUNG_UP: ("Channel", "Local/30@ring", *APPLICATION),
}
"""The fields of an Originate."""

UNKNOWN_CODES: Final = {"worker-lost", "connection-lost", "record-lost", "timeout"}
UP: Final = "6"


@dataclass(frozen=True)
class Planned:
    """One call."""

    kind: str
    action_id: str
    channel_id: str

    @property
    def fields(self) -> tuple[str, ...]:
        """Its entry."""
        return ("Action", "Originate", "ActionID", self.action_id, *KINDS[self.kind])


@dataclass
class Fate:
    """What the bus says of one call, and what an observer saw of it."""

    call: Planned
    record: dict[str, Any]
    lines: list[dict[str, str]]
    """Its lines in `results`."""
    seen: list[HeaderMap]
    """The events that name its channel, or answer its action."""

    def named(self, name: str) -> list[HeaderMap]:
        """Those of that name."""
        return [event for event in self.seen if event["Event"] == name]

    @property
    def channels(self) -> int:
        """How often its channel came to be."""
        return sum(event["Uniqueid"] == self.call.channel_id for event in self.named("Newchannel"))

    @property
    def was_answered(self) -> bool:
        """Asterisk said so, in either way."""
        ups = [event for event in self.named("Newstate") if event["ChannelState"] == UP]
        return any(event["Uniqueid"] == self.call.channel_id for event in ups) or "Success" in self.responses

    @property
    def responses(self) -> set[Any]:
        """What its OriginateResponses say."""
        return {event["Response"] for event in self.named("OriginateResponse")}

    def problems(self) -> list[str]:
        """What the guarantees forbid."""
        found = []
        if self.channels > 1 or len(self.named("OriginateResponse")) > 1:
            found.append(f"{self.channels} channels, {len(self.named('OriginateResponse'))} OriginateResponses")
        first = [line for line in self.lines if line["revised"] != "1"]
        if len(first) != 1 or len(self.lines) > 2 or (len(self.lines) == 2 and first[0]["state"] != "unknown"):
            found.append("not one result, and at most one more that revises an unknown")
        elif self.lines[-1]["state"] != self.record.get("state"):
            found.append("record and results differ")
        found += self._problems_of_state(self.record.get("state"))
        if self.record.get("call") not in (None, "ended"):
            found.append("the call goes on in its record")
        return [f"{self.call}: {problem}; {self._shown()}" for problem in found]

    def _problems_of_state(self, state: str | None) -> list[str]:
        match state:
            case "done" if not self.was_answered or "Failure" in self.responses:
                return ["done, and not answered"]
            case "failed" if self.was_answered or not (self.responses or self.named("Hangup")):
                return ["failed, and answered, or not seen to fail"]
            case "failed" if self.record.get("error_code") != "originate-failed":
                return ["failed, without its code"]
            case "unknown" if self.record.get("error_code") not in UNKNOWN_CODES or not self.record.get("error"):
                return ["unknown, without a code and a reason"]
            case "done" | "failed" | "unknown":
                return []
            case _:
                return [f"its state is {state}"]

    def _shown(self) -> dict[str, Any]:
        plain = {name: value for name, value in self.record.items() if name not in ("request", "result")}
        events = [(event["Event"], event.get("Uniqueid"), event.get("Response")) for event in self.seen]
        return {"record": plain, "lines": self.lines, "seen": events}


class Campaign:
    """Calls put on the queue a few at a time."""

    def __init__(self, producer: Producer, rng: random.Random) -> None:
        self.calls: list[Planned] = []
        self._producer = producer
        self._rng = rng
        self._kinds: list[str] = []

    async def queue(self, count: int) -> list[Planned]:
        """Queue some more: all kinds in turn, shuffled."""
        added = []
        for _ in range(count):
            if not self._kinds:
                self._kinds = [*KINDS]
                self._rng.shuffle(self._kinds)
            action_id = new_id("campaign")
            call = Planned(self._kinds.pop(), action_id, PlacedCall.id_of(self._producer, action_id))
            await self._producer.add(*call.fields)
            added.append(call)
        self.calls += added
        return added

    async def fates(self, seen: Sequence[HeaderMap]) -> list[Fate]:
        """What became of each call."""
        lines = await self._producer.lines()
        return [
            Fate(
                call,
                await self._producer.record(call.action_id),
                [line for line in lines if line["action_id"] == call.action_id],
                [event for event in seen if _is_of(event, call)],
            )
            for call in self.calls
        ]


def _is_of(event: HeaderMap, call: Planned) -> bool:
    if event["Event"] == "OriginateResponse":
        return event.get("ActionID") == call.action_id
    return event.get("Uniqueid") in (call.channel_id, f"{call.channel_id};2")


def broken_numbers(events: Iterable[Message]) -> list[Message]:
    """The events of the stream whose epoch goes back, or whose number does not follow the one before."""
    broken = []
    epoch, seq = 0, 0
    for event in events:
        epoch, seq = (epoch, seq + 1) if event["epoch"] == epoch else (event["epoch"], 1)
        if event["seq"] != seq or event["epoch"] < epoch:
            broken.append(event)
    return broken


def tally(fates: Iterable[Fate]) -> dict[str, int]:
    """How many calls of each kind came to which state."""
    counts = Counter(f"{fate.call.kind}: {fate.record.get('state')}" for fate in fates)
    return dict(sorted(counts.items()))
