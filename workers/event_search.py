"""Looks for OriginateResponses in the events stream, for calls whose worker was lost before it saw them."""

from typing import Any, Final

from redis.asyncio import Redis

from broker.ami import Headers
from broker.codec import BadMessage, BusEvent, decode_message
from broker.keys import Keys

READ_COUNT: Final = 500
"""Events looked through in one read of the stream."""

EARLIER_MS: Final = 1000
"""The search begins so much before the given time: an event's id is of when it was published, not before."""


class EventSearch:
    """Goes through the stream once for all who ask, and later only through what is new."""

    def __init__(self, redis: "Redis", keys: Keys) -> None:
        self._redis = redis
        self._stream = keys.events
        self._since_ms: int | None = None
        self._last = ""
        self._found: dict[str, Headers] = {}

    async def originate_response(self, action_id: str, since: float) -> Headers | None:
        """The OriginateResponse with this ActionID that was published since then (unix seconds by Redis' clock)."""
        since_ms = max(0, int(since * 1000) - EARLIER_MS)
        if self._since_ms is None or since_ms < self._since_ms:
            self._since_ms, self._last = since_ms, ""
        await self._read_on()
        return self._found.get(action_id)

    async def _read_on(self) -> None:
        while True:
            start = f"({self._last}" if self._last else str(self._since_ms)
            entries: Any = await self._redis.xrange(self._stream, min=start, count=READ_COUNT)
            for _, fields in entries:
                if fields.get(b"event") == b"OriginateResponse":
                    self._note(fields.get(b"data", b""))
            if entries:
                self._last = entries[-1][0].decode()
            if len(entries) < READ_COUNT:
                return

    def _note(self, data: bytes) -> None:
        try:
            event = decode_message(data)
        except BadMessage:
            return  # somebody else's entry
        if isinstance(event, BusEvent):
            self._found[event.headers.get("ActionID", "")] = event.headers
