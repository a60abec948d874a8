"""The guarantees in words, checked on what can be seen on Redis before and after each call, whatever the model says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.codec import FINAL_STATES, Result, State, decode_message
from broker.keys import LANES
from tests.model.snapshot import Disagreement, Snapshot

BEGUN: Final = ("sending", "sent")
FENCED: Final = ("mark", "publish", "beat", "release")
READING: Final = b"Ping"
"""The one action in these tests that may be repeated."""


@dataclass(slots=True)
class Call:
    """A call of a script."""

    name: str
    epoch: int
    items: Sequence[dict[str, Any]] = ()
    verdicts: Sequence[str] = ()
    refused: bool = False
    """Redis' memory was full."""


@dataclass(slots=True)
class Promises:
    """What has been seen so far. `forget` must be called where somebody else's hand was at the records."""

    settled: set[tuple[str, str, str]] = field(default_factory=set)
    """Lane, entry and ActionID of all that has been answered."""
    revised: set[tuple[str, str, str]] = field(default_factory=set)

    def hold(self, before: Snapshot, after: Snapshot, call: Call) -> None:
        """Raise `Disagreement` for the first that does not."""
        promises: tuple[Callable[[Snapshot, Snapshot, Call], bool], ...] = (
            self.every_key_is_in_the_slot,
            self.it_is_done_as_a_whole_or_not_at_all,
            self.a_stale_epoch_marks_and_publishes_nothing,
            self.only_entries_of_the_call_vanish,
            self.acknowledged_entries_are_gone,
            self.a_record_stays_its_entrys,
            self.nothing_that_changes_is_marked_twice,
            self.nothing_goes_out_after_its_fate_is_known,
            self.a_final_state_stays_but_unknown,
            self.what_was_begun_is_never_said_to_be_unsent,
            self.each_settled_entry_has_one_line_and_one_message,
            self.a_leg_ends_by_its_own_call_only,
        )
        for promise in promises:
            if not promise(before, after, call):
                raise Disagreement(f"{promise.__name__} does not hold after {call}:\n  {before}\n  {after}")

    def forget(self, action_id: str | None = None) -> None:
        """This record was deleted (None: Redis went back in time): its entry may be answered again."""
        for known in (self.settled, self.revised):
            known.difference_update([key for key in known if action_id in (None, key[2])])

    def every_key_is_in_the_slot(self, _before: Snapshot, after: Snapshot, _call: Call) -> bool:
        return not after.strangers

    def it_is_done_as_a_whole_or_not_at_all(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        return not call.refused or (after.same_keys(before) and not after.published)

    def a_stale_epoch_marks_and_publishes_nothing(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        is_fenced = call.name in FENCED and (call.epoch == 0 or call.epoch != before.epoch)
        return not is_fenced or (after.same_keys(before) and not after.published)

    def only_entries_of_the_call_vanish(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        concerned = {(item["lane"], item["entry"]) for item in call.items if "entry" in item}
        gone = {(lane, entry) for lane in LANES for entry in {*before.entries[lane]} - {*after.entries[lane]}}
        return gone <= concerned

    def acknowledged_entries_are_gone(self, before: Snapshot, after: Snapshot, _call: Call) -> bool:
        return not any(
            (before.pending[lane].keys() - after.pending[lane].keys()) & {*after.entries[lane]} for lane in LANES
        )

    def a_record_stays_its_entrys(self, before: Snapshot, after: Snapshot, _call: Call) -> bool:
        """So an ActionID is marked for one entry at most while its record lives."""
        return before.records.keys() <= after.records.keys() and all(
            (record["entry"], record["lane"]) == (after.records[name]["entry"], after.records[name]["lane"])
            for name, record in before.records.items()
            if "entry" in record
        )

    def nothing_that_changes_is_marked_twice(self, before: Snapshot, after: Snapshot, _call: Call) -> bool:
        return all(
            (record["epoch"], record["sending_at"]) == (after.records[name]["epoch"], after.records[name]["sending_at"])
            for name, record in before.records.items()
            if "epoch" in record and record["action"] != READING
        )

    def nothing_goes_out_after_its_fate_is_known(self, before: Snapshot, after: Snapshot, _call: Call) -> bool:
        final = [name for name in before.records if before.state(name) in FINAL_STATES]
        return not any(after.state(name) in BEGUN for name in final)

    def a_final_state_stays_but_unknown(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        revised = {item["id"] for item in call.items if item.get("revised")}
        for name, record in before.records.items():
            old, new = before.state(name), after.state(name)
            if old not in FINAL_STATES or "entry" not in record:
                continue
            is_revision = old == State.UNKNOWN and new in (State.DONE, State.FAILED) and name in revised
            if not is_revision and (old, record["result"]) != (new, after.records[name]["result"]):
                return False
        return True

    def what_was_begun_is_never_said_to_be_unsent(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        """Except by whoever marked it and had not written it yet."""
        attempts = {(item["id"], str(item["attempt"]).encode()) for item in call.items if "attempt" in item}
        return all(
            after.state(name) not in (State.REJECTED, State.EXPIRED, State.CANCELLED)
            or (name, record["epoch"]) in attempts
            for name, record in before.records.items()
            if before.state(name) in BEGUN
        )

    def each_settled_entry_has_one_line_and_one_message(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        lines = after.results[len(before.results) :]
        if after.results[: len(before.results)] != before.results or (lines and call.name != "settle"):
            return False
        told = [(channel, message) for channel, message in after.published if channel.startswith("action:")]
        for line in lines:
            channel, packed = told.pop(0) if told else ("", b"")
            message = decode_message(packed) if packed else None
            if not isinstance(message, Result) or channel != f"action:{message.action_id}":
                return False
            if (message.action_id, message.entry, message.state) != tuple(
                line[name].decode() for name in ("action_id", "entry", "state")
            ):
                return False
            lane = next(item["lane"] for item in call.items if item["message"] == packed)
            known = self.revised if message.revised else self.settled
            key = (lane, message.entry, message.action_id)
            if key in known:
                return False
            known.add(key)
        return call.name != "settle" or not told

    def a_leg_ends_by_its_own_call_only(self, before: Snapshot, after: Snapshot, call: Call) -> bool:
        """Where no event said so: by the end of the attempt to place it."""
        ended = before.legs.items() - after.legs.items()
        own = {item["id"] for item in call.items if item.get("attempt")}
        return call.name == "publish" or all(action_id in own for _, action_id in ended)
