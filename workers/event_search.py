"""Looks for OriginateResponses in the events stream, for calls whose worker was lost before it saw them."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from broker.ami import Headers
from broker.codec import BadMessage, BusEvent, decode_message
from broker.keys import Keys

READ_COUNT: Final = 500
"""Events looked through in one read of the stream."""

EARLIER_MS: Final = 1000
"""The search begins so much before the given time: an event's id is of when it was published, not before."""


class Found(NamedTuple):
    """An OriginateResponse of the stream."""

    at_ms: int
    """When it was published (unix milliseconds by Redis' clock)."""
    data: bytes
    """The message, packed: of many that are kept few are asked for, and a packed one takes a third of the memory."""


class EventSearch:
    """Goes through the stream once for all who ask, and later only through what is new.

    What is found is kept for `keep_s`, the life of a record, by Redis' time (`now`): at some 500 bytes each, and the 20
    calls a second that are placed at most, 36 MB in an hour. Whoever asks for an earlier time has it read once more.
    """

    def __init__(self, redis: "Redis", keys: Keys, keep_s: float, now: Callable[[], float]) -> None:
        self._redis = redis
        self._stream = keys.events
        self._keep_s = keep_s
        self._now = now
        self._wanted_ms = math.inf
        """From when on the next read has to know the stream."""
        self._since_ms = math.inf
        """From when on it is known, up to `_last`."""
        self._last = ""
        self._found: dict[str, Found] = {}
        """By ActionID, in the order of the stream."""
        self._reading = asyncio.Lock()
        """One read at a time: each would have a connection of its own, and those of a thousand calls are too many."""
        self._begun = self._ended = 0
        """The numbers of the latest read that was begun, and of the latest that came to its end."""

    async def originate_response(self, action_id: str, since: float) -> Headers | None:
        """The OriginateResponse with this ActionID that was published since then (unix seconds by Redis' clock)."""
        since_ms = max(0, int(since * 1000) - EARLIER_MS)
        self._wanted_ms = min(self._wanted_ms, since_ms)
        begun = self._begun
        async with self._reading:
            if self._ended <= begun:  # a read that was begun before may have passed by what has come since
                await self._read()
            found = self._found.get(action_id)
        if found is None or found.at_ms < since_ms:
            return None
        return _event(found.data).headers

    async def _read(self) -> None:
        self._begun += 1
        number = self._begun
        self._forget_old()
        if self._wanted_ms < self._since_ms:
            self._since_ms, self._last = self._wanted_ms, ""
        self._wanted_ms = math.inf
        await self._read_on()
        self._ended = number

    def _forget_old(self) -> None:
        oldest_ms = int((self._now() - self._keep_s) * 1000)
        while self._found and (oldest := next(iter(self._found.items())))[1].at_ms < oldest_ms:
            del self._found[oldest[0]]
        self._since_ms = max(self._since_ms, oldest_ms)

    async def _read_on(self) -> None:
        while True:
            start = f"({self._last}" if self._last else str(self._since_ms)
            entries: Any = await self._redis.xrange(self._stream, min=start, count=READ_COUNT)
            for entry, fields in entries:
                if fields.get(b"event") == b"OriginateResponse":
                    self._note(int(entry.partition(b"-")[0]), fields.get(b"data", b""))
            if entries:
                self._last = entries[-1][0].decode()
            if len(entries) < READ_COUNT:
                return

    def _note(self, at_ms: int, data: bytes) -> None:
        try:
            action_id = _event(data).headers.get("ActionID")
        except BadMessage:
            return  # somebody else's entry
        if action_id:
            # The latest comes last, also where all is read once more: what the stream has lost since was older.
            self._found.pop(action_id, None)
            self._found[action_id] = Found(at_ms, data)


def _event(data: bytes) -> BusEvent:
    event = decode_message(data)
    if not isinstance(event, BusEvent):
        raise BadMessage("not an event")
    return event
