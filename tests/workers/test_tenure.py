"""What a worker that lives on does for a Redis that has gone back in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from broker import Bus, Call
from broker.codec import BusEvent
from broker.keys import GROUP
from tests.workers.worker_process import USERS, Desk, WorkerProcess, eventually, make_settings
from workers.simulated import SimulatedAsterisk

NOWHERE = ("127.0.0.1", "1")


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=11) as simulated:
        yield simulated


@asynccontextmanager
async def working(redis_url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[tuple[WorkerProcess, Desk]]:
    async with WorkerProcess(make_settings(redis_url, asterisk)) as worker, Desk(redis_url) as desk:
        await worker.connected()
        yield worker, desk


async def go_back(desk: Desk, worker: WorkerProcess) -> None:
    """Make Redis look like one that was restarted, or like another; what it is to have forgotten is up to the test."""
    async with desk.redis.pipeline(transaction=True) as commands:
        commands.execute_command("REPLICAOF", *NOWHERE)
        commands.execute_command("REPLICAOF", "NO", "ONE")
        await commands.execute()
    await worker.said("redis has restarted, or another server has taken its place")


async def has_no_legs(desk: Desk) -> bool:
    return not await desk.redis.exists(desk.keys.legs)


async def test_a_leg_that_comes_back_when_the_calls_have_been_told_again(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    """Its end was told to the Redis that was."""
    async with working(redis_url, asterisk) as (worker, desk):
        await desk.originate("call", Data="0")
        await desk.reaches("call", call="ended")
        await eventually(lambda: has_no_legs(desk))
        await go_back(desk, worker)
        await desk.redis.hset(desk.keys.legs, "gone;2", "call")
        await eventually(lambda: has_no_legs(desk))


async def test_a_leg_of_a_call_that_redis_knows_nothing_else_of(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        await desk.redis.hset(desk.keys.legs, "gone;2", "nobody")
        await go_back(desk, worker)
        await eventually(lambda: has_no_legs(desk))


async def test_a_leg_of_a_call_whose_entry_came_again(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        asterisk.faults.stop_reading()
        await desk.originate("call", Data="0")
        await desk.reaches("call", state="sending")
        await desk.redis.hset(desk.keys.legs, "gone;2", "call")
        await go_back(desk, worker)

        async def is_gone() -> bool:
            asterisk.tell("Reload", "system", ("Module", "x"))  # what no event brings is written with the next
            return not await desk.redis.hexists(desk.keys.legs, "gone;2")

        await eventually(is_gone)
        assert await desk.redis.hlen(desk.keys.legs) == 1
        asterisk.faults.resume()
        await desk.reaches("call", state="done", call="ended")
        await eventually(lambda: has_no_legs(desk))


async def forgotten(desk: Desk, action_id: str) -> str:
    """An action that is done, and of which Redis knows only that it was begun; its entry."""
    entry = await desk.add("Setvar", action_id, Variable="x", Value="1")
    assert (await desk.settled(action_id))["state"] == "done"
    await desk.redis.hdel(desk.keys.action(action_id), "settled_at", "result", "response", "message")
    await desk.redis.hset(desk.keys.action(action_id), "state", "sending")
    return entry


async def begun(desk: Desk, asterisk: SimulatedAsterisk, action_id: str) -> None:
    """An action is under way, and Redis has forgotten its entry."""
    asterisk.faults.freeze()
    entry = await desk.add("Setvar", action_id, Variable="x", Value="1")
    await desk.reaches(action_id, state="sending")
    await desk.redis.xack(desk.keys.actions, GROUP, entry)
    await desk.redis.xdel(desk.keys.actions, entry)


async def test_what_was_begun_and_whose_end_and_entry_redis_has_forgotten(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        entry = await forgotten(desk, "a1")
        await go_back(desk, worker)
        record = await desk.settled("a1")
        assert (record["state"], record["error_code"], record["entry"]) == ("unknown", "record-lost", entry)
    assert len(asterisk.writes("a1")) == 1


async def test_what_is_under_way_is_left_alone(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        await forgotten(desk, "a1")
        await begun(desk, asterisk, "a2")
        await go_back(desk, worker)
        assert (await desk.settled("a1"))["state"] == "unknown"
        asterisk.faults.resume()
        assert (await desk.settled("a2"))["state"] == "done"


async def test_what_was_under_way_then_is_found_by_the_next_worker(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        await forgotten(desk, "a1")
        await begun(desk, asterisk, "a2")
        await go_back(desk, worker)
        assert (await desk.settled("a1"))["state"] == "unknown"
        await worker.kill()
        await desk.redis.delete(desk.keys.lease)  # not to wait for it
        asterisk.faults.resume()
        async with working(redis_url, asterisk):
            record = await desk.settled("a2")
            assert (record["state"], record["error_code"]) == ("unknown", "record-lost")


STABLE = (
    "action", "lane", "entry", "producer", "fingerprint", "worker", "queued_at", "channel", "uniqueid",
)  # fmt: skip
"""The fields of a call's record that are the same when it is written anew."""


# -- Redis is emptied: the tenure ends, and the next one of the same process knows what it did


async def empty(desk: Desk, worker: WorkerProcess) -> None:
    """FLUSHALL, and what the worker does about it."""
    await desk.redis.flushall()
    await worker.connected()


async def collected(call: Call) -> list[BusEvent]:
    return [event async for event in call.events()]


def hang_up(asterisk: SimulatedAsterisk, uniqueid: str) -> None:
    (leg,) = [leg for leg in asterisk.switch.legs if leg.uniqueid == uniqueid]
    leg.call.hang_up(leg, 16)


async def has_gaps(desk: Desk, count: int) -> bool:
    return len(await desk.events("BusGap")) == count


async def test_all_that_an_emptied_redis_has_forgotten_is_in_a_gap(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        await desk.originate("call", Data="0")
        await desk.reaches("call", call="ended")
        started_at = float((await desk.heartbeat())["started_at"])
        for _ in range(2):  # what was forgotten then is missing still
            await empty(desk, worker)
            await eventually(lambda: has_gaps(desk, 2))
            forgotten, unseen = [gap.headers for gap in await desk.events("BusGap")]
            assert (forgotten["reason"], unseen["reason"]) == ("forgotten", "worker-start")
            assert float(forgotten["since"]) == started_at
            assert float(unseen["since"]) <= float(forgotten["until"])
            events = await desk.events()
            assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_stream_that_was_left_alone_has_no_forgotten_events(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with working(redis_url, asterisk) as (worker, desk):
        await eventually(lambda: has_gaps(desk, 1))
        before = await desk.events()
        await desk.redis.delete(desk.keys.epoch, desk.keys.lease, desk.keys.worker)
        await worker.connected()
        await eventually(lambda: has_gaps(desk, 2))
        assert [gap.headers["reason"] for gap in await desk.events("BusGap")] == ["worker-start", "worker-start"]
        events = await desk.events()
        assert events[: len(before)] == before
        assert all(later.seq == earlier.seq + 1 for earlier, later in pairwise(events) if later.epoch == earlier.epoch)


async def test_a_call_is_followed_to_its_last_hangup_though_redis_is_emptied(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with working(redis_url, asterisk) as (worker, desk), Bus(redis_url) as bus:
        call = await bus.server("pbx1").originate("Local/101@default", application="Wait", data="600")
        events, ended = asyncio.create_task(collected(call)), asyncio.create_task(call.ended())
        assert (await call.answered()).is_answered
        await eventually(lambda: len(call.legs) == 2)
        legs, before = await desk.redis.hgetall(desk.keys.legs), await desk.reaches(call.action_id, call="up")
        await empty(desk, worker)
        await eventually(lambda: has_gaps(desk, 2))
        assert await desk.redis.hgetall(desk.keys.legs) == legs
        after = await desk.reaches(call.action_id, state="done", call="up")
        assert {name: after.get(name) for name in STABLE} == {name: before.get(name) for name in STABLE}
        assert await desk.redis.ttl(desk.keys.action(call.action_id)) == -1, "it lives as long as the call"
        assert not events.done()
        hang_up(asterisk, call.channel_id)
        outcome = await ended
        assert (outcome.is_answered, outcome.cause) == (True, 16)
        names = [event.name for event in await events]
        assert names[-1] == "Hangup"
        assert names.count("Hangup") == names.count("Newchannel") == 2
        assert (await desk.reaches(call.action_id, call="ended"))["cause"] == "16"
        assert await desk.redis.ttl(desk.keys.action(call.action_id)) > 0
        assert await has_no_legs(desk)


async def test_the_truth_about_a_call_that_rings_while_redis_is_emptied(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with working(redis_url, asterisk) as (worker, desk), Bus(redis_url) as bus:
        asterisk.switch.ring_s = 600.0
        call = await bus.server("pbx1").originate("Local/101@default", application="Wait", data="600")
        ended = asyncio.create_task(call.ended())
        await desk.reaches(call.action_id, call="dialing")
        await empty(desk, worker)
        record = await desk.reaches(call.action_id, state="unknown", call="dialing")
        assert (record["error_code"], record["uniqueid"]) == ("record-lost", call.channel_id)
        hang_up(asterisk, call.channel_id)
        await ended
        await desk.reaches(call.action_id, state="failed", call="ended")
    assert len(asterisk.writes(call.action_id)) == 1


async def test_a_call_that_ends_while_redis_is_emptied(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    """Nobody watches between two tenures."""
    async with working(redis_url, asterisk) as (worker, desk), Bus(redis_url) as bus:
        call = await bus.server("pbx1").originate("Local/101@default", application="Wait", data="600")
        events = asyncio.create_task(collected(call))
        assert (await call.answered()).is_answered
        asterisk.faults.stop_reading()
        await desk.redis.flushall()
        await eventually(lambda: len(worker.lines("lease taken")) == 2)
        hang_up(asterisk, call.channel_id)
        asterisk.faults.resume()
        await worker.connected()
        assert (await events)[-1].name in ("BusCallEnded", "Hangup")
        assert (await call.ended()).is_answered
        assert await has_no_legs(desk)


async def test_a_followed_call_is_followed_on_though_redis_is_emptied(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with working(redis_url, asterisk) as (worker, desk), Bus(redis_url) as bus:
        placed = await bus.server("pbx1").originate("Local/101@default", application="Wait", data="600")
        assert (await placed.answered()).is_answered
        followed = await bus.server("pbx1").follow(placed.channel_id)
        follows = await desk.redis.hkeys(desk.keys.follows)
        await empty(desk, worker)
        assert await desk.redis.hkeys(desk.keys.follows) == follows == [placed.channel_id.encode()]
        hang_up(asterisk, placed.channel_id)
        assert [event.name async for event in followed.events()][-1] == "BusFollowEnded"
