"""Events read from a server's `events` stream: nothing is missed, whatever becomes of the connection."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

import redis

from broker.codec import BusEvent
from broker.errors import BusUnavailable, SettingsError
from broker.keys import Keys
from broker.link import (
    ATTEMPTS,
    REPLY_TIMEOUT_S,
    Interrupted,
    Link,
    Links,
    is_transient,
    pack_command,
    pauses,
    translated,
)
from broker.messages import field_of, gap_before, stream_event, trimmed
from broker.noise import without_noise
from broker.pipeline import Pipeline

PAGE: Final = 500
"""Entries read at once: some hundred KB, decoded in a few milliseconds."""

BLOCK_S: Final = 5.0
"""How long an XREAD waits for news. The connection is given this and `REPLY_TIMEOUT_S` before it is taken for gone."""

NOW: Final = "$"
_PLACE: Final = re.compile(r"\d{1,20}(-\d{1,20})?")


class EventStream:
    """One reader of a server's events, on a connection of its own. Raises `SettingsError` for a wrong `since`.

    Where `since` is `$`, the place is taken now, at construction: what is submitted afterwards by the same
    bus comes later.
    """

    def __init__(self, keys: Keys, pipeline: Pipeline, links: Links, names: Iterable[str], since: str) -> None:
        if since != NOW and not _PLACE.fullmatch(since):
            raise SettingsError(f"since {since!r} is neither $ nor 0 nor the id of an entry")
        self._keys = keys
        self._pipeline = pipeline
        self._links = links
        self._names = frozenset(name.encode() for name in names)
        self._position = since
        self._seen: tuple[int, int] | None = None
        self._last_entry: asyncio.Future[Any] | None = None
        if since == NOW:
            self._last_entry = self._ask_last_entry()

    async def events(self) -> AsyncGenerator[BusEvent]:
        """The events, without end. Raises `BusUnavailable` if Redis refuses, or cannot be reached at the start."""
        gap = await self._begin()
        if gap is not None:
            yield gap
        link: Link | None = None
        pause, failures, served = pauses(), 0, False
        try:
            while True:
                try:
                    if link is None:
                        link = await self._links.open()
                    # The first answer is not waited for: from then on it is known that this Redis serves us.
                    page = await self._read(link, BLOCK_S if served else 0.0)
                    if not served or failures:
                        pause, failures, served = pauses(), 0, True
                except Interrupted as error:
                    await self._links.drop(link)
                    link = None
                    failures += 1
                    if not served and failures >= ATTEMPTS:
                        raise BusUnavailable(str(error)) from error
                    await asyncio.sleep(next(pause))
                    continue
                for event in self._events_of(page):
                    yield event
        finally:
            await self._links.drop(link)

    def _ask_last_entry(self) -> asyncio.Future[Any]:
        # Enqueued, not awaited: the pipeline keeps the order, so an action submitted next is after it.
        future = self._pipeline.enqueue("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1)
        # An iterator may be thrown away before its first step; its error is then nobody's.
        without_noise(future)
        return future

    async def _begin(self) -> BusEvent | None:
        if self._last_entry is not None:
            try:
                last = await self._last_entry
            except Interrupted:
                last = await self._pipeline.execute("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1)
            self._resume_after(last)
            return None
        if "-" not in self._position:
            return None
        # An entry id to go on from: is it still there? Else what followed it may be gone as well.
        found = await self._pipeline.execute("XRANGE", self._keys.events, self._position, self._position)
        if found:
            self._resume_after(found)
            return None
        oldest = await self._pipeline.execute("XRANGE", self._keys.events, "-", "+", "COUNT", 1)
        if oldest and _id_parts(oldest[0][0].decode()) > _id_parts(self._position):
            event = stream_event(oldest[0][0].decode(), field_of(oldest[0][1], b"data"))
            return None if event is None else trimmed(event, None)
        return None

    def _resume_after(self, entries: list[Any]) -> None:
        self._position = "0"
        for entry, fields in entries:
            self._position = entry.decode()
            event = stream_event(self._position, field_of(fields, b"data"))
            self._seen = None if event is None else (event.epoch, event.seq)

    async def _read(self, link: Link, block_s: float) -> list[Any]:
        block = ("BLOCK", int(block_s * 1000)) if block_s else ()  # BLOCK 0 would wait for ever
        command = pack_command("XREAD", "COUNT", PAGE, *block, "STREAMS", self._keys.events, self._position)
        [reply] = await link.execute([command], timeout_s=block_s + REPLY_TIMEOUT_S)
        if isinstance(reply, redis.ResponseError):
            if is_transient(reply):
                await link.close()
            raise translated(reply, self._links.address, f"XREAD {self._keys.events}")
        return reply[0][1] if reply else []

    def _events_of(self, page: list[Any]) -> Iterable[BusEvent]:
        last = len(page) - 1
        for at, (raw_id, fields) in enumerate(page):
            entry = raw_id.decode()
            wanted = not self._names or field_of(fields, b"event") in self._names
            # A stream is trimmed at its old end only, so a hole is always between two pages: the entries at
            # their edges are decoded even if nobody asked for them, the others by name only.
            if wanted or at in (0, last):
                event = stream_event(entry, field_of(fields, b"data"))
                if event is not None:
                    if at == 0 or not self._names:
                        gap = gap_before(event, self._seen)
                        if gap is not None:
                            yield gap
                    self._seen = (event.epoch, event.seq)
                    if wanted:
                        # Before the event is handed out: whoever stops here has had it.
                        self._position = entry
                        yield event
            self._position = entry


def _id_parts(entry: str) -> tuple[int, int]:
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq or 0)
