"""The Redis or Valkey of a world, one alone or a primary with a replica and sentinels; and how it goes back in time."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.faults.history import Loss
from tests.faults.proxy import Proxy
from tests.sentinel import SERVICE, Sentinels, wait_for
from tests.servers import RedisServer

ALONE: Final = "alone"
REPLICATED: Final = "replicated"
LAYOUTS: Final = (ALONE, REPLICATED)

LOSES_NOTHING: Final = ("--appendfsync", "always")
"""When it is killed. With `everysec` a write waits up to two seconds for the sync before it, in the server's memory."""

KEEPS_ITS_FILE: Final = ("--auto-aof-rewrite-percentage", "0")
"""The append-only file is only appended to, so that its end is what was said last."""

CALM_MS: Final = 60_000
"""The sentinels take no silent primary for dead, unless it is to die: else a busy machine would fail over unasked."""

ALERT_MS: Final = 1200
"""They choose no replica whose link was down for ten times as long before: less would rule out one that lags."""

FAIL_OVER_DEADLINE_S: Final = 240.0
"""Sentinels whose clock was held up do nothing for half a minute; on a busy machine that comes again and again."""

NEW_TERM_S: Final = 4.5
"""So soon after a fail-over the sentinels begin no other: twice the fail-over timeout of `tests.sentinel`."""


class RedisSide:
    """One server alone. `url` goes straight to it, the others through proxies."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self._seed = seed
        self._stack = AsyncExitStack()
        self.redis_proxy: Proxy
        """The worker's."""
        self.producer_proxy: Proxy
        self.url = self.worker_url = self.producer_url = ""
        self._since = 0.0
        """What it was told after this (unix seconds) it may have forgotten."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._begin(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def server(self) -> RedisServer:
        """The one that takes writes."""
        return self._alone

    async def _begin(self, stack: AsyncExitStack) -> None:
        self._alone = RedisServer(self.kind, *LOSES_NOTHING, *KEEPS_ITS_FILE)
        stack.callback(self._alone.stop)
        await asyncio.to_thread(self._alone.start)
        self.redis_proxy = await stack.enter_async_context(Proxy(self._alone.port, self._seed))
        self.producer_proxy = await stack.enter_async_context(Proxy(self._alone.port, self._seed + 1))
        self.url = self._alone.url
        self.worker_url = _url(self.redis_proxy.port)
        self.producer_url = _url(self.producer_proxy.port)

    async def begin_to_forget(self) -> None:
        """From now on the server keeps what it is told in memory alone, as `appendfsync everysec` may for a second (a
        replicated one: and its replica hears nothing of it)."""
        await asyncio.to_thread(self._begin_to_forget)

    def _begin_to_forget(self) -> None:
        server = self.server
        with server.client() as client:
            client.config_set("appendfsync", "everysec")
        self._since = time.time()
        self._file = _append_only_file(server)
        self._on_disk = self._file.stat().st_size

    async def forget(self) -> Loss:
        """Its machine loses its power, and comes back with what was on the disk (a replicated one: its replica takes
        its place)."""
        return await asyncio.to_thread(self._forget)

    def _forget(self) -> Loss:
        # The kernel keeps what a killed process has written: what power failure would lose is cut off by hand.
        self.server.kill()
        until = time.time()
        with self._file.open("r+b") as file:
            file.truncate(self._on_disk)
        self.server.start()
        return Loss(self._since, until, "its power failed")


class ReplicatedSide(RedisSide):
    """A primary, a replica and three sentinels. The sentinels tell the worker, and the producer, the addresses of their
    proxies before each of the two."""

    @property
    def server(self) -> RedisServer:
        """The primary of now."""
        return self._sentinels.primary

    async def _begin(self, stack: AsyncExitStack) -> None:
        self._sentinels = Sentinels(self.kind, "", "", *LOSES_NOTHING)
        stack.callback(self._sentinels.stop)
        await asyncio.to_thread(self._sentinels.start)
        await asyncio.to_thread(self._set_patience, CALM_MS)
        self._failed_over_at = 0.0
        self.url = self._sentinels.url
        self.redis_proxy, self.worker_url = await self._proxy(stack, self._seed)
        self.producer_proxy, self.producer_url = await self._proxy(stack, self._seed + 1)

    async def _proxy(self, stack: AsyncExitStack, seed: int) -> tuple[Proxy, str]:
        """A proxy before both servers, and a URL of sentinels that name it in their place."""
        sentinels = self._sentinels
        proxy = await stack.enter_async_context(Proxy(sentinels.primary.port, seed, sentinels.replica.port))
        ports = [each.port for each in sentinels.sentinels]
        before_sentinels = await stack.enter_async_context(Proxy(ports[0], seed, *ports[1:]))
        before_sentinels.names = {b"%d" % server: b"%d" % ours for server, ours in proxy.ports.items()}
        hosts = ",".join(f"127.0.0.1:{port}" for port in before_sentinels.ports.values())
        return proxy, f"redis+sentinel://{hosts}/{SERVICE}/0"

    def _begin_to_forget(self) -> None:
        self._await_new_term()  # now: a replica that lags for long is none that the sentinels ever choose
        self._catch_up()
        self._sentinels.lag()

    def _forget(self) -> Loss:
        """The replica takes the place of the primary, which dies. When this returns the old one is a replica in step
        with the new."""
        self._await_new_term()
        self._sentinels.primary.kill()
        until = time.time()
        self._set_patience(ALERT_MS)
        self._sentinels.fail_over(kill=None, deadline_s=FAIL_OVER_DEADLINE_S)
        self._set_patience(CALM_MS)
        self._sentinels.replica.start()
        self._follow()
        return Loss(self._since, until, "failed over, for the primary was dead")

    async def fail_over_in_step(self) -> Loss:
        """The primary dies when its replica has all, or nearly all."""
        await asyncio.to_thread(self._await_new_term)
        await asyncio.to_thread(self._catch_up)
        return await self.forget()

    async def fail_over_as_asked(self) -> Loss:
        """An operator wants it so. The old primary takes writes beside the new one, until it learns that it is none."""
        return await asyncio.to_thread(self._fail_over_as_asked)

    def _fail_over_as_asked(self) -> Loss:
        self._await_new_term()
        self._catch_up()
        self._sentinels.fail_over(kill=False, deadline_s=FAIL_OVER_DEADLINE_S)
        until = self._follow()
        return Loss(self._since, until, "failed over, as asked")

    def _catch_up(self) -> None:
        # A primary that was restarted counts anew: only a replica in step counts with it.
        wait_for(self._sentinels.is_in_step, "the replica in step", FAIL_OVER_DEADLINE_S)
        self._since = time.time()
        self._sentinels.catch_up()

    def _await_new_term(self) -> None:
        time.sleep(max(0.0, self._failed_over_at + NEW_TERM_S - time.monotonic()))

    def _follow(self) -> float:
        """Make the old primary a replica. Returns since when it has been one (unix seconds)."""
        self._failed_over_at = time.monotonic()
        self._sentinels.demote()
        is_one_since = time.time()
        wait_for(self._sentinels.is_in_step, "the old primary as a replica", FAIL_OVER_DEADLINE_S)
        return is_one_since

    def _set_patience(self, milliseconds: int) -> None:
        for sentinel in self._sentinels.sentinels:
            sentinel.command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", milliseconds)


def make_redis_side(layout: str, kind: str, seed: int) -> RedisSide:
    """One of `LAYOUTS`."""
    return (ReplicatedSide if layout == REPLICATED else RedisSide)(kind, seed)


def _url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _append_only_file(server: RedisServer) -> Path:
    """The file that is appended to now."""
    files = (server.directory / "appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda path: int(path.name.split(".")[-3]))
