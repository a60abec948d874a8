"""What Redis does not do for us now, said once however many wait for it, and again when it is over."""

import asyncio
import math
import time
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

import structlog
from redis.exceptions import (
    ConnectionError,  # noqa: A004
    OutOfMemoryError,
    ResponseError,
)

LINE_S: Final = 1.0
"""At most one line in so long, whatever fails and however often."""

REMIND_S: Final = 30.0
"""What somebody must mend is said again after so long."""

AWAY: Final = "redis is away"
FULL: Final = "redis is full"
WRONG_TYPE: Final = "a key on redis is of a wrong type"

log = structlog.get_logger()


class Waiter(NamedTuple):
    """Somebody who has failed and will try again, as long as the task is not done."""

    what: str
    task: "asyncio.Future[Any]"
    is_patient: bool = False
    """Its next try may be far: that Redis can be reached again others know sooner."""


class Outage:
    """All who wait for one Redis, and what has been said of it: a line at its beginning, and one at its end."""

    def __init__(self) -> None:
        self._waiting: dict[Waiter, bool] = {}
        """And whether it takes a success of its own to end that."""
        self._said: dict[tuple[str, str], float] = {}
        self._failures = 0
        self._line_at = -math.inf
        self._news_at: dict[str, float] = {}

    def failed(self, waiter: Waiter, error: Exception) -> None:
        """Something did not work and will be tried again. Say how that ends by `over` or `forget`."""
        now = time.monotonic()
        is_first = waiter not in self._waiting
        self._waiting[waiter] = not waiter.is_patient or isinstance(error, ResponseError)
        self._failures += 1
        if is_first and _is_cut(error):
            return  # the next try makes a new connection: where that works there was no outage
        event, which = _kind(error)
        said_at = self._said.get((event, which))
        is_due = said_at is None or (event == WRONG_TYPE and now - said_at >= REMIND_S)
        if is_due and now - self._line_at >= LINE_S:
            self._said[event, which] = self._line_at = now
            say = log.error if event == WRONG_TYPE else log.warning
            say(event, waiting=waiter.what, error=str(error))

    def over(self, waiter: Waiter) -> None:
        """It worked. That is the end, unless somebody else still waits."""
        if not self._failures:
            return
        self._waiting.pop(waiter, None)
        self._waiting = {each: own for each, own in self._waiting.items() if own and not each.task.done()}
        if not self._waiting:
            if self._said:
                log.info("redis is back", waiting=waiter.what, failures=self._failures)
            self._said.clear()
            self._failures = 0

    def forget(self, waiter: Waiter) -> None:
        """It waits no more: what worked next is the end. Without effect after `over`."""
        self._waiting.pop(waiter, None)

    def is_news(self, event: str) -> bool:
        """Whether this may be said now: somebody may do it to us again and again. True at most once in `LINE_S`."""
        now = time.monotonic()
        if now - self._news_at.get(event, -math.inf) < LINE_S:
            return False
        self._news_at[event] = now
        return True


def _is_cut(error: Exception) -> bool:
    """Whether a connection was lost, or there was none to be had; that Redis keeps silent is told otherwise."""
    return isinstance(error, ConnectionError)


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
    loop = asyncio.get_running_loop()
    if loop not in _OUTAGES:
        _OUTAGES[loop] = Outage()
    return _OUTAGES[loop]


def waiter(what: str, *, is_patient: bool = False) -> Waiter:
    """The one that this task is, where it does this."""
    return Waiter(what, cast("asyncio.Task[Any]", asyncio.current_task()), is_patient)
