"""The items of a very large result: put on Redis in chunks while the list still comes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from redis.asyncio import Redis

from broker.ami import Headers
from broker.codec import pack_items
from broker.scripts import Script
from workers.batch import until_done
from workers.config import Settings
from workers.connection import CHUNK_ITEMS

MAX_INLINE_BYTES: Final = 256 * 1024
"""Items that take more than this come apart from their result: a message must not cut off a subscriber who is slow."""

ITEMS_LOST: Final = "Redis has lost what came first of a very large answer"

Push = Callable[[int, bytes], Awaitable[bool]]
"""Puts the chunk of that number on Redis. False: it has no place there any more."""


def are_many(items: Sequence[Headers]) -> bool:
    """Whether these may be too many for a result: at most this many bytes is a character, and of a pair there are few
    more."""
    room = MAX_INLINE_BYTES
    for headers in items:
        room -= sum([4 * (len(name) + len(value)) + 8 for name, value in headers.pairs])
        if room < 0:
            return True
    return False


class Items:
    """The items of one answer. Few are kept for the result itself; once they are too many for it, memory holds at most
    what Redis has not taken yet, packed: about 300 bytes an item."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._few: list[Headers] = []
        """While they are few enough for the result."""
        self._packed: deque[tuple[int, bytes]] = deque()
        """Numbered chunks that wait for Redis, or for more items to join them."""
        self._packed_bytes = 0
        self._pushing: asyncio.Task[None] | None = None
        self._failed = False
        self.count = 0
        self.chunks = 0
        self.latin1: set[str] = set()

    @property
    def are_apart(self) -> bool:
        """Whether they are too many for the result."""
        return self._packed_bytes > MAX_INLINE_BYTES

    @property
    def few(self) -> list[Headers]:
        """All of them, where they are not apart."""
        return self._few

    def add(self, items: Sequence[Headers]) -> None:
        """Take more items. Does not wait."""
        for first in range(0, len(items), CHUNK_ITEMS):
            self._add_chunk(items[first : first + CHUNK_ITEMS])

    def _add_chunk(self, items: Sequence[Headers]) -> None:
        packed = pack_items(items)
        self._packed.append((self.chunks, packed))
        self._packed_bytes += len(packed)
        self.chunks += 1
        self.count += len(items)
        if not self.are_apart:
            self._few += items
            return
        self.latin1.update(name for headers in (*self._few, *items) for name in headers.latin1)
        self._few = []
        if self._pushing is None or self._pushing.done():
            self._pushing = asyncio.get_running_loop().create_task(self._push_all(), name="items of a result")

    def begin_anew(self) -> None:
        """The action is asked again: nothing of this answer counts."""
        self._packed.clear()
        self._few, self._packed_bytes, self.count, self.chunks = [], 0, 0, 0
        self._failed = False
        self.latin1.clear()

    async def add_last(self, items: Sequence[Headers]) -> bool:
        """Take the last ones, and wait until those that are apart are on Redis. False: they have no place there."""
        self.add(items)
        if self._pushing is not None:
            await self._pushing
        return not self._failed

    async def _push_all(self) -> None:
        # One after the other, also across a new beginning: its first chunk does away with what was there before.
        while self._packed:
            number, packed = self._packed.popleft()
            if not await self._push(number, packed):
                self._failed = True


class Chunks:
    """Where the items of very large results go: a list on Redis beside the record."""

    def __init__(self, redis: "Redis", settings: Settings) -> None:
        self._redis = redis
        self._script = Script("add_items", settings.keys)
        self._ttl_ms = int(settings.record_s * 1000)

    def of(self, action_id: str, epoch: int) -> Items:
        """For the items of one action, which this worker marked in that epoch."""

        async def push(number: int, packed: bytes) -> bool:
            chunks: int = await until_done(
                "items", lambda: self._script(self._redis, epoch, action_id, number, self._ttl_ms, packed)
            )
            return chunks > number

        return Items(push)
