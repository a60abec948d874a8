"""How a worker ends: asked once, asked twice, asked while something is away, and not asked at all."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.keys import URGENT
from tests.faults.proxy import Proxy
from tests.faults.test_journal_disk import LimitedSize
from tests.servers import RedisServer
from tests.workers.worker_process import BUSY_S, DEADLINE_S, USERS, Desk, WorkerProcess, eventually, make_settings
from workers.config import Settings
from workers.redis_client import REDIS_TIMEOUT_S
from workers.simulated import SimulatedAsterisk

IDS = [f"v{number}" for number in range(30)]
DRAIN_S = 3.0

Note = Callable[[str, object], None]
"""`record_property`: what was seen, for the report."""


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=17) as simulated:
        yield simulated


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[tuple[WorkerProcess, Desk]]:
    async with WorkerProcess(settings) as worker, Desk(settings.redis) as desk:
        await worker.connected()
        yield worker, desk


async def setvar(desk: Desk, *action_ids: str, **headers: Any) -> None:
    for action_id in action_ids:
        await desk.add("Setvar", action_id, Variable="x", Value=action_id, **headers)


async def rest_is_done(settings: Settings, asterisk: SimulatedAsterisk, unknown: tuple[str, ...] = ()) -> None:
    """A next worker does what was left; nothing was or is written twice."""
    async with working(settings) as (_, desk):
        for action_id in IDS:
            record = await desk.settled(action_id)
            assert record["state"] == ("unknown" if action_id in unknown else "done"), record
        await eventually(desk.backlog_is_empty)
        assert await desk.pending() == 0
    counts = Counter(each.action_id for each in asterisk.written if each.action == "Setvar")
    assert [counts[action_id] for action_id in IDS] == [1] * len(IDS)


async def stops(worker: WorkerProcess, within_s: float, note: Note) -> float:
    """Ask it to end; it does so with exit code 0, in time."""
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0, worker.text
    took_s = time.monotonic() - began
    note("stopped_after_s", round(took_s, 2))
    assert took_s < within_s + BUSY_S, worker.text
    assert "Traceback" not in worker.text
    return took_s


# -- asked once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_was_sent_is_settled(redis_url: str, asterisk: SimulatedAsterisk, number: signal.Signals) -> None:
    settings = make_settings(redis_url, asterisk, drain_s=DEADLINE_S)
    async with working(settings) as (worker, desk):
        for each in ("v0", "read", "urgent"):
            asterisk.faults.hold_response(each)
        await setvar(desk, *IDS)
        await setvar(desk, "urgent", lane=URGENT)
        await desk.add("CoreShowChannels", "read")
        await eventually(lambda: {"v0", "read", "urgent"} <= asterisk.write_counts().keys())
        worker.signal(number)
        await worker.said("draining")
        asterisk.faults.resume()
        assert await worker.ended() == 0
        for action_id in ("v0", "read", "urgent"):
            assert (await desk.record(action_id))["state"] == "done"
        assert not await desk.redis.exists(desk.keys.lease), "the next one need not wait"
        assert {each.action_id for each in asterisk.written if each.action_id in IDS} == {"v0"}
    await rest_is_done(settings, asterisk)


async def test_an_answer_that_never_comes_is_not_waited_for_longer_than_said(
    redis_url: str, asterisk: SimulatedAsterisk, record_property: Note
) -> None:
    settings = make_settings(redis_url, asterisk, drain_s=1.0)
    async with working(settings) as (worker, desk):
        asterisk.faults.lose_response("v0")
        await setvar(desk, *IDS)
        await eventually(lambda: asterisk.writes("v0"))
        await stops(worker, 1.0 + 1.5, record_property)
    await rest_is_done(settings, asterisk, unknown=("v0",))


# -- asked twice


async def test_a_second_signal_ends_it_at_once(
    redis_url: str, asterisk: SimulatedAsterisk, record_property: Note
) -> None:
    settings = make_settings(redis_url, asterisk, drain_s=30.0)
    async with working(settings) as (worker, desk):
        asterisk.faults.lose_response("v0")
        await setvar(desk, *IDS)
        await eventually(lambda: asterisk.writes("v0"))
        worker.signal(signal.SIGTERM)
        await worker.said("draining")
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 1
        record_property("ended_after_s", round(time.monotonic() - began, 3))
        assert time.monotonic() - began < 1 + BUSY_S
        assert worker.lines("second signal: ending at once")
    await rest_is_done(settings, asterisk, unknown=("v0",))


# -- asked while something is away


@pytest.mark.parametrize("how", ["dead", "silent"])
async def test_redis_is_away(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, how: str, record_property: Note
) -> None:
    """With an answer in hand that cannot be settled. It is the next worker that says what is unknown."""
    settings = make_settings(own_redis.url, asterisk, drain_s=DRAIN_S)
    async with working(settings) as (worker, desk):
        asterisk.faults.hold_response("v0")
        await setvar(desk, *IDS)
        await eventually(lambda: asterisk.writes("v0"))
        if how == "dead":
            own_redis.kill()
        else:
            own_redis.send(signal.SIGSTOP)
        asterisk.faults.resume()
        try:
            # Draining, the last events, and giving back the lease each have a limit of their own.
            await stops(worker, 2 * DRAIN_S + 2 * REDIS_TIMEOUT_S + 1, record_property)
        finally:
            if how == "dead":
                await asyncio.to_thread(own_redis.start)
            else:
                own_redis.send(signal.SIGCONT)
    await rest_is_done(settings, asterisk, unknown=("v0",))


@pytest.mark.parametrize("pattern", [b":legs", b"XREVRANGE", b"replication"])
async def test_redis_goes_away_in_the_middle_of_the_start(
    redis_url: str, asterisk: SimulatedAsterisk, pattern: bytes, record_property: Note
) -> None:
    """The lease is taken, and what the worker asks next is never answered."""
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy, Desk(redis_url) as desk:
        loss = proxy.drop_replies(pattern, times=10_000)
        settings = make_settings(f"redis://127.0.0.1:{proxy.port}/0", asterisk, lease_s=20.0, drain_s=DRAIN_S)
        async with WorkerProcess(settings) as worker:
            await worker.said("lease taken")
            await eventually(lambda: loss.lost > 1)
            await stops(worker, 3.0, record_property)
        assert not await desk.redis.exists(desk.keys.lease), "the next one need not wait"


async def test_asterisk_is_away(redis_url: str, asterisk: SimulatedAsterisk, record_property: Note) -> None:
    settings = make_settings(redis_url, asterisk, drain_s=30.0)
    async with working(settings) as (worker, desk):
        await asterisk.stop()
        await worker.said("asterisk is away")
        await setvar(desk, *IDS)
        await stops(worker, 2.0, record_property)
        await asterisk.start()
    await rest_is_done(settings, asterisk)


async def test_the_journals_disk_is_full(
    redis_url: str, asterisk: SimulatedAsterisk, tmp_path: Path, record_property: Note
) -> None:
    settings = make_settings(redis_url, asterisk, drain_s=1.0, journal_dir=str(tmp_path))
    async with working(settings) as (worker, desk):
        LimitedSize(tmp_path).fill(worker.pid)
        await setvar(desk, *IDS)
        await worker.said("the journal's disk is full: nothing that changes something is sent")
        await stops(worker, 1.0 + 2.0, record_property)
        assert not [each for each in asterisk.written if each.action_id in IDS]
    await rest_is_done(settings, asterisk)


# -- not asked


async def test_killed_and_started_again(redis_url: str, asterisk: SimulatedAsterisk, record_property: Note) -> None:
    """The first action is done within the lease's life and a second."""
    settings = make_settings(redis_url, asterisk, lease_s=5.0)
    async with working(settings) as (worker, desk):
        asterisk.faults.lose_response("v0")
        await setvar(desk, *IDS)
        await eventually(lambda: asterisk.writes("v0"))
        await worker.kill()
        killed = time.monotonic()
        async with WorkerProcess(settings):
            await desk.settled("v1")
            first_s = time.monotonic() - killed
            record_property("first_action_after_s", round(first_s, 2))
            assert (await desk.record("v1"))["state"] == "done"
            assert first_s < settings.lease_s + 1 + BUSY_S
            assert (await desk.settled("v0"))["state"] == "unknown"
            for action_id in IDS:  # its end is that of a crash: nothing must be on its way
                await desk.settled(action_id)
    await rest_is_done(settings, asterisk, unknown=("v0",))
