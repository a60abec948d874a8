"""The whole history of a run, and the checker: what the contract promises, held against what was seen."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from broker.codec import FINAL_STATES, State
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

SETTLING_S: Final = 90.0
"""What a worker has to settle waits for Redis so long at most: no outage of a round lasts longer."""


@dataclass(frozen=True)
class Write:
    """An action that reached Asterisk, in the order of arrival."""

    action_id: str
    action: str
    at: float
    """Unix seconds."""
    session: int = 0
    host: str = ""
    """Whose worker wrote it: each host has an AMI user of its own."""


XADD_S: Final = 5.0
"""A producer waits for the reply to its XADD so long at most."""


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
    tried_at: float = 0.0
    """Unix seconds at which the producer gave up waiting for the reply, where none came."""

    @property
    def order(self) -> tuple[int, int]:
        """Its place in its lane."""
        milliseconds, _, number = self.entry.partition("-")
        return int(milliseconds), int(number)

    @property
    def at(self) -> float:
        """Unix seconds by Redis' clock, cut to milliseconds."""
        return self.order[0] / 1000


@dataclass(frozen=True)
class Loss:
    """Redis has gone back in time: what it was told between these (unix seconds by its clock) it may have forgotten."""

    since: float
    until: float
    how: str = ""

    def has(self, at: float, slack_s: float = 0.001) -> bool:
        """Whether what Redis was told then may be forgotten."""
        return self.since - slack_s <= at <= self.until + slack_s

    def meets(self, after: float, before: float) -> bool:
        """Whether any of it lies between these two."""
        return after <= self.until and before >= self.since

    def has_entry(self, entry: Entry) -> bool:
        """Whether this entry may be forgotten."""
        if entry.accepted:
            return self.has(entry.at)
        return self.has(entry.tried_at, XADD_S)  # if it was ever there


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
    """`settled_at`, unix seconds by the worker's reckoning; 0: not known."""
    told_at: float = 0.0
    """When Redis took it, by its own clock, cut to milliseconds; 0: not known."""

    @property
    def key(self) -> "Telling":
        """What a message about the same says of itself."""
        return self.action_id, self.entry, self.revised


Telling = tuple[str, str, bool]
"""ActionID, entry, and whether it is a revision."""


@dataclass(frozen=True)
class Said:
    """A `result` message, on the action's channel or on a reply channel."""

    action_id: str
    entry: str
    state: str
    error_code: str | None = None
    revised: bool = False
    settled_at: float = 0.0
    heard_at: float = 0.0
    """Unix seconds at which the observer heard it."""

    @property
    def key(self) -> Telling:
        """Whose line in `results` says the same."""
        return self.action_id, self.entry, self.revised

    def is_twin_of(self, other: "Said") -> bool:
        """Whether the two were said together, on two channels."""
        is_same = (self.key, self.settled_at) == (other.key, other.settled_at)
        return is_same and abs(self.heard_at - other.heard_at) <= CLOCKS_S


@dataclass(frozen=True)
class Seen:
    """An event of the `events` stream."""

    epoch: int
    seq: int
    name: str
    at: float = 0.0
    """When Redis took it, unix seconds by its clock."""


@dataclass(frozen=True)
class Term:
    """A worker has taken the lease."""

    epoch: int
    host: str = ""
    at: float = 0.0
    """When the worker heard of it (unix seconds)."""
    asked_at: float = math.inf
    """When it had asked for it, at the earliest; Redis has handed it out since. Infinite: not known."""


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
    messages: list[Said] = field(default_factory=list)
    """The `result` messages, in the order in which they came."""
    replies: list[Said] = field(default_factory=list)
    """The same on the reply channel."""
    deaf: list[tuple[float, float]] = field(default_factory=list)
    """From when until when (unix seconds) the subscription was interrupted: messages may be missing."""
    events: list[Seen] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    """As their workers heard of it, one per lease taken (and not found at once to be of an epoch of the past)."""
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
    held: list[tuple[float, float]] = field(default_factory=list)
    """From when until when (unix seconds) the network kept what was written to Asterisk, and brought it afterwards."""
    losses: list[Loss] = field(default_factory=list)
    """When Redis went back in time."""
    noted: dict[str, set[str]] = field(default_factory=dict)
    """By host: the ActionIDs that its journal has as written. Empty: nobody looked."""
    allowed: "Counter[str]" = field(default_factory=Counter)
    """What `check` let pass, because Redis had gone back in time, by its kind."""

    def is_forgotten(self, entry: Entry) -> bool:
        """Whether Redis may have lost this entry."""
        return any(loss.has_entry(entry) for loss in self.losses)

    def written_and_forgotten(self) -> set[str]:
        """The ActionIDs that were written while Redis forgot what it was told, perhaps also that they were begun."""
        return {
            write.action_id for write in self.writes if any(loss.has(write.at, LOOK_TO_WRITE_S) for loss in self.losses)
        }

    def was_deaf(self, at: float) -> bool:
        """Whether what was said then may not have been heard."""
        return any(lost - CLOCKS_S <= at <= back + CLOCKS_S for lost, back in self.deaf)

    def was_held(self, settled_at: float, arrived_at: float) -> bool:
        """Whether the network kept what had been written when this was settled, and brought it only then."""
        return any(since <= settled_at and until <= arrived_at <= until + CLOCKS_S for since, until in self.held)

    def has_hole(self, after: float, before: float) -> bool:
        """Whether Redis may have forgotten what it was told between these two."""
        return any(loss.meets(after, before) for loss in self.losses)

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
            name: [asdict(each) for each in getattr(self, name)]
            for name in ("entries", "writes", "lines", "events", "messages", "replies", "losses", "terms")
        }
        names = ("records", "pending", "lengths", "legs", "crashes", "deaf", "held", "is_orderly", "allowed")
        whole |= {name: getattr(self, name) for name in names}
        whole["noted"] = {host: sorted(noted) for host, noted in self.noted.items()}
        path.write_text(json.dumps(whole, indent=1))


def check(history: History) -> list[Violation]:
    """Every promise that was broken, in words. An empty list is the verdict that all was kept.

    Where Redis went back in time, just what it may have forgotten is let pass, and counted in `history.allowed`.
    """
    _take_out_twins(history)
    _take_out_forgotten(history)
    return [violation for rule in _RULES for violation in rule(history)]


def _take_out_forgotten(history: History) -> None:
    """Messages about what was settled and then forgotten: Redis has no line of it, or another one of later."""
    if not history.losses:
        return
    told_at = {(line.key, round(line.at, 6)): line.told_at for line in history.lines}

    def is_forgotten(said: Said, others: Sequence[Said]) -> bool:
        told = told_at.get((said.key, round(said.settled_at, 6)))
        if told is not None:  # perhaps again, for the reply to the first telling was lost, too
            return any(loss.has(said.heard_at) and told > loss.until for loss in history.losses)
        # Of a pair, on the action's channel and on the reply channel, one may have been heard just within that time.
        pair = [other.heard_at for other in others if other.is_twin_of(said)]
        return any(loss.has(at, CLOCKS_S) for loss in history.losses for at in (said.heard_at, *pair))

    kept = [message for message in history.messages if not is_forgotten(message, history.replies)]
    replies = [reply for reply in history.replies if not is_forgotten(reply, history.messages)]
    if len(kept) < len(history.messages):
        history.allowed["results forgotten"] += len(history.messages) - len(kept)
    history.messages, history.replies = kept, replies


def _take_out_twins(history: History) -> None:
    """Both lanes may have an entry of one ActionID and id, and `results` names no lane: of two that ask for different
    things the second is answered apart, which looks like a second fate of the first."""
    lanes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in history.entries:
        lanes[each.action_id, each.entry].add(each.lane)

    def is_twin(said: Line | Said) -> bool:
        return said.error_code == REUSED and len(lanes[said.action_id, said.entry]) > 1

    history.lines = [line for line in history.lines if not is_twin(line)]
    history.messages = [message for message in history.messages if not is_twin(message)]
    history.replies = [reply for reply in history.replies if not is_twin(reply)]


def _written_once(history: History) -> Iterator[Violation]:
    reads = {each.action_id for each in history.entries if each.reads_only}
    writes: dict[str, list[Write]] = defaultdict(list)
    for write in history.writes:
        writes[write.action_id].append(write)
    for action_id, found in writes.items():
        if len(found) < 2 or action_id in reads:
            continue
        if _is_the_hole(history, action_id, found):
            history.allowed["written twice by two hosts: the one hole"] += 1
        else:
            yield Violation("written twice", action_id, f"it changes state, and Asterisk got it {len(found)} times")


def _is_the_hole(history: History, action_id: str, writes: Sequence[Write]) -> bool:
    """The one that the README names: Redis lost the entry that one host's worker wrote, its producer added it again,
    and another host's worker, whose journal knows nothing of it, wrote that."""
    if len({write.host for write in writes}) < len(writes):
        return False  # this host's journal knew
    entries = [each for each in history.entries if each.action_id == action_id]
    return len(entries) > 1 and any(
        loss.has_entry(entry) and writes[0].at <= loss.until + LOOK_TO_WRITE_S and writes[-1].at >= loss.since
        for loss in history.losses
        for entry in entries
    )


def _noted_before(history: History) -> Iterator[Violation]:
    """What changes something is in the journal of the host that wrote it, and marked there as written."""
    if not history.noted:
        return
    reads = {each.action_id for each in history.entries if each.reads_only}
    for write in history.writes:
        if write.action_id not in reads and write.action_id not in history.noted[write.host]:
            yield Violation("not noted", write.action_id, f"{write.host} wrote it, and its journal does not say so")


def _by_redis_clock(history: History) -> Iterator[Violation]:
    """Whatever the hour is on a worker's host, the times that it tells are Redis'."""
    for line in history.lines:
        age_s = line.told_at - line.at
        if line.at and line.told_at and not -CLOCKS_S <= age_s <= SETTLING_S:
            yield Violation("wrong time", line.action_id, f"settled {age_s:.2f} s before Redis was told so")


def _not_written_after_its_fate(history: History) -> Iterator[Violation]:
    """A zombie that writes what was settled `unknown` long ago: the producer may have decided by then."""
    reads = {each.action_id for each in history.entries if each.reads_only}
    settled = {line.action_id: line for line in history.lines if line.at and not line.revised}
    for write in history.writes:
        line = settled.get(write.action_id)
        if line is not None and line.state != State.REJECTED and write.action_id not in reads:
            late_s = write.at - line.at
            if late_s > CLOCKS_S and line.state == State.UNKNOWN and history.was_held(line.at, write.at):
                history.allowed["written before its fate, and held up by the network"] += 1
            elif late_s > CLOCKS_S:
                yield Violation("written late", write.action_id, f"{late_s:.2f} s after it was settled {line.state}")


def _written_in_time(history: History) -> Iterator[Violation]:
    deadlines: dict[str, float] = {}
    for entry in history.entries:  # a second entry of one ActionID may have been the first to be taken
        deadlines[entry.action_id] = max(entry.deadline or math.inf, deadlines.get(entry.action_id, 0.0))
    for write in history.writes:
        last = deadlines.get(write.action_id, math.inf) + LOOK_TO_WRITE_S + CLOCKS_S
        late_s = write.at - deadlines.get(write.action_id, math.inf)
        if write.at > last and history.was_held(last, write.at):
            history.allowed["written before its deadline, and held up by the network"] += 1
        elif write.at > last:
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
    accepted = [each for each in history.entries if each.accepted]
    surely = {each.action_id for each in accepted if not history.is_forgotten(each)}
    for action_id in dict.fromkeys(each.action_id for each in accepted):
        record = history.records.get(action_id)
        if record is None and action_id not in surely:
            history.allowed["entries forgotten"] += 1
        elif record is None:
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
    forgotten = {(each.action_id, each.entry) for each in history.entries if history.is_forgotten(each)}
    begun = history.written_and_forgotten()
    for action_id, entry in by_entry:
        record = history.records.get(action_id, {})
        is_known = (action_id, entry) in queued or action_id in unsure or (unnamed and action_id.endswith(entry))
        if not is_known:
            yield Violation("not asked for", action_id, f"`results` has a line for {entry}, which nobody queued")
        for line in by_entry[action_id, entry]:
            if record.get("entry") == entry or line.state == State.REJECTED:
                continue
            # It was under way when Redis forgot it, or its beginning, and another entry came in its place.
            if (action_id, entry) in forgotten or action_id in begun:
                history.allowed["fates of forgotten entries"] += 1
            elif (line.state, line.error_code) == (State.UNKNOWN, "record-lost") and _says_less(record):
                # Each was judged when there was no record, and each may be the one that was sent.
                history.allowed["fates of entries in doubt"] += 1
            else:
                yield Violation("two fates", action_id, f"its entry {entry} ended {line.state} beside the record's")


def _says_less(record: Mapping[str, str]) -> bool:
    """Whether a record claims nothing that an entry in doubt beside it could belie."""
    return record.get("error_code") == "record-lost" or record.get("state") == State.EXPIRED


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
    reads = {each.action_id for each in history.entries if each.reads_only}
    forgotten = {each.action_id for each in history.entries if history.is_forgotten(each)}
    for action_id, record in history.records.items():
        state = record.get("state", "")
        if state in WERE_SENT and action_id not in written:
            yield Violation("never written", action_id, f"it is {state}, and Asterisk never got it")
        if state not in NEVER_SENT or action_id not in written:
            continue
        at = min(write.at for write in history.writes if write.action_id == action_id)
        if record.get("error_code") == REUSED and action_id in forgotten:
            history.allowed["fates of forgotten entries"] += (
                1  # the write was another's, which asked for something else
            )
        elif action_id in reads and any(loss.has(at, LOOK_TO_WRITE_S) for loss in history.losses):
            # No journal knows of what only reads, and Redis has forgotten it.
            history.allowed["reads forgotten, and then not sent"] += 1
        else:
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
        if not heard[key] and not history.was_deaf(line.told_at):
            yield Violation("not said", line.action_id, f"its result ({line.state}) was never published")


def _replies_are_the_messages(history: History) -> Iterator[Violation]:
    """Who named a reply channel hears there what the action's channel says."""
    wanted = {(each.action_id, each.entry) for each in history.entries if each.replies}
    # Around an interruption nobody can tell. One of a pair may have been heard just within that time.
    said = {(each.action_id, each.entry, each.state): each for each in history.messages}
    replied = {(each.action_id, each.entry, each.state): each for each in history.replies}
    for (action_id, entry, state), each in said.items():
        is_lost = (action_id, entry) in wanted and (action_id, entry, state) not in replied
        if is_lost and not history.was_deaf(each.heard_at):
            yield Violation("not replied", action_id, f"its result ({state}) did not come on the reply channel")
    for (action_id, entry, state), each in replied.items():
        if (action_id, entry, state) not in said and not history.was_deaf(each.heard_at):
            yield Violation("disagreement", action_id, f"{state} came on the reply channel alone")


def _no_crash(history: History) -> Iterator[Violation]:
    for words in history.crashes:
        yield Violation("crash", "", words)


def _in_order(history: History) -> Iterator[Violation]:
    """First in, first out per producer, lane and cost class, of what was first written. After a takeover read-only
    actions may be repeats, whether or not the first attempt came as far as Asterisk."""
    was_taken_over = len(history.terms) > 1
    # By lane as well: two streams may have entries of one id.
    places = {(each.action_id, each.lane, each.entry): each for each in history.entries}
    latest: dict[tuple[str, str, str], tuple[Entry, Write]] = {}
    seen: set[str] = set()
    repeats = Counter(each.action_id for each in history.entries)
    begun = history.written_and_forgotten()
    # Of these nobody knows for which of its entries it was written, nor in which order Redis had them.
    forgotten = {each.action_id for each in history.entries if history.is_forgotten(each)}
    for write in history.writes:
        record = history.records.get(write.action_id, {})
        entry = places.get((write.action_id, record.get("lane", ACTIONS), record.get("entry", "")))
        if entry is None or write.action_id in seen or (entry.reads_only and was_taken_over):
            continue
        # Nor of those that were written in the time that Redis forgot, and queued again.
        has_waited = history.has_hole(entry.at, write.at)  # Redis may have forgotten who had taken it, and gave it anew
        if write.action_id in forgotten or has_waited or (repeats[write.action_id] > 1 and write.action_id in begun):
            history.allowed["order of forgotten entries"] += 1
            continue
        seen.add(write.action_id)
        kind = entry.producer, entry.lane, entry.cost
        before, overtaker = latest.get(kind, (None, None))
        if before is not None and overtaker is not None and entry.order < before.order:
            if _was_in_doubt(history, entry, write, overtaker):
                history.allowed["order of what another host may have written"] += 1
                continue
            words = (
                f"written after {before.action_id}, which {entry.producer} queued later ({entry.lane}, {entry.cost})"
            )
            yield Violation("out of order", write.action_id, words)
        else:
            latest[kind] = entry, write


def _was_in_doubt(history: History, entry: Entry, write: Write, overtaker: Write) -> bool:
    """Whether an earlier worker of this host may have begun it before another host's wrote what came later: that one
    could not know whether it had been written, and holds up nobody until it has found out."""
    ends = [*(term.at for term in history.terms[1:]), math.inf]
    return write.host != overtaker.host and any(
        term.host == write.host and term.at <= overtaker.at and entry.at <= until
        for term, until in zip(history.terms, ends, strict=True)
    )


def _nothing_left(history: History) -> Iterator[Violation]:
    for what, counts in (("pending", history.pending), ("in the stream", history.lengths)):
        for lane, count in counts.items():
            if count:
                yield Violation("left over", "", f"{count} entries of {lane} are still {what}")
    for channel, action_id in history.legs.items():
        yield Violation("left over", action_id, f"{channel} is taken for alive, and is not")


def _epochs_grow(history: History) -> Iterator[Violation]:
    for before, after in pairwise(history.terms):
        # Whose worker was held up hears of it later than the next one.
        is_overlapping = after.epoch < before.epoch and after.asked_at <= before.at
        if after.epoch > before.epoch or is_overlapping:
            continue
        # Of an epoch that Redis forgot this host's journal knows, and another's does not.
        if before.host != after.host and any(loss.has(before.at, LOOK_TO_WRITE_S) for loss in history.losses):
            history.allowed["epochs forgotten, and begun again on another host"] += 1
        else:
            yield Violation("epochs", "", f"epoch {after.epoch} was handed out after {before.epoch}")
    for earlier, later in pairwise(history.events):
        if later.epoch < earlier.epoch:
            yield Violation("epochs", "", f"an event of epoch {later.epoch} came after one of {earlier.epoch}")


def _unknowns_explained(history: History) -> Iterator[Violation]:
    for line in history.lines:
        if line.state == State.UNKNOWN and not (line.error_code and line.message):
            yield Violation("unexplained", line.action_id, f"unknown, code {line.error_code!r}, why {line.message!r}")


def _events_without_holes(history: History) -> Iterator[Violation]:
    """`seq` grows by one in an epoch, and what is missing is announced by a BusGap; so is the time between epochs."""
    before = Seen(0, 0, "")
    names: dict[int, set[str]] = defaultdict(set)
    may_be_forgotten: set[int] = set()
    for event in history.events:
        is_first = event.epoch != before.epoch
        names[event.epoch].add(event.name)
        expected = 1 if is_first else before.seq + 1
        is_hole = history.has_hole(before.at, event.at)
        if is_hole:
            may_be_forgotten.add(event.epoch)
        if event.seq > expected and is_hole:
            history.allowed["events forgotten"] += event.seq - expected
            if event.name != "BusGap":
                words = f"epoch {event.epoch}: Redis forgot what was before seq {event.seq}, and nobody says so"
                yield Violation("events", "", words)
        elif is_first and event.seq != 1:
            yield Violation("events", "", f"epoch {event.epoch} begins with seq {event.seq}")
        elif event.seq != expected and event.name != "BusGap":
            yield Violation("events", "", f"epoch {event.epoch}: seq {event.seq} ({event.name}) follows {before.seq}")
        before = event
    for number, (epoch, seen) in enumerate(names.items()):
        if number and "BusConnected" in seen and "BusGap" not in seen and epoch not in may_be_forgotten:
            yield Violation("events", "", f"epoch {epoch} does not say what was missed before it")


_RULES: Final = [
    _written_once, _noted_before, _by_redis_clock, _not_written_after_its_fate, _nothing_invented, _one_fate,
    _fate_and_writes, _agreement,
    _replies_are_the_messages, _no_crash, _in_order, _nothing_left, _epochs_grow, _unknowns_explained,
    _events_without_holes, _written_in_time, _all_known,
]  # fmt: skip
