"""One Redis, one Asterisk and one worker per version and pytest process: 22 beside Redis, 16 beside Valkey."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.lab import LabAsterisk
from tests.lab.fixtures import asterisk, asterisk16, asterisk22, pytest_collection_modifyitems
from tests.live.harness import Site, Worker
from tests.live.producer import Producer
from tests.servers import RedisServer, need

__all__ = ["asterisk", "asterisk16", "asterisk22", "pytest_collection_modifyitems"]

REDIS_OF = {"22": "redis", "16": "valkey"}


@pytest.fixture(scope="session")
def site(asterisk: LabAsterisk) -> Iterator[Site]:
    """Each Asterisk in turn, with its Redis."""
    kind = REDIS_OF[asterisk.series]
    need(kind)
    redis = RedisServer(kind)
    redis.start()
    yield Site(asterisk, redis)
    redis.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def worker(site: Site) -> AsyncIterator[Worker]:
    """The worker of server `pbx1` that most tests share: they must not disturb it."""
    async with site.serving("pbx1") as (_, serving):
        yield serving


@pytest_asyncio.fixture
async def pbx(site: Site, worker: Worker) -> AsyncIterator[Producer]:
    """A producer for the shared worker, which must be well: otherwise each test would wait for it in vain."""
    worker.check()
    async with Producer(site.redis.url, worker.server) as producer:
        yield producer
