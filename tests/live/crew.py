"""The workers of one server on two hosts, and what befalls them."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from tests.live.harness import Site, Worker, eventually
from tests.live.producer import Producer

CAMPAIGN_LEASE_S: Final = 1.0
"""Shorter than a busy machine keeps: to lose it now and then is part of it."""

PAUSES_S: Final = (0.3, 2.5)
"""SIGSTOP for less than a lease, and for so long that another worker takes over."""


def other_host(site: Site, server: str, **settings: str) -> Worker:
    """A worker with a journal of its own, as on another machine."""
    return site.worker(server, journal_dir=str(site.redis.directory / "journal-of-another-host"), **settings)


class Crew:
    """Two workers of one host (`one`, `two`) and one of another host (`far`): of those that run one serves."""

    def __init__(self, site: Site, producer: Producer, rng: random.Random, **settings: str) -> None:
        self.befell: Counter[str] = Counter()
        """What happened how often."""
        self._producer = producer
        self._rng = rng
        self._workers = {
            "one": site.worker(producer.server, **settings),
            "two": site.worker(producer.server, **settings),
            "far": other_host(site, producer.server, **settings),
        }

    async def close(self) -> None:
        """End all that run. AssertionError if one does not end well."""
        for worker in self._workers.values():
            await worker.close()

    def start(self, name: str) -> None:
        """Have this one run."""
        if not self._workers[name].running:
            self._workers[name].start()

    async def serving(self) -> str:
        """The name of the one that serves and is connected; empty while there is none."""
        beat = await self._producer.heartbeat()
        for name, worker in self._workers.items():
            if worker.running and beat.get("pid") == str(worker.pid) and beat.get("state") == "connected":
                return name
        return ""

    async def until_served(self) -> str:
        """Wait until one serves; its name."""
        return await eventually(self.serving, "one of the workers serves")

    async def suffer(self) -> None:
        """One step: kill or pause whoever serves, with or without another that stands by."""
        for name in self._rng.choice([[], [], ["two"], ["far"], ["two", "far"]]):
            self.start(name)
        name = await self.serving() or self._rng.choice(self._running)
        if self._rng.random() < 0.75:
            await self._kill(name)
        else:
            await self._pause(name)

    @property
    def _running(self) -> list[str]:
        return [name for name, worker in self._workers.items() if worker.running]

    async def _kill(self, name: str) -> None:
        await self._workers[name].stop(signal.SIGKILL)
        self.befell["killed"] += 1
        if self._rng.random() < 0.3:  # a machine that is gone: the others need not make way
            for other in self._running[1:]:
                await self._workers[other].stop(signal.SIGKILL)
        if not self._running or self._rng.random() < 0.7:
            self.start(name)

    async def _pause(self, name: str) -> None:
        worker = self._workers[name]
        worker.send(signal.SIGSTOP)
        self.befell["paused"] += 1
        await asyncio.sleep(self._rng.choice(PAUSES_S))
        if worker.running:  # one of the same host that took over has ended it
            worker.send(signal.SIGCONT)
        else:
            self.befell["ended by its successor"] += 1
        if not self._running:
            self.start(name)

    def said(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """These log lines, of all of them."""
        return [line for worker in self._workers.values() for line in worker.log if wanted(line)]


@asynccontextmanager
async def crew(site: Site, producer: Producer, rng: random.Random) -> AsyncIterator[Crew]:
    """With `one` running."""
    workers = Crew(site, producer, rng, lease_s=str(CAMPAIGN_LEASE_S))
    try:
        workers.start("one")
        await workers.until_served()
        yield workers
    finally:
        await workers.close()
