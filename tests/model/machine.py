"""The scripts on a real server and the model of the contract, driven by the same random steps, compared after each."""

import copy
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from redis.exceptions import OutOfMemoryError

from broker.codec import FINAL_STATES, State, pack
from broker.entry import Request, decode_entry, entry_action_id
from broker.errors import ErrorCode
from broker.keys import ACTIONS, LANES, URGENT
from broker.record import decode_record
from broker.scripts import LAYOUTS
from tests.model.contract import Item, Model
from tests.model.promises import BEGUN, Call, Promises
from tests.model.real import Kept, Real
from tests.model.snapshot import Disagreement, compare
from tests.model.worker import Held, Worker, mark_item
from workers.outcome import Outcome

LEASE_MS: Final = 600_000
BEAT_MS: Final = (700_000, 900_000)
CALL_TTL_MS: Final = 1_800_000
"""Lives that tell from one another, and from those of records, who set them."""

ASKED: Final = {
    "set": ("Action", "Setvar", "Variable", "x", "Value", "1"),
    "set else": ("Action", "Setvar", "Variable", "x", "Value", "2"),
    "read": ("Action", "Ping"),
    "call": ("Action", "Originate", "Channel", "Local/1@x", "Application", "Wait"),
    "call shared": ("Action", "Originate", "Channel", "Local/1@x", "Application", "Wait", "ChannelId", "shared"),
    "malformed": ("Action", "Ping", "Bus-Typo", "1"),
}
ADDITIONS: Final = {
    "none": (),
    "late": ("Bus-Deadline", "1"),
    "soon": ("Bus-Deadline", "+600"),
    "reply": ("Bus-Reply", "me", "Bus-Tag", "t"),
}
UNIQUEIDS: Final = ("shared", "amibus-pbx1-a", "amibus-pbx1-b", "leg")
CHANGES: Final = {
    "leg": (),
    "dialing": ("call", "dialing"),
    "up": ("call", "up", "answered_at", "5.0"),
    "ended": ("call", "ended", "cause", "16"),
}

NAMES: Final = ("first", "second", "third")
LEASE_STEPS: Final = (
    "it is time", "the lease is over", "the holder is dead", "the holder is dead", "it was", "beat", "beat",
    "late beat", "release", "late release", "late release",
)  # fmt: skip
HARMS: Final = (
    "cancel", "cancel", "end record", "end record", "delete record", "delete record", "keep", "keep", "go back",
    "lanes go back", "lanes go back", "flush", "groups", "events", "entry", "entry",
)  # fmt: skip


class How(NamedTuple):
    """What happens to a call."""

    times: int
    """2: it is repeated at once, for its reply was lost."""
    is_lost: bool
    """The caller does not learn of the answer."""
    is_full: bool
    """Redis' memory is."""


ONCE: Final = How(1, False, False)

RARELY = st.sampled_from([False] * 5 + [True])
HOW = st.builds(How, st.sampled_from([1, 1, 2]), RARELY, RARELY)
OFTEN = st.sampled_from([False, False, True])
WHO = st.sampled_from(["holder"] * 5 + [*NAMES])
ANYBODY = st.sampled_from(["holder", *NAMES])
IDS = st.sampled_from(["a", "b", "c", "d"])
PICKS = st.lists(st.integers(0, 9), min_size=1, max_size=5)
ENTRIES = st.tuples(
    st.sampled_from([(ACTIONS,), (ACTIONS,), (URGENT,), LANES]),
    st.sampled_from(["a", "a", "b", "b", "c", "d", ""]),
    st.sampled_from(["set", "set else", "read", "read", "call", "call shared", "call shared", "malformed"]),
    st.sampled_from(["none", "none", "soon", "reply", "late"]),
)
"""Lanes, ActionID, what is asked for, and what else it says."""
NOTES = st.tuples(
    st.sampled_from(["a", "a", "b", "b", "c", "d", "nobody"]),
    st.lists(st.sampled_from(UNIQUEIDS), max_size=2, unique=True),
    st.booleans(),
    st.sampled_from([*CHANGES]),
)
EVENTS = st.tuples(
    st.sampled_from(["Newchannel", "Hangup"]),
    st.lists(st.sampled_from(["a", "b"]), max_size=2),
    st.lists(NOTES, max_size=2),
)


ARGUMENTS: Final[dict[str, st.SearchStrategy[dict[str, Any]]]] = {
    "add": st.fixed_dictionaries({"entries": st.lists(ENTRIES, min_size=1, max_size=3)}),
    "mark": st.fixed_dictionaries({"who": WHO, "picks": PICKS, "how": HOW, "probe": OFTEN}),
    "mark_sent": st.fixed_dictionaries({"who": ANYBODY, "picks": PICKS, "how": HOW}),
    "settle": st.fixed_dictionaries({"who": ANYBODY, "picks": PICKS, "ends": st.integers(0, 3), "how": HOW}),
    "publish": st.fixed_dictionaries({"who": WHO, "events": st.lists(EVENTS, min_size=1, max_size=3), "how": HOW}),
    "revise": st.fixed_dictionaries(
        {"action_id": IDS, "state": st.sampled_from([State.DONE, State.FAILED]), "stale": OFTEN, "how": HOW}
    ),
    "compete": st.fixed_dictionaries(
        {
            "who": st.sampled_from(NAMES),
            "what": st.sampled_from(LEASE_STEPS),
            "takes_over": st.sampled_from([True, True, False]),
            "how": HOW,
        }
    ),
    "meddle": st.fixed_dictionaries({"what": st.sampled_from(HARMS), "action_id": IDS, "at": st.integers(0, 5)}),
}
OFTEN_TAKEN: Final = {
    "add": 3, "mark": 4, "mark_sent": 2, "settle": 5, "publish": 3, "revise": 2, "compete": 3, "meddle": 3,
}  # fmt: skip
"""How often each step is taken."""

Step = tuple[str, dict[str, Any]]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """A step and its arguments."""
    name = draw(st.sampled_from([name for name, weight in OFTEN_TAKEN.items() for _ in range(weight)]))
    return name, draw(ARGUMENTS[name])


class ScriptsMachine(RuleBasedStateMachine):
    """Producers, three workers that compete for the lease, and those who meddle."""

    def __init__(self, real: Real) -> None:
        super().__init__()
        self.real, self.model = real, Model()
        self.workers = {name: Worker(name) for name in NAMES}
        self.promises = Promises()
        self.began_ms = int(time.time() * 1000)
        self.numbers = dict.fromkeys(LANES, 0)
        self.at = 0.0
        self.kept: tuple[Kept, Model] | None = None
        self.revision: Item | None = None
        real.empty()
        self.seen = real.look()
        self._acquire(self.workers["first"], "")

    # -- producers

    @initialize(entries=st.lists(ENTRIES, min_size=1, max_size=4))
    def begin(self, entries: list[Any]) -> None:
        """There is something to do."""
        self._add(entries)

    @rule(step=steps())
    def step(self, step: Step) -> None:
        """One rule for all: of several Hypothesis leaves half out of each example, and most faults need all of them."""
        name, arguments = step
        getattr(self, name)(**arguments)

    def add(self, entries: list[Any]) -> None:
        self._add(entries)

    # -- workers

    def mark(self, who: str, picks: list[int], how: How, probe: bool) -> None:
        """May they be sent?"""
        worker = self._at_work(who)
        self._mark(worker, _pick(worker.unsent(), picks), how, probe)

    def mark_sent(self, who: str, picks: list[int], how: How) -> None:
        """Asterisk answered; or there is nothing to be answered yet."""
        worker = self._at_work(who)
        if worker.sent():
            self._mark_sent(worker, _pick(worker.sent(), picks), how)
        else:
            self._mark(worker, _pick(worker.unsent(), picks), how, probe=False)

    def settle(self, who: str, picks: list[int], ends: int, how: How) -> None:
        """It is over; or it has not begun yet."""
        worker = self._at_work(who)
        if not worker.over():
            self._mark(worker, _pick(worker.unsent(), picks), ONCE, probe=False)
        if ends == 0:
            self._keep()
        self._settle(worker, _pick(worker.over(), picks), ends, how)

    def publish(self, who: str, events: list[Any], how: How) -> None:
        """A batch whose reply was lost is repeated, and may have grown since."""
        self._publish(self._worker(who), events, how)

    def revise(self, action_id: str, state: State, stale: bool, how: How) -> None:
        """Of an `unknown` one, where there is one. `stale`: by what a record said some time ago."""
        unknown = [name for name in self.model.records if self.seen.state(name) == State.UNKNOWN]
        action_id = unknown[0] if unknown and not stale else action_id
        record = decode_record("pbx1", action_id, self.real.record(action_id))
        if record is not None and record.entry and not (stale and self.revision is not None):
            code = ErrorCode.ORIGINATE_FAILED if state is State.FAILED else None
            outcome = Outcome(state, code=code, message="the truth" if code else None)
            item = self.workers["first"].records.revision(record, outcome, self._now())
            self.revision = LAYOUTS["settle"].values(item)
        if self.revision is None:
            return
        items = [self.revision]
        for _ in range(how.times):
            call = Call("settle", 0, items, self._although(how, lambda: self.real.settle(0, items)))
            self._agree(call, self.model.settle(items))

    def compete(self, who: str, what: str, takes_over: bool, how: How) -> None:
        """For the lease."""
        worker = self.workers[who]
        match what:
            case "beat":
                self._beat(self._worker("holder"), how)
            case "late beat":
                self._beat(worker, how)
            case "release":
                self._release(self._worker("holder"), how)
            case "late release":
                self._release(worker, how)
            case _:
                old = self._worker("holder")
                self._compete(worker, what, takes_over)
                if how.times == 2 and old is not worker:  # it was paused, and wakes
                    self._mark_sent(old, old.sent(), ONCE)
                    self._settle(old, old.over(), 0, ONCE)

    # -- those who meddle

    def meddle(self, what: str, action_id: str, at: int) -> None:
        """Somebody cancels, deletes, trims, flushes; Redis goes back in time."""
        action_id = self._known(action_id, what != "cancel")
        has_record = action_id in self.model.records
        match what:
            case "cancel" if not has_record:
                self.real.cancel(action_id)
                self.model.cancel(action_id)
                self._add([((ACTIONS,), action_id, "set", "late" if at == 0 else "none")])
            case "end record" if has_record and self.seen.state(action_id) in FINAL_STATES:
                self._delete(action_id)
            case "delete record" if has_record:
                begun = [name for name in self.model.records if self.seen.state(name) in BEGUN]
                self._delete(begun[at % len(begun)] if begun else action_id)
            case "keep":
                self._keep()
            case "go back" | "lanes go back" if self.kept is None:
                self._keep()
            case "go back" if self.kept is not None:
                kept, model = self.kept
                self.real.go_back(kept)
                self.model = copy.deepcopy(model)
                self._lose_memory(NAMES[at % 3])
            case "lanes go back" if self.kept is not None:
                kept, model = self.kept
                self.real.go_back(kept, [self.real.keys.lane(lane) for lane in LANES])
                self.model.lanes = copy.deepcopy(model.lanes)
                self.promises.forget()
                self._look()
                self._begin_work(self._worker("holder"))
            case "flush":
                self.real.empty()
                self.model = Model()
                self._lose_memory(NAMES[at % 3])
            case "groups":
                self.real.destroy_groups()
                self.model.destroy_groups()
            case "events":
                self.real.forget_events(at + 1)
                self.model.forget_events(at + 1)
            case "entry":
                self._delete_entry(at)
        self._look()

    # -- a worker's calls

    def _mark(self, worker: Worker, chosen: list[Held], how: How, probe: bool) -> None:
        items = [mark_item(worker, held, probe=probe) for held in chosen]
        call = Call("mark", worker.epoch, items)
        answer: list[tuple[str, str]] = []
        for _ in range(how.times if items else 0):
            if not self._refused(how, call, lambda: self.real.mark(worker.epoch, worker.name, items)):
                answer = self.real.mark(worker.epoch, worker.name, items)
                now = answer[0][1] if answer else "0"
                call.verdicts = [verdict for verdict, _ in answer]
                self._agree(call, self.model.mark(worker.epoch, worker.name, items, now))
        if not how.is_lost:
            for held, (verdict, now) in zip(chosen, answer, strict=False):
                worker.learn_verdict(held, verdict, now, self.model.records.get(held.request.action_id, {}))

    def _mark_sent(self, worker: Worker, chosen: list[Held], how: How) -> None:
        items = [worker.sent_item(held, self._now()) for held in chosen]
        for _ in range(how.times if items else 0):
            self._although(how, lambda: self.real.mark_sent(worker.epoch, items))
            self.model.mark_sent(worker.epoch, items)
            self._compare(Call("mark_sent", worker.epoch, items))

    def _settle(self, worker: Worker, chosen: list[Held], ends: int, how: How) -> None:
        items = [worker.settle_item(held, ends + at, self._now()) for at, held in enumerate(chosen)]
        call = Call("settle", worker.epoch, items)
        for _ in range(how.times if items else 0):
            call.verdicts = self._although(how, lambda: self.real.settle(worker.epoch, items))
            self._agree(call, self.model.settle(items))
        if not how.is_lost:
            for held, verdict in zip(chosen, call.verdicts, strict=True):
                worker.learn_settled(held, verdict)

    def _publish(self, worker: Worker, events: list[Any], how: How) -> None:
        first = worker.seq + 1
        for name, action_ids, notes in events:
            event = {"v": 1, "epoch": worker.epoch, "seq": first + len(worker.batch), "name": name, "of": worker.name}
            worker.batch.append((name, pack(event), action_ids, [self._note(*note) for note in notes]))
        batch: list[Any] = [*worker.batch]
        answer: int | list[Any] = -1
        call = Call("publish", worker.epoch)
        for _ in range(how.times):
            arguments = worker.epoch, first, worker.hole_before, batch
            if not self._refused(how, call, lambda: self.real.publish_events(*arguments)):  # noqa: B023
                answer = self.real.publish_events(*arguments)
                call.verdicts = [str(answer)]
                self._agree(call, [str(self.model.publish_events(*arguments))])
        if how.is_lost or answer == -1:
            return
        if isinstance(answer, list):
            worker.hole_before = first
        else:
            worker.seq, worker.batch = worker.seq + len(batch) * answer, []

    def _beat(self, worker: Worker, how: How) -> None:
        pairs = ["worker", worker.name, "state", "connected"]
        renewed, now = self._although(how, lambda: self.real.beat(worker.epoch, worker.holder, BEAT_MS, pairs))
        call = Call("beat", worker.epoch, verdicts=[str(renewed)])
        self._agree(call, [str(self.model.beat(worker.epoch, worker.holder, BEAT_MS, pairs, now))])

    def _release(self, worker: Worker, how: How) -> None:
        released = self._although(how, lambda: self.real.release(worker.epoch))
        call = Call("release", worker.epoch, verdicts=[str(released)])
        self._agree(call, [str(self.model.release(worker.epoch))])

    def _compete(self, worker: Worker, why: str, takes_over: bool) -> None:
        if why == "the lease is over":
            self.real.end_lease()
            self.model.end_lease()
            self._look()
        beat = self.model.heartbeat.get("heartbeat_at", b"none").decode()
        dead_beat = {"the holder is dead": beat, "it was": "7.000000"}.get(why, "")
        if self._acquire(worker, dead_beat) and takes_over:
            self._begin_work(worker)

    def _begin_work(self, worker: Worker) -> None:
        """As a worker begins: a beat, an event, and what others had begun."""
        self._beat(worker, ONCE)
        self._publish(worker, [("BusConnected", [], [])], ONCE)
        for lane in LANES:
            self._take_over(worker, lane)
        self._mark(worker, worker.unsent(), ONCE, probe=False)

    def _acquire(self, worker: Worker, dead_beat: str) -> bool:
        """Look first, then take it. The others see it while they stand by."""
        self._try_lease(worker, dead_beat, "0")
        answer = self._try_lease(worker, dead_beat, "1")
        if answer[0]:
            worker.epoch = answer[0]
            worker.seq, worker.batch, worker.held = 0, [], {}
            for other in self.workers.values():
                other.floor = answer[0]
        return bool(answer[0])

    def _try_lease(self, worker: Worker, dead_beat: str, take: str) -> list[Any]:
        args = (worker.floor, worker.holder, LEASE_MS, dead_beat, take)
        answer = self.real.acquire(*args)
        call = Call("acquire", worker.epoch, verdicts=[str(part) for part in answer])
        self._agree(call, [str(part) for part in self.model.acquire(*args)])
        return answer

    # -- steps

    def _at_work(self, who: str) -> Worker:
        """This worker, when it has read what is new: one whose time is over reads only once more."""
        worker = self._worker(who)
        self._read(worker, 10 if worker.epoch == self.model.epoch else 1)
        return worker

    def _add(self, entries: list[Any]) -> None:
        """Both lanes have the same ids: they are unique per stream only."""
        for lanes, action_id, asked, also in entries:
            number = max(self.numbers[lane] for lane in lanes) + 1
            for lane in lanes:
                self.numbers[lane] = number
                entry = f"{self.began_ms}-{number}"
                named = ("ActionID", action_id) if action_id else ()
                self.real.add(lane, entry, (*ASKED[asked], *named, *ADDITIONS[also]))
                self.model.add(lane, entry)
        self._look()

    def _keep(self) -> None:
        """A snapshot, to go back to."""
        self.kept = self.real.keep(), copy.deepcopy(self.model)

    def _lose_memory(self, name: str) -> None:
        """Whoever notices first takes the lease anew."""
        self.promises.forget()
        self._look()
        self._compete(self.workers[name], "the holder is dead", takes_over=True)

    def _known(self, action_id: str, has_record: bool = True) -> str:
        """This one, or rather one that has a record (or none), if there is one."""
        fitting = [name for name in ("a", "b", "c", "d") if (name in self.model.records) is has_record]
        return fitting[0] if fitting and action_id not in (*fitting, "nobody") else action_id

    def _note(self, action_id: str, uniqueids: list[str], adds: bool, change: str) -> Item:
        """As `workers.calls` makes them: only the end of a call comes with the end of its record."""
        return {
            "id": self._known(action_id),
            "add": uniqueids if adds and change != "ended" else [],
            "drop": uniqueids if not adds or change == "ended" else [],
            "fields": [*CHANGES[change]],
            "ttl_ms": CALL_TTL_MS if change == "ended" else None,
        }

    def _delete_entry(self, at: int) -> None:
        entries = [(lane, entry) for lane in LANES for entry in self.model.lanes[lane].entries]
        for lane, entry in entries[at : at + 1]:
            self.real.delete_entry(lane, entry)
            self.model.lanes[lane].remove(entry)

    def _delete(self, action_id: str) -> None:
        self.real.delete(action_id)
        self.model.delete(action_id)
        self.promises.forget(action_id)

    def _worker(self, who: str) -> Worker:
        """By name, or who holds the present epoch (the first, where nobody does)."""
        holding = [worker for worker in self.workers.values() if worker.epoch == self.model.epoch]
        return self.workers.get(who) or (holding or [self.workers["first"]])[0]

    def _now(self) -> float:
        """Of what a worker's clock says: each time another."""
        self.at += 1
        return self.at

    def _read(self, worker: Worker, count: int) -> None:
        for lane in LANES:
            entries = self.real.read(lane, worker.name, count)
            expected = self.model.read(lane, worker.name, count)
            if [entry for entry, _ in entries] != expected:
                raise Disagreement(f"read {entries}, not {expected}")
            for entry, fields in entries:
                worker.hold(decode_entry(lane, entry, fields))
        self._look()

    def _take_over(self, worker: Worker, lane: str) -> None:
        entries, gone = self.real.claim(lane, worker.name)
        expected = self.model.claim(lane, worker.name)
        if ([entry for entry, _ in entries], sorted(gone)) != (expected[0], sorted(expected[1])):
            raise Disagreement(f"claimed {entries} and {gone}, not {expected}")
        for entry, fields in entries:
            if (lane, entry) not in worker.held:
                request = decode_entry(lane, entry, fields)
                record = self.model.records.get(request.action_id, {})
                own = (record.get("entry"), record.get("lane")) == (entry.encode(), lane.encode())
                worker.hold(request, begun=record if own and record["state"] in (b"sending", b"sent") else None)
        for entry in gone:
            self._lose(worker, lane, entry)
        self._look()

    def _lose(self, worker: Worker, lane: str, entry: str) -> None:
        """Its body has vanished: the record knows its ActionID."""
        own = (entry.encode(), lane.encode())
        begun = [
            action_id
            for action_id, record in self.model.records.items()
            if record["state"] in (b"sending", b"sent") and (record["entry"], record["lane"]) == own
        ]
        request = Request(lane, entry, begun[0] if begun else entry_action_id(lane, entry), "Ping", name="Ping")
        worker.held[lane, entry] = Held(request, verdict="lost")

    def _refused(self, how: How, call: Call, run: Callable[[], Any]) -> bool:
        """Where memory is full it must be refused, and nothing done."""
        if not how.is_full:
            return False
        try:
            with self.real.full():
                run()
        except OutOfMemoryError:
            self._compare(Call(call.name, call.epoch, call.items, refused=True))
            return True
        raise Disagreement(f"{call.name} was not refused by a full Redis")

    def _although(self, how: How, run: Callable[[], Any]) -> Any:
        """What finishes what was begun must work although memory is full."""
        if not how.is_full:
            return run()
        try:
            with self.real.full():
                return run()
        except OutOfMemoryError as error:
            raise Disagreement(f"refused by a full Redis: {error}") from None

    def _agree(self, call: Call, verdicts: list[str]) -> None:
        if [*call.verdicts] != verdicts:
            raise Disagreement(f"{call}: by the contract {verdicts}")
        self._compare(call)

    def _compare(self, call: Call) -> None:
        before = self.seen
        self._look()
        self.promises.hold(before, self.seen, call)

    def _look(self) -> None:
        self.seen = self.real.look()
        compare(self.model.look(), self.seen)


def _pick(held: list[Held], picks: list[int]) -> list[Held]:
    """Distinct ones, in the order of the picks."""
    chosen = dict.fromkeys(pick % len(held) for pick in picks) if held else {}
    return [held[at] for at in chosen]
