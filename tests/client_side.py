"""Fixtures for tests of the client: a Bus on a real server, and a stand-in for the worker."""

from collections.abc import AsyncIterator

import pytest
import redis

from broker import Bus, Server, call_events, submission
from tests.bus_side import FakeWorker
from tests.servers import RedisServer


@pytest.fixture
async def worker(redis_url: str) -> AsyncIterator[FakeWorker]:
    """The stand-in: it answers as it is told."""
    async with FakeWorker(redis_url) as fake:
        yield fake


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    """A client."""
    async with Bus(redis_url) as client:
        yield client


@pytest.fixture
def pbx(bus: Bus) -> Server:
    """Its server `pbx1`."""
    return bus.server("pbx1")


@pytest.fixture
def admin(redis_server: RedisServer) -> redis.Redis:
    """Redis itself."""
    return redis_server.client()


@pytest.fixture
def no_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the slow backstop: what a test then sees comes by message, or by noticing an interruption."""
    monkeypatch.setattr(submission, "FIRST_LOOK_S", 600.0)
    monkeypatch.setattr(call_events, "LOOK_S", 600.0)
