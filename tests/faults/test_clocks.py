"""Clocks that jump an hour: the worker's, which nothing may depend on, and Redis', by which all times go."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.faketime import FakeTime
from tests.servers import RedisServer, need
from tests.workers.worker_process import BUSY_S, USERS, Desk, WorkerProcess, eventually, make_settings
from workers.simulated import SimulatedAsterisk

HOUR_S = 3600
LEASE_S = 6.0
"""Where the holder of the lease is killed: Redis' clock is set back before it would end."""

STEPPED = "redis' clock has been stepped: deadlines and the ages of records go by it"
BOTH_WAYS = pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=5) as simulated:
        yield simulated


@pytest.fixture
def fake_time(tmp_path: Path) -> Iterator[FakeTime]:
    faked = FakeTime(tmp_path)
    yield faked
    faked.forget_dead()


@pytest.fixture
def stepping_redis(fake_time: FakeTime) -> Iterator[RedisServer]:
    """A server whose clock `fake_time` sets. Debian's Redis does not start under libfaketime: its allocator asks for
    the time before the library is ready."""
    need("valkey")
    server = RedisServer("valkey", environment=fake_time.environment)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def working(settings: Any, **environment: str) -> AsyncIterator[tuple[WorkerProcess, Desk]]:
    async with WorkerProcess(settings, **environment) as worker, Desk(settings.redis) as desk:
        await worker.connected()
        yield worker, desk


async def is_done(desk: Desk, action_id: str, **headers: Any) -> None:
    await desk.add("Setvar", action_id, Variable="x", Value=action_id, **headers)
    record = await desk.settled(action_id)
    assert record["state"] == "done", record


async def expires_in_time(desk: Desk, asterisk: SimulatedAsterisk, prefix: str) -> None:
    """While Asterisk does not answer, of two that wait only that expires whose deadline passes."""
    asterisk.faults.freeze()
    await desk.add("Setvar", f"{prefix}-first", Variable="x", Value="1")
    await desk.reaches(f"{prefix}-first", state="sending")
    began = time.monotonic()
    await desk.add("Setvar", f"{prefix}-short", Variable="x", Value="2", Bus_Deadline="+2")
    await desk.add("Setvar", f"{prefix}-long", Variable="x", Value="3", Bus_Deadline="+600")
    assert (await desk.settled(f"{prefix}-short"))["state"] == "expired"
    assert time.monotonic() - began > 1.5
    # By its own deadline: neither by the answer nor by the end of the session that holds it up.
    assert (await desk.record(f"{prefix}-first"))["state"] == "sending"
    asterisk.faults.resume()
    assert (await desk.settled(f"{prefix}-long"))["state"] == "done"
    assert not asterisk.writes(f"{prefix}-short")


# -- the worker's clock


@BOTH_WAYS
async def test_the_workers_clock_jumps(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, fake_time: FakeTime, step_s: int
) -> None:
    # The lease's usual life: on a busy machine a process may well stand still for as long as a shorter one lasts.
    one, two = (make_settings(own_redis.url, asterisk, name=name, lease_s=5.0) for name in ("one", "two"))
    async with working(one, **fake_time.environment) as (worker, desk):
        standby = WorkerProcess(two)
        async with standby:
            await standby.said("standing by: another worker serves this server")
            await is_done(desk, "before")
            await desk.originate("call", Data="60")
            await desk.reaches("call", call="up")
            fake_time.step(step_s)
            await eventually(lambda: has_jumped(worker, desk, step_s))
            await is_done(desk, "after")
            await expires_in_time(desk, asterisk, "jump")
            record, beat = await desk.record("after"), await desk.heartbeat()
            assert abs(float(record["settled_at"]) - time.time()) < 30
            assert abs(float(beat["heartbeat_at"]) - time.time()) < 30
            assert (beat["worker"], beat["epoch"], beat["clock_stepped_s"]) == ("one", "1", "0.000")
            assert (await desk.record("call"))["call"] == "up"
            assert not worker.lines(STEPPED)
            assert not standby.lines("lease taken")
        assert not [line for line in worker.log if line.get("level") in ("warning", "error", "critical")]


async def has_jumped(worker: WorkerProcess, desk: Desk, step_s: int) -> bool:
    """Whether its log tells the new hour; each action that is settled is a line of it."""
    await is_done(desk, f"probe-{time.monotonic()}")
    at = datetime.fromisoformat(worker.lines("settled")[-1]["timestamp"]).timestamp()
    return abs(at - time.time() - step_s) < 60


# -- Redis' clock


@BOTH_WAYS
async def test_redis_clock_is_stepped(
    stepping_redis: RedisServer, asterisk: SimulatedAsterisk, fake_time: FakeTime, step_s: int
) -> None:
    settings = make_settings(stepping_redis.url, asterisk, name="one")
    async with working(settings) as (worker, desk):
        await is_done(desk, "before")
        fake_time.step(step_s)
        line = await worker.said(STEPPED)
        assert abs(line["step_s"] - step_s) < 30
        await is_done(desk, "after")
        await desk.add("Ping", "soon", Bus_Deadline="+60")
        assert (await desk.settled("soon"))["state"] == "done"
        await desk.originate("call", "busy")
        assert (await desk.settled("call"))["error_code"] == "originate-failed"
        beat = await eventually(lambda: tells_of_step(desk))
        assert abs(float(beat["clock_stepped_s"]) - step_s) < 30
        assert abs(float(beat["heartbeat_at"]) - time.time() - step_s) < 30
        assert (beat["epoch"], beat["state"]) == ("1", "connected")
        fake_time.step(0)
        await eventually(lambda: len(worker.lines(STEPPED)) == 2)
        await is_done(desk, "last")
        assert {asterisk.write_counts()[each] for each in ("before", "after", "last", "call")} == {1}
        assert await worker.terminate() == 0


async def tells_of_step(desk: Desk) -> dict[str, str]:
    beat = await desk.heartbeat()
    return beat if float(beat.get("clock_stepped_s", 0)) else {}


async def test_a_standby_takes_over_although_redis_clock_was_set_back(
    stepping_redis: RedisServer, asterisk: SimulatedAsterisk, fake_time: FakeTime
) -> None:
    def settings(name: str) -> Any:
        return make_settings(stepping_redis.url, asterisk, name=name, lease_s=LEASE_S)

    async with working(settings("one")) as (first, desk), WorkerProcess(settings("two")) as second:
        await second.said("standing by: another worker serves this server")
        await is_done(desk, "before")
        await first.kill()
        fake_time.step(-HOUR_S)
        await eventually(lambda: lives_on(desk))
        began = time.monotonic()
        await desk.add("Setvar", "after", Variable="x", Value="1")
        assert (await desk.settled("after"))["state"] == "done"
        assert time.monotonic() - began < LEASE_S * 1.5 + 2 + BUSY_S
        await second.said("the lease lives on and its worker does not: has Redis' clock been set back?")
        assert (await desk.record("after"))["worker"] == "two"
        assert asterisk.write_counts()["after"] == 1


async def lives_on(desk: Desk) -> bool:
    """Whether the lease of the dead would last for most of an hour."""
    return bool(await desk.redis.pttl(desk.keys.lease) > HOUR_S * 900)


async def test_a_call_in_doubt_is_not_waited_for_an_hour_because_redis_clock_was_set_back(
    stepping_redis: RedisServer, asterisk: SimulatedAsterisk, fake_time: FakeTime
) -> None:
    async with working(make_settings(stepping_redis.url, asterisk)) as (worker, desk):
        asterisk.faults.delay_response("call", seconds=30)
        await desk.originate("call", "noanswer", Timeout="600000", Bus_Timeout="6")
        await eventually(lambda: asterisk.writes("call"))
        fake_time.step(-HOUR_S)
        await worker.said(STEPPED)
        began = time.monotonic()
        await asterisk.drop_connections("actions")
        record = await desk.settled("call")
        assert record["state"] == "unknown"
        assert time.monotonic() - began < 12 + BUSY_S
