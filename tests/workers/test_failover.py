"""Worker and client through real sentinels, before, during and after a fail-over."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from broker.client import Bus, Server
from broker.codec import State
from broker.errors import AmibusError
from tests.ports import free_port
from tests.sentinel import SERVICE, Sentinels
from tests.servers import RedisServer, need
from tests.workers.worker_process import USERS, Desk, WorkerProcess, eventually, make_settings
from workers.simulated import SimulatedAsterisk

WORKING_AGAIN_S = 60.0
"""After the new primary is there; what is seen is below 2 s."""

REDIS = pytest.mark.parametrize("sentinels", ["redis"], indirect=True)
"""Where it is the worker that is tested, one kind of server will do."""


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=5) as simulated:
        yield simulated


async def sooner_or_later(condition: Callable[[], Any], deadline_s: float = WORKING_AGAIN_S) -> Any:
    """Wait until a condition is true; while Redis is away it is not."""

    async def met() -> Any:
        try:
            return await condition()
        except (RedisError, AmibusError):
            return False

    return await eventually(met, deadline_s)


async def test_a_fail_over(
    sentinels: Sentinels, asterisk: SimulatedAsterisk, record_property: Callable[[str, object], None]
) -> None:
    settings = make_settings(sentinels.url, asterisk, name="one")
    ids = [f"v{number}" for number in range(20)]
    async with WorkerProcess(settings) as worker, Bus(sentinels.url) as bus, Desk(sentinels.url) as desk:
        await worker.connected()
        pbx = bus.server("pbx1")
        assert (await pbx.request("Ping", timeout=WORKING_AGAIN_S)).state is State.DONE
        heard: list[str] = []
        listening = asyncio.create_task(listen(pbx, heard))

        def is_heard(module: str) -> bool:
            asterisk.tell("Reload", "system", ("Module", module))
            return module in heard

        await eventually(lambda: is_heard("before"))
        asterisk.faults.freeze()
        sending = [asyncio.create_task(pbx.request("Setvar", Variable="x", Value=each, action_id=each)) for each in ids]
        await desk.reaches("v0", state="sending")
        await eventually(lambda: has_backlog(desk, len(ids)))
        await asyncio.to_thread(sentinels.catch_up)
        await asyncio.to_thread(sentinels.fail_over)
        began = time.monotonic()
        asterisk.faults.resume()
        results = await asyncio.wait_for(asyncio.gather(*sending), WORKING_AGAIN_S)
        record_property("settled_after_s", round(time.monotonic() - began, 2))
        assert {result.state for result in results} == {State.DONE}
        assert [each.action_id for each in asterisk.written if each.action == "Setvar"] == ids, "once each, in order"
        await sooner_or_later(desk.backlog_is_empty)
        lines = await desk.lines(desk.keys.results)
        assert [line["action_id"] for line in lines if line["action"] == "Setvar"] == ids
        assert (await pbx.request("Ping", timeout=WORKING_AGAIN_S)).state is State.DONE
        await eventually(lambda: is_heard("after"))
        listening.cancel()
        await worker.said("redis is back")  # so it says when nobody waits any more
        assert len(worker.lines("redis is away")) == len(worker.lines("redis is back")) == 1
        assert [line for line in worker.log if line.get("level") in ("error", "critical")] == []


async def listen(pbx: Server, heard: list[str]) -> None:
    async for event in pbx.events("Reload"):
        heard.append(event.headers["Module"])


async def has_backlog(desk: Desk, count: int) -> bool:
    return await desk.backlog() == count


async def test_a_primary_that_is_demoted_without_a_word(sentinels: Sentinels, asterisk: SimulatedAsterisk) -> None:
    settings = make_settings(sentinels.url, asterisk, name="one")
    async with WorkerProcess(settings) as worker, Bus(sentinels.url) as bus:
        await worker.connected()
        pbx = bus.server("pbx1")
        await pbx.request("Ping", timeout=WORKING_AGAIN_S)
        await asyncio.to_thread(sentinels.catch_up)
        await asyncio.to_thread(sentinels.fail_over, kill=False)
        assert (await pbx.request("Ping", timeout=WORKING_AGAIN_S)).state is State.DONE
        assert [line for line in worker.log if line.get("level") in ("error", "critical")] == []
        with sentinels.primary.client() as client:
            await eventually(lambda: client.hget("ami:{pbx1}:worker", "state") == "connected")


@REDIS
async def test_a_wrong_service_ends_the_worker_with_one_sentence(
    sentinels: Sentinels, asterisk: SimulatedAsterisk
) -> None:
    url = sentinels.url.replace(f"/{SERVICE}/", "/other/").replace("://", "://:hush@")
    async with WorkerProcess(make_settings(url, asterisk)) as worker:
        assert await worker.ended() == 78
        sentence = worker.text.strip().splitlines()[-1]
        assert sentence.startswith("amibus: Redis at redis+sentinel://:(hidden)@127.0.0.1:")
        assert "cannot be found: no sentinel names a primary of 'other': 127.0.0.1:" in sentence
        assert sentence.count("does not know it") == 3
        assert "hush" not in worker.text
        assert "Traceback" not in worker.text


async def test_a_wrong_password_of_the_sentinels_ends_the_worker(asterisk: SimulatedAsterisk) -> None:
    need("redis")
    guard = RedisServer("redis", password="right")  # to a client that asks for a primary it looks the same
    guard.start()
    try:
        url = f"redis+sentinel://127.0.0.1:{guard.port}/{SERVICE}?sentinel_password=hush"
        async with WorkerProcess(make_settings(url, asterisk)) as worker:
            assert await worker.ended() == 78
            assert f"127.0.0.1:{guard.port} refused: " in worker.text.strip().splitlines()[-1]
            assert "hush" not in worker.text
    finally:
        guard.stop()


async def test_sentinels_that_are_away_are_waited_for_as_redis_is(asterisk: SimulatedAsterisk) -> None:
    ports = [free_port(), free_port()]
    url = f"redis+sentinel://:hush@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/{SERVICE}"
    async with WorkerProcess(make_settings(url, asterisk)) as worker:
        line = await worker.said("redis is away")
        for port in ports:
            assert f"127.0.0.1:{port} cannot be reached: " in line["error"]
        assert await worker.terminate() == 0
        assert "hush" not in worker.text
