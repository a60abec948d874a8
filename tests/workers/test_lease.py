"""Who may send now: the lease on real servers."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from tests.servers import RedisServer
from tests.workers.worker_process import Desk, eventually, soon
from workers import lease as lease_module
from workers.clock import ServerClock
from workers.config import Settings
from workers.lease import DOUBTS, Holder, Lease, LeaseLost
from workers.redis_client import connect


@contextlib.asynccontextmanager
async def holding(url: str, name: str = "one", lease_s: float = 1.0) -> AsyncIterator[Lease]:
    """A lease that is not acquired yet, on a connection of its own."""
    redis = connect(url)
    try:
        yield Lease(redis, Settings(redis=url, server="pbx1", name=name, lease_s=lease_s), ServerClock())
    finally:
        await redis.aclose()


async def test_the_first_holder_begins_the_first_epoch(redis_url: str) -> None:
    async with holding(redis_url, lease_s=60.0) as lease, Desk(redis_url) as desk:
        await soon(lease.acquire())
        assert lease.epoch == 1
        assert lease.is_valid
        assert await desk.redis.get(desk.keys.epoch) == b"1"
        life_ms = await desk.redis.pttl(desk.keys.lease)
        assert 0 < life_ms <= 60_000


async def test_redis_time_is_known_before_anything_goes_by_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = time.time()
    monkeypatch.setattr(time, "time", lambda: at - 1000)
    async with holding(redis_url) as lease, Desk(redis_url) as desk:
        await soon(lease.acquire())
        seconds, _ = await desk.redis.time()
        assert lease.started_at == pytest.approx(seconds, abs=60)


async def test_it_is_not_relied_on_for_its_whole_life(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # By a clock that the test sets: however slow the machine, nothing else passes between two looks.
    clock = SetClock(monkeypatch)
    async with holding(redis_url, lease_s=600.0) as lease, Desk(redis_url) as desk:
        await soon(lease.acquire())
        for _ in range(2):
            clock.at += 479.0
            assert lease.is_valid
            clock.at += 2.0
            assert not lease.is_valid
            assert await desk.redis.pttl(desk.keys.lease) > 481_000
            await lease.renew({"state": "connected"})


class SetClock:
    """The lease's monotonic clock, standing at `at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1000.0
        monkeypatch.setattr(lease_module, "time", self)

    def monotonic(self) -> float:
        return self.at


async def test_a_reply_that_was_long_on_its_way_counts_from_the_question(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have counted the lease's life from any moment since it was asked."""
    clock = SetClock(monkeypatch)
    async with holding(redis_url, lease_s=600.0) as lease:

        async def slowly(dead_beat: bytes, take: bool) -> list[Any]:
            answer = await ask(dead_beat, take)
            clock.at += 300.0
            return answer

        ask = lease._try
        monkeypatch.setattr(lease, "_try", slowly)
        await soon(lease.acquire())
        clock.at += 179.0
        assert lease.is_valid
        clock.at += 2.0
        assert not lease.is_valid


async def test_a_second_worker_stands_by_until_it_is_given_back(redis_url: str) -> None:
    async with (
        holding(redis_url, lease_s=4.0) as lease,
        holding(redis_url, "two", lease_s=4.0) as standby,
        Desk(redis_url) as desk,
    ):
        await soon(lease.acquire())
        with capture_logs() as logs:
            waiting = asyncio.create_task(standby.acquire())
            await eventually(lambda: logs)
            for _ in range(22):  # longer than the lease's life, while it is renewed
                await lease.renew({"state": "connected"})
                await asyncio.wait([waiting], timeout=0.2)
            assert not waiting.done()
            await lease.release()
            assert b'"one"' not in (await desk.redis.get(desk.keys.lease) or b""), "it need not run out"
            await soon(waiting)
        assert [line["event"] for line in logs] == ["standing by: another worker serves this server", "lease taken"]
        assert logs[0]["holder"] == "one"
        assert standby.epoch == 2
        assert await desk.redis.exists(desk.keys.worker) == 0


async def test_a_lease_that_nobody_renews_is_taken_over_and_its_holder_is_fenced(redis_url: str) -> None:
    async with holding(redis_url) as lease, holding(redis_url, "two") as standby:
        await soon(lease.acquire())
        await soon(standby.acquire())
        with pytest.raises(LeaseLost):
            await lease.renew({"state": "connected"})
        assert not lease.is_valid
        await lease.release()  # must not take the other's
        await standby.renew({"state": "connected"})


async def test_a_standby_takes_the_lease_at_its_first_look_after_its_end(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it looks ten times in a life, each time between two looks: that is how soon it takes over."""
    life_s = 3.0
    async with holding(redis_url, lease_s=life_s) as lease, holding(redis_url, "two", lease_s=life_s) as standby:
        looks: list[bool] = []
        pauses: list[float] = []
        look, pause = standby._try, asyncio.sleep

        async def watched_look(dead_beat: bytes, take: bool) -> list[Any]:
            answer = await look(dead_beat, take)
            looks.append(bool(answer[0]))
            return answer

        async def watched_pause(seconds: float) -> None:
            pauses.append(seconds)
            await pause(seconds)

        monkeypatch.setattr(standby, "_try", watched_look)
        monkeypatch.setattr(asyncio, "sleep", watched_pause)
        await soon(lease.acquire())
        await soon(standby.acquire())
        assert looks == [False] * len(pauses) + [True]
        assert pauses == [pytest.approx(life_s / 10)] * len(pauses)
        assert pauses


async def test_a_free_lease_is_left_to_others_for_a_while(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And taken then: where nobody can do better, somebody serves."""
    clock = SetClock(monkeypatch)
    looks: list[Holder] = []

    def left(holder: Holder) -> bool:
        looks.append(holder)
        return True

    async with holding(redis_url, lease_s=1.0) as lease, holding(redis_url, "two", lease_s=60.0) as good:
        await soon(good.acquire())
        waiting = asyncio.create_task(lease.acquire(left))
        await eventually(lambda: looks)
        assert looks[0]["worker"] == "two"
        with capture_logs() as logs:
            for _ in range(2):  # each time that it becomes free
                await good.release()
                await eventually(lambda: looks[-1] == {})
                clock.at += 1.9
                since = len(looks)
                await eventually(lambda: len(looks) >= since + 3)  # noqa: B023
                await soon(good.acquire())
                await eventually(lambda: looks[-1] != {})
            await good.release()
            await eventually(lambda: looks[-1] == {})
            clock.at += 2.1
            await soon(waiting)
    assert lease.epoch == good.epoch + 1 == 4
    left_to_others = [line for line in logs if line["event"].startswith("nobody serves")]
    assert [line["wait_s"] for line in left_to_others] == [2.0] * 3


async def test_who_need_not_wait_any_more_takes_a_free_lease_at_once(redis_url: str) -> None:
    looks: list[Holder] = []

    def is_left_while_held(holder: Holder) -> bool:
        looks.append(holder)
        return bool(holder)

    async with holding(redis_url, lease_s=10.0) as lease, holding(redis_url, "two", lease_s=60.0) as good:
        await soon(good.acquire())
        with capture_logs() as logs:
            waiting = asyncio.create_task(lease.acquire(is_left_while_held))
            await eventually(lambda: looks)
            await good.release()
            await soon(waiting)
    assert looks[-1] == {}
    assert looks.count({}) == 1
    assert [line["event"] for line in logs] == ["standing by: another worker serves this server", "lease taken"]


async def test_a_redis_that_lost_its_memory_hands_out_no_epoch_twice(redis_url: str) -> None:
    async with holding(redis_url) as lease, Desk(redis_url) as desk:
        await desk.redis.set(desk.keys.epoch, 41)
        await soon(lease.acquire())
        assert lease.epoch == 42
        await desk.redis.flushall()
        with pytest.raises(LeaseLost):
            await lease.renew({"state": "connected"})
        await soon(lease.acquire())
        assert lease.epoch == 43


async def test_the_heartbeat_ends_soon_after_its_worker(redis_url: str) -> None:
    async with holding(redis_url, lease_s=60.0) as lease, Desk(redis_url) as desk:
        await soon(lease.acquire())
        await lease.renew({"state": "connected", "queued": 3})
        beat = await desk.heartbeat()
        seconds, microseconds = await desk.redis.time()
        assert beat.pop("heartbeat_at") <= f"{seconds}.{microseconds:06d}"
        assert beat == {"state": "connected", "queued": "3"}
        assert 0 < await desk.redis.pttl(desk.keys.worker) <= 180_000


async def test_an_expired_lease_that_nobody_took_is_renewed(redis_url: str) -> None:
    async with holding(redis_url, lease_s=60.0) as lease, Desk(redis_url) as desk:
        await soon(lease.acquire())
        await desk.redis.delete(desk.keys.lease)
        await lease.renew({"state": "connected"})
        assert lease.is_valid
        assert await desk.redis.exists(desk.keys.lease) == 1


async def test_giving_back_while_redis_is_away_is_no_error(own_redis: RedisServer) -> None:
    async with holding(own_redis.url) as lease:
        await soon(lease.acquire())
        own_redis.kill()
        with capture_logs() as logs:
            await soon(lease.release())
        assert [line["event"] for line in logs] == ["the lease was not given back: redis is away"]
        assert not lease.is_valid


async def test_a_redis_that_comes_later_is_waited_for(own_redis: RedisServer) -> None:
    own_redis.kill()
    async with holding(own_redis.url) as lease:
        with capture_logs() as logs:
            waiting = asyncio.create_task(lease.acquire())
            await eventually(lambda: logs)
            await asyncio.to_thread(own_redis.start)
            await soon(waiting)
        assert [line["event"] for line in logs] == ["redis is away", "redis is back", "lease taken"]


async def test_a_lease_whose_holder_stands_still_is_taken_whatever_its_life(redis_url: str) -> None:
    """As where Redis' clock has been set back: the lease of a dead worker then lives on."""
    async with holding(redis_url, lease_s=600) as dead, holding(redis_url, "two") as standby:
        await soon(dead.acquire())
        await dead.renew({"state": "connected"})
        with capture_logs() as logs:
            await soon(standby.acquire())
        assert standby.epoch == dead.epoch + 1
        assert "error" in [line["log_level"] for line in logs]
        with pytest.raises(LeaseLost):
            await dead.renew({"state": "connected"})


async def test_a_standby_remembers_the_epochs_that_it_has_seen(redis_url: str) -> None:
    lease_s = 60.0  # that of the first must not end before the other has seen it
    async with (
        holding(redis_url, lease_s=lease_s) as lease,
        holding(redis_url, "two") as standby,
        Desk(redis_url) as desk,
    ):
        await desk.redis.set(desk.keys.epoch, "41")
        await soon(lease.acquire())
        waiting = asyncio.create_task(standby.acquire())
        await eventually(lambda: standby.epoch == 42)
        await desk.redis.flushall()
        await soon(waiting)
        assert (standby.epoch, standby.epoch_before, standby.has_gone_back) == (43, 42, True)


async def test_later_holders_learn_that_redis_became_another_meanwhile(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding(redis_url) as lease, holding(redis_url, "two") as standby, Desk(redis_url) as desk:
        await soon(lease.acquire())
        await lease.identify_redis()
        await lease.identify_redis()
        assert lease.doubts == []
        for number in range(DOUBTS + 1):
            monkeypatch.setattr(lease, "ask_redis", AsyncMock(return_value=f"another-{number}"))
            await lease.identify_redis()
        await lease.release()
        await soon(standby.acquire())
        await standby.read_doubts()
        assert standby.doubts == lease.doubts
        assert {(doubt.first, doubt.last) for doubt in standby.doubts} == {(lease.epoch, lease.epoch)}
        assert len(standby.doubts) == DOUBTS
        assert all(abs(doubt.before - time.time()) < 60 for doubt in standby.doubts)
        await desk.redis.hset(desk.keys.holder, "doubts", "rubbish")
        await standby.read_doubts()
        assert standby.doubts == []


async def test_later_holders_learn_which_redis_it_was(redis_url: str) -> None:
    async with holding(redis_url) as lease, holding(redis_url, "two") as standby:
        await soon(lease.acquire())
        assert (lease.epoch_before, lease.redis_before) == (0, "")
        known_by = await lease.identify_redis()
        await lease.release()
        await soon(standby.acquire())
        assert (standby.epoch_before, standby.redis_before, standby.has_gone_back) == (lease.epoch, known_by, False)
        assert len(known_by) == 40
