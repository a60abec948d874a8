"""The README's examples in Python, as they stand there, on each Asterisk. (Those in other languages are run in
tests/deploy.)"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker import Bus, Server
from tests.live.harness import Site, Worker, eventually
from tests.live.observer import observing
from tests.live.producer import new_id
from tests.test_readme import blocks

TIMEOUT_S = 60.0


def example(name: str) -> Any:
    """A function of an example."""
    [text] = [block for block in blocks("python") if f"async def {name}(" in block]
    names: dict[str, Any] = {}
    exec(compile(text, f"README.md {name}", "exec"), names)
    return names[name]


@pytest.fixture
async def pbx(site: Site, worker: Worker) -> AsyncIterator[Server]:
    worker.check()
    async with Bus(site.redis.url) as bus:
        yield bus.server(worker.server)


async def test_click_to_dial(pbx: Server, site: Site) -> None:
    click_to_dial, click = example("click_to_dial"), new_id("click")
    async with observing(site.asterisk) as seen:
        answers = await asyncio.gather(*[click_to_dial(pbx, "100", "101", click) for _ in range(2)])
        assert answers == ["connected", "connected"]
        call_id = f"amibus-{pbx.name}-click-{click}"
        await pbx.hangup(call_id, timeout=TIMEOUT_S)
        await seen.until("Hangup", Uniqueid=call_id)
        assert len(seen.named("Newchannel", Uniqueid=call_id)) == 1, "a double click is one call"


async def test_click_to_dial_a_phone_that_is_busy(pbx: Server) -> None:
    assert await example("click_to_dial")(pbx, "busy", "101", new_id("click")) == "the call failed: busy"


async def test_a_small_dialer(pbx: Server) -> None:
    numbers = ["busy", "congestion", "nowhere-to-be-found", "100", "101", "102"]
    outcomes = await example("dial_all")(pbx, new_id("campaign"), numbers, at_once=3)
    assert outcomes.total() == len(numbers)
    assert outcomes["busy"] == 1
    assert outcomes["congestion"] == 1
    assert outcomes["answered"] == 3


async def test_a_wallboard_misses_nothing_while_it_is_down(site: Site, pbx: Server, tmp_path: Path) -> None:
    wallboard, file = example("wallboard"), tmp_path / "board.json"

    async def waiting() -> list[str]:
        if not file.exists():
            return []
        found: list[str] = json.loads(file.read_text())["waiting"].get("sales", [])
        return found

    async def enter() -> str:
        call = await pbx.originate("Local/301@default", application="Wait", data="60")
        await call.result(timeout=TIMEOUT_S)
        return call.channel_id

    async with showing(wallboard, site.redis.url, file):
        first = await enter()
        await eventually(lambda: has(waiting, 1), "the first is shown")
    second = await enter()  # while nobody looks
    await pbx.hangup(first, timeout=TIMEOUT_S)
    async with showing(wallboard, site.redis.url, file):
        third = await enter()
        await eventually(lambda: has(waiting, 2), "the others are shown")
        for uniqueid in (second, third):
            await pbx.hangup(uniqueid, timeout=TIMEOUT_S)
        await eventually(lambda: has(waiting, 0), "all have left")


async def has(waiting: Any, number: int) -> bool:
    return len(await waiting()) == number


@contextlib.asynccontextmanager
async def showing(wallboard: Any, url: str, file: Path) -> AsyncIterator[None]:
    """The wallboard runs, until it is stopped in the middle of whatever it does."""
    task = asyncio.create_task(wallboard(url, file))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
