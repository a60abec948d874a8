"""Events out: from the AMI events session to the stream and the channels, in order, in batches; Asterisk never
waits."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from broker.ami import SENSITIVE_EVENTS, Event, Headers, mask
from broker.codec import BusEvent, event_map, pack
from broker.scripts import Script
from workers.batch import until_done
from workers.calls import Calls, Note
from workers.config import Settings
from workers.lease import Lease, LeaseLost

MAX_EVENTS: Final = 256
"""Events in one script call at most: at about 10 us each it holds Redis for a few milliseconds."""

MAX_BATCH_BYTES: Final = 512 * 1024
"""One script call carries about that much at most, so that it holds Redis for a few milliseconds only."""

RESERVE: Final = 0.1
"""The part of the buffer that only OriginateResponse and the Hangups of the bus's own calls may use."""

ITEM_OVERHEAD_BYTES: Final = 400
"""What an event takes in memory beside its message."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Outgoing:
    """An event on its way to Redis."""

    name: str
    message: bytes
    action_ids: list[str]
    seq: int
    event: Event | None
    """To be delivered to whoever waits for it, once it is out."""
    notes: list[Note]
    size_bytes: int


@dataclass(slots=True)
class _Gap:
    """What had to be dropped, until there is room to say so."""

    dropped: int = 0
    since: float = 0.0


class EventPump:
    """Takes events without ever waiting, and publishes them.

    Memory is bounded; what had to be dropped is announced by `BusGap`.
    """

    def __init__(
        self, redis: "Redis", settings: Settings, lease: Lease, calls: Calls, now: Callable[[], float], publish: str
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._lease = lease
        self._calls = calls
        self._now = now
        self._publish_command = publish
        self._publish = Script("publish_events", settings.keys)
        self._withheld = SENSITIVE_EVENTS - {name.lower() for name in settings.sensitive_events}
        self._last_limit_bytes = int(settings.event_buffer_mb * 1024 * 1024)
        self._limit_bytes = int(self._last_limit_bytes * (1 - RESERVE))
        self._queue: deque[_Outgoing] = deque()
        self._queued_bytes = 0
        self._orphans: list[Note] = []
        self._gap = _Gap()
        self._seq = 0
        self._wake = asyncio.Event()
        self.drained = asyncio.Event()
        """Set while nothing waits for Redis."""
        self.events_in = 0
        self.events_dropped = 0
        self._sent_at = time.monotonic()

    # -- in

    def offer(self, event: Event) -> None:
        """Take an event from Asterisk; never waits, and never raises for what an event holds."""
        self.events_in += 1
        if event.name.lower() in self._withheld:
            return
        action_ids, notes = self._calls.attribute(event)
        headers = event.headers
        if event.name == "UserEvent":  # its sender's own headers, a Secret among them
            headers = Headers(mask(headers.pairs), headers.latin1)
        awaited = event if event.name == "OriginateResponse" and action_ids else None
        needed = bool(notes) or awaited is not None
        self._put(event.name, headers, action_ids, notes, awaited, needed=needed)

    def announce(
        self, name: str, action_ids: list[str] | None = None, notes: list[Note] | None = None, **headers: object
    ) -> None:
        """Send an event of the pump's own, whose name begins with `Bus`."""
        self.announce_headers(
            name, Headers([(header, str(value)) for header, value in headers.items()]), action_ids, notes
        )

    def announce_headers(
        self, name: str, headers: Headers, action_ids: list[str] | None = None, notes: list[Note] | None = None
    ) -> None:
        """The same, with headers that repeat."""
        self._put(name, headers, action_ids or [], notes or [], None, needed=True)

    def note(self, note: Note) -> None:
        """Have a change of a call written without an event of its own: with the next one."""
        self._orphans.append(note)

    def _put(
        self,
        name: str,
        headers: Headers,
        action_ids: list[str],
        notes: list[Note],
        awaited: Event | None,
        *,
        needed: bool,
    ) -> None:
        if self._gap.dropped and self._queued_bytes < self._limit_bytes:
            self._announce_gap()
        if self._queued_bytes >= (self._last_limit_bytes if needed else self._limit_bytes):
            self._drop(awaited, notes)
            return
        self._seq += 1
        message = pack(
            event_map(BusEvent(self._settings.server, name, headers, action_ids, self._lease.epoch, self._seq))
        )
        if self._orphans:
            notes = [*self._orphans, *notes]
            self._orphans = []
        size_bytes = len(message) + ITEM_OVERHEAD_BYTES
        self._queue.append(_Outgoing(name, message, action_ids, self._seq, awaited, notes, size_bytes))
        self._queued_bytes += size_bytes
        self.drained.clear()
        self._wake.set()

    def _drop(self, awaited: Event | None, notes: list[Note]) -> None:
        """No room: the event is lost for subscribers, but not for the state of the bus's own calls."""
        if not self._gap.dropped:
            self._gap.since = self._now()
            log.warning("events are dropped: Redis takes none, and the buffer is full", buffer_bytes=self._queued_bytes)
        self._gap.dropped += 1
        self.events_dropped += 1
        self._orphans += notes
        if awaited is not None:
            self._calls.deliver(awaited)

    def _announce_gap(self) -> None:
        gap, self._gap = self._gap, _Gap()
        log.warning("events were dropped", dropped=gap.dropped)
        self.announce(
            "BusGap", reason="overflow", since=f"{gap.since:.6f}", until=f"{self._now():.6f}", dropped=gap.dropped
        )

    # -- out

    async def run(self) -> None:
        """Publish until cancelled. Raises `LeaseLost`."""
        while True:
            if not self._queue:
                self._wake.clear()
                self.drained.set()
                await self._wake.wait()
                self._sent_at = time.monotonic()
            batch = self._next_batch()
            await until_done("events", lambda: self._send(batch))  # noqa: B023 - awaited before the next turn
            self._sent(batch)
            if self._gap.dropped and not self._queue:
                self._announce_gap()

    @property
    def progress_at(self) -> float:
        """When it last did what it is for (monotonic): now, while there is nothing to do."""
        return self._sent_at if self._queue else time.monotonic()

    @property
    def queued(self) -> int:
        """Events that wait for Redis."""
        return len(self._queue)

    def _next_batch(self) -> list[_Outgoing]:
        batch: list[_Outgoing] = []
        size_bytes = 0
        for item in islice(self._queue, MAX_EVENTS):
            size_bytes += len(item.message)
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(item)
        return batch

    async def _send(self, batch: list[_Outgoing]) -> None:
        items: list[Any] = [(item.name, item.message, item.action_ids, item.notes) for item in batch]
        settings = self._settings
        published = await self._publish(
            self._redis, self._lease.epoch, self._publish_command, settings.events_length,
            int(settings.event_channels), batch[0].seq, items,
        )  # fmt: skip
        if not published:
            raise LeaseLost(f"epoch {self._lease.epoch} is over")

    def _sent(self, batch: list[_Outgoing]) -> None:
        for item in batch:
            self._queue.popleft()
            self._queued_bytes -= item.size_bytes
            if item.event is not None:
                self._calls.deliver(item.event)
        self._sent_at = time.monotonic()
