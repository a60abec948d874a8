"""What waits for Redis, in order: in memory, and on disk when that is full and a directory for it is given."""

from collections import deque
from itertools import islice
from typing import Final

from workers.spool import RESERVE, Spool

MAX_EVENTS: Final = 256
"""Events in one script call at most: at about 10 us each it holds Redis for a few milliseconds."""

MAX_BATCH_BYTES: Final = 512 * 1024
"""One script call carries about that much at most, so that it holds Redis for a few milliseconds only."""

ITEM_OVERHEAD_BYTES: Final = 64
"""What an item takes in memory beside its bytes: an object's header, the allocator's rounding, a place in the queue."""


class EventBuffer:
    """A queue of packed items, whose memory is bounded by `limit_bytes` (or one item, if that alone is larger).

    With a spool, once memory is full everything goes through the spool until that is empty: so the order is kept.
    """

    def __init__(self, limit_bytes: int, spool: Spool | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._spool = spool
        self._memory: deque[bytes] = deque()
        self.size_bytes = 0
        """What it holds in memory."""

    def __len__(self) -> int:
        return len(self._memory) + self.spooled

    @property
    def spooled(self) -> int:
        """Items on disk, or on their way there."""
        return 0 if self._spool is None else self._spool.count

    def put(self, item: bytes, *, needed: bool) -> bool:
        """Append an item unless there is no room. `needed` may use the reserve."""
        if self._spool is None:
            fits = self._fits(item, 1.0 if needed else 1 - RESERVE)
        elif self._spool.count or not self._fits(item, 1.0):
            return self._spool.put(item, needed=needed)
        else:
            fits = True
        if fits:
            self._append(item)
        return fits

    @property
    def is_roomy(self) -> bool:
        """Half of the room is free: what had to be refused may be told of, and more be taken."""
        if self._spool is not None and self._spool.count:
            return self._spool.is_roomy
        return self.size_bytes <= self._limit_bytes * (1 - RESERVE) / 2

    async def next_batch(self) -> list[bytes]:
        """The oldest items, as many as one script call may carry; they stay here until they are `remove`d.

        There must be one. Raises `SpoolLost`.
        """
        if not self._memory:
            assert self._spool is not None
            for item in await self._spool.take():
                self._append(item)
        batch: list[bytes] = []
        size_bytes = 0
        for item in islice(self._memory, MAX_EVENTS):
            size_bytes += len(item)
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(item)
        return batch

    def remove(self, count: int) -> None:
        """The oldest items are out."""
        for _ in range(count):
            self.size_bytes -= len(self._memory.popleft()) + ITEM_OVERHEAD_BYTES

    def close(self) -> None:
        """Leave nothing on disk."""
        if self._spool is not None:
            self._spool.close()

    def _fits(self, item: bytes, share: float) -> bool:
        size_bytes = self.size_bytes + len(item) + ITEM_OVERHEAD_BYTES
        return size_bytes <= self._limit_bytes * share or not self._memory

    def _append(self, item: bytes) -> None:
        self._memory.append(item)
        self.size_bytes += len(item) + ITEM_OVERHEAD_BYTES
