"""Many callers, one script call: what comes while a call is under way goes out together in the next."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from redis.exceptions import (
    ConnectionError,  # noqa: A004
    OutOfMemoryError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

from broker.link import PASSING_CODES, PASSING_ERRORS
from broker.scripts import MAX_BATCH
from workers.backoff import Backoff
from workers.notify import notify
from workers.outage import outage, waiter

DEPTH: Final = 3
"""Calls of a kind that may be under way at once: Redis is at one while the worker makes the next."""

Item = TypeVar("Item")
Verdict = TypeVar("Verdict")

AWAY = (ConnectionError, TimeoutError, OSError, OutOfMemoryError, *PASSING_ERRORS)
"""What passes by itself: Redis cannot be reached, is loading, failing over, or full. Scripts are safe to repeat."""

PASSING = tuple(f"{code} " for code in (*PASSING_CODES, "MISCONF", "WRONGTYPE"))
"""What passes as well, and redis-py has no class for: what is brief, a full disk, a key of another type in the place of
ours until somebody mends it."""


def passes(error: Exception) -> bool:
    """Whether this failure passes by itself."""
    return isinstance(error, AWAY) or (isinstance(error, ResponseError) and str(error).startswith(PASSING))


@contextlib.contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Let pass what passes by itself: this will be tried again anyway."""
    this = waiter(what, is_patient=True)
    try:
        yield
    except Exception as error:
        if not passes(error):
            raise
        outage().failed(this, error)
    else:
        outage().over(this)


async def until_done(what: str, call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until Redis has answered, waiting longer after each failure; said once, not each time."""
    backoff = Backoff(0.05, 1.0)
    this = waiter(what)
    try:
        while True:
            try:
                answer = await call()
            except (*AWAY, ResponseError) as error:
                if not passes(error):
                    raise
                outage().failed(this, error)
                notify("WATCHDOG=1")  # starting anew would not bring Redis back
                await asyncio.sleep(backoff.next_s())
            else:
                outage().over(this)
                return answer
    finally:
        outage().forget(this)


class _Parcel(NamedTuple):
    """Items handed in together, and the future of their verdicts."""

    items: list[Any]
    verdicts: asyncio.Future[Any]
    is_single: bool
    """The future is of one verdict, not of a list."""


class Batch(Generic[Item, Verdict]):
    """Gathers items into calls of at most `MAX_BATCH`, and answers in the order in which they came.

    `send` gets a list of items and returns as many verdicts. It is repeated while Redis is away, so it must be safe to
    repeat; any other error of it is raised to each of the callers concerned. With a `depth` of more than 1, so many
    calls are under way at once: while Redis is at one, the next is made.
    """

    def __init__(self, what: str, send: Callable[[list[Item]], Awaitable[list[Verdict]]], depth: int = 1) -> None:
        self._what = what
        self._send = send
        self._depth = depth
        # Asked for once: each asking is a system call (getpid), and this is done for every action.
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Parcel] = deque()
        self._calls: deque[asyncio.Task[None]] = deque()

    def add(self, item: Item) -> asyncio.Future[Verdict]:
        """Hand an item in; the future is the verdict on it."""
        return self._put([item], is_single=True)

    def add_all(self, items: list[Item]) -> asyncio.Future[list[Verdict]]:
        """Hand in up to `MAX_BATCH` items, which go out in one call; the future is the list of their verdicts."""
        assert 0 < len(items) <= MAX_BATCH
        return self._put(items, is_single=False)

    def close(self) -> None:
        """Give up what has not gone out."""
        for call in self._calls:
            call.cancel()
        self._give_up()

    def _put(self, items: list[Item], *, is_single: bool) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Parcel(items, future, is_single))
        if len(self._calls) < self._depth:
            self._begin()
        return future

    def _begin(self) -> None:
        self._calls.append(self._loop.create_task(self._call(), name=f"batch {self._what}"))

    async def _call(self) -> None:
        parcels = self._take()  # only now, when this turn of the loop has handed in all that it had
        this = cast("asyncio.Task[None]", asyncio.current_task())
        # Also only now: a call between the two may have found nothing to take, and is over.
        place = self._calls.index(this)
        previous = self._calls[place - 1] if place else None
        try:
            if parcels:
                await self._send_parcels(parcels, previous)
        finally:
            self._calls.remove(this)
            if self._waiting and len(self._calls) < self._depth:
                self._begin()

    def _take(self) -> list[_Parcel]:
        parcels: list[_Parcel] = []
        room = MAX_BATCH
        while self._waiting and (room := room - len(self._waiting[0].items)) >= 0:
            parcels.append(self._waiting.popleft())
        return parcels

    async def _send_parcels(self, parcels: list[_Parcel], previous: asyncio.Task[None] | None) -> None:
        items = [item for parcel in parcels for item in parcel.items]
        try:
            verdicts = await until_done(self._what, lambda: self._send(items))
            if len(verdicts) != len(items):
                raise ValueError(f"{len(verdicts)} verdicts on {len(items)} items")
            if previous is not None and not previous.done():
                await asyncio.wait([previous])  # whose callers came first
        except asyncio.CancelledError:
            for parcel in parcels:
                parcel.verdicts.cancel()
            self._give_up()
            raise
        except Exception as error:
            for parcel in parcels:
                if not parcel.verdicts.done():
                    parcel.verdicts.set_exception(error)
            return
        at = 0
        for parcel in parcels:
            end = at + len(parcel.items)
            if not parcel.verdicts.done():
                parcel.verdicts.set_result(verdicts[at] if parcel.is_single else verdicts[at:end])
            at = end

    def _give_up(self) -> None:
        for parcel in self._waiting:
            parcel.verdicts.cancel()
        self._waiting.clear()
