"""A checker that has never failed proves nothing: each kind of violation is put before it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.codec import State
from tests.faults.history import CLOCKS_S, REUSED, Entry, History, Line, Loss, Said, Seen, Term, Write, check


def result(action_id: str, entry: str, state: State, code: str | None = None, *, revised: bool = False) -> Said:
    return Said(action_id, entry, state, code, revised)


def record(entry: str, state: str, code: str = "") -> dict[str, str]:
    return {"entry": entry, "state": state, "error_code": code}


def good() -> History:
    """A run in which all went as promised: one of each fate, a duplicate, a repeat of a read-only one."""
    history = History(
        terms=[Term(1), Term(2)], pending={"actions": 0, "urgent": 0}, lengths={"actions": 0, "urgent": 0}
    )
    fates = {
        "a": (State.DONE, ""), "b": (State.FAILED, "asterisk-error"), "c": (State.UNKNOWN, "worker-lost"),
        "d": (State.EXPIRED, "expired"), "e": (State.REJECTED, "malformed"), "r": (State.DONE, ""),
    }  # fmt: skip
    for number, (action_id, (state, code)) in enumerate(fates.items(), 1):
        entry = f"1000-{number}"
        action = "Ping" if action_id == "r" else "Hangup"
        cost = "reads" if action_id == "r" else "changes"
        history.entries.append(Entry(action_id, entry, action, producer="p", cost=cost, reads_only=action_id == "r"))
        history.lines.append(Line(action_id, entry, state, code, "why" if code else ""))
        history.records[action_id] = record(entry, state, code)
        history.messages.append(result(action_id, entry, state, code or None))
    history.entries.append(Entry("a", "1001-0", "Hangup", producer="p", cost="changes"))
    history.messages.append(history.messages[0])
    history.writes += [Write(each, "Hangup", 1.0) for each in "abc"] + [Write("r", "Ping", 1.0)] * 2
    history.events += [Seen(1, 1, "BusConnected"), Seen(1, 2, "BusGap"), Seen(1, 3, "Newchannel")]
    history.events += [Seen(2, 1, "Hangup"), Seen(2, 2, "BusConnected"), Seen(2, 3, "BusGap")]
    return history


def revise(history: History, state: State = State.DONE) -> None:
    history.lines.append(Line("c", "1000-3", state, revised=True))
    history.records["c"] = record("1000-3", state)
    history.messages.append(result("c", "1000-3", state, revised=True))


def apart(history: History, state: State = State.REJECTED) -> None:
    """A second entry of `a` that asks for something else."""
    history.entries.append(Entry("a", "1002-0", "Setvar", producer="p", cost="changes"))
    history.lines.append(Line("a", "1002-0", state, "action-id-reused", "why"))
    history.messages.append(result("a", "1002-0", state, "action-id-reused"))


def rules(history: History) -> set[str]:
    return {violation.rule for violation in check(history)}


def test_a_good_run_passes() -> None:
    assert check(good()) == []


def test_an_unknown_may_be_revised_once() -> None:
    history = good()
    revise(history)
    assert check(history) == []
    revise(history)
    assert "settled twice" in rules(history)


def test_a_reused_action_id_is_answered_apart() -> None:
    history = good()
    apart(history)
    assert check(history) == []


def test_messages_may_be_missing_only_where_the_subscription_broke() -> None:
    history = good()
    del history.messages[3]
    assert rules(history) == {"not said"}
    history.lines[3] = replace(history.lines[3], told_at=100.0)
    history.deaf = [(90.0, 99.0)]
    assert rules(history) == {"not said"}
    history.deaf = [(90.0, 101.0)]
    assert check(history) == []


def test_an_interruption_may_begin_or_end_between_the_two_of_a_pair() -> None:
    history = good()
    history.entries[0] = replace(history.entries[0], replies=True)
    history.deaf = [(10.0, 11.0)]
    for within, without in ((11.0 + CLOCKS_S, 11.001 + CLOCKS_S), (10.0 - CLOCKS_S, 9.999 - CLOCKS_S)):
        for message_at, reply_at in ((within, without), (without, within)):
            history.messages[0] = replace(history.messages[0], heard_at=message_at)
            history.messages[-1] = history.messages[0]
            history.replies = [replace(history.messages[0], heard_at=reply_at)]
            assert check(history) == []


def test_an_xadd_whose_reply_was_lost_may_have_a_line_of_an_entry_unheard_of() -> None:
    history = good()
    history.lines[3] = replace(history.lines[3], entry="999-0")
    history.messages[3] = replace(history.messages[3], entry="999-0")
    history.records["d"]["entry"] = "999-0"
    assert rules(history) == {"not asked for"}
    history.entries.append(Entry("d", "0-0", "Hangup", accepted=False))
    assert check(history) == []


def test_an_entry_without_a_name_whose_reply_was_lost_is_known_by_its_own_id() -> None:
    history = good()
    history.lines.append(Line("1009-0", "1009-0", "rejected", "malformed", "why"))
    history.messages.append(result("1009-0", "1009-0", State.REJECTED, "malformed"))
    history.records["1009-0"] = record("1009-0", "rejected", "malformed")
    assert rules(history) == {"not asked for"}
    history.entries.append(Entry("", "0-0", "", accepted=False))
    assert check(history) == []


def test_a_write_after_the_fate_was_told_is_found() -> None:
    history = good()
    history.lines[2] = replace(history.lines[2], at=1.5)
    assert check(history) == []
    history.lines[2] = replace(history.lines[2], at=0.1)
    assert rules(history) == {"written late"}


def test_two_lanes_may_have_an_entry_of_one_action_id_and_id() -> None:
    history = good()
    entry = next(each for each in history.entries if each.action_id == "b")
    history.lines.append(Line("b", entry.entry, "rejected", REUSED, "why"))
    history.messages.append(result("b", entry.entry, State.REJECTED, REUSED))
    assert "settled twice" in rules(history)
    history = good()
    history.entries.append(replace(entry, lane="urgent"))
    history.lines.append(Line("b", entry.entry, "rejected", REUSED, "why"))
    history.messages.append(result("b", entry.entry, State.REJECTED, REUSED))
    assert "settled twice" not in rules(history)


def test_a_write_after_its_deadline_is_found() -> None:
    history = good()
    history.entries[0] = replace(history.entries[0], deadline=0.5)
    history.entries[-1] = replace(history.entries[-1], deadline=0.4)
    assert check(history) == []  # its worker may have been stopped between the look and the write
    history.writes[0] = replace(history.writes[0], at=2.2)
    assert rules(history) == {"too late"}
    for held, allowed in (((1.9, 2.1), True), ((2.05, 2.1), False), ((1.5, 1.6), False)):
        history.held = [held]
        assert ("too late" in rules(history)) is not allowed
    history.held.clear()
    history.entries[-1] = replace(history.entries[-1], deadline=0.0)  # its second entry, which has more time
    assert check(history) == []


def test_where_nothing_was_lost_nothing_may_be_unknown() -> None:
    history = good()
    history.is_orderly = True
    assert rules(history) == {"needlessly unknown"}


def test_where_nothing_was_lost_each_call_is_followed_to_its_end() -> None:
    history = good()
    history.entries[0] = replace(history.entries[0], cost="calls")
    assert check(history) == []
    history.is_orderly = True
    assert rules(history) == {"needlessly unknown", "not followed"}
    history.records["a"]["call"] = "ended"
    assert rules(history) == {"needlessly unknown"}


def test_an_entry_of_the_other_lane_may_have_the_same_id() -> None:
    history = good()
    history.entries.append(Entry("b", "1000-2", "Hangup", lane="urgent", producer="p", cost="changes"))
    history.writes[0], history.writes[1] = history.writes[1], history.writes[0]
    assert rules(history) == {"out of order"}
    history.records["b"]["lane"] = "urgent"
    assert check(history) == []


# -- Redis goes back in time


def gone_back(since: float = 0.5, until: float = 1.1) -> History:
    """A good run, all of whose entries (of the first second) Redis may have forgotten."""
    history = good()
    history.losses.append(Loss(since, until))
    return history


def forget(history: History, action_id: str) -> None:
    """Redis knows nothing of it any more."""
    del history.records[action_id]
    history.lines = [line for line in history.lines if line.action_id != action_id]
    history.messages = [
        replace(each, settled_at=1.0, heard_at=1.0) if each.action_id == action_id else each
        for each in history.messages
    ]


def test_what_redis_may_have_forgotten_need_not_be_known() -> None:
    history = gone_back()
    forget(history, "b")
    assert check(history) == []
    assert (history.allowed["entries forgotten"], history.allowed["results forgotten"]) == (1, 1)


def test_what_it_was_told_before_or_after_must_be_known() -> None:
    history = gone_back(since=1.01, until=1.02)
    forget(history, "b")
    history.messages[1] = replace(history.messages[1], heard_at=9.0)
    assert {"lost", "disagreement"} <= rules(history)
    history = gone_back()
    forget(history, "b")
    history.entries.append(Entry("b", "2900-0", "Hangup", producer="p", cost="changes"))
    assert rules(history) == {"lost"}


def test_of_what_it_still_knows_all_else_must_hold() -> None:
    history = gone_back()
    history.records["c"]["state"] = "sending"
    assert "not settled" in rules(history)
    history = gone_back()
    history.writes.append(Write("c", "Hangup", 1.05))
    assert rules(history) == {"written twice"}


def test_a_result_that_was_forgotten_may_be_another_one_later() -> None:
    history = gone_back()
    history.lines[2] = replace(history.lines[2], at=2.9)
    history.messages[2] = replace(history.messages[2], settled_at=2.9, heard_at=2.9)
    early = replace(history.messages[2], state="done", error_code=None, settled_at=1.0, heard_at=1.0)
    history.messages.append(early)
    assert check(history) == []
    history.messages.append(replace(early, heard_at=2.5))
    assert "disagreement" in rules(history)


def test_a_result_that_was_forgotten_may_be_told_again_as_it_was() -> None:
    history = gone_back()
    history.lines[1] = replace(history.lines[1], at=0.9, told_at=1.2)
    again = replace(history.messages[1], settled_at=0.9, heard_at=1.2)
    history.messages[1] = replace(again, heard_at=0.9)  # its reply was lost, and then Redis forgot it
    history.messages.append(again)
    assert check(history) == []
    history.messages.append(again)
    assert rules(history) == {"said twice"}


def test_an_end_of_the_time_that_was_forgotten_may_lie_between_the_two_of_a_pair() -> None:
    history = gone_back()
    forget(history, "b")
    just_within = 1.1 + CLOCKS_S - 0.0001
    history.messages[1] = replace(history.messages[1], heard_at=just_within)
    reply = replace(history.messages[1], heard_at=just_within + 0.0002)
    history.replies.append(reply)
    assert check(history) == []
    history.messages[1] = replace(history.messages[1], heard_at=0.55)  # that was another time
    history.replies.append(reply)
    assert rules(history) == {"disagreement"}


def test_events_may_be_forgotten_but_not_doubled() -> None:
    history = gone_back()
    history.events = [replace(event, at=0.4 * number) for number, event in enumerate(history.events)]
    del history.events[1]
    assert rules(history) == {"events"}, "nobody says so"
    history.events[1] = replace(history.events[1], name="BusGap")
    history.allowed.clear()
    assert check(history) == []
    assert history.allowed["events forgotten"] == 1
    history.events.append(Seen(2, 2, "Hangup", 1.0))
    assert rules(history) == {"events"}
    history = gone_back(since=10.0, until=20.0)
    history.events = [replace(event, at=0.4 * number) for number, event in enumerate(history.events)]
    del history.events[1]
    assert rules(history) == {"events"}


def by_two_hosts() -> History:
    """Redis forgot an entry that one host wrote; its producer added it again, and another host wrote that."""
    history = gone_back()
    history.writes = [replace(write, host="near") for write in history.writes]
    history.entries.append(Entry("c", "2900-0", "Hangup", producer="p", cost="changes"))
    history.writes.append(Write("c", "Hangup", 2.95, host="far"))
    return history


def test_the_one_hole_is_let_pass_and_counted() -> None:
    history = by_two_hosts()
    assert check(history) == []
    assert history.allowed["written twice by two hosts: the one hole"] == 1


def on_one_host(history: History) -> None:
    history.writes[-1] = replace(history.writes[-1], host="near")


def without_a_second_entry(history: History) -> None:
    del history.entries[-1]


def without_a_loss(history: History) -> None:
    history.losses.clear()


def with_a_loss_of_another_time(history: History) -> None:
    history.losses[:] = [Loss(1.5, 1.6)]


def written_first_when_it_was_over(history: History) -> None:
    history.losses[:] = [Loss(0.5, 1.1)]
    history.writes = [replace(write, at=write.at + 1.5) for write in history.writes]


@pytest.mark.parametrize(
    "harm",
    [
        on_one_host,
        without_a_second_entry,
        without_a_loss,
        with_a_loss_of_another_time,
        written_first_when_it_was_over,
    ],
    ids=lambda harm: harm.__name__,
)
def test_nothing_else_is_that_hole(harm: Callable[[History], None]) -> None:
    history = by_two_hosts()
    harm(history)
    assert "written twice" in rules(history)


def test_a_fate_of_a_forgotten_entry_may_stand_beside_the_records() -> None:
    history = good()
    history.entries.append(Entry("a", "2900-0", "Hangup", producer="p", cost="changes"))
    history.records["a"] = record("2900-0", "unknown", "record-lost")
    history.lines.append(Line("a", "2900-0", "unknown", "record-lost", "why"))
    history.messages.append(result("a", "2900-0", State.UNKNOWN, "record-lost"))
    assert "two fates" in rules(history)
    history.losses.append(Loss(0.5, 1.1))
    assert check(history) == []
    assert history.allowed["fates of forgotten entries"] == 1


def test_a_read_that_was_forgotten_may_expire_and_a_change_may_not() -> None:
    for action_id, allowed in (("r", True), ("a", False)):
        history = gone_back()
        history.lines = [line for line in history.lines if line.action_id != action_id]
        entry = next(each.entry for each in history.entries if each.action_id == action_id)
        history.lines.append(Line(action_id, entry, "expired", "expired", "why", at=3.0))
        history.records[action_id] = record(entry, "expired", "expired")
        history.messages = [message for message in history.messages if message.action_id != action_id]
        history.messages.append(
            replace(result(action_id, entry, State.EXPIRED, "expired"), settled_at=3.0, heard_at=3.0)
        )
        assert ("written all the same" in rules(history)) is not allowed
        history.losses = [Loss(8.0, 9.0)]
        assert "written all the same" in rules(history)


def test_what_another_host_may_have_written_holds_up_nobody() -> None:
    history = good()
    entries = [Entry(each, f"{2000 + n}-0", "Hangup", producer="p", cost="changes") for n, each in enumerate("xyz")]
    for entry in entries:
        history.entries.append(entry)
        history.lines.append(Line(entry.action_id, entry.entry, "done"))
        history.records[entry.action_id] = record(entry.entry, "done")
        history.messages.append(result(entry.action_id, entry.entry, State.DONE))
    history.terms = [Term(1, "near", 1.0), Term(2, "far", 3.0), Term(3, "near", 5.0)]
    history.writes += [Write("y", "Hangup", 4.0, host="far"), Write("x", "Hangup", 6.0, host="near")]
    history.writes.append(Write("z", "Hangup", 7.0, host="near"))
    assert check(history) == []
    history.terms[0] = Term(1, "far", 1.0)  # nobody of this host can have begun it
    assert rules(history) == {"out of order"}
    history.terms[0] = Term(1, "near", 1.0)
    history.writes[-3] = Write("y", "Hangup", 4.0, host="near")
    assert rules(history) == {"out of order"}


def test_a_worker_that_was_held_up_may_hear_of_its_epoch_after_a_later_one() -> None:
    history = good()
    history.terms = [Term(1, at=1.0, asked_at=0.9), Term(3, at=2.0, asked_at=1.9), Term(2, at=2.1, asked_at=1.8)]
    assert check(history) == []
    history.terms[2] = Term(2, at=2.1, asked_at=2.05)
    assert rules(history) == {"epochs"}
    history.terms[2] = Term(3, at=2.1, asked_at=1.8)
    assert rules(history) == {"epochs"}


def test_an_epoch_that_was_forgotten_may_begin_again_only_on_another_host() -> None:
    for host, allowed in (("far", True), ("near", False)):
        history = gone_back()
        history.terms = [Term(1, "near", 0.2), Term(2, "near", 0.9), Term(2, host, 1.5), Term(3, host, 1.6)]
        assert ("epochs" in rules(history)) is not allowed
        history.losses = [Loss(5.0, 6.0)]
        assert "epochs" in rules(history)


def test_a_write_that_the_network_held_up_may_come_after_its_fate() -> None:
    history = good()
    history.records["c"] = record("1000-3", "unknown", "timeout")
    history.lines[2] = replace(history.lines[2], at=0.1, error_code="timeout")
    history.messages[2] = replace(history.messages[2], settled_at=0.1, error_code="timeout")
    assert rules(history) == {"written late"}
    for held, allowed in (((0.05, 0.9), True), ((0.2, 0.9), False), ((0.05, 0.3), False)):
        history.held = [held]
        assert ("written late" in rules(history)) is not allowed
    history.held = [(0.05, 0.9)]
    history.lines[2] = replace(history.lines[2], error_code="worker-lost")  # what it had written comes all the same
    assert "written late" not in rules(history)
    history.lines[2] = replace(history.lines[2], state=State.EXPIRED)
    assert "written late" in rules(history)


def test_a_write_that_the_journal_of_its_host_does_not_have_is_found() -> None:
    history = good()
    history.writes = [replace(write, host="near") for write in history.writes]
    history.noted = {"near": {"a", "b", "c"}, "far": set()}  # what only reads is not noted
    assert check(history) == []
    history.noted = {"near": {"a", "b"}, "far": {"c"}}
    assert rules(history) == {"not noted"}


def test_a_time_that_is_not_redis_is_found() -> None:
    history = good()
    history.lines[0] = replace(history.lines[0], at=5000.0, told_at=5000.4)
    assert check(history) == []
    history.lines[0] = replace(history.lines[0], at=5000.0 + 3600)
    assert rules(history) == {"wrong time"}
    history.lines[0] = replace(history.lines[0], at=5000.0 - 3600)
    assert "wrong time" in rules(history)


def twice(history: History) -> None:
    history.writes.append(Write("c", "Hangup", 2.0))


def invented(history: History) -> None:
    history.writes.append(Write("z", "Hangup", 2.0))


def another(history: History) -> None:
    history.writes[0] = replace(history.writes[0], action="Setvar")


def lost(history: History) -> None:
    del history.records["c"]


def stuck(history: History) -> None:
    history.records["c"]["state"] = "sending"


def without_line(history: History) -> None:
    del history.lines[2], history.messages[2]


def line_twice(history: History) -> None:
    history.lines.append(history.lines[0])


def done_revised(history: History) -> None:
    history.lines.append(replace(history.lines[0], revised=True))
    history.messages.append(replace(history.messages[0], revised=True))


def revised_to_unknown(history: History) -> None:
    revise(history, State.EXPIRED)


def revised_first(history: History) -> None:
    history.lines[2] = replace(history.lines[2], revised=True)
    history.messages[2] = replace(history.messages[2], revised=True)


def two_fates(history: History) -> None:
    apart(history, State.DONE)


def never_written(history: History) -> None:
    history.writes = [write for write in history.writes if write.action_id != "b"]


def written_expired(history: History) -> None:
    history.writes.append(Write("d", "Hangup", 2.0))


def written_rejected(history: History) -> None:
    history.writes.append(Write("e", "Hangup", 2.0))


def record_disagrees(history: History) -> None:
    history.records["a"]["state"] = "failed"


def code_disagrees(history: History) -> None:
    history.records["c"]["error_code"] = "timeout"


def message_disagrees(history: History) -> None:
    history.messages[2] = replace(history.messages[2], state=State.DONE)


def message_unlogged(history: History) -> None:
    history.messages.append(replace(history.messages[2], entry="1000-9"))


def said_twice(history: History) -> None:
    history.messages.append(history.messages[1])


def not_replied(history: History) -> None:
    history.entries[0] = replace(history.entries[0], replies=True)


def replied_alone(history: History) -> None:
    history.replies.append(result("a", "1000-1", State.FAILED))


def crashed(history: History) -> None:
    history.crashes.append("it ended with 70")


def out_of_order(history: History) -> None:
    history.writes[0], history.writes[1] = history.writes[1], history.writes[0]


def pending(history: History) -> None:
    history.pending["urgent"] = 1


def in_the_stream(history: History) -> None:
    history.lengths["actions"] = 1


def leg_left(history: History) -> None:
    history.legs["chan-1"] = "a"


def epoch_twice(history: History) -> None:
    history.terms.append(Term(2))


def old_epoch_speaks(history: History) -> None:
    history.events.append(Seen(1, 4, "Hangup"))


def unknown_without_code(history: History) -> None:
    history.lines[2] = replace(history.lines[2], error_code="")
    history.records["c"]["error_code"] = ""
    history.messages[2] = replace(history.messages[2], error_code=None)


def unknown_without_reason(history: History) -> None:
    history.lines[2] = replace(history.lines[2], message="")


def hole(history: History) -> None:
    history.events.append(Seen(2, 5, "Hangup"))


def said_again(history: History) -> None:
    history.events.append(Seen(2, 3, "BusGap"))
    history.events.append(Seen(2, 3, "Hangup"))


def first_missing(history: History) -> None:
    del history.events[3]


def no_gap(history: History) -> None:
    del history.events[-1]


@pytest.mark.parametrize(
    ("harm", "rule", "action_id"),
    [
        (twice, "written twice", "c"),
        (invented, "not asked for", "z"),
        (another, "not asked for", "a"),
        (lost, "lost", "c"),
        (stuck, "not settled", "c"),
        (without_line, "not settled", "c"),
        (line_twice, "settled twice", "a"),
        (done_revised, "settled twice", "a"),
        (revised_to_unknown, "settled twice", "c"),
        (revised_first, "revised", "c"),
        (two_fates, "two fates", "a"),
        (never_written, "never written", "b"),
        (written_expired, "written all the same", "d"),
        (written_rejected, "written all the same", "e"),
        (record_disagrees, "disagreement", "a"),
        (code_disagrees, "disagreement", "c"),
        (message_disagrees, "disagreement", "c"),
        (message_unlogged, "disagreement", "c"),
        (said_twice, "said twice", "b"),
        (not_replied, "not replied", "a"),
        (replied_alone, "disagreement", "a"),
        (crashed, "crash", ""),
        (out_of_order, "out of order", "a"),
        (pending, "left over", ""),
        (in_the_stream, "left over", ""),
        (leg_left, "left over", "a"),
        (epoch_twice, "epochs", ""),
        (old_epoch_speaks, "epochs", ""),
        (unknown_without_code, "unexplained", "c"),
        (unknown_without_reason, "unexplained", "c"),
        (hole, "events", ""),
        (said_again, "events", ""),
        (first_missing, "events", ""),
        (no_gap, "events", ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_violation_is_found_and_named(harm: Callable[[History], None], rule: str, action_id: str) -> None:
    history = good()
    harm(history)
    found = check(history)
    assert (rule, action_id) in {(violation.rule, violation.action_id) for violation in found}
    assert all(str(violation).startswith(violation.rule) for violation in found)


def test_repeats_of_read_only_actions_are_no_disorder() -> None:
    history = good()
    history.entries.append(Entry("s", "1003-0", "Ping", producer="p", cost="reads", reads_only=True))
    history.records["s"] = record("1003-0", "done")
    history.lines.append(Line("s", "1003-0", "done"))
    history.messages.append(result("s", "1003-0", State.DONE))
    history.writes += [Write("s", "Ping", 2.0), Write("r", "Ping", 3.0)]
    assert check(history) == []


def test_it_tells_the_story_of_an_action_and_counts_the_unknown(tmp_path: Path) -> None:
    history = good()
    assert [line.split()[0] for line in history.story("a")] == [
        "queued", "queued", "written", "settled", "said", "said", "record",
    ]  # fmt: skip
    assert history.unknown_codes == {"worker-lost": 1}
    assert history.states == {"done": 2, "failed": 1, "unknown": 1, "expired": 1, "rejected": 1}
    history.save(tmp_path / "history.json")
    assert '"worker-lost"' in (tmp_path / "history.json").read_text()
