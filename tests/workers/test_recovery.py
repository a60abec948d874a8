"""What was in flight when a worker was lost, found by the next one. The workers here end as a crash ends them."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.ami import Action, Headers, spec_of
from broker.codec import BusEvent, Result, decode_message, event_map, pack
from broker.keys import ACTIONS, GROUP, LANES, URGENT
from tests.bus_side import Proxy
from tests.desk import Desk as ScriptsDesk
from tests.servers import RedisServer
from tests.workers.worker_process import (
    DEADLINE_S,
    SECRET,
    USERS,
    Desk,
    eventually,
    make_settings,
    pick_up,
    running_worker,
    soon,
)  # fmt: skip
from workers.connection import Asked, Connection
from workers.diary import journal_directory
from workers.journal import Journal
from workers.recovery import Recovery
from workers.service import serve
from workers.settlement import Fate, Settlement
from workers.simulated import SimulatedAsterisk


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


@contextlib.asynccontextmanager
async def serving(
    redis_url: str, asterisk: SimulatedAsterisk, name: str, *, connected: bool = True, **settings: object
) -> AsyncIterator[Desk]:
    """A worker of that name, lost without a word at the end."""
    made = make_settings(redis_url, asterisk, name=name, **settings)
    async with running_worker(made, connected=connected), Desk(redis_url) as desk:
        yield desk


async def is_settled_by(desk: Desk, entries: int) -> bool:
    return await desk.backlog() == 0 and len(await desk.lines(desk.keys.results)) == entries


async def has_pending(desk: Desk, entries: int) -> bool:
    return await desk.pending() == entries


@pytest.mark.parametrize("lane", LANES)
async def test_a_change_under_way_is_unknown_and_not_sent_again(
    redis_url: str, asterisk: SimulatedAsterisk, lane: str
) -> None:
    asterisk.faults.lose_response("a1")
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add("Setvar", "a1", lane=lane, Variable="x", Value="1", Bus_Reply="me", Bus_Tag="t")
        await eventually(lambda: asterisk.writes("a1"))
        assert (await desk.record("a1"))["state"] == "sending"
    async with Desk(redis_url) as desk, desk.listening(desk.keys.reply("me")) as ear:
        async with serving(redis_url, asterisk, "second"):
            (result,) = await ear.results()
        assert (result.state, result.error_code, result.tag) == ("unknown", "worker-lost", "t")
        record = await desk.record("a1")
        assert (record["state"], record["worker"]) == ("unknown", "first")
        assert await is_settled_by(desk, 1)
    assert asterisk.write_counts()["a1"] == 1


async def test_a_change_under_way_is_known_even_where_the_group_forgot_it(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.lose_response("a1")
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add("Setvar", "a1", Variable="x", Value="1")
        await eventually(lambda: asterisk.writes("a1"))
    async with Desk(redis_url) as desk:
        await desk.redis.xgroup_destroy(desk.keys.actions, GROUP)
    async with serving(redis_url, asterisk, "second") as desk:  # to the new group the entry is new
        assert (await desk.settled("a1"))["error_code"] == "worker-lost"
    assert asterisk.write_counts()["a1"] == 1


async def test_what_is_sent_again_because_the_group_forgot_it_keeps_its_place(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    note(await take_over(redis_url, "sending", *SETVAR))
    async with Desk(redis_url) as desk:
        await desk.redis.xgroup_destroy(desk.keys.actions, GROUP)
        await desk.add("Setvar", "a2", Variable="x", Value="2")
    async with serving(redis_url, asterisk, "second") as desk:
        for action_id in ("a1", "a2"):
            assert (await desk.settled(action_id))["state"] == "done"
    assert [action_id for action_id in asterisk.write_counts() if action_id.startswith("a")] == ["a1", "a2"]


@pytest.mark.parametrize("state", ["sending", "sent"])
@pytest.mark.parametrize(
    ("kind", "begun", "told"),
    [("read", False, "worker-lost"), ("change", True, "worker-lost"), ("change", False, "expired")],
    ids=["read", "perhaps written", "surely never written"],
)
async def test_what_the_group_forgot_has_its_fate_past_its_deadline(
    redis_url: str, asterisk: SimulatedAsterisk, state: str, kind: str, begun: bool, told: str
) -> None:
    fields = SETVAR if kind == "change" else (("Action", "CoreShowChannels"), ("ActionID", "a1"))
    note(await take_over(redis_url, state, *fields, ("Bus-Deadline", "+0.001")), noted=kind == "change", begun=begun)
    async with Desk(redis_url) as desk:
        await desk.redis.xgroup_destroy(desk.keys.actions, GROUP)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["error_code"] == told
        assert await is_settled_by(desk, 1)
    assert not asterisk.writes("a1")


async def test_it_is_told_even_while_asterisk_is_away(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.lose_response("a1")
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add("Setvar", "a1", Variable="x", Value="1")
        await eventually(lambda: asterisk.writes("a1"))
    await asterisk.stop()
    async with serving(redis_url, asterisk, "second", connected=False) as desk:
        assert (await desk.settled("a1"))["error_code"] == "worker-lost"
    await asterisk.start()


async def test_a_read_under_way_is_repeated(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.lose_response("a1")
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add("CoreShowChannels", "a1")
        await eventually(lambda: asterisk.writes("a1"))
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["state"] == "done"
        assert await is_settled_by(desk, 1)
    assert asterisk.write_counts()["a1"] == 2


async def test_a_function_under_way_is_not_read_again(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.lose_response("a1")
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add("Getvar", "a1", Variable="CALLERID(num)")
        await eventually(lambda: asterisk.writes("a1"))
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["error_code"] == "worker-lost"
    assert asterisk.write_counts()["a1"] == 1


async def test_what_was_never_begun_is_sent_once_and_in_order(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.lose_response("s0")
    async with serving(redis_url, asterisk, "first") as desk:
        for n in range(20):
            await desk.add("Setvar", f"s{n}", Variable="x", Value=n)
        await eventually(lambda: asterisk.writes("s0"))
        await eventually(lambda: has_pending(desk, 20))
    async with serving(redis_url, asterisk, "second") as desk:
        for n in range(20, 30):
            await desk.add("Setvar", f"s{n}", Variable="x", Value=n)
        for n in range(1, 30):
            assert (await desk.settled(f"s{n}"))["state"] == "done"
        assert (await desk.settled("s0"))["state"] == "unknown"
        await eventually(lambda: is_settled_by(desk, 30))
    written = [each.action_id for each in asterisk.written if each.action == "Setvar"]
    assert written == [f"s{n}" for n in range(30)]


async def test_what_waited_past_its_deadline_is_expired(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with serving(redis_url, asterisk, "first", rate_calls=0.1) as desk:
        await desk.originate("c0")
        await desk.originate("c1", Bus_Deadline="+0.7")
        await desk.settled("c0")
    async with serving(redis_url, asterisk, "second", rate_calls=0.1) as desk:
        assert (await desk.settled("c1"))["state"] == "expired"
    assert not asterisk.writes("c1")


async def test_a_call_that_was_up_is_followed_to_its_end(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.originate("c1", Data="600")
        await desk.reaches("c1", call="up", state="done")
        channel = (await desk.record("c1"))["channel"]
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.record("c1"))["call"] == "up"
        await desk.add("Hangup", "h1", Channel=channel, Cause="16")
        record = await desk.reaches("c1", call="ended")
        assert record["cause"] == "16"
        assert not await desk.events("BusCallEnded")
        hangups = [event for event in await desk.events("Hangup") if event.action_ids == ["c1"]]
        assert len(hangups) == 2


async def test_a_call_that_ended_unseen_is_ended_in_its_record(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.originate("c1", Data="600")
        await desk.reaches("c1", call="up", state="done")
    asterisk.switch.live[0].hang_up(asterisk.switch.legs[0], 16)
    async with serving(redis_url, asterisk, "second") as desk:
        await desk.reaches("c1", call="ended")
        assert 3000 < await desk.redis.ttl(desk.keys.action("c1")) <= 3600
        (ended,) = await desk.events("BusCallEnded")
        assert ended.action_ids == ["c1"]
        assert await desk.redis.hgetall(desk.keys.legs) == {}


async def test_a_call_that_rings_while_the_worker_is_lost(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.originate("c1", "noanswer", Timeout="600000")
        await desk.reaches("c1", state="sent", call="dialing")
    async with serving(redis_url, asterisk, "second") as desk:
        asterisk.switch.live[0].hang_up(asterisk.switch.legs[0], 16)
        record = await desk.settled("c1")
        assert (record["state"], record["error_code"]) == ("failed", "originate-failed")
        await desk.reaches("c1", call="ended")
        assert await desk.redis.hgetall(desk.keys.legs) == {}
    assert asterisk.write_counts()["c1"] == 1


async def test_a_call_that_was_answered_while_nobody_watched_is_done(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    asterisk.switch.ring_s = 25.0
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.originate("c1", Data="600")
        await desk.reaches("c1", state="sent", call="dialing")
    pick_up(asterisk)
    async with serving(redis_url, asterisk, "second") as desk:
        record = await desk.settled("c1")
        assert (record["state"], record["reason"], record["call"]) == ("done", "4", "up")
    assert asterisk.write_counts()["c1"] == 1


@pytest.mark.parametrize(
    ("seen", "state", "code"),
    [
        ({"call": "ended", "answered_at": "1.000000", "cause": "16"}, "done", None),
        ({"call": "ended", "cause": "17"}, "failed", "originate-failed"),
        ({"call": "ended", "cause": ""}, "unknown", "worker-lost"),
        ({}, "unknown", "worker-lost"),
    ],
)
async def test_a_call_that_is_over_has_the_fate_that_its_record_tells(
    redis_url: str, asterisk: SimulatedAsterisk, seen: dict[str, str], state: str, code: str | None
) -> None:
    await take_over(redis_url, "sending", ("Action", "Originate"), ("ActionID", "a1"), ("Channel", "Local/1@x"), **seen)
    async with serving(redis_url, asterisk, "second") as desk:
        record = await desk.settled("a1")
        assert (record["state"], record.get("error_code")) == (state, code)
    assert not asterisk.writes("a1")


@pytest.mark.parametrize(("response", "state"), [("Success", "done"), ("Failure", "failed")])
async def test_an_outcome_that_was_published_and_not_settled_is_found_in_the_events(
    redis_url: str, asterisk: SimulatedAsterisk, response: str, state: str
) -> None:
    await take_over(redis_url, "sent", ("Action", "Originate"), ("ActionID", "a1"), ("Channel", "Local/1@x"))
    headers = Headers([("ActionID", "a1"), ("Response", response), ("Reason", "5"), ("Uniqueid", "u1")])
    async with Desk(redis_url) as desk:
        for name in ("Newchannel", "OriginateResponse", "Hangup"):
            data = pack(event_map(BusEvent("pbx1", name, headers, ["a1"], 7, 1)))
            await desk.redis.xadd(desk.keys.events, {"event": name, "data": data})
    await asterisk.stop()
    async with serving(redis_url, asterisk, "second", connected=False) as desk:
        record = await desk.settled("a1")
        assert (record["state"], record["reason"], record["uniqueid"]) == (state, "5", "u1")
    await asterisk.start()


# -- what the journal of this host knows


SETVAR = (("Action", "Setvar"), ("ActionID", "a1"), ("Variable", "x"), ("Value", "1"))
ORIGINATE = (("Action", "Originate"), ("ActionID", "a1"), ("Channel", "Local/1@x"))


def note(entry: str, *, noted: bool = True, begun: bool = False, epoch: int = 7, worker: str = "lost one") -> None:
    """Have this host's journal say how far the lost worker had come with `a1`."""
    directory = journal_directory("", os.environ)
    with contextlib.closing(Journal.open(directory, "ami:{pbx1}", keep_s=7200, now=time.time)) as journal:
        journal.seal(epoch, worker)
        if noted:
            journal.note([("a1", ACTIONS, entry)], epoch)
        if begun:
            journal.begin_write("a1")


@pytest.mark.parametrize("fields", [SETVAR, ORIGINATE])
@pytest.mark.parametrize("noted", [True, False])
async def test_what_was_begun_and_provably_never_written_is_sent_once(
    redis_url: str, asterisk: SimulatedAsterisk, fields: tuple[tuple[str, str], ...], noted: bool
) -> None:
    note(await take_over(redis_url, "sending", *fields), noted=noted)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["worker"] == "second"
    assert asterisk.write_counts()["a1"] == 1


@pytest.mark.parametrize("fields", [SETVAR, ORIGINATE])
async def test_what_may_have_been_written_is_not_sent(
    redis_url: str, asterisk: SimulatedAsterisk, fields: tuple[tuple[str, str], ...]
) -> None:
    note(await take_over(redis_url, "sending", *fields), begun=True)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["error_code"] == "worker-lost"
    assert not asterisk.writes("a1")


@pytest.mark.parametrize(
    ("epoch", "worker"), [(6, "lost one"), (7, "ours")], ids=["another epoch", "its epoch, handed out twice"]
)
async def test_of_what_another_host_had_begun_this_journal_proves_nothing(
    redis_url: str, asterisk: SimulatedAsterisk, epoch: int, worker: str
) -> None:
    note(await take_over(redis_url, "sending", *SETVAR), noted=False, epoch=epoch, worker=worker)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["error_code"] == "worker-lost"
    assert not asterisk.writes("a1")


async def test_what_the_journal_knows_as_written_is_not_sent_whatever_redis_says(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add_fields(*SETVAR)
        await desk.settled("a1")
        epoch = int(await desk.redis.get(desk.keys.epoch))
        await desk.redis.flushall()
        await desk.add_fields(*SETVAR)
        assert (await desk.settled("a1"))["error_code"] == "record-lost"
    async with Desk(redis_url) as desk:
        await desk.redis.flushall()
        await desk.add_fields(*SETVAR)
        await desk.add_fields(*SETVAR[:1], ("ActionID", "a2"), *SETVAR[2:])
    async with serving(redis_url, asterisk, "second") as desk:
        record = await desk.settled("a1")
        assert (record["state"], record["error_code"]) == ("unknown", "record-lost")
        assert (await desk.settled("a2"))["state"] == "done"
        assert int(await desk.redis.get(desk.keys.epoch)) > epoch, "no epoch is handed out twice"
    assert [asterisk.write_counts()[action_id] for action_id in ("a1", "a2")] == [1, 1]


async def test_what_the_journal_knows_as_written_is_not_said_to_have_expired(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.add_fields(*SETVAR)
        await desk.settled("a1")
        await desk.redis.flushall()
        await desk.add_fields(*SETVAR, ("Bus-Deadline", "1"))
        assert (await desk.settled("a1"))["error_code"] == "record-lost"
        await desk.add("Setvar", "a2", Variable="x", Value="1", Bus_Deadline="1")
        assert (await desk.settled("a2"))["state"] == "expired"


async def test_a_call_that_the_journal_knows_is_not_refused_because_of_its_own_channel(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with serving(redis_url, asterisk, "first") as desk:
        await desk.originate("call", Data="600")
        await desk.reaches("call", state="done", call="up")
        legs = await desk.redis.hgetall(desk.keys.legs)
        await desk.redis.flushall()
        await eventually(lambda: desk.is_served_by("first"))
        await desk.redis.hset(desk.keys.legs, mapping=legs)  # as the worker itself tells it again
        await desk.originate("call", Data="600")
        record = await desk.settled("call")
        assert (record["state"], record.get("error_code")) != ("rejected", "duplicate-channel-id")
    assert asterisk.write_counts()["call"] == 1


async def test_what_was_begun_and_has_no_entry_any_more_is_told_of_once_redis_has_gone_back_in_time(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    entry = await take_over(redis_url, "sending", *SETVAR, action="Setvar", producer="crm", reply="crm-1")
    async with Desk(redis_url) as desk:
        await desk.redis.xack(desk.keys.actions, GROUP, entry)
        await desk.redis.xdel(desk.keys.actions, entry)
        await desk.redis.hset(desk.keys.holder, "searched", "that of the failed primary")
        async with desk.listening(desk.keys.reply("crm-1")) as ear, serving(redis_url, asterisk, "second"):
            (told,) = await ear.results()
            assert (told.action_id, told.state, told.error_code) == ("a1", "unknown", "record-lost")
            record = await desk.record("a1")
            assert (record["state"], record["error_code"]) == ("unknown", "record-lost")
            (line,) = await desk.lines(desk.keys.results)
            assert (line["entry"], line["action"], line["producer"]) == (entry, "Setvar", "crm")
        known_by = (await desk.redis.info("replication"))["master_replid"]
        await eventually(lambda: is_searched(desk, known_by))
    assert not asterisk.writes("a1")


@contextlib.asynccontextmanager
async def search_held(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    """The way to a Redis that has forgotten the entry of `a1`, which was begun, and is slow to go through its
    records: until `release`."""
    entry = await take_over(redis_server.url, "sending", *SETVAR, action="Setvar")
    async with Desk(redis_server.url) as desk, Proxy(redis_server.port) as proxy:
        await desk.redis.xack(desk.keys.actions, GROUP, entry)
        await desk.redis.xdel(desk.keys.actions, entry)
        proxy.held = b"SCAN"
        yield proxy


async def test_what_is_new_is_served_while_the_forgotten_is_looked_for(
    redis_url: str, redis_server: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    async with search_held(redis_server) as proxy, serving(proxy.url, asterisk, "second"), Desk(redis_url) as desk:
        await eventually(lambda: proxy.holding)
        await desk.add("Setvar", "a2", Variable="x", Value="1")
        await desk.add_fields(*SETVAR)  # again, by its producer: its record still says that it is under way
        assert (await desk.settled("a2"))["state"] == "done"
        assert (await desk.record("a1"))["state"] == "sending"
        proxy.release()
        assert (await desk.settled("a1"))["error_code"] == "record-lost"
        known_by = (await desk.redis.info("replication"))["master_replid"]
        await eventually(lambda: is_searched(desk, known_by))
        await eventually(desk.backlog_is_empty)
    assert not asterisk.writes("a1")


async def test_a_worker_that_ends_in_the_search_leaves_it_to_the_next(
    redis_url: str, redis_server: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    async with search_held(redis_server) as proxy, Desk(redis_url) as desk:
        stopping = asyncio.Event()
        worker = asyncio.create_task(serve(make_settings(proxy.url, asterisk, name="second"), stopping))
        await eventually(lambda: proxy.holding or worker.done())
        stopping.set()
        await soon(worker)
        assert await desk.redis.hget(desk.keys.holder, "searched") is None
        async with serving(redis_url, asterisk, "third"):
            assert (await desk.settled("a1"))["error_code"] == "record-lost"


async def test_a_worker_is_drained_when_the_search_is_over(
    redis_url: str, redis_server: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    async with search_held(redis_server) as proxy, Desk(redis_url) as desk:
        settings = make_settings(proxy.url, asterisk, name="second")
        worker = asyncio.create_task(serve(settings, asyncio.Event(), until_drained=True))
        await eventually(lambda: proxy.holding or worker.done())
        await eventually(lambda: desk.is_served_by("second"))
        proxy.release()
        await soon(worker)
        assert (await desk.record("a1"))["error_code"] == "record-lost"


async def is_searched(desk: Desk, known_by: str) -> bool:
    return (await desk.redis.hget(desk.keys.holder, "searched") or b"").decode() == known_by


@pytest.mark.parametrize("known", [True, False])
async def test_a_doubt_lasts_until_a_journal_that_knows_dispels_it(
    redis_url: str, asterisk: SimulatedAsterisk, known: bool
) -> None:
    """The holder before was of this host, and saw nothing amiss; but the one before that was of another, perhaps."""
    for epoch in (6, 7) if known else (7,):
        note("", noted=False, epoch=epoch)
    async with Desk(redis_url) as desk:
        known_by = (await desk.redis.info("replication"))["master_replid"]
        doubts = json.dumps([[6, 6, time.time() + 60]])
        await desk.redis.hset(desk.keys.holder, mapping={"redis": known_by, "doubts": doubts})
        await desk.redis.set(desk.keys.epoch, "7")
        await desk.add_fields(*SETVAR)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1")).get("error_code") == (None if known else "record-lost")
        assert json.loads(await desk.redis.hget(desk.keys.holder, "doubts")) == json.loads(doubts)
    assert asterisk.write_counts()["a1"] == int(known)


@pytest.mark.parametrize("same", [True, False])
async def test_what_another_host_may_have_sent_before_redis_went_back_in_time_is_not_sent(
    redis_url: str, asterisk: SimulatedAsterisk, same: bool
) -> None:
    async with Desk(redis_url) as desk:
        replication_id = (await desk.redis.info("replication"))["master_replid"]
        await desk.redis.hset(desk.keys.holder, "redis", replication_id if same else "that of the failed primary")
        await desk.redis.set(desk.keys.epoch, "7")
        await desk.add_fields(*SETVAR)
        await desk.add("Ping", "p1")
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1")).get("error_code") == (None if same else "record-lost")
        assert (await desk.settled("p1"))["state"] == "done"
        await desk.add("Setvar", "a2", Variable="x", Value="1")
        assert (await desk.settled("a2"))["state"] == "done", "it is younger than the doubt"
    assert asterisk.write_counts()["a1"] == int(same)


@pytest.mark.parametrize("same_host", [True, False])
async def test_redis_that_forgot_the_epochs_of_another_host_is_doubted_although_this_one_served_last(
    redis_url: str, asterisk: SimulatedAsterisk, same_host: bool
) -> None:
    epochs = [3, 4, 5, 6, 7] if same_host else [3, 7]
    for epoch in epochs:
        note("", noted=False, epoch=epoch)
    async with Desk(redis_url) as desk:
        await desk.redis.hset(desk.keys.holder, "redis", "that of the failed primary")
        await desk.redis.set(desk.keys.epoch, "3")
        await desk.add_fields(*SETVAR)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1")).get("error_code") == (None if same_host else "record-lost")
        assert await desk.redis.get(desk.keys.epoch) == b"8"
    assert asterisk.write_counts()["a1"] == int(same_host)


@pytest.mark.parametrize("command", ["XCLAIM", "XPENDING", "XRANGE", "SCAN", "HMGET"])
async def test_of_many_that_vanished_each_is_told_of_whatever_reply_is_lost(
    redis_server: RedisServer, redis_url: str, asterisk: SimulatedAsterisk, command: str
) -> None:
    many = 300
    async with Desk(redis_url) as desk, Proxy(redis_server.port) as proxy:
        await desk.redis.xgroup_create(desk.keys.actions, GROUP, id="0", mkstream=True)
        entries = [await desk.add("Setvar", f"a{number}", Variable="x", Value="1") for number in range(many)]
        await desk.add("Ping", "kept")
        await desk.redis.xreadgroup(GROUP, "lost", {desk.keys.actions: ">"})
        await desk.redis.xtrim(desk.keys.actions, maxlen=1, approximate=False)
        begun = {"state": "sending", "entry": entries[7], "lane": ACTIONS, "epoch": "7", "worker": "lost"}
        await desk.redis.hset(desk.keys.action("a7"), mapping=begun)
        proxy.losses.append(command.encode())
        async with running_worker(make_settings(proxy.url, asterisk), connected=False):
            assert (await desk.settled("kept"))["state"] == "done"
            await eventually(lambda: is_settled_by(desk, many + 1))
            for number, entry in enumerate(entries):
                name = "a7" if number == 7 else entry
                assert (await desk.record(name))["error_code"] == "entry-lost"
            assert await desk.pending() == 0
        assert not proxy.losses
    assert not asterisk.writes("a7")


async def test_what_vanished_in_mid_flight_is_told_of_under_its_own_name(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    entry = await take_over(
        redis_url, "sending", *SETVAR, action="Setvar", producer="crm", tag="t", traceparent="00-ab-cd-01"
    )
    async with Desk(redis_url) as desk:
        await desk.redis.xdel(desk.keys.actions, entry)
    async with serving(redis_url, asterisk, "second") as desk:
        record = await desk.settled("a1")
        assert (record["state"], record["error_code"]) == ("unknown", "entry-lost")
        (line,) = await desk.lines(desk.keys.results)
        assert (line["entry"], line["action"], line["producer"], line["tag"]) == (entry, "Setvar", "crm", "t")
        result = decode_message(await desk.redis.hget(desk.keys.action("a1"), "result"))
        assert isinstance(result, Result)
        assert (result.tag, result.traceparent) == ("t", "00-ab-cd-01")
        assert await desk.pending() == 0
    assert not asterisk.writes("a1")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("channel_id", ["", "mine"])
async def test_the_truth_about_a_call_whose_entry_vanished_is_told_when_it_is_seen(
    redis_url: str, channel_id: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"Action": "Originate"} | ({"channelid": channel_id} if channel_id else {})
    entry = await take_over(redis_url, "sending", *ORIGINATE, action="Originate")
    async with Desk(redis_url) as desk:
        await desk.redis.hset(desk.keys.action("a1"), "request", pack(asked))
        await desk.redis.xdel(desk.keys.actions, entry)
    headers = [("Channel", "Local/100@default"), ("Application", "Wait"), ("Data", "0"), ("Async", "true")]
    headers.append(("ChannelId", channel_id or "amibus-pbx1-a1"))
    async with SimulatedAsterisk(users=USERS, seed=3, ring_s=25) as asterisk:
        host, port = asterisk.address.split(":")
        lost = await Connection.open("write", host, int(port), "amibus", SECRET)
        await lost.request(Asked(Action("Originate", headers, "a1"), spec_of("Originate"), DEADLINE_S))
        lost.abort("its worker is lost")
        settle = Settlement.settle

        async def settle_and_pick_up(self: Settlement, fates: list[Fate]) -> None:
            await settle(self, fates)
            async with Desk(redis_url) as desk:
                await eventually(lambda: desk.is_served_by("second"))
                pick_up(asterisk)
                await eventually(lambda: desk.events("OriginateResponse"))

        if at_once:
            monkeypatch.setattr(Settlement, "settle", settle_and_pick_up)
        async with serving(redis_url, asterisk, "second") as desk:
            await desk.settled("a1")
            if not at_once:
                pick_up(asterisk)
            record = await desk.reaches("a1", state="done")
            assert "error_code" not in record


async def test_an_entry_that_vanished_is_told_of(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with Desk(redis_url) as desk:
        await desk.redis.xgroup_create(desk.keys.actions, GROUP, id="0", mkstream=True)
        entry = await desk.add("Setvar", "a1", Variable="x", Value="1")
        await desk.redis.xreadgroup(GROUP, "lost", {desk.keys.actions: ">"})
        await desk.redis.xdel(desk.keys.actions, entry)
    with capture_logs() as logs:
        async with serving(redis_url, asterisk, "second") as desk:
            assert (await desk.settled(entry))["error_code"] == "entry-lost"
            assert await desk.pending() == 0
            (line,) = await desk.lines(desk.keys.results)
            assert (line["entry"], line["error_code"]) == (entry, "entry-lost")
    assert [line["entries"] for line in logs if line["log_level"] == "error"] == [[entry]]
    assert not asterisk.writes("a1")


async def take_over(redis_url: str, state: str, *fields: tuple[str, str], lane: str = ACTIONS, **recorded: str) -> str:
    """An entry that a worker had got, and perhaps begun, before it was lost; as it stands on Redis."""
    async with Desk(redis_url) as desk:
        await desk.redis.xgroup_create(desk.keys.lane(lane), GROUP, id="0", mkstream=True)
        entry = await desk.add_fields(*fields, lane=lane)
        await desk.redis.xreadgroup(GROUP, "lost", {desk.keys.lane(lane): ">"})
        if state:
            record = {"state": state, "entry": entry, "lane": lane, "epoch": "7", "sending_at": f"{time.time():.6f}"}
            record |= {"worker": "lost one"} | recorded
            await desk.redis.hset(desk.keys.action("a1"), mapping=record)
            await desk.redis.set(desk.keys.epoch, "7")
    return entry


async def test_what_a_worker_with_other_rules_had_begun_stops_nothing(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    await take_over(redis_url, "sending", ("Action", "Originate"), ("ActionID", "a1"), ("Timeout", "never"))
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["error_code"] == "worker-lost"
        await desk.add("Ping", "a2")
        assert (await desk.settled("a2"))["state"] == "done"


@pytest.mark.parametrize("state", ["done", "failed", "unknown", "rejected"])
async def test_what_was_settled_but_not_acknowledged_is_only_acknowledged(
    redis_url: str, asterisk: SimulatedAsterisk, state: str
) -> None:
    await take_over(redis_url, state, ("Action", "Setvar"), ("ActionID", "a1"), ("Variable", "x"))
    async with serving(redis_url, asterisk, "second") as desk:
        await eventually(desk.backlog_is_empty)
        assert await desk.pending() == 0
        assert (await desk.record("a1"))["state"] == state
        assert await desk.lines(desk.keys.results) == []
    assert not asterisk.writes("a1")


@pytest.mark.parametrize("lane", LANES)
async def test_what_was_read_and_never_begun_is_sent(redis_url: str, asterisk: SimulatedAsterisk, lane: str) -> None:
    await take_over(redis_url, "", ("Action", "Setvar"), ("ActionID", "a1"), ("Variable", "x"), lane=lane)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled("a1"))["state"] == "done"
    assert asterisk.write_counts()["a1"] == 1


async def test_a_malformed_entry_that_was_read_is_refused(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    entry = await take_over(redis_url, "", ("Channel", "x"), lane=URGENT)
    async with serving(redis_url, asterisk, "second") as desk:
        assert (await desk.settled(f"u.{entry}"))["error_code"] == "malformed"
        assert await desk.pending() == 0


# -- the search for what was begun and has no entry any more


@pytest.fixture
async def scripts(redis_url: str) -> AsyncIterator[ScriptsDesk]:
    desk = ScriptsDesk(redis_url)
    await desk.open()
    yield desk
    await desk.close()


async def searched(scripts: ScriptsDesk) -> list[str]:
    """The ActionIDs that a search of a worker which holds nothing settles."""
    found: list[str] = []

    async def settle(fates: list[Fate]) -> None:
        found.extend(request.action_id for request, _, _ in fates)

    worker: Any = SimpleNamespace(
        intake=SimpleNamespace(is_held=lambda _request: False), settlement=SimpleNamespace(settle=settle)
    )
    nobody: Any = None
    await Recovery(scripts.redis, scripts.settings, nobody, nobody, worker, nobody).settle_forgotten()
    return found


async def test_what_was_begun_and_has_no_entry_is_found(scripts: ScriptsDesk) -> None:
    kept, gone = [await scripts.job("Action", "Setvar", "ActionID", name) for name in ("kept", "gone")]
    await scripts.mark(kept, gone)
    await scripts.redis.xdel(scripts.keys.actions, gone.request.entry)
    assert await searched(scripts) == ["gone"]


async def test_many_records_are_searched_in_few_steps(scripts: ScriptsDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = await scripts.job()
    await scripts.mark(gone)
    await scripts.redis.xdel(scripts.keys.actions, gone.request.entry)
    async with scripts.redis.pipeline(transaction=False) as filling:
        for number in range(20_000):
            filling.hset(scripts.keys.action(f"b{number}"), "state", "done")
        await filling.execute()
    execute, awaited = scripts.redis.execute_command, []

    async def count(*args: Any, **options: Any) -> Any:
        awaited.append(args[0])
        return await execute(*args, **options)

    monkeypatch.setattr(scripts.redis, "execute_command", count)
    assert await searched(scripts) == ["a1"]
    assert len(awaited) < 200, "not one for each record"


async def test_what_is_settled_during_the_search_was_not_forgotten(
    scripts: ScriptsDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await scripts.job()
    await scripts.mark(job)
    look = scripts.redis.xrange

    async def settle_and_look(*where: Any) -> Any:
        await scripts.settle(job)
        return await look(*where)

    monkeypatch.setattr(scripts.redis, "xrange", settle_and_look)
    assert await searched(scripts) == []
