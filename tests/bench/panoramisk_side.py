"""The yardstick: panoramisk, used as its documentation shows, in a process of its own."""

import asyncio
import statistics
import sys
import time
from typing import Any

from panoramisk import Manager

from tests.bench.capture import LAST_EVENT
from tests.bench.side import Message, obey, run


class PanoramiskSide:
    """One Manager with a callback for every event."""

    def __init__(self) -> None:
        self._manager: Any = None
        self._events = 0
        self._ended: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()

    async def connect(self, port: int, username: str, secret: str) -> Message:
        """Log in, and wait until that is answered."""
        logged_in = asyncio.Event()
        self._manager = Manager(
            loop=asyncio.get_running_loop(), host="127.0.0.1", port=port, username=username, secret=secret,
            on_login=lambda _manager: logged_in.set(), on_disconnect=lambda *_: self._end(None),
        )  # fmt: skip
        self._manager.register_event("*", self._on_event)
        await self._manager.connect()
        await logged_in.wait()
        return {}

    async def events(self) -> Message:
        """Wait for the end of a flood: how many events came, and when the last; None where its connection was lost."""
        ended_at = await self._ended
        events, self._events = self._events, 0
        self._ended = asyncio.get_running_loop().create_future()
        return {"events": events, "ended_at": ended_at}

    async def pings(self, count: int, callers: int) -> Message:
        """So many Pings by so many callers at once, each awaiting its answer before it asks again."""
        left = iter(range(count))
        answered = 0

        async def call() -> None:
            nonlocal answered
            for _ in left:
                answer = await self._manager.send_action({"Action": "Ping"})
                answered += answer.success

        began_at = time.monotonic()
        await asyncio.gather(*[call() for _ in range(callers)])
        return {"pings": answered, "seconds": time.monotonic() - began_at}

    async def one_by_one(self, count: int) -> Message:
        """So many Pings one at a time: the times that each took."""
        seconds = []
        for _ in range(count):
            began_at = time.monotonic()
            await self._manager.send_action({"Action": "Ping"})
            seconds.append(time.monotonic() - began_at)
        return {"median_ms": statistics.median(seconds) * 1000}

    def _on_event(self, _manager: Any, event: Any) -> None:
        if event.event == "FullyBooted":
            return
        self._events += 1
        if event.event == LAST_EVENT:
            self._end(time.monotonic())

    def _end(self, at: float | None) -> None:
        if not self._ended.done():
            self._ended.set_result(at)


async def main() -> None:
    side = PanoramiskSide()
    await obey({"connect": side.connect, "events": side.events, "pings": side.pings, "one_by_one": side.one_by_one})


if __name__ == "__main__":
    run(main, sys.argv[1])
