"""A bus whose Asterisk may be stopped."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.lab import LabAsterisk
from tests.live.harness import Site, Worker
from tests.live.producer import Message, Producer
from tests.live.tap import Tap


@dataclass
class Frail:
    """A bus whose Asterisk is the test's own, to be stopped at will."""

    asterisk: LabAsterisk
    producer: Producer
    worker: Worker
    tap: Tap

    def signal(self, number: signal.Signals) -> None:
        """Send Asterisk a signal."""
        os.kill(self.asterisk.pid, number)


@asynccontextmanager
async def frail(site: Site, server: str, **settings: str) -> AsyncIterator[Frail]:
    """An Asterisk and a worker of the test's own, a tap between them."""
    async with (
        LabAsterisk(site.asterisk.series) as asterisk,
        Site(asterisk, site.redis).tapped(server, **settings) as (producer, worker, tap),
    ):
        yield Frail(asterisk, producer, worker, tap)


def named(events: list[Message], name: str) -> list[Message]:
    """The events of that name."""
    return [event for event in events if event["name"] == name]
