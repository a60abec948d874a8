"""Every script against real servers: the transitions of an action's life, repeated calls, fencing, memory limits."""

import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.ami import Headers
from broker.codec import FINAL_STATES, Result, State, decode_message, pack
from broker.entry import Request, decode_entry, fingerprint
from broker.errors import ErrorCode
from broker.keys import ACTIONS, GROUP, LANES, URGENT
from broker.record import decode_record
from broker.scripts import LAYOUTS, Layout, flatten, source
from tests.desk import DONE, NAMES, Desk
from tests.ports import free_port
from tests.servers import KINDS, RedisServer, need
from workers.items import Chunks
from workers.job import Job, make_job
from workers.outcome import Outcome

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
REJECTED = Outcome(State.REJECTED, message="no")
REUSED = Outcome(State.REJECTED, code=ErrorCode.ACTION_ID_REUSED, message="no")


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    desk = Desk(redis_url)
    await desk.open()
    yield desk
    await desk.close()


# -- the life of an action


async def test_marking_writes_the_intent_and_nothing_is_told_yet(desk: Desk) -> None:
    job = await desk.job()
    await desk.listen()
    assert await desk.mark(job) == ["sending"]
    record = await desk.record()
    assert record["state"] == b"sending"
    assert record["epoch"] == b"1"
    assert float(record["sending_at"]) == job.sending_at
    assert (record["action"], record["lane"], record["worker"]) == (b"Setvar", b"actions", b"w1")
    assert record["entry"].decode() == job.request.entry
    assert record["fingerprint"].decode() == fingerprint("Setvar", [("Variable", "x"), ("Value", "1")])
    assert await desk.ttl_ms() == -1, "what is under way must not expire"
    assert await desk.backlog() == (1, 1)
    assert await desk.heard() == []


async def test_sent_is_told_once_and_only_after_a_mark_of_the_same_epoch(desk: Desk) -> None:
    job = await desk.job()
    await desk.listen()
    await desk.sent(job)
    assert await desk.record() == {}
    await desk.mark(job)
    desk.epoch = 2
    await desk.sent(job)
    assert (await desk.record())["state"] == b"sending"
    desk.epoch = 1
    await desk.sent(job)
    await desk.sent(job)
    record = await desk.record()
    assert (record["state"], record["sent_at"], record["message"]) == (b"sent", b"5.000000", b"queued")
    [(channel, message)] = await desk.heard()
    assert channel == "action:a1"
    assert message.headers.get("Response") == "Success"


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
@pytest.mark.parametrize("sent", [True, False])
async def test_every_final_state_settles_record_line_message_and_entry(desk: Desk, state: State, sent: bool) -> None:
    job = await desk.job("Action", "Setvar", "ActionID", "a1", "Bus-Reply", "me", "Bus-Producer", "p", "Bus-Tag", "t")
    await desk.listen()
    if sent:
        await desk.mark(job)
        await desk.sent(job)
    outcome = Outcome(state, message="why") if state is not State.DONE else DONE
    assert await desk.settle(job, outcome) == "settled"
    record = await desk.record()
    assert record["state"].decode() == state
    assert record["settled_at"] == b"4102444807.000000"
    assert (record["producer"], record["tag"], record["lane"]) == (b"p", b"t", b"actions")
    assert await desk.backlog() == (0, 0)
    result = decode_message(record["result"])
    assert isinstance(result, Result)
    assert (result.state, result.entry, result.sending_at) == (state, job.request.entry, job.sending_at)
    told = [(channel, message) for channel, message in await desk.heard() if isinstance(message, Result)]
    assert told == [("action:a1", result), ("reply:me", result)]
    [line] = await desk.lines(desk.keys.results)
    assert list(line) == [
        "action_id", "entry", "action", "state", "producer", "queued_at", "settled_at", "error_code", "message",
        "revised", "tag",
    ]  # fmt: skip
    assert (line["state"], line["action_id"], line["entry"]) == (state, "a1", job.request.entry)
    assert len(await desk.lines(desk.keys.dead)) == (state is State.REJECTED)


async def test_a_read_only_record_lives_a_minute_and_others_an_hour(desk: Desk) -> None:
    read, change = (
        await desk.job("Action", "Ping", "ActionID", "r"),
        await desk.job("Action", "Setvar", "ActionID", "c"),
    )
    assert await desk.mark(read, change) == ["sending", "sending"]
    await desk.settle(read)
    await desk.settle(change)
    assert MINUTE_MS - 30_000 < await desk.ttl_ms("r") <= MINUTE_MS
    assert HOUR_MS - 30_000 < await desk.ttl_ms("c") <= HOUR_MS


async def test_an_expired_entry_is_not_marked_by_redis_own_clock(desk: Desk) -> None:
    late = await desk.job("Action", "Setvar", "ActionID", "a1", "Bus-Deadline", "1")
    assert await desk.mark(late) == ["expired"]
    assert await desk.record() == {}
    early = await desk.job("Action", "Setvar", "ActionID", "a2", "Bus-Deadline", "+60")
    assert await desk.mark(early, probe=True) == ["early"]
    assert await desk.record("a2") == {}
    assert await desk.mark(early) == ["sending"]


async def test_a_record_cancelled_before_its_entry_was_seen_is_never_marked(desk: Desk) -> None:
    await desk.redis.hset(desk.keys.action("a1"), "state", "cancelled")
    job = await desk.job()
    assert await desk.mark(job) == ["cancelled"]
    assert await desk.settle(job, Outcome(State.CANCELLED)) == "settled"
    record = await desk.record()
    assert (record["state"], record["entry"].decode()) == (b"cancelled", job.request.entry)
    assert 0 < await desk.ttl_ms() <= HOUR_MS


async def test_a_settled_entry_that_was_not_acknowledged_is_only_acknowledged(desk: Desk) -> None:
    job = await desk.job()
    await desk.mark(job)
    await desk.settle(job)
    before = await desk.snapshot()
    again = make_job(decode_entry(ACTIONS, job.request.entry, [b"Action", b"Setvar", b"ActionID", b"a1"]), "pbx1")
    assert await desk.mark(again) == ["settled"]
    assert await desk.snapshot() == before


# -- second entries


@pytest.mark.parametrize("lanes", [(ACTIONS, ACTIONS), (ACTIONS, URGENT)])
async def test_a_second_entry_that_asks_for_the_same_is_answered_again(desk: Desk, lanes: tuple[str, str]) -> None:
    first = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "1", lane=lanes[0])
    second = await desk.job("action", "Setvar", "ActionID", "a1", "VALUE", "1", "Bus-Reply", "me", lane=lanes[1])
    assert await desk.mark(first, second) == ["sending", "duplicate"]
    assert await desk.backlog(lanes[0]) == (1, 1)
    await desk.settle(first)
    third = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "1", "Bus-Reply", "me", lane=lanes[1])
    before = await desk.snapshot()
    await desk.listen()
    assert await desk.mark(third) == ["duplicate"]
    told = await desk.heard()
    assert [channel for channel, _ in told] == ["action:a1", "reply:me"]
    assert {message.entry for _, message in told} == {first.request.entry}
    assert await desk.snapshot() == before
    assert await desk.backlog(lanes[1]) == (0, 0)


async def test_a_second_entry_that_asks_for_something_else_is_answered_apart(desk: Desk) -> None:
    first = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "1")
    await desk.mark(first)
    second = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "2", "Bus-Reply", "me")
    before = await desk.record()
    assert await desk.mark(second) == ["reused"]
    await desk.listen()
    assert await desk.settle(second, REJECTED) == "apart"
    assert await desk.settle(second, REJECTED) == "apart", "its reply was lost, the call is repeated"
    assert await desk.record() == before
    assert await desk.ttl_ms() == -1
    assert await desk.backlog() == (1, 1)
    assert [(line["entry"], line["state"]) for line in await desk.lines(desk.keys.results)] == [
        (second.request.entry, "rejected")
    ]
    [dead] = await desk.lines(desk.keys.dead)
    assert (dead["action_id"], dead["Value"]) == ("a1", "2")
    assert [(channel, message.entry) for channel, message in await desk.heard()] == [
        ("action:a1", second.request.entry),
        ("reply:me", second.request.entry),
    ]
    assert await desk.settle(first) == "settled"


async def test_what_asked_for_something_else_does_not_take_the_place_of_a_record_that_was_forgotten(desk: Desk) -> None:
    first = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "1")
    await desk.mark(first)
    second = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "2")
    assert await desk.mark(second) == ["reused"]
    await desk.redis.delete(desk.keys.action("a1"))  # Redis went back in time; the first may have been sent
    assert await desk.settle(second, REUSED) == "apart"
    assert not await desk.redis.exists(desk.keys.action("a1"))
    assert [line["entry"] for line in await desk.lines(desk.keys.results)] == [second.request.entry]
    assert await desk.backlog() == (1, 1)
    assert await desk.mark(first) == ["sending"], "its journal knows whether it was"


async def test_two_entries_of_one_action_id_that_expire_together_have_one_fate(desk: Desk) -> None:
    first, second = await desk.job(), await desk.job()
    other = await desk.job("Action", "Setvar", "ActionID", "a1", "Variable", "y", "Value", "2")
    assert await desk.settle(first, Outcome(State.EXPIRED)) == "settled"
    assert await desk.settle(second, Outcome(State.EXPIRED)) == "duplicate"
    assert await desk.settle(other, Outcome(State.EXPIRED)) == "reused"
    assert await desk.backlog() == (1, 1)
    assert await desk.settle(other, REJECTED) == "apart"
    assert await desk.backlog() == (0, 0)
    lines = [(line["entry"], line["state"]) for line in await desk.lines(desk.keys.results)]
    assert lines == [(first.request.entry, "expired"), (other.request.entry, "rejected")]


@pytest.mark.parametrize("foreign", ["SET", "LPUSH", "SADD"])
async def test_something_of_another_type_in_the_place_of_a_record_stops_nothing(desk: Desk, foreign: str) -> None:
    await desk.redis.execute_command(foreign, desk.keys.action("a1"), "rubbish")
    job, other = await desk.job(), await desk.job("Action", "Setvar", "ActionID", "a2")
    assert await desk.mark(job, other) == ["reused", "sending"]
    job.sending_at = 1.0  # as if it had been marked while the record was in order
    await desk.sent(job)
    assert await desk.settle(job, REJECTED) == "apart"
    assert await desk.settle(other) == "settled"
    note = {"id": "a1", "add": ["u"], "drop": [], "fields": ["call", "dialing"], "ttl_ms": None}
    assert await desk.events(1, ("Newchannel", b"\x80", ["a1"], [note])) == 1
    assert await desk.backlog() == (0, 0)


# -- epochs and attempts


async def test_a_worker_of_an_older_epoch_marks_and_publishes_nothing(desk: Desk) -> None:
    job = await desk.job()
    await desk.redis.set(desk.keys.epoch, 2)
    before = await desk.snapshot()
    assert await desk.mark(job) == []
    assert await desk.events(1, ("Hangup", b"\x80", [], [])) == 0
    assert await desk.scripts["beat"](desk.redis, 1, "me", 60_000, 90_000, ["a", "b"]) == [0]
    assert await desk.scripts["release"](desk.redis, 1) == 0
    assert await desk.snapshot() == before
    assert await desk.backlog() == (1, 1)


async def test_what_an_older_epoch_began_is_marked_again_only_if_it_may_be(desk: Desk) -> None:
    job = await desk.job("Action", "Ping", "ActionID", "a1")
    await desk.mark(job)
    for state in ("sending", "sent"):
        await desk.redis.hset(desk.keys.action("a1"), mapping={"state": state, "epoch": "1"})
        await desk.redis.set(desk.keys.epoch, 2)
        desk.epoch = 2
        job.again = False
        before = await desk.snapshot()
        assert await desk.mark(job) == ["begun"]
        assert await desk.snapshot() == before
        job.again = True
        assert await desk.mark(job) == ["sending"]
        assert (await desk.record())["epoch"] == b"2"
        assert (await desk.record())["state"] == b"sending"


async def test_the_end_of_a_superseded_attempt_changes_nothing(desk: Desk) -> None:
    job = await desk.job("Action", "Ping", "ActionID", "a1")
    await desk.mark(job)
    await desk.redis.set(desk.keys.epoch, 2)
    desk.epoch = 2
    job.again = True
    await desk.mark(job)
    before = await desk.snapshot()
    desk.epoch = 1
    assert await desk.settle(job) == "superseded"
    assert await desk.snapshot() == before
    assert await desk.backlog() == (1, 1)
    desk.epoch = 2
    assert await desk.settle(job) == "settled"


@pytest.mark.parametrize("state", [State.REJECTED, State.EXPIRED, State.CANCELLED])
@pytest.mark.parametrize("sent", [True, False])
async def test_what_was_begun_meanwhile_is_not_said_to_be_unsent(desk: Desk, state: State, sent: bool) -> None:
    """An old worker was refused a ChannelId and paused; the call that had it ended, and the next holder began this
    one."""
    job = await desk.job()
    await desk.mark(job)
    if sent:
        await desk.sent(job)
    before = await desk.snapshot()
    assert await desk.settle(job.request, Outcome(state, message="why")) == "superseded"
    assert await desk.snapshot() == before
    assert await desk.backlog() == (1, 1)
    assert await desk.settle(job) == "settled"


@pytest.mark.parametrize("state", [State.UNKNOWN, State.DONE, State.FAILED])
async def test_the_fate_of_what_was_begun_may_come_from_whoever_finds_it_out(desk: Desk, state: State) -> None:
    job = await desk.job()
    await desk.mark(job)
    assert await desk.settle(job.request, Outcome(state, message="why")) == "settled"
    assert await desk.backlog() == (0, 0)


async def test_the_truth_from_a_worker_that_lost_its_lease_is_welcome(desk: Desk) -> None:
    job = await desk.job()
    await desk.mark(job)
    await desk.redis.set(desk.keys.epoch, 2)
    assert await desk.settle(job) == "settled"
    assert (await desk.record())["state"] == b"done"


@pytest.mark.parametrize("epoch", ["rubbish", "", "nan", "-3", "1e300", "99999999999999999999"])
async def test_rubbish_in_the_epoch_fences_and_is_mended_by_the_next_holder(desk: Desk, epoch: str) -> None:
    await desk.redis.set(desk.keys.epoch, epoch)
    job = await desk.job()
    assert await desk.mark(job) == []
    new, *_ = await desk.scripts["acquire"](desk.redis, 7, "me", 60_000, "", "1")
    assert new > 1_000_000_000, "above all that was ever counted"
    desk.epoch = new
    assert await desk.mark(job) == ["sending"]


async def test_an_epoch_or_lease_of_another_type_is_mended_too(desk: Desk) -> None:
    for key in (desk.keys.epoch, desk.keys.lease):
        await desk.redis.delete(key)
        await desk.redis.lpush(key, "rubbish")
    job = await desk.job()
    assert await desk.mark(job) == []
    assert await desk.events(1) == 0
    assert await desk.scripts["beat"](desk.redis, 1, "me", 60_000, 90_000, ["a", "b"]) == [0]
    assert await desk.scripts["release"](desk.redis, 1) == 0
    desk.epoch, *_ = await desk.scripts["acquire"](desk.redis, 0, "me", 60_000, "", "1")
    assert await desk.mark(job) == ["sending"]


# -- a repeated call after a lost reply


async def test_a_repeated_mark_gives_the_same_answer(desk: Desk) -> None:
    first = await desk.job()
    second, late = await desk.job(), await desk.job("Action", "Setvar", "ActionID", "a2", "Bus-Deadline", "1")
    other = await desk.job("Action", "Setvar", "ActionID", "a1", "Value", "9")
    verdicts = ["sending", "duplicate", "expired", "reused"]
    assert await desk.mark(first, second, late, other) == verdicts
    before = await desk.snapshot()
    assert await desk.mark(first, second, late, other) == verdicts
    assert await desk.snapshot() == before


async def test_a_repeated_settling_gives_no_second_line(desk: Desk) -> None:
    job = await desk.job("Action", "Setvar", "ActionID", "a1", "Bus-Reply", "me")
    await desk.mark(job)
    assert await desk.settle(job) == "settled"
    before = await desk.snapshot()
    await desk.listen()
    assert await desk.settle(job, Outcome(State.FAILED, message="no")) == "already"
    assert await desk.snapshot() == before
    assert await desk.heard() == []


async def test_a_record_that_vanished_is_made_anew_with_all_its_fields(desk: Desk) -> None:
    job = await desk.job()
    await desk.mark(job)
    await desk.redis.delete(desk.keys.action("a1"))
    assert await desk.settle(job) == "missing"
    assert await desk.backlog() == (1, 1)
    assert await desk.record() == {}
    assert await desk.settle(job, whole=True) == "settled"
    record = await desk.record()
    assert (record["state"], record["entry"].decode()) == (b"done", job.request.entry)
    assert await desk.backlog() == (0, 0)


@pytest.mark.parametrize("gone", ["the stream", "the group"])
async def test_settling_works_where_the_stream_or_group_is_gone(desk: Desk, gone: str) -> None:
    job = await desk.job()
    await desk.mark(job)
    if gone == "the group":
        await desk.redis.xgroup_destroy(desk.keys.actions, GROUP)
    else:
        await desk.redis.delete(desk.keys.actions)
    assert await desk.settle(job) == "settled"
    assert await desk.redis.xlen(desk.keys.actions) == 0


TOP = 18446744073709551615
"""The highest number of an entry id; Lua's numbers are exact up to 2**53 only."""


@pytest.mark.parametrize(
    ("ids", "order"),
    [
        (["5-1", "5-2", "5-3", "6-0", "7-0"], [0, 2, 1, 4, 3]),
        (["5-1", "5-2", "5-3", "6-0", "7-0"], [4, 3, 2, 1, 0]),
        (["5-1", "5-2", f"{TOP}-1", f"{TOP}-2", f"{TOP}-{TOP}"], [1, 3, 0, 4, 2]),
        (["9007199254740992-5", "9007199254740993-0", "9007199254740993-1"], [1, 0, 2]),
    ],
)
async def test_settling_deletes_its_own_entries_and_no_other(desk: Desk, ids: list[str], order: list[int]) -> None:
    jobs = []
    for at, entry in enumerate(ids):
        request = await desk.take("Action", "Setvar", "ActionID", f"a{at}", "Bus-Deadline", "+5", entry=entry)
        jobs.append(make_job(request, "pbx1"))
    left = set(ids)
    for at in order:
        assert await desk.settle(jobs[at], Outcome(State.EXPIRED)) == "settled"
        left.remove(ids[at])
        entries = await desk.redis.execute_command("XRANGE", desk.keys.actions, "-", "+")
        assert {entry.decode() for entry, _ in entries} == left
        assert await desk.backlog() == (len(left), len(left))


async def test_entries_of_both_lanes_may_have_the_same_id(desk: Desk) -> None:
    fields = ("Action", "Setvar", "ActionID", "a1", "Bus-Deadline", "1700000000")
    first = make_job(await desk.take(*fields, entry="1700000000000-1"), "pbx1")
    second = make_job(await desk.take(*fields, entry="1700000000000-1", lane=URGENT), "pbx1")
    first.request.deadline = 4e9
    assert await desk.mark(first, second) == ["sending", "duplicate"]
    assert await desk.settle(second.request, REJECTED) == "apart"
    assert (await desk.record())["state"] == b"sending"


async def test_an_entry_not_yet_read_survives_the_settling_of_others(desk: Desk) -> None:
    job = await desk.job()
    entry = await desk.redis.xadd(desk.keys.actions, {"Action": "Ping"})
    await desk.settle(job)
    assert [name for name, _ in await desk.redis.execute_command("XRANGE", desk.keys.actions, "-", "+")] == [entry]


# -- calls


def originate(action_id: str = "a1") -> tuple[str, ...]:
    return ("Action", "Originate", "ActionID", action_id, "Channel", "Local/1@x", "ChannelId", "u1")


async def test_a_channel_id_is_held_from_the_mark_and_a_second_one_refused(desk: Desk) -> None:
    job, second = await desk.job(*originate("a1")), await desk.job(*originate("a2"))
    assert await desk.mark(job, second) == ["sending", "duplicate-channel-id"]
    assert await desk.redis.hgetall(desk.keys.legs) == {b"u1": b"a1"}
    assert await desk.mark(job) == ["sending"], "its own mark, repeated"
    await desk.settle(job, Outcome(State.FAILED, code=None, message="x"))
    assert await desk.redis.hgetall(desk.keys.legs) == {b"u1": b"a1"}


async def test_a_call_that_was_not_placed_gives_its_channel_id_back(desk: Desk) -> None:
    job = await desk.job(*originate())
    await desk.mark(job)
    await desk.settle(job, Outcome(State.FAILED, code=ErrorCode.ORIGINATE_FAILED, message="busy"))
    assert await desk.redis.hgetall(desk.keys.legs) == {}


async def test_a_call_refused_for_its_channel_id_does_not_give_it_back(desk: Desk) -> None:
    """Its own one even: the call is alive, and its record is gone."""
    await desk.mark(await desk.job(*originate()))
    await desk.redis.delete(desk.keys.action("a1"))
    second = await desk.job(*originate())
    assert await desk.mark(second) == ["duplicate-channel-id"]
    refused = Outcome(State.REJECTED, code=ErrorCode.DUPLICATE_CHANNEL_ID, message="taken")
    assert await desk.settle(second, refused) == "settled"
    assert await desk.redis.hgetall(desk.keys.legs) == {b"u1": b"a1"}


def note(
    *fields: str, add: tuple[str, ...] = (), drop: tuple[str, ...] = (), ttl_ms: int | None = None
) -> dict[str, Any]:
    return {"id": "a1", "add": [*add], "drop": [*drop], "fields": [*fields], "ttl_ms": ttl_ms}


def event(seq: int, epoch: int = 1, name: str = "Newstate") -> bytes:
    return pack({"v": 1, "type": "event", "server": "pbx1", "epoch": epoch, "seq": seq, "action_ids": [], "name": name,
                 "headers": {"Event": name}})  # fmt: skip


@pytest.mark.parametrize("settled_first", [True, False])
async def test_the_record_of_a_call_is_kept_from_the_end_of_the_call(desk: Desk, settled_first: bool) -> None:
    job = await desk.job(*originate())
    await desk.mark(job)
    await desk.events(1, ("Newchannel", event(1), ["a1"], [note("call", "dialing", add=("u1", "u2"))]))
    assert await desk.redis.hgetall(desk.keys.legs) == {b"u1": b"a1", b"u2": b"a1"}
    if settled_first:
        await desk.settle(job)
        assert await desk.ttl_ms() == -1, "a live call's record does not expire"
    await desk.events(2, ("Hangup", event(2), ["a1"], [note(drop=("u2",))]))
    assert await desk.ttl_ms() == -1
    ended = note("call", "ended", "cause", "16", drop=("u1",), ttl_ms=HOUR_MS)
    await desk.events(3, ("Hangup", event(3), ["a1"], [ended]))
    if not settled_first:
        assert await desk.ttl_ms() == -1, "not settled yet"
        await desk.settle(job)
    assert HOUR_MS - 30_000 < await desk.ttl_ms() <= HOUR_MS
    assert (await desk.record())["cause"] == b"16"
    assert await desk.redis.hgetall(desk.keys.legs) == {}


async def test_a_call_seen_late_takes_its_records_end_away(desk: Desk) -> None:
    job = await desk.job(*originate())
    await desk.mark(job)
    await desk.settle(job, Outcome(State.UNKNOWN))
    assert await desk.ttl_ms() > 0
    await desk.events(1, ("Newchannel", event(1), ["a1"], [note("call", "dialing", add=("u1",))]))
    assert await desk.ttl_ms() == -1


async def test_a_call_whose_record_is_gone_leaves_no_half_of_one(desk: Desk) -> None:
    await desk.events(1, ("Hangup", event(1), ["a1"], [note("call", "ended", drop=("u1",), ttl_ms=5)]))
    assert await desk.record() == {}


# -- the one correction


UNKNOWN = Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message="no answer")


async def unknown(desk: Desk) -> Job:
    job = await desk.job("Action", "Setvar", "ActionID", "a1", "Variable", "x", "Bus-Reply", "me")
    await desk.mark(job)
    await desk.settle(job, UNKNOWN)
    return job


@pytest.mark.parametrize("state", sorted({*State} - {State.UNKNOWN}))
async def test_only_unknown_is_corrected(desk: Desk, state: State) -> None:
    await unknown(desk)
    await desk.redis.hset(desk.keys.action("a1"), "state", str(state))
    before = await desk.snapshot()
    await desk.listen()
    assert await desk.revise() == "already"
    assert await desk.snapshot() == before
    assert await desk.heard() == []


@pytest.mark.parametrize("outcome", [DONE, Outcome(State.FAILED, code=ErrorCode.ASTERISK_ERROR, message="no such x")])
async def test_a_correction_is_written_told_and_listed(desk: Desk, outcome: Outcome) -> None:
    await unknown(desk)
    await desk.listen()
    assert await desk.revise(outcome) == "revised"
    record = await desk.record()
    assert record["state"].decode() == outcome.state
    assert record["settled_at"] == b"9.000000"
    errors = (record.get("error_code"), record.get("error"))
    assert errors == ((None, None) if outcome is DONE else (b"asterisk-error", b"no such x"))
    assert HOUR_MS - 30_000 < await desk.ttl_ms() <= HOUR_MS
    result = decode_message(record["result"])
    assert isinstance(result, Result)
    assert result.revised
    assert await desk.heard() == [("action:a1", result), ("reply:me", result)]
    first, second = await desk.lines(desk.keys.results)
    assert (first["state"], first["revised"], second["state"], second["revised"]) == (
        "unknown", "0", outcome.state, "1",
    )  # fmt: skip
    assert first["entry"] == second["entry"]
    assert await desk.lines(desk.keys.dead) == []


async def test_a_second_correction_does_nothing(desk: Desk) -> None:
    await unknown(desk)
    await desk.revise()
    before = await desk.snapshot()
    await desk.listen()
    assert await desk.revise(Outcome(State.FAILED, code=ErrorCode.ASTERISK_ERROR, message="no")) == "already"
    assert await desk.snapshot() == before
    assert await desk.heard() == []


async def test_a_correction_without_a_reply_channel_is_told_once(desk: Desk) -> None:
    job = await desk.job()
    await desk.mark(job)
    await desk.settle(job, UNKNOWN)
    await desk.listen()
    await desk.revise()
    assert [channel for channel, _ in await desk.heard()] == ["action:a1"]


@pytest.mark.parametrize("changed", [{"entry": "1-1"}, {"lane": URGENT}, {"id": "a2"}])
async def test_a_correction_is_of_its_own_entry_only(desk: Desk, changed: dict[str, Any]) -> None:
    await unknown(desk)
    before = await desk.snapshot()
    assert await desk.revise(**changed) == "already"
    assert await desk.snapshot() == before


async def test_a_corrected_record_of_a_live_call_is_kept(desk: Desk) -> None:
    job = await desk.job(*originate())
    await desk.mark(job)
    await desk.settle(job, UNKNOWN)
    await desk.events(1, ("Newchannel", event(1), ["a1"], [note("call", "up", add=("u1",))]))
    assert await desk.revise() == "revised"
    assert await desk.ttl_ms() == -1, "the call is alive"
    ended = note("call", "ended", "cause", "16", drop=("u1",), ttl_ms=HOUR_MS)
    await desk.events(2, ("Hangup", event(2), ["a1"], [ended]))
    assert HOUR_MS - 30_000 < await desk.ttl_ms() <= HOUR_MS
    assert (await desk.record())["state"] == b"done"


async def test_a_correction_leaves_the_queue_alone(desk: Desk) -> None:
    await unknown(desk)
    await desk.take("Action", "Ping", "ActionID", "a2")
    assert await desk.revise() == "revised"
    assert await desk.backlog() == (1, 1)


async def test_corrections_go_with_others_in_one_call(desk: Desk) -> None:
    await unknown(desk)
    other = await desk.job("Action", "Setvar", "ActionID", "a2", "Variable", "y")
    await desk.mark(other)
    raw = [part for pair in (await desk.redis.hgetall(desk.keys.action("a1"))).items() for part in pair]
    record = decode_record("pbx1", "a1", raw)
    assert record is not None
    items = [desk.records.revision(record, DONE, 9.0), desk.records.settle(other.request, DONE, 7.0, other, 1)]
    verdicts = await desk.scripts["settle"](desk.redis, 1, desk.publish, 100, 100, items)
    assert verdicts == [b"revised", b"settled"]
    assert await desk.backlog() == (0, 0)


# -- events


async def test_events_go_to_the_stream_and_all_their_channels_in_order(desk: Desk) -> None:
    await desk.listen()
    await desk.events(1, ("A", event(1, name="A"), ["x", "y"], []), ("B", event(2, name="B"), [], []))
    told = [(channel, message.seq) for channel, message in await desk.heard()]
    assert told == [("event:A", 1), ("action:x", 1), ("action:y", 1), ("event:B", 2)]
    entries = await desk.redis.execute_command("XRANGE", desk.keys.events, "-", "+")
    assert [values for _, values in entries] == [
        [b"event", b"A", b"data", event(1, name="A")],
        [b"event", b"B", b"data", event(2, name="B")],
    ]


async def test_the_events_of_followed_calls_go_to_channels_of_their_own(desk: Desk) -> None:
    await desk.listen()
    item: Any = ("A", event(1, name="A"), ["x"], [], ["u1", "u2;2"])
    await desk.events(1, item, ("B", event(2, name="B"), [], []))
    told = [channel for channel, _ in await desk.heard()]
    assert told == ["event:A", "action:x", "call:u1", "call:u2;2", "event:B"]


@pytest.mark.parametrize("out", [1, 2, 3])
async def test_a_repeated_batch_of_events_is_not_doubled(desk: Desk, out: int) -> None:
    batch: list[Any] = [("E", event(at), ["x"], []) for at in (5, 6, 7)]
    await desk.events(5, *batch[:out])
    await desk.listen()
    assert await desk.events(5, *batch) == 1
    assert [message.seq for channel, message in await desk.heard() if channel == "action:x"] == [5, 6, 7][out:]
    assert await desk.redis.xlen(desk.keys.events) == 3


async def test_events_behind_a_hole_are_not_published_unless_the_hole_is_known(desk: Desk) -> None:
    item: Any = ("E", event(7), [], [])

    async def publish(first: int, hole_before: int) -> Any:
        script = desk.scripts["publish_events"]
        return await script(desk.redis, 1, desk.publish, 100, 1, first, hole_before, [item])

    assert await publish(3, 0) == [b"0-0", 0]
    for epoch, seq, known in ((1, 5, 5), (9, 6, 0)):  # another epoch's numbers say nothing
        entry = await desk.redis.xadd(desk.keys.events, {"event": "E", "data": event(seq, epoch=epoch)})
        assert await publish(7, 0) == [entry, known]
        assert await publish(7, 6) == [entry, known], "another hole is known"
    assert await desk.redis.xlen(desk.keys.events) == 2
    assert await publish(7, 7) == 1
    assert await publish(8, 0) == 1, "there is none"
    assert await desk.redis.xlen(desk.keys.events) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1garbage", b"", b"\x93\x01\x02\x03", event(3, epoch=9), event(10**9), pack({"epoch": 1, "seq": "x"}),
        pack({"epoch": 1, "seq": float("nan")}), pack({"epoch": 1, "seq": [1]}), pack({"epoch": 1}),
        b"\xdf\xff\xff\xff\xff",
    ],
)  # fmt: skip
async def test_somebody_elses_rubbish_in_the_stream_holds_no_event_up(desk: Desk, data: bytes) -> None:
    await desk.redis.xadd(desk.keys.events, {"event": "x", "data": data})
    assert await desk.events(3, ("E", event(3), [], []), ("E", event(4), [], [])) == 1
    assert await desk.redis.xlen(desk.keys.events) == 3


async def test_an_entry_of_fewer_fields_in_the_stream_holds_no_event_up(desk: Desk) -> None:
    await desk.redis.xadd(desk.keys.events, {"only": "one"})
    assert await desk.events(1, ("E", event(1), [], [])) == 1
    assert await desk.redis.xlen(desk.keys.events) == 2


# -- limits


async def test_results_dead_and_events_are_capped(desk: Desk) -> None:
    # `~` trims whole blocks of 100 entries.
    for at in range(250):
        request = Request(ACTIONS, f"{at + 1}-0", f"x{at}", "Ping")
        assert await desk.settle(request, REJECTED, lengths=(100, 50)) == "settled"
        await desk.events(at + 1, ("E", event(at + 1), [], []), length=100)
    assert 100 <= await desk.redis.xlen(desk.keys.results) < 250
    assert 50 <= await desk.redis.xlen(desk.keys.dead) < 200
    assert 100 <= await desk.redis.xlen(desk.keys.events) < 250


async def test_a_full_redis_starts_nothing_and_finishes_what_was_begun(own_redis: RedisServer) -> None:
    desk = Desk(own_redis.url)
    await desk.open()
    begun, waiting = await desk.job(), await desk.job("Action", "Setvar", "ActionID", "a2")
    more = await desk.job("Action", "Setvar", "ActionID", "a3")
    await desk.mark(begun)
    await desk.redis.config_set("maxmemory", "1")
    with pytest.raises(OutOfMemoryError):
        await desk.mark(waiting, more)
    assert await desk.record("a2") == await desk.record("a3") == {}
    with pytest.raises(OutOfMemoryError):
        await desk.events(1, ("E", event(1), [], []))
    await desk.sent(begun)
    assert await desk.settle(begun) == "settled"
    assert (await desk.record())["state"] == b"done"
    answer = await desk.scripts["beat"](desk.redis, 1, "me", 60_000, 90_000, ["a", "b"])
    assert answer[0] == 1
    await desk.redis.config_set("maxmemory", "0")
    assert await desk.mark(waiting, more) == ["sending", "sending"]
    await desk.close()


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One node that has all slots: it refuses a script that reaches beyond the slot of its declared key."""
    need(request.param)
    server = RedisServer(request.param, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 60
        while client.cluster("INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline, server.log()
            assert server.process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.02)
    yield server
    server.stop()


async def test_every_key_is_in_the_slot_of_its_server(cluster: RedisServer) -> None:
    desk = Desk(cluster.url, "SPUBLISH")
    desk.epoch, *_ = await desk.scripts["acquire"](desk.redis, 0, "me", 60_000, "", "1")
    for lane in LANES:
        await desk.redis.xgroup_create(desk.keys.lane(lane), GROUP, id="0", mkstream=True)
    for lane in LANES:
        job = await desk.job(*originate(lane), "ChannelId", lane, "Bus-Reply", "me", lane=lane)
        job.channel_id = f"u-{lane}"
        assert await desk.mark(job) == ["sending"]
        await desk.sent(job)
        ended = {"id": lane, "add": ["u3"], "drop": ["u3"], "fields": ["call", "ended"], "ttl_ms": 5000}
        assert await desk.events(1, ("Hangup", b"\x80", [lane], [ended])) == 1
        assert await desk.settle(job, Outcome(State.FAILED, message="x")) == "settled"
        twin = await desk.job(*originate(lane), "ChannelId", lane, "Bus-Reply", "me", lane=lane)
        assert await desk.mark(twin) == ["duplicate"]
        other = await desk.job("Action", "Ping", "ActionID", lane, lane=lane)
        assert await desk.mark(other) == ["reused"]
        assert await desk.settle(other, REJECTED) == "apart"
    assert (await desk.scripts["beat"](desk.redis, desk.epoch, "me", 60_000, 90_000, ["a", "b"]))[0] == 1
    assert await desk.scripts["release"](desk.redis, desk.epoch) == 1
    keys = [key.decode() for key in await desk.redis.keys()]
    assert keys
    assert all(key.startswith(desk.keys.root) for key in keys)
    await desk.close()


# -- the lease


async def test_the_lease_is_held_by_one_and_each_holder_has_a_higher_epoch(desk: Desk) -> None:
    acquire, release = desk.scripts["acquire"], desk.scripts["release"]
    assert await acquire(desk.redis, 0, "one", 60_000, "", "1") == [2, b"", 1, b""]
    assert await acquire(desk.redis, 0, "two", 60_000, "", "1") == [0, b"one", b"none", 2]
    assert 0 < await desk.redis.pttl(desk.keys.lease) <= 60_000
    assert await release(desk.redis, 2) == 1
    await desk.redis.hset(desk.keys.holder, "redis", "an id")
    assert await acquire(desk.redis, 0, "two", 60_000, "", "1") == [3, b"", 2, b"an id"]
    assert await release(desk.redis, 2) == 0
    assert await desk.redis.get(desk.keys.lease) == b"two"


async def test_a_lease_is_taken_from_a_holder_whose_heartbeat_stands_still(desk: Desk) -> None:
    acquire = desk.scripts["acquire"]
    await acquire(desk.redis, 0, "one", 60_000, "", "1")
    await desk.redis.hset(desk.keys.worker, "heartbeat_at", "7.5")
    assert await acquire(desk.redis, 0, "two", 60_000, "7.25", "1") == [0, b"one", b"7.5", 2], "it has beaten since"
    assert (await acquire(desk.redis, 0, "two", 60_000, "7.5", "1"))[0] == 3
    assert await desk.redis.get(desk.keys.lease) == b"two"


async def test_who_only_looks_at_the_lease_does_not_take_it(desk: Desk) -> None:
    acquire = desk.scripts["acquire"]
    assert await acquire(desk.redis, 0, "two", 60_000, "", "0") == [0, b"", b"", 1]
    assert await desk.redis.exists(desk.keys.lease) == 0
    await acquire(desk.redis, 0, "one", 60_000, "", "1")
    assert await acquire(desk.redis, 0, "two", 60_000, "", "0") == [0, b"one", b"none", 2]
    assert await acquire(desk.redis, 0, "two", 60_000, "none", "0") == [0, b"", b"", 2]
    assert await desk.redis.get(desk.keys.lease) == b"one"
    assert await desk.redis.get(desk.keys.epoch) == b"2"


async def test_a_redis_that_lost_its_memory_hands_out_no_epoch_twice(desk: Desk) -> None:
    await desk.redis.flushall()
    assert await desk.scripts["acquire"](desk.redis, 41, "me", 60_000, "", "1") == [42, b"", 0, b""]
    assert await desk.redis.get(desk.keys.epoch) == b"42"


async def test_a_lease_that_would_never_end_is_nobodys(desk: Desk) -> None:
    await desk.redis.set(desk.keys.lease, "rubbish")
    assert (await desk.scripts["acquire"](desk.redis, 0, "me", 60_000, "", "1"))[0] == 2


async def test_the_heartbeat_renews_the_lease_and_both_end_by_themselves(desk: Desk) -> None:
    seconds, _ = await desk.redis.time()
    answer = await desk.scripts["beat"](desk.redis, 1, "me", 60_000, 90_000, ["state", "connected", "queued", "0"])
    assert answer[0] == 1
    assert (answer[1] if isinstance(answer[1], int) else int(answer[1])) - seconds in range(60)
    assert 0 < await desk.redis.pttl(desk.keys.lease) <= 60_000
    assert 60_000 < await desk.redis.pttl(desk.keys.worker) <= 90_000
    beat = await desk.redis.hgetall(desk.keys.worker)
    assert beat[b"state"] == b"connected"
    assert re.fullmatch(rb"\d+\.\d{6}", beat[b"heartbeat_at"])
    assert await desk.scripts["release"](desk.redis, 1) == 1
    assert await desk.redis.exists(desk.keys.lease, desk.keys.worker) == 0


# -- the module


async def test_a_script_that_redis_has_forgotten_is_sent_again(desk: Desk) -> None:
    job = await desk.job()
    await desk.redis.script_flush()
    assert await desk.mark(job) == ["sending"]
    await desk.redis.script_flush()
    assert await desk.settle(job) == "settled"


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_refused_as_a_whole_or_not_at_all(name: str) -> None:
    first = source(name).decode().splitlines()[0]
    finishing = name in (
        "acquire",
        "add_items",
        "beat",
        "mark_sent",
        "release",
        "settle",
    )  # who finishes needs the lease, too
    assert first == ("#!lua flags=allow-oom" if finishing else "#!lua")


def test_items_are_laid_out_in_order_and_lists_are_counted() -> None:
    layout = LAYOUTS["mark_sent"]
    item = layout.item({"id": "a", "message": b"m", "fields": ["x", 1]})
    assert flatten([item, item], layout) == [1, 2, "x", 1, "1", "a", b"m", "1", "a", b"m"]


def test_an_item_has_its_values_by_their_names() -> None:
    for layout in LAYOUTS.values():
        values = {name: f"the {name}" for name in layout.shared + layout.own} | {name: (name,) for name in layout.lists}
        assert layout.values(layout.item(values)) == values


def test_what_items_have_alike_goes_once() -> None:
    layout = Layout(("lane", "action"), ("extra",), ("id", "entry"))
    items = [
        layout.item({"lane": lane, "action": "Ping", "id": action_id, "entry": "1-0", "extra": ["e"]})
        for lane, action_id in (("actions", "a"), ("urgent", "b"), ("actions", "c"))
    ]
    assert flatten(items, layout) == [
        2, "actions", "Ping", 1, "e", "urgent", "Ping", 1, "e", "1", "a", "1-0", "2", "b", "1-0", "1", "c", "1-0",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["results", "dead", "legs", "urgent", "actions"])
async def test_a_key_of_a_wrong_type_leaves_nothing_half_done(desk: Desk, key: str) -> None:
    job = await desk.job()
    await desk.mark(job)
    refused = await desk.take("Action", "Ping", "ActionID", "a2", lane=URGENT)
    name = getattr(desk.keys, key)
    if await desk.redis.exists(name):
        await desk.redis.rename(name, "aside")
    await desk.redis.set(name, "x")
    before = await desk.snapshot()
    for settle in (desk.settle(job), desk.settle(refused, REJECTED)):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await settle
    assert await desk.snapshot() == before
    await desk.redis.delete(name)
    if await desk.redis.exists("aside"):
        await desk.redis.rename("aside", name)
    assert await desk.settle(job) == "settled"
    assert await desk.settle(refused, REJECTED) == "settled"
    assert [line["action_id"] for line in await desk.lines(desk.keys.results)] == ["a1", "a2"]
    assert await desk.backlog() == await desk.backlog(URGENT) == (0, 0)


@pytest.mark.parametrize("key", ["legs", "urgent"])
async def test_nothing_is_marked_while_a_key_is_of_a_wrong_type(desk: Desk, key: str) -> None:
    job = await desk.job("Action", "Originate", "ActionID", "a1", "Channel", "Local/1@a", "Application", "Wait")
    name = getattr(desk.keys, key)
    await desk.redis.delete(name)
    await desk.redis.set(name, "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await desk.mark(job)
    assert await desk.record() == {}
    await desk.redis.delete(name)
    assert await desk.mark(job) == ["sending"]


# -- the items of a very large result


async def add(desk: Desk, number: int, chunk: bytes, *, epoch: int = 1, ttl_ms: int = HOUR_MS) -> int:
    answer: int = await desk.scripts["add_items"](desk.redis, epoch, "a1", number, ttl_ms, chunk)
    return answer


async def chunks(desk: Desk) -> list[bytes]:
    listed: list[bytes] = await desk.redis.lrange(desk.keys.items("a1"), 0, -1)
    return listed


async def test_items_are_added_in_order_and_each_chunk_once(desk: Desk) -> None:
    await desk.mark(await desk.job())
    assert [await add(desk, 0, b"x"), await add(desk, 1, b"y"), await add(desk, 1, b"y")] == [1, 2, 2]
    assert await chunks(desk) == [b"x", b"y"]
    assert HOUR_MS - 30_000 < await desk.redis.pttl(desk.keys.items("a1")) <= HOUR_MS


async def test_the_first_chunk_begins_anew(desk: Desk) -> None:
    await desk.mark(await desk.job())
    await add(desk, 0, b"x")
    await add(desk, 1, b"y")
    assert await add(desk, 0, b"z") == 1
    assert await chunks(desk) == [b"z"]


async def test_a_chunk_whose_predecessors_are_gone_has_no_place(desk: Desk) -> None:
    await desk.mark(await desk.job())
    await add(desk, 0, b"x")
    await desk.redis.delete(desk.keys.items("a1"))
    assert await add(desk, 1, b"y") == -1
    assert await chunks(desk) == []


async def test_only_the_attempt_that_decides_adds_items(desk: Desk) -> None:
    assert await add(desk, 0, b"x") == -1, "there is no record"
    job = await desk.job()
    await desk.mark(job)
    assert await add(desk, 0, b"x", epoch=2) == -1
    await desk.settle(job)
    assert await add(desk, 0, b"x") == -1, "it is settled"
    assert await chunks(desk) == []


async def test_items_are_added_after_the_answer_has_begun(desk: Desk) -> None:
    job = await desk.job()
    await desk.mark(job)
    await desk.sent(job)
    assert await add(desk, 0, b"x") == 1


async def test_items_live_as_long_as_their_record(desk: Desk) -> None:
    job = await desk.job("Action", "QueueStatus", "ActionID", "a1")
    await desk.mark(job)
    items = Chunks(desk.redis, desk.settings).of("a1", 1)
    items.add([Headers([("Event", "x" * 300_000)])])
    assert await items.add_last([])
    await desk.settle(job, Outcome(State.DONE, items=items))
    life_ms = await desk.ttl_ms()
    assert life_ms - 30_000 < await desk.redis.pttl(desk.keys.items("a1")) <= MINUTE_MS
