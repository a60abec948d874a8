"""The bus that is measured: a Redis of its own and a worker process, as they would run beside Asterisk."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from broker.keys import Keys
from tests.bench.side import Side
from tests.servers import RedisServer

SERVER: Final = "pbx1"
KEYS: Final = Keys(SERVER)
REDIS_CONF: Final = Path(__file__).parents[2] / "deploy" / "redis.conf"
POLL_S: Final = 0.05
"""Seldom: what asks runs on the cores that are measured. When the last result came is told by Redis."""
START_DEADLINE_S: Final = 60.0


@dataclass(frozen=True)
class Asterisk:
    """Where the worker logs in."""

    port: int
    users: dict[str, str]
    """Secrets of `amibus` and `amibus-events`."""


@dataclass(frozen=True)
class Bus:
    """A running worker that is connected to its Asterisk, and its Redis."""

    redis: RedisServer
    client: Any
    """A blocking client of that Redis, without decoding."""
    worker: Side

    def added(self, stream: str) -> int:
        """How many entries were ever added to a stream, those trimmed since included."""
        if not self.client.exists(stream):
            return 0
        added: int = self.client.xinfo_stream(stream)["entries-added"]
        return added

    def now(self) -> float:
        """Redis' time in unix seconds."""
        seconds, microseconds = self.client.time()
        return float(seconds + microseconds / 1e6)


@asynccontextmanager
async def running_bus(
    kind: str, loop: str, asterisk: Asterisk, *, legs: dict[str, str] | None = None, profile: str | None = None
) -> AsyncIterator[Bus]:
    """Start Redis and a worker, and wait until the worker is connected to Asterisk. `legs`: calls that are alive
    already."""
    server = RedisServer(kind, *_as_deployed("hash-max-listpack-value", "auto-aof-rewrite-min-size"))
    server.start()
    try:
        client = redis.Redis(port=server.port)
        if legs:
            client.hset(KEYS.legs, mapping=dict[Any, Any](legs))
        environment = {
            "AMIBUS_REDIS": server.url,
            "AMIBUS_SERVER": SERVER,
            "AMIBUS_AMI": f"127.0.0.1:{asterisk.port}",
            "AMIBUS_AMI_USERNAME": "amibus",
            "AMIBUS_AMI_SECRET": asterisk.users["amibus"],
            "AMIBUS_JOURNAL_DIR": str(server.directory / "journal"),
            "AMIBUS_AMI_EVENTS_USERNAME": "amibus-events",
            "AMIBUS_AMI_EVENTS_SECRET": asterisk.users["amibus-events"],
            "AMIBUS_LOG_LEVEL": os.environ.get("AMIBUS_LOG_LEVEL", "warning"),
        }
        if profile:
            environment["BENCH_PROFILE"] = profile
        async with Side("worker_side", loop, environment=environment) as worker:
            await wait_until("the worker is connected", lambda: _is_connected(client), START_DEADLINE_S)
            yield Bus(server, client, worker)
        client.close()
    finally:
        server.stop()


async def wait_until(what: str, condition: Callable[[], bool], deadline_s: float) -> None:
    """Wait for a condition. Raises `TimeoutError`."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(POLL_S)


def _as_deployed(*names: str) -> list[str]:
    """Options of a server: these settings as `deploy/redis.conf` has them."""
    lines = [line.split() for line in REDIS_CONF.read_text().splitlines()]
    return [part for name, *values in filter(None, lines) if name in names for part in (f"--{name}", *values)]


def _is_connected(client: Any) -> bool:
    return any(fields[b"event"] == b"BusConnected" for _, fields in client.xrange(KEYS.events))
