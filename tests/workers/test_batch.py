"""Batches of calls, and waiting for a Redis that is away."""

import asyncio
import shutil
import threading
from typing import Any

import pytest
import redis as blocking
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.scripts import MAX_BATCH
from tests.bus_side import until
from tests.servers import RedisServer
from workers.backoff import Backoff
from workers.batch import Batch, passes, tolerated, until_done


def client(url: str) -> "Redis":
    return Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=30)


class Recorder:
    """What a batch sends, held back until it is let go."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()
        self.failures: list[Exception] = []

    async def send(self, items: list[int]) -> list[int]:
        self.calls.append(list(items))
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        return [item * 10 for item in items]


async def test_what_comes_while_a_call_is_under_way_goes_out_together_in_order() -> None:
    recorder = Recorder()
    batch: Batch[int, int] = Batch("test", recorder.send)
    first = batch.add(0)
    await asyncio.sleep(0)
    rest = [batch.add(item) for item in range(1, MAX_BATCH + 12)]
    recorder.open.set()
    assert await asyncio.gather(first, *rest) == [item * 10 for item in range(MAX_BATCH + 12)]
    assert recorder.calls == [[0], list(range(1, MAX_BATCH + 1)), list(range(MAX_BATCH + 1, MAX_BATCH + 12))]
    assert await batch.add(5) == 50


async def test_with_a_depth_calls_overlap_and_are_answered_in_order() -> None:
    gates = {0: asyncio.Event(), 1: asyncio.Event()}
    begun: list[int] = []

    async def send(items: list[int]) -> list[int]:
        number = len(begun)
        begun.append(items[0])
        if number in gates:
            await gates[number].wait()
        return items

    batch: Batch[int, int] = Batch("test", send, depth=2)
    order: list[int] = []
    futures = []
    for item in range(3):
        futures.append(batch.add(item))
        futures[-1].add_done_callback(lambda done: order.append(done.result()))
        for _ in range(3):
            await asyncio.sleep(0)
    assert begun == [0, 1], "the third waits"
    gates[1].set()
    await asyncio.sleep(0)
    assert order == []
    gates[0].set()
    assert await asyncio.gather(*futures) == [0, 1, 2]
    assert order == [0, 1, 2]


async def test_a_call_that_found_nothing_to_take_lets_nobody_overtake_the_one_before_it() -> None:
    held = asyncio.Event()
    sent: list[list[int]] = []

    async def send(items: list[int]) -> list[int]:
        sent.append(items)
        if len(sent) == 1:
            await held.wait()
        held.set()  # the second is answered first
        return items

    batch: Batch[int, int] = Batch("test", send, depth=3)
    futures: list[asyncio.Future[int]] = []
    order: list[int] = []

    def add(item: int) -> None:
        futures.append(batch.add(item))
        futures[-1].add_done_callback(lambda done: order.append(done.result()))

    add(0)
    add(1)
    # When the first call has taken all that waits and the second has found nothing, but before the third begins.
    asyncio.get_running_loop().call_soon(add, 3)
    add(2)
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await asyncio.gather(*futures)
    assert sent == [[0, 1, 2], [3]]
    assert order == [0, 1, 2, 3]


async def test_it_is_repeated_while_redis_is_away() -> None:
    recorder = Recorder()
    recorder.open.set()
    recorder.failures = [OSError("no route"), RedisConnectionError("gone"), OutOfMemoryError("full")]
    batch: Batch[int, int] = Batch("test", recorder.send)
    with structlog.testing.capture_logs() as logs:
        assert await batch.add(1) == 10
    assert recorder.calls == [[1]] * 4
    assert [entry["event"] for entry in logs] == ["redis is away", "redis is back"]


async def test_what_is_tolerated_tells_of_the_end_as_well() -> None:
    def step(*errors: Exception) -> None:
        for error in errors:
            with tolerated("the list"):
                raise error
        with tolerated("another"):
            pass

    with structlog.testing.capture_logs() as logs:
        step(OutOfMemoryError("full"), OutOfMemoryError("full"))
        assert [(entry["event"], entry["waiting"]) for entry in logs] == [("redis is full", "the list")]
        with tolerated("the list"):
            pass
        step()
    assert [entry["event"] for entry in logs] == ["redis is full", "redis is back"]


async def test_what_was_tolerated_in_a_task_that_has_ended_is_over_with_the_next_success() -> None:
    async def once() -> None:
        with tolerated("the doorbell"):
            raise RedisTimeoutError("no answer")

    async def answer() -> int:
        return 1

    with structlog.testing.capture_logs() as logs:
        await asyncio.create_task(once())
        assert await until_done("entries", answer) == 1
    assert [entry["event"] for entry in logs] == ["redis is away", "redis is back"]


@pytest.mark.parametrize("failure", [ResponseError("NOPERM x"), ValueError("x")])
async def test_any_other_error_is_raised_to_each_caller_and_the_next_goes_on(failure: Exception) -> None:
    recorder = Recorder()
    recorder.failures = [failure]
    batch: Batch[int, int] = Batch("test", recorder.send)
    futures = [batch.add(item) for item in (1, 2)]
    recorder.open.set()
    assert await asyncio.gather(*futures, return_exceptions=True) == [failure, failure]
    assert await batch.add(3) == 30


async def test_too_few_verdicts_leave_nobody_waiting() -> None:
    async def send(items: list[int]) -> list[int]:
        return items[1:]

    batch: Batch[int, int] = Batch("test", send)
    futures = [batch.add(item) for item in (1, 2)]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]


async def test_closing_gives_up_what_is_under_way_and_what_waits() -> None:
    recorder = Recorder()
    batch: Batch[int, int] = Batch("test", recorder.send)
    futures = [batch.add(item) for item in range(MAX_BATCH + 1)]
    await asyncio.sleep(0)
    batch.close()
    await asyncio.gather(*futures, return_exceptions=True)
    assert all(future.cancelled() for future in futures)


async def test_a_caller_who_gave_up_does_not_disturb_the_others() -> None:
    recorder = Recorder()
    batch: Batch[int, int] = Batch("test", recorder.send)
    gone, kept = batch.add(1), batch.add(2)
    await asyncio.sleep(0)
    gone.cancel()
    recorder.open.set()
    assert await kept == 20


async def test_a_full_disk_passes(own_redis: RedisServer) -> None:
    # The directory is gone, so that no snapshot can be written: from then on writes are refused.
    admin = client(own_redis.url)
    shutil.rmtree(own_redis.directory)
    await admin.config_set("appendonly", "no")
    await admin.config_set("save", "3600 1")
    await admin.set("x", 1)
    await admin.bgsave()

    async def failed() -> bool:
        persistence = await admin.info("persistence")
        return bool(persistence["rdb_last_bgsave_status"] != "ok")

    await until(failed)
    with pytest.raises(ResponseError) as caught:
        await admin.set("x", 2)
    assert passes(caught.value), caught.value
    waiting = asyncio.create_task(until_done("x", lambda: admin.set("x", 2)))
    await admin.config_set("save", "")
    async with asyncio.timeout(60):
        assert await waiting
    await admin.aclose()


async def test_somebodys_long_script_passes(own_redis: RedisServer) -> None:
    admin = client(own_redis.url)
    await admin.config_set("lua-time-limit", 1)

    def loop() -> None:
        with own_redis.client() as other, pytest.raises(blocking.RedisError):
            other.eval("while true do end", 0)

    busy = threading.Thread(target=loop)
    busy.start()
    failure: Any = None
    async with asyncio.timeout(60):
        while not isinstance(failure, ResponseError):
            try:
                await admin.get("x")
            except (ResponseError, blocking.TimeoutError) as error:
                failure = error
    assert passes(failure), failure
    waiting = asyncio.create_task(until_done("x", lambda: admin.set("x", 2)))
    await admin.script_kill()
    async with asyncio.timeout(60):
        assert await waiting
    await asyncio.to_thread(busy.join)
    await admin.aclose()


async def test_what_a_fail_over_unblocks_passes(own_redis: RedisServer) -> None:
    admin: Any = client(own_redis.url)
    patient: Any = Redis.from_url(own_redis.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=60)
    waiting = asyncio.create_task(patient.execute_command("XREAD", "BLOCK", 60_000, "STREAMS", "x", "$"))

    async def is_blocked() -> bool:
        return bool((await admin.info("clients"))["blocked_clients"])

    await until(is_blocked)
    await admin.execute_command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(ResponseError, match="UNBLOCKED") as caught:
        await waiting
    assert passes(caught.value)
    await patient.aclose()
    await admin.aclose()


async def test_a_redis_that_comes_back_is_found(own_redis: RedisServer) -> None:
    redis = client(own_redis.url)
    own_redis.kill()
    waiting = asyncio.create_task(until_done("ping", redis.ping))
    await asyncio.sleep(0)
    await asyncio.to_thread(own_redis.start)
    async with asyncio.timeout(60):
        assert await waiting
    await redis.aclose()


def test_delays_grow_with_jitter_up_to_the_most() -> None:
    backoff = Backoff(0.1, 2.0)
    delays = [backoff.next_s() for _ in range(40)]
    for at, delay in enumerate(delays):
        whole = min(2.0, 0.1 * 2**at)
        assert whole / 2 <= delay <= whole
    assert len(set(delays)) > 30
    backoff.reset()
    assert backoff.next_s() <= 0.1


async def test_what_is_handed_in_together_goes_out_in_one_call_and_is_answered_as_a_list() -> None:
    recorder = Recorder()
    batch: Batch[int, int] = Batch("test", recorder.send)
    first = batch.add(0)
    await asyncio.sleep(0)
    most = batch.add_all(list(range(1, MAX_BATCH)))
    two = batch.add_all([500, 501])
    last = batch.add(502)
    recorder.open.set()
    assert (await first, await last) == (0, 5020)
    assert (await most, await two) == ([item * 10 for item in range(1, MAX_BATCH)], [5000, 5010])
    assert recorder.calls == [[0], list(range(1, MAX_BATCH)), [500, 501, 502]]
