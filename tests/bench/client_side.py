"""Our client, in a process of its own: the whole way through the bus and back."""

import asyncio
import statistics
import sys
import time

from broker import Bus
from broker.client import Server
from tests.bench.side import Message, obey, run


class ClientSide:
    """Requests Pings by one `Bus`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def pings(self, count: int, callers: int) -> Message:
        """So many Pings by so many callers at once, each awaiting its result before it asks again."""
        left = iter(range(count))
        answered = 0

        async def call() -> None:
            nonlocal answered
            for _ in left:
                result = await self._server.request("Ping")
                answered += result.is_done

        began_at = time.monotonic()
        await asyncio.gather(*[call() for _ in range(callers)])
        return {"pings": answered, "seconds": time.monotonic() - began_at}

    async def one_by_one(self, count: int) -> Message:
        """So many Pings one at a time: the times that each took."""
        seconds = []
        for _ in range(count):
            began_at = time.monotonic()
            await self._server.request("Ping")
            seconds.append(time.monotonic() - began_at)
        return {"median_ms": statistics.median(seconds) * 1000}


async def main() -> None:
    async with Bus(sys.argv[2]) as bus:
        side = ClientSide(bus.server(sys.argv[3]))
        await obey({"pings": side.pings, "one_by_one": side.one_by_one})


if __name__ == "__main__":
    run(main, sys.argv[1])
