"""Events out: from the AMI events session to the stream and the channels, in order, in batches; Asterisk never
waits."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import structlog
from redis.asyncio import Redis

from broker.ami import SENSITIVE_EVENTS, Event, Headers, is_secret_name, mask
from broker.codec import BusEvent, decode_message, event_map, pack
from broker.entry import entry_time
from broker.scripts import Script
from workers.batch import until_done
from workers.calls import Calls
from workers.config import Settings
from workers.event_buffer import EventBuffer
from workers.follows import Follows
from workers.lease import Lease, LeaseLost
from workers.notes import Note, Notes
from workers.outage import outage
from workers.spool import CHUNK_BYTES, Spool, SpoolLost

MEBIBYTE: Final = 1024 * 1024

FLUSH_LOOK_S: Final = 0.05
"""How often it is looked whether what is waited for is out."""

# Without the bin type, which Redis' cmsgpack does not read.
_packer = msgpack.Packer(use_bin_type=False)

log = structlog.get_logger()


@dataclass(slots=True)
class _Gap:
    """What had to be dropped, until there is room to say so."""

    dropped: int = 0
    since: float = 0.0


class EventPump:
    """Takes events without ever waiting, and publishes them.

    Memory is bounded; what had to be dropped is announced by `BusGap`, and so is what Redis has forgotten. `on_gap` is
    called with either.
    """

    def __init__(
        self, redis: "Redis", settings: Settings, lease: Lease, calls: Calls, follows: Follows,
        now: Callable[[], float], publish: str, *, on_gap: Callable[[], None],
    ) -> None:  # fmt: skip
        self._redis = redis
        self._settings = settings
        self._lease = lease
        self._calls = calls
        self._follows = follows
        self._now = now
        self._publish_command = publish
        self._on_gap = on_gap
        self._publish = Script("publish_events", settings.keys)
        self._withheld = SENSITIVE_EVENTS - {name.lower() for name in settings.sensitive_events}
        self._buffer = _make_buffer(settings)
        self._epoch = lease.epoch
        self._published_since = lease.started_at
        """When this process began to publish: the earliest that it knows of, should Redis forget all of it."""
        self._seq = 0
        """Of the last event in the buffer; those before it are numbered without a hole."""
        self._awaited: dict[int, Event] = {}
        """OriginateResponses in the buffer, by seq: whoever waits for one gets it once it is out."""
        self._orphans = Notes()
        """Of events that were dropped: written with the next event."""
        self._spooled_notes = Notes()
        """Of events that are on disk: what they say of calls is not lost with them."""
        self._spooled_since = 0.0
        self._gap = _Gap()
        self._forgotten: tuple[int, bytes] | None = None
        """What is to be published before the event of this seq: that Redis has forgotten those before it."""
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
        if event.name == "UserEvent" or (event.name == "VarSet" and is_secret_name(headers.get("Variable") or "")):
            # Its sender's own headers, a Secret among them, or what the record of a Setvar hides, too.
            headers = Headers(mask(headers.pairs), headers.latin1)
        awaited = event if event.name == "OriginateResponse" and action_ids else None
        followed = self._follows.attribute(event)
        self._put(event.name, headers, action_ids, notes, awaited, followed, needed=bool(notes) or awaited is not None)
        if followed:
            self._follows.tell_over()

    def announce(
        self, name: str, action_ids: list[str] | None = None, notes: list[Note] | None = None, **headers: object
    ) -> None:
        """Send an event of the pump's own, whose name begins with `Bus`."""
        self.announce_headers(name, _headers(headers), action_ids, notes)

    def announce_headers(
        self,
        name: str,
        headers: Headers,
        action_ids: list[str] | None = None,
        notes: list[Note] | None = None,
        followed: list[str] | None = None,
    ) -> None:
        """The same, with headers that repeat, or of followed calls."""
        self._put(name, headers, action_ids or [], notes or [], None, followed or [], needed=True)

    def note(self, note: Note) -> None:
        """Have a change of a call written without an event of its own: with the next one."""
        self._orphans.add([note])

    def _put(
        self,
        name: str,
        headers: Headers,
        action_ids: list[str],
        notes: list[Note],
        awaited: Event | None,
        followed: list[str],
        *,
        needed: bool,
    ) -> None:
        self._tell_gap()
        # A gap is whole: where one event was dropped, those behind it are too, until there is room again.
        if (self._gap.dropped and not needed) or not self._append(
            name, headers, action_ids, notes, followed, needed=needed
        ):
            self._drop(awaited, notes)
        elif awaited is not None:
            self._awaited[self._seq] = awaited

    def _append(
        self,
        name: str,
        headers: Headers,
        action_ids: list[str],
        notes: list[Note],
        followed: list[str],
        *,
        needed: bool,
    ) -> bool:
        """Pack an event, as the script will read it, into the buffer, unless there is no room."""
        server, epoch, seq = self._settings.server, self._epoch, self._seq + 1
        message = pack(event_map(BusEvent(server, name, headers, action_ids, epoch, seq, followed)))
        notes = [*self._orphans.all(), *notes]
        item = (name, message, action_ids, notes, followed) if followed else (name, message, action_ids, notes)
        if not self._buffer.put(_packer.pack(item), needed=needed):
            return False
        self._seq = seq
        self._orphans.clear()
        if self._buffer.spooled:
            self._spooled_notes.add(notes)
            if self._buffer.spooled == 1:
                self._spooled_since = self._now()
        self.drained.clear()
        self._wake.set()
        return True

    def _drop(self, awaited: Event | None, notes: list[Note]) -> None:
        """No room: the event is lost for subscribers, but not for the state of the bus's own calls."""
        self._count_dropped(1, self._now())
        self._orphans.add(notes)
        if awaited is not None:
            self._calls.deliver(awaited)

    def _count_dropped(self, count: int, since: float) -> None:
        if not self._gap.dropped:
            self._gap.since = since
            log.warning("events are dropped: Redis takes none, and the buffer is full", waiting=self.queued)
        self._gap.dropped += count
        self.events_dropped += count

    def _tell_gap(self) -> None:
        """Announce what was dropped, once there is room."""
        gap = self._gap
        if not gap.dropped or not self._buffer.is_roomy:
            return
        headers = {"reason": "overflow", "since": f"{gap.since:.6f}", "until": f"{self._now():.6f}"}
        if self._append("BusGap", _headers({**headers, "dropped": gap.dropped}), [], [], [], needed=True):
            self._gap = _Gap()
            log.warning("events were dropped", dropped=gap.dropped)
            self._on_gap()

    # -- out

    async def run(self) -> None:
        """Publish until cancelled. Raises `LeaseLost`."""
        while True:
            self._tell_gap()
            if not self._buffer:
                self._wake.clear()
                self.drained.set()
                await self._wake.wait()
                self._sent_at = time.monotonic()
            try:
                batch = await self._buffer.next_batch()
            except SpoolLost as lost:
                self._lose(lost.count)
                continue
            await until_done("events", lambda: self._send(batch))  # noqa: B023 - awaited before the next turn
            self._sent(len(batch))

    async def flush(self) -> None:
        """Wait until all that is here now is out."""
        seq = self._seq
        while self._last_out < min(seq, self._seq):  # noqa: ASYNC110 - nothing tells of each that is out
            await asyncio.sleep(FLUSH_LOOK_S)

    @property
    def progress_at(self) -> float:
        """When it last did what it is for (monotonic): now, while there is nothing to do."""
        return self._sent_at if self._buffer else time.monotonic()

    @property
    def queued(self) -> int:
        """Events that wait for Redis."""
        return len(self._buffer)

    @property
    def spooled(self) -> int:
        """Those of them that are on disk."""
        return self._buffer.spooled

    def close(self) -> None:
        """Leave nothing behind."""
        self._buffer.close()

    @property
    def _last_out(self) -> int:
        """The seq of the last event that is out."""
        return self._seq - len(self._buffer)

    async def _send(self, batch: list[bytes]) -> None:
        answer = await self._send_from(self._last_out + 1, batch)
        if isinstance(answer, list):
            self._note_forgotten(*answer)
            answer = await self._send_from(self._last_out + 1, batch)
        if not answer:
            raise LeaseLost(f"epoch {self._epoch} is over")

    async def _send_from(self, first: int, batch: list[bytes]) -> Any:
        """`first`: the seq of the first in the batch."""
        settings, hole_before = self._settings, 0
        if self._forgotten is not None and self._forgotten[0] == first:
            hole_before = first = first - 1
            batch = [self._forgotten[1], *batch]
        return await self._publish(
            self._redis, self._epoch, self._publish_command, settings.events_length,
            int(settings.event_channels), first, hole_before,
            _packer.pack_array_header(len(batch)) + b"".join(batch),
        )  # fmt: skip

    def _note_forgotten(self, last_entry: bytes, last_seq: int) -> None:
        """Events are missing in the stream that had been there: the announcement takes the place of the last one."""
        seq, headers = self._last_out, self._of_forgotten(last_entry.decode(), last_seq)
        message = pack(event_map(BusEvent(self._settings.server, "BusGap", headers, [], self._epoch, seq)))
        self._forgotten = seq + 1, _packer.pack(("BusGap", message, [], []))
        self._on_gap()

    def _of_forgotten(self, last_entry: str, last_seq: int) -> Headers:
        """The `BusGap` for what was published behind this entry of the stream, which is the last (or 0-0: none is
        there), and its event's seq (0: it is none of this epoch)."""
        since = entry_time(last_entry) or self._published_since
        # Where not even one of this worker's is there, earlier ones may be missing as well: nobody can say how many.
        dropped = self._last_out - last_seq if last_seq else ""
        if outage().is_news("events forgotten"):
            log.warning("redis has forgotten events", forgotten=dropped or "all that this worker had published")
        return _headers(
            {"reason": "forgotten", "since": f"{since:.6f}", "until": f"{self._now():.6f}", "dropped": dropped}
        )

    # -- from epoch to epoch

    async def take_over(self, former: "EventPump", last_entry: str, last: BusEvent | None) -> bool:
        """Go on for the pump of this process's former epoch, which Redis has forgotten: announce what it published and
        is not in the stream any more, and publish what it could not. `last_entry` is the stream's last entry (0-0: none
        is there), `last` its event. To be called before anything else comes. Returns whether something was
        forgotten."""
        self._published_since = former._published_since
        out = former._last_out
        there = last.seq if last is not None and last.epoch == former._epoch else 0
        is_forgotten = there < out
        if is_forgotten:
            self.announce_headers("BusGap", former._of_forgotten(last_entry, there))
        while former._buffer:
            try:
                batch = await former._buffer.next_batch()
            except SpoolLost as lost:
                former._lose(lost.count)
                continue
            for item in batch:
                out += 1
                if out > there:  # else it is out, and only the reply was lost
                    self._put_again(item, former._awaited.get(out))
            former._buffer.remove(len(batch))
            await asyncio.sleep(0)
        self._orphans.add(former._orphans.all())
        if former._gap.dropped:
            self._gap = _Gap(self._gap.dropped + former._gap.dropped, former._gap.since)
            self.events_dropped += former._gap.dropped
        return is_forgotten

    def _put_again(self, item: bytes, awaited: Event | None) -> None:
        """Have an event that was packed in a former epoch published in this one."""
        # The message is no text; so it comes back as it was.
        _, message, _, notes, *_ = msgpack.unpackb(item, unicode_errors="surrogateescape")
        event = decode_message(message.encode(errors="surrogateescape"))
        assert isinstance(event, BusEvent)
        self._put(event.name, event.headers, event.action_ids, notes, awaited, event.calls, needed=True)

    def _sent(self, count: int) -> None:
        self._buffer.remove(count)
        while self._awaited and (seq := next(iter(self._awaited))) <= self._last_out:
            self._calls.deliver(self._awaited.pop(seq))
        if not self._buffer.spooled:
            self._spooled_notes.clear()
        self._sent_at = time.monotonic()

    def _lose(self, count: int) -> None:
        """The disk has lost the last events: as if they had been dropped when they came."""
        self._seq -= count
        newer = self._orphans.all()
        self._orphans.clear()
        self._orphans.add([*self._spooled_notes.all(), *newer])
        self._spooled_notes.clear()
        self._count_dropped(count, self._spooled_since)
        for seq in [seq for seq in self._awaited if seq > self._seq]:
            self._calls.deliver(self._awaited.pop(seq))


def _make_buffer(settings: Settings) -> EventBuffer:
    limit_bytes = int(settings.event_buffer_mb * MEBIBYTE)
    if not settings.event_spool_dir:
        return EventBuffer(limit_bytes)
    return EventBuffer(
        limit_bytes,
        Spool(
            Path(settings.event_spool_dir),
            int(settings.event_spool_mb * MEBIBYTE),
            # What is read back must have room in memory.
            min(CHUNK_BYTES, limit_bytes // 2),
        ),
    )


def _headers(headers: Mapping[str, object]) -> Headers:
    return Headers([(name, str(value)) for name, value in headers.items()])
