"""The typed calls of the client, by a worker with the manager users of `deploy/`, and by one that may do everything."""

from collections.abc import AsyncIterator

import pytest_asyncio

from broker import Bus, Server
from tests.live.harness import Site, Worker

TRUSTED = "trusted"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def trusted_worker(site: Site) -> AsyncIterator[Worker]:
    """A worker whose manager user has every class, `system` among them; its policy is the default one."""
    secret = site.asterisk.users["observer"]
    async with site.serving(TRUSTED, ami_username="observer", ami_secret=secret) as (_, serving):
        yield serving


@pytest_asyncio.fixture
async def fast(bus: Bus, site: Site) -> AsyncIterator[Server]:
    """A worker that places as many calls a second as Asterisk can."""
    async with site.serving("fast", rate_calls="0") as (_, serving):
        yield bus.server(serving.server)


@pytest_asyncio.fixture
async def bus(site: Site) -> AsyncIterator[Bus]:
    async with Bus(site.redis.url, producer="live") as bus:
        yield bus


@pytest_asyncio.fixture
async def pbx(bus: Bus, worker: Worker) -> Server:
    """Served with the rights of the production example."""
    worker.check()
    return bus.server(worker.server)


@pytest_asyncio.fixture
async def trusted(bus: Bus, trusted_worker: Worker) -> Server:
    """Served with every right."""
    trusted_worker.check()
    return bus.server(trusted_worker.server)
