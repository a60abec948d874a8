"""What Redis does not do for us now, said once however many wait for it, and again when it is over."""

import asyncio
import math
import time
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from redis.exceptions import OutOfMemoryError

LINE_S: Final = 1.0
"""At most one line in so long, whatever fails and however often."""

REMIND_S: Final = 30.0
"""What somebody must mend is said again after so long."""

AWAY: Final = "redis is away"
FULL: Final = "redis is full"
WRONG_TYPE: Final = "a key on redis is of a wrong type"

log = structlog.get_logger()


class Outage:
    """All who wait for one Redis, and what has been said of it."""

    def __init__(self) -> None:
        self._waiting: set[object] = set()
        self._said: dict[tuple[str, str], float] = {}
        self._failures = 0
        self._line_at = -math.inf
        self._news_at: dict[str, float] = {}

    def failed(self, waiting: str, error: Exception, waiter: object | None = None) -> None:
        """Something did not work and will be tried again. A `waiter` must be given to `over` or `forget` in the end."""
        now = time.monotonic()
        self._failures += 1
        if waiter is not None:
            self._waiting.add(waiter)
        event, which = _kind(error)
        said_at = self._said.get((event, which))
        is_due = said_at is None or (event == WRONG_TYPE and now - said_at >= REMIND_S)
        if is_due and now - self._line_at >= LINE_S:
            self._said[event, which] = self._line_at = now
            say = log.error if event == WRONG_TYPE else log.warning
            say(event, waiting=waiting, error=str(error))

    def over(self, waiter: object, waiting: str) -> None:
        """It worked."""
        self._waiting.discard(waiter)
        if not self._waiting and self._said:
            log.info("redis is back", waiting=waiting, failures=self._failures)
            self._end()

    def forget(self, waiter: object) -> None:
        """Nobody waits any more. Without effect after `over`."""
        if waiter in self._waiting:
            self._waiting.discard(waiter)
            if not self._waiting:
                self._end()

    def is_news(self, event: str) -> bool:
        """Whether this may be said now: somebody may do it to us again and again. True at most once in `LINE_S`."""
        now = time.monotonic()
        if now - self._news_at.get(event, -math.inf) < LINE_S:
            return False
        self._news_at[event] = now
        return True

    def _end(self) -> None:
        self._said.clear()
        self._failures = 0


def _kind(error: Exception) -> tuple[str, str]:
    """The event to log, and which of its kind it is."""
    if isinstance(error, OutOfMemoryError):
        return FULL, ""
    if str(error).startswith("WRONGTYPE "):
        return WRONG_TYPE, str(error)
    return AWAY, ""  # how it shows varies from one attempt to the next


_OUTAGES: WeakKeyDictionary[asyncio.AbstractEventLoop, Outage] = WeakKeyDictionary()


def outage() -> Outage:
    """That of this event loop, which is that of one worker."""
    return _OUTAGES.setdefault(asyncio.get_running_loop(), Outage())
