"""Entries in: read as there is room for them, and held until they are settled."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final

import structlog

from broker.entry import Request
from broker.keys import LANES
from workers.batch import tolerated, until_done
from workers.outage import outage
from workers.reader import READ_COUNT, Reader

ROOM_S: Final = 1.0
"""The longest wait for room in a full lane: that nothing is taken is no sign of a worker that is stuck."""

LEASE_LOOK_S: Final = 0.02
"""How often it is looked whether the lease is certain again."""

log = structlog.get_logger()


class Intake:
    """What is held of both lanes, each entry by the task that handles it, and the reading of more.

    `take` gets what was read, and has to `hold` each of these entries. `settle_vanished` gets the lane and the ids of
    what was read and is not there any more. `may_read` says whether the lease is ours beyond doubt.
    """

    def __init__(
        self, reader: Reader, read_ahead: int, *, take: Callable[[list[Request]], None],
        settle_vanished: Callable[[str, list[str]], Awaitable[None]], may_read: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._read_ahead = read_ahead
        self._take = take
        self._settle_vanished = settle_vanished
        self._may_read = may_read
        self._held: dict[str, dict[str, asyncio.Task[None]]] = {lane: {} for lane in LANES}
        self._room = asyncio.Event()
        """Set when a lane has room for a whole read."""
        self._low_water = max(0, read_ahead - READ_COUNT)
        self._bells: dict[str, asyncio.Task[None]] = {}
        self._read_failed = False
        """The last read had no answer."""
        self._failure: asyncio.Future[None] = self._loop.create_future()
        """What a task could not cope with."""
        self.progress_at = time.monotonic()
        """When entries were last asked for (monotonic)."""

    async def run(self) -> None:
        """Read until cancelled. Raises what a task could not cope with."""
        reading = asyncio.create_task(self._read(), name="read entries")
        try:
            await asyncio.wait([reading, self._failure], return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await reading
        finally:
            for task in (reading, *self._bells.values()):
                task.cancel()

    def hold(self, requests: Collection[Request], work: Coroutine[Any, Any, None]) -> None:
        """Hold these entries until `let_go`, while a task does this work on them."""
        task = self._loop.create_task(self._watched(work), name=next(iter(requests)).entry)
        for request in requests:
            self._held[request.lane][request.entry] = task

    def let_go(self, request: Request) -> None:
        """This entry is settled, or there was nothing to settle."""
        held = self._held[request.lane]
        del held[request.entry]
        if len(held) <= self._low_water:
            self._room.set()

    def is_held(self, request: Request) -> bool:
        """Whether a task has this entry."""
        return request.entry in self._held[request.lane]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not any(self._held.values())

    async def stop(self) -> None:
        """Give up every entry that is held. What is not settled stays pending, for whoever comes next."""
        tasks = {task for held in self._held.values() for task in held.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def take_missed(self, lane: str, *, surely: bool = False) -> None:
        """Take what is pending and not held; `surely`: no read is under way."""
        held = self._held[lane]
        if len(held) < self._read_ahead:
            requests, vanished = await self._reader.missed(lane, held, len(held) + READ_COUNT, surely=surely)
            if requests:
                if outage().is_news("missed"):
                    log.warning(
                        "entries were read and their reply was lost: taken again", lane=lane, entries=len(requests)
                    )
                self._take(requests)
            if vanished:
                await self._settle_vanished(lane, vanished)

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            # The entries stay held: taken again by this worker they could be written again.
            if not self._failure.done():
                self._failure.set_exception(error)

    async def _read(self) -> None:
        while True:
            room = {lane: self._read_ahead - len(held) for lane, held in self._held.items()}
            lanes = [lane for lane in LANES if room[lane] > 0]
            requests = []
            if lanes:
                count = min(READ_COUNT, *[room[lane] for lane in lanes])
                requests = await until_done("entries", lambda: self._read_some(lanes, count))  # noqa: B023
                self._take(requests)
            self.progress_at = time.monotonic()
            if not requests:
                await self._wait_for_more(lanes)

    async def _read_some(self, lanes: list[str], count: int) -> list[Request]:
        if self._read_failed:
            # Its reply may be lost: what it took comes before what came later.
            for lane in LANES:
                await self.take_missed(lane, surely=True)
        # What a worker takes that was overtaken in its sleep the other finds only seconds later, out of its order.
        while not self._may_read():  # noqa: ASYNC110
            await asyncio.sleep(LEASE_LOOK_S)
        self._read_failed = True
        requests = await self._reader.read(lanes, count)
        self._read_failed = False
        return requests

    async def _wait_for_more(self, lanes: list[str]) -> None:
        """Wait until a lane that has room may have something to read, or one that is full has room again."""
        self._room.clear()
        if any(lane not in lanes and len(held) <= self._low_water for lane, held in self._held.items()):
            return
        for lane in lanes:
            bell = self._bells.get(lane)
            if bell is None or bell.done():
                self._bells[lane] = self._loop.create_task(self._ring(lane), name=f"doorbell {lane}")
        # The doorbells ring on when the wait ends: to stop one would cost its connection.
        bells = [self._bells[lane] for lane in lanes]
        if len(lanes) == len(LANES):
            await asyncio.wait(bells, return_when=asyncio.FIRST_COMPLETED)
            return
        room = self._loop.create_task(self._room.wait())
        try:
            await asyncio.wait([room, *bells], timeout=ROOM_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()

    async def _ring(self, lane: str) -> None:
        with tolerated("the doorbell"):  # the read that follows waits for Redis, and says so
            await self._reader.doorbell([lane])
