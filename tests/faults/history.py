"""The whole history of a run, and the checker: what the contract promises, held against what was seen."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from broker.codec import FINAL_STATES, Result, State
from broker.keys import ACTIONS

NEVER_SENT: Final = frozenset((State.REJECTED, State.EXPIRED, State.CANCELLED))
WERE_SENT: Final = frozenset((State.DONE, State.FAILED))
REVISES: Final = WERE_SENT
"""What an `unknown` may be corrected to."""


REUSED: Final = "action-id-reused"

LOOK_TO_WRITE_S: Final = 1.0
"""A worker may be stopped between its last look at the deadline and the write, as long as its lease lives."""

CLOCKS_S: Final = 0.5
"""The worker reckons Redis' time; so much may be between that and the simulated Asterisk's clock."""


@dataclass(frozen=True)
class Write:
    """An action that reached Asterisk, in the order of arrival."""

    action_id: str
    action: str
    at: float
    """Unix seconds."""
    session: int = 0


@dataclass(frozen=True)
class Entry:
    """An entry that a producer put on a lane. `accepted`: the reply to its XADD came."""

    action_id: str
    entry: str
    action: str
    lane: str = ACTIONS
    producer: str = ""
    cost: str = ""
    reads_only: bool = False
    accepted: bool = True
    replies: bool = False
    """It names a reply channel."""
    deadline: float = 0.0
    """Unix seconds; 0: none of its own."""

    @property
    def order(self) -> tuple[int, int]:
        """Its place in its lane."""
        milliseconds, _, number = self.entry.partition("-")
        return int(milliseconds), int(number)


@dataclass(frozen=True)
class Line:
    """An entry of `results`."""

    action_id: str
    entry: str
    state: str
    error_code: str = ""
    message: str = ""
    revised: bool = False
    at: float = 0.0
    """Unix seconds; 0: not known."""


@dataclass(frozen=True)
class Seen:
    """An event of the `events` stream."""

    epoch: int
    seq: int
    name: str


@dataclass(frozen=True)
class Violation:
    """A promise that was broken."""

    rule: str
    action_id: str
    words: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.action_id}: {self.words}" if self.action_id else f"{self.rule}: {self.words}"


@dataclass
class History:
    """All that was seen of one run, from all sides."""

    entries: list[Entry] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    """The records' plain fields by ActionID, at the end."""
    messages: list[Result] = field(default_factory=list)
    """The `result` messages, in the order in which they came."""
    replies: list[Result] = field(default_factory=list)
    """The same on the reply channel."""
    is_deaf: bool = False
    """The subscription was interrupted: messages may be missing."""
    events: list[Seen] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    """As they were handed out, one per lease taken."""
    pending: dict[str, int] = field(default_factory=dict)
    """By lane, at the end."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Of the lanes' streams, at the end."""
    legs: dict[str, str] = field(default_factory=dict)
    """Channels that the bus still takes for alive, when none is."""
    crashes: list[str] = field(default_factory=list)
    """Ends of workers that nobody had asked for, in words."""
    is_orderly: bool = False
    """Nothing was lost, killed or stopped: then all is known, and followed to its end."""
    was_emptied: bool = False
    """Redis lost its memory on purpose (FLUSHALL): all that is promised then is that nothing is written twice."""

    @property
    def states(self) -> "Counter[str]":
        """How often each final state was reached."""
        return Counter(line.state for line in self.lines)

    @property
    def unknown_codes(self) -> "Counter[str]":
        """How often an action ended `unknown`, by its error code."""
        return Counter(line.error_code for line in self.lines if line.state == State.UNKNOWN)

    def story(self, action_id: str) -> list[str]:
        """All that was seen of one ActionID, for people."""
        told = [f"queued {each}" for each in self.entries if each.action_id == action_id]
        told += [f"written {each}" for each in self.writes if each.action_id == action_id]
        told += [f"settled {each}" for each in self.lines if each.action_id == action_id]
        told += [f"said {each.state} of {each.entry}" for each in self.messages if each.action_id == action_id]
        return [*told, f"record {self.records.get(action_id)}"]

    def save(self, path: Path) -> None:
        """Keep it for reading, as JSON."""
        whole: dict[str, Any] = {
            name: [asdict(each) for each in getattr(self, name)] for name in ("entries", "writes", "lines", "events")
        }
        for name in (
            "records",
            "epochs",
            "pending",
            "lengths",
            "legs",
            "crashes",
            "is_deaf",
            "is_orderly",
            "was_emptied",
        ):
            whole[name] = getattr(self, name)
        whole["messages"] = [
            {"action_id": each.action_id, "entry": each.entry, "state": each.state, "revised": each.revised}
            for each in self.messages
        ]
        path.write_text(json.dumps(whole, indent=1))


def check(history: History) -> list[Violation]:
    """Every promise that was broken, in words. An empty list is the verdict that all was kept."""
    rules = [_written_once] if history.was_emptied else _RULES
    _take_out_twins(history)
    return [violation for rule in rules for violation in rule(history)]


def _take_out_twins(history: History) -> None:
    """Both lanes may have an entry of one ActionID and id, and `results` names no lane: of two that ask for different
    things the second is answered apart, which looks like a second fate of the first."""
    lanes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in history.entries:
        lanes[each.action_id, each.entry].add(each.lane)

    def is_twin(said: Line | Result) -> bool:
        return said.error_code == REUSED and len(lanes[said.action_id, said.entry]) > 1

    history.lines = [line for line in history.lines if not is_twin(line)]
    history.messages = [message for message in history.messages if not is_twin(message)]
    history.replies = [reply for reply in history.replies if not is_twin(reply)]


def _written_once(history: History) -> Iterator[Violation]:
    reads = {each.action_id for each in history.entries if each.reads_only}
    counts = Counter(write.action_id for write in history.writes)
    for action_id, count in counts.items():
        if count > 1 and action_id not in reads:
            yield Violation("written twice", action_id, f"it changes state, and Asterisk got it {count} times")


def _not_written_after_its_fate(history: History) -> Iterator[Violation]:
    """A zombie that writes what was settled `unknown` long ago: the producer may have decided by then."""
    reads = {each.action_id for each in history.entries if each.reads_only}
    settled = {line.action_id: line for line in history.lines if line.at and not line.revised}
    for write in history.writes:
        line = settled.get(write.action_id)
        if line is not None and line.state != State.REJECTED and write.action_id not in reads:
            late_s = write.at - line.at
            if late_s > CLOCKS_S:
                yield Violation("written late", write.action_id, f"{late_s:.2f} s after it was settled {line.state}")


def _written_in_time(history: History) -> Iterator[Violation]:
    deadlines: dict[str, float] = {}
    for entry in history.entries:  # a second entry of one ActionID may have been the first to be taken
        deadlines[entry.action_id] = max(entry.deadline or math.inf, deadlines.get(entry.action_id, 0.0))
    for write in history.writes:
        late_s = write.at - deadlines.get(write.action_id, math.inf)
        if late_s > LOOK_TO_WRITE_S + CLOCKS_S:
            yield Violation("too late", write.action_id, f"written {late_s:.2f} s after its deadline")


def _all_known(history: History) -> Iterator[Violation]:
    """Where nothing went wrong nothing is unknown, and each call that was placed is followed to its end."""
    if not history.is_orderly:
        return
    for line in history.lines:
        if line.state == State.UNKNOWN:
            yield Violation("needlessly unknown", line.action_id, f"nothing was lost, and yet: {line.message}")
    calls = {entry.action_id for entry in history.entries if entry.cost == "calls"}
    for action_id, record in history.records.items():
        if action_id in calls and record.get("state") == State.DONE and record.get("call") != "ended":
            words = f"its call is over, and the record says {record.get('call')}"
            yield Violation("not followed", action_id, words)


def _nothing_invented(history: History) -> Iterator[Violation]:
    queued = {(each.action_id, each.action.lower()) for each in history.entries}
    for write in history.writes:
        if (write.action_id, write.action.lower()) not in queued:
            yield Violation("not asked for", write.action_id, f"Asterisk got a {write.action} that nobody queued so")


def _one_fate(history: History) -> Iterator[Violation]:
    """Each accepted ActionID reaches one final state, and each entry is answered once."""
    by_entry: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in history.lines:
        by_entry[line.action_id, line.entry].append(line)
    for (action_id, entry), lines in by_entry.items():
        yield from _settled_once(action_id, entry, lines)
    for action_id in dict.fromkeys(each.action_id for each in history.entries if each.accepted):
        record = history.records.get(action_id)
        if record is None:
            yield Violation("lost", action_id, "it was accepted, and there is no record of it")
        elif record.get("state") not in FINAL_STATES:
            yield Violation("not settled", action_id, f"its record says {record.get('state')}")
        elif (action_id, record.get("entry", "")) not in by_entry:
            yield Violation("not settled", action_id, f"its record says {record['state']}, `results` has no line of it")
    yield from _answered_each(history, by_entry)


def _answered_each(history: History, by_entry: dict[tuple[str, str], list[Line]]) -> Iterator[Violation]:
    """No line for what nobody queued. Of an ActionID's entries one is the record's; others may be answered apart."""
    queued = {(each.action_id, each.entry) for each in history.entries}
    unsure = {each.action_id for each in history.entries if not each.accepted}
    unnamed = "" in unsure  # such an entry is named by its own id, which the producer never heard
    for action_id, entry in by_entry:
        record = history.records.get(action_id, {})
        is_known = (action_id, entry) in queued or action_id in unsure or (unnamed and action_id.endswith(entry))
        if not is_known:
            yield Violation("not asked for", action_id, f"`results` has a line for {entry}, which nobody queued")
        for line in by_entry[action_id, entry]:
            if record.get("entry") != entry and line.state != State.REJECTED:
                yield Violation("two fates", action_id, f"its entry {entry} ended {line.state} beside the record's")


def _settled_once(action_id: str, entry: str, lines: list[Line]) -> Iterator[Violation]:
    first, *more = lines
    if first.revised:
        yield Violation("revised", action_id, f"{entry}: the first line of it is a revision")
    if len(more) == 1 and more[0].revised and first.state == State.UNKNOWN and more[0].state in REVISES:
        return
    if more:
        told = ", ".join(f"{line.state}{' (revised)' if line.revised else ''}" for line in lines)
        yield Violation("settled twice", action_id, f"{entry}: {told}")


def _fate_and_writes(history: History) -> Iterator[Violation]:
    written = {write.action_id for write in history.writes}
    for action_id, record in history.records.items():
        state = record.get("state", "")
        if state in WERE_SENT and action_id not in written:
            yield Violation("never written", action_id, f"it is {state}, and Asterisk never got it")
        if state in NEVER_SENT and action_id in written:
            yield Violation("written all the same", action_id, f"it is {state}, and Asterisk got it")


def _agreement(history: History) -> Iterator[Violation]:
    """Record, line and message say the same."""
    last = {(line.action_id, line.entry): line for line in history.lines}
    for action_id, record in history.records.items():
        line = last.get((action_id, record.get("entry", "")))
        told = record.get("state"), record.get("error_code", "")
        if line is not None and (line.state, line.error_code) != told:
            words = f"the record says {told}, `results` {(line.state, line.error_code)}"
            yield Violation("disagreement", action_id, words)
    yield from _messages_agree(history)


def _messages_agree(history: History) -> Iterator[Violation]:
    lines: dict[tuple[str, str, bool], Line] = {}
    for line in history.lines:
        lines[line.action_id, line.entry, line.revised] = line
    heard: Counter[tuple[str, str, bool]] = Counter()
    for message in history.messages:
        key = message.action_id, message.entry, message.revised
        heard[key] += 1
        said = lines.get(key)
        if said is None:
            yield Violation("disagreement", message.action_id, f"a result {message.state} was published, never logged")
        elif (said.state, said.error_code) != (message.state, message.error_code or ""):
            words = f"the message says {message.state} ({message.error_code}), `results` {said.state}"
            yield Violation("disagreement", message.action_id, words)
    repeats = Counter(each.action_id for each in history.entries)
    for key, line in lines.items():
        # A second entry with a known ActionID has its result published again, and again where Redis' reply was lost.
        if heard[key] > 1 and repeats[line.action_id] < 2:
            yield Violation("said twice", line.action_id, f"its result was published {heard[key]} times")
        if not heard[key] and not history.is_deaf:
            yield Violation("not said", line.action_id, f"its result ({line.state}) was never published")


def _replies_are_the_messages(history: History) -> Iterator[Violation]:
    """Who named a reply channel hears there what the action's channel says."""
    if history.is_deaf:
        return
    wanted = {(each.action_id, each.entry) for each in history.entries if each.replies}
    said = Counter((each.action_id, each.entry, each.state) for each in history.messages)
    replied = Counter((each.action_id, each.entry, each.state) for each in history.replies)
    for action_id, entry, state in said:
        if (action_id, entry) in wanted and not replied[action_id, entry, state]:
            yield Violation("not replied", action_id, f"its result ({state}) did not come on the reply channel")
    for action_id, entry, state in replied:
        if not said[action_id, entry, state]:
            yield Violation("disagreement", action_id, f"{state} came on the reply channel alone")


def _no_crash(history: History) -> Iterator[Violation]:
    for words in history.crashes:
        yield Violation("crash", "", words)


def _in_order(history: History) -> Iterator[Violation]:
    """First in, first out per producer, lane and cost class, of what was first written. After a takeover read-only
    actions may be repeats, whether or not the first attempt came as far as Asterisk."""
    was_taken_over = len(history.epochs) > 1
    # By lane as well: two streams may have entries of one id.
    places = {(each.action_id, each.lane, each.entry): each for each in history.entries}
    latest: dict[tuple[str, str, str], Entry] = {}
    seen: set[str] = set()
    for write in history.writes:
        record = history.records.get(write.action_id, {})
        entry = places.get((write.action_id, record.get("lane", ACTIONS), record.get("entry", "")))
        if entry is None or write.action_id in seen or (entry.reads_only and was_taken_over):
            continue
        seen.add(write.action_id)
        kind = entry.producer, entry.lane, entry.cost
        before = latest.get(kind)
        if before is not None and entry.order < before.order:
            words = (
                f"written after {before.action_id}, which {entry.producer} queued later ({entry.lane}, {entry.cost})"
            )
            yield Violation("out of order", write.action_id, words)
        else:
            latest[kind] = entry


def _nothing_left(history: History) -> Iterator[Violation]:
    for what, counts in (("pending", history.pending), ("in the stream", history.lengths)):
        for lane, count in counts.items():
            if count:
                yield Violation("left over", "", f"{count} entries of {lane} are still {what}")
    for channel, action_id in history.legs.items():
        yield Violation("left over", action_id, f"{channel} is taken for alive, and is not")


def _epochs_grow(history: History) -> Iterator[Violation]:
    for before, after in pairwise(history.epochs):
        if after <= before:
            yield Violation("epochs", "", f"epoch {after} was handed out after {before}")
    for earlier, later in pairwise(history.events):
        if later.epoch < earlier.epoch:
            yield Violation("epochs", "", f"an event of epoch {later.epoch} came after one of {earlier.epoch}")


def _unknowns_explained(history: History) -> Iterator[Violation]:
    for line in history.lines:
        if line.state == State.UNKNOWN and not (line.error_code and line.message):
            yield Violation("unexplained", line.action_id, f"unknown, code {line.error_code!r}, why {line.message!r}")


def _events_without_holes(history: History) -> Iterator[Violation]:
    """`seq` grows by one in an epoch, and what is missing is announced by a BusGap; so is the time between epochs."""
    for before, after in pairwise(history.events):
        if before.epoch == after.epoch and after.seq != before.seq + 1 and after.name != "BusGap":
            yield Violation("events", "", f"epoch {after.epoch}: seq {after.seq} ({after.name}) follows {before.seq}")
    names: dict[int, set[str]] = defaultdict(set)
    firsts: dict[int, int] = {}
    for event in history.events:
        names[event.epoch].add(event.name)
        firsts.setdefault(event.epoch, event.seq)
    for number, (epoch, seen) in enumerate(names.items()):
        if firsts[epoch] != 1:
            yield Violation("events", "", f"epoch {epoch} begins with seq {firsts[epoch]}")
        if number and "BusConnected" in seen and "BusGap" not in seen:
            yield Violation("events", "", f"epoch {epoch} does not say what was missed before it")


_RULES: Final = [
    _written_once, _not_written_after_its_fate, _nothing_invented, _one_fate, _fate_and_writes, _agreement,
    _replies_are_the_messages, _no_crash, _in_order, _nothing_left, _epochs_grow, _unknowns_explained,
    _events_without_holes, _written_in_time, _all_known,
]  # fmt: skip
