"""A list of fifty thousand items from a real Asterisk, through the bus and back."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from broker import Bus
from tests.lab import LabAsterisk
from tests.live.harness import Site
from tests.servers import RedisServer

EXTENSIONS = 500
PRIORITIES = range(1, 101)
MANY = EXTENSIONS * len(PRIORITIES)
TIMEOUT_S = 180.0


@pytest_asyncio.fixture
async def large(site: Site) -> AsyncIterator[Site]:
    """An Asterisk with a context of so many steps."""
    asterisk = LabAsterisk(site.asterisk.series)
    steps = [f"exten => {extension},{priority},NoOp()" for extension in range(EXTENSIONS) for priority in PRIORITIES]
    with (asterisk.config_dir / "extensions.conf").open("a") as file:
        file.write("\n".join(["", "[large]", *steps, ""]))
    redis = RedisServer(site.redis.kind)
    redis.start()
    try:
        async with asterisk:
            yield Site(asterisk, redis)
    finally:
        redis.stop()


async def test_fifty_thousand_items_come_whole_and_hold_up_nothing(large: Site) -> None:
    async with large.serving("pbx1", allow="ShowDialPlan"), Bus(large.redis.url) as bus:
        pbx = bus.server("pbx1")
        asking = asyncio.create_task(pbx.request("ShowDialPlan", Context="large", timeout=TIMEOUT_S))
        changes = 0
        while not asking.done():
            await pbx.request("Setvar", Variable="LARGE", Value=str(changes), timeout=TIMEOUT_S)
            changes += 1
        result = await asking
    items = [item for item in result.events if item["Event"] == "ListDialplan"]
    assert len(items) == len({(item["Extension"], item["Priority"]) for item in items}) == MANY
    assert result.events[-1]["EventList"] == "Complete"
    assert result.chunks > MANY // 1000 - 1
    assert changes > 3
