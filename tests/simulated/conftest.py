"""A simulated Asterisk, and a logged-in connection to it."""

from collections.abc import AsyncIterator

import pytest

from tests.simulated.raw import RawClient
from workers.simulated import SimulatedAsterisk


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(seed=7) as simulated:
        yield simulated


@pytest.fixture
async def client(asterisk: SimulatedAsterisk) -> AsyncIterator[RawClient]:
    """Logged in with all rights, events off."""
    async with RawClient(asterisk.port) as raw:
        await raw.login("amibus", "Events: off")
        yield raw


@pytest.fixture
async def listener(asterisk: SimulatedAsterisk) -> AsyncIterator[RawClient]:
    """Logged in read-only, with every event."""
    async with RawClient(asterisk.port) as raw:
        await raw.login("amibus-events")
        await raw.until(r"Event: FullyBooted\r\n.*?\r\n\r\n")
        yield raw
