"""The typed client against a stand-in for the worker."""

from collections.abc import AsyncIterator

import pytest

from broker import Bus, Server
from tests.bus_side import FakeWorker
from tests.lab.suites import SUITES


@pytest.fixture(params=list(SUITES), ids=[f"asterisk-{series}" for series in SUITES])
def series(request: pytest.FixtureRequest) -> str:
    """Each Asterisk whose answers were captured."""
    chosen: str = request.param
    return chosen


@pytest.fixture
async def worker(redis_url: str) -> AsyncIterator[FakeWorker]:
    async with FakeWorker(redis_url) as fake:
        yield fake


@pytest.fixture
async def pbx(redis_url: str) -> AsyncIterator[Server]:
    async with Bus(redis_url) as bus:
        yield bus.server("pbx1")
