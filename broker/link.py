"""One connection to Redis, without redis-py's pool and without its retries."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import redis
from redis.exceptions import (
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    TryAgainError,
)

from broker.errors import BusUnavailable
from broker.redis_pool import SentinelsRefused, make_pool
from broker.redis_url import masked

CONNECT_TIMEOUT_S: Final = 5.0
REPLY_TIMEOUT_S: Final = 5.0
"""A Redis that says nothing for so long is taken for gone; no command of the client lasts longer, `XREAD
BLOCK` apart."""

ATTEMPTS: Final = 6
"""How often a command is tried before `BusUnavailable`: with the pauses below about three seconds, a quick restart."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

PASSING_ERRORS: Final = (BusyLoadingError, ReadOnlyError, MasterDownError, ClusterDownError, TryAgainError)
"""Refusals that pass by themselves: Redis is starting or failing over. redis-py (6.2) strips their codes."""

PASSING_CODES: Final = ("BUSY", "NOREPLICAS", "UNBLOCKED")
"""Those that redis-py has no class for: somebody's long script, a new primary whose replicas are not there yet (see
`min-replicas-to-write`), and a fail-over during `XREAD BLOCK`."""


class Interrupted(BusUnavailable):
    """The connection was lost, or Redis is starting, failing over or busy: the same command may be tried again."""


def pauses() -> Iterator[float]:
    """Seconds to wait before each next attempt: growing, and jittered so that callers do not come back all at once."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.5)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def pack_command(*args: str | bytes | int) -> bytes:
    """A command as it goes over the wire. Raises `UnicodeEncodeError` for text that is not UTF-8."""
    raw = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(raw) + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in raw])


class Address:
    """Where Redis is, and how to log in: a `redis://`, `rediss://` or `unix://` URL as redis-py reads it, or the
    `redis+sentinel://` URL of sentinels, which are asked for the primary at each new connection.

    Raises `SettingsError` for a URL that cannot be read. The password is in no text that this class gives.
    """

    def __init__(self, url: str) -> None:
        self.masked = masked(url)
        # redis-py's time-outs (5 s by default from version 8 on, too short for XREAD BLOCK) are ours, hence None.
        pool = make_pool(
            url,
            defaults={"socket_connect_timeout": CONNECT_TIMEOUT_S},
            socket_timeout=None,
            health_check_interval=0,
            decode_responses=False,
        )
        self.user: str = pool.connection_kwargs.get("username") or "default"
        self.connection: Callable[[], Any] = pool.make_connection

    def __repr__(self) -> str:
        return f"<Address {self.masked}>"


class Link:
    """One connection: open it once, use it until it fails, then take a new one.

    Everything here raises `Interrupted` where another attempt makes sense, and `BusUnavailable` where it does
    not.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection = address.connection()

    async def open(self) -> "Link":
        """Connect and log in. Returns itself."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await _cancellable(self._connection.connect())
        except (redis.RedisError, OSError) as error:
            await self.close()
            raise translated(error, self._address, "the connection") from error
        except asyncio.CancelledError:
            await self.close()
            raise
        return self

    async def execute(self, commands: Sequence[bytes], timeout_s: float = REPLY_TIMEOUT_S) -> list[Any]:
        """Write packed commands at once and read their replies; a refused one's reply is its `redis.ResponseError`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.send(b"".join(commands))
                return [await self.read() for _ in commands]
        except TimeoutError as error:
            await self.close()
            raise Interrupted(f"Redis at {self._address.masked} did not answer within {timeout_s:g} s") from error

    async def send(self, data: bytes) -> None:
        """Write packed commands; the caller must `read` as many replies."""
        if not self._connection.is_connected:
            # Else redis-py would connect again, and subscriptions and replies of before would be missing
            # unseen.
            raise Interrupted(f"the connection to Redis at {self._address.masked} was lost")
        try:
            await self._connection.send_packed_command(data, check_health=False)
        except (redis.RedisError, OSError) as error:
            raise translated(error, self._address, "a command") from error

    async def read(self, timeout_s: float | None = None) -> Any:
        """The next reply, None after `timeout_s` of silence; a refusal is returned as `redis.ResponseError`."""
        if not self._connection.is_connected:
            raise Interrupted(f"the connection to Redis at {self._address.masked} was lost")
        try:
            return await self._connection.read_response(timeout=timeout_s, disconnect_on_error=timeout_s is None)
        except redis.ResponseError as error:
            return error
        except (redis.RedisError, OSError) as error:
            raise translated(error, self._address, "a command") from error

    async def close(self) -> None:
        """Cut the connection; whoever reads from it gets `Interrupted`."""
        await self._connection.disconnect(nowait=True)


async def _cancellable(step: Awaitable[None]) -> None:
    """Await what may swallow a cancellation, and raise it afterwards.

    To a sentinel redis-py writes with `asyncio.wait_for`, which up to Python 3.11 swallows a cancellation that comes in
    the same turn of the loop as the end of what it waits for: the task would go on, and its closing would never end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        await step
    finally:  # also where it failed: who gets an error tries again
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


class Links:
    """The connections of a client's iterators, each with its own, so that closing the client ends them all."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._open: set[Link] = set()
        self._closed = False

    async def open(self) -> Link:
        """A new connection. Raises `Interrupted`, `BusUnavailable`."""
        if self._closed:
            raise BusUnavailable("the bus is closed")
        link = Link(self.address)
        self._open.add(link)
        try:
            await link.open()
        except BaseException:
            self._open.discard(link)
            raise
        if self._closed:
            # Closed while it was opening, when there was nothing to cut yet.
            await self.drop(link)
            raise BusUnavailable("the bus is closed")
        return link

    async def drop(self, link: Link | None) -> None:
        """Close one of them."""
        if link is not None:
            self._open.discard(link)
            await link.close()

    async def close(self) -> None:
        """Close them all, and open no more."""
        self._closed = True
        for link in tuple(self._open):
            await self.drop(link)


def is_transient(error: redis.RedisError | OSError) -> bool:
    """Whether the same command may succeed on a new connection."""
    if isinstance(error, redis.AuthenticationError | AuthorizationError | SentinelsRefused):
        return False
    if isinstance(error, redis.ResponseError):
        return isinstance(error, PASSING_ERRORS) or str(error).partition(" ")[0] in PASSING_CODES
    return isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)


def translated(error: redis.RedisError | OSError, address: Address, what: str) -> BusUnavailable:
    """The error of ours for one of redis-py's."""
    if is_transient(error):
        if isinstance(error, redis.ResponseError):
            return Interrupted(f"Redis at {address.masked} refused {what} for now: {error}")
        return Interrupted(f"Redis at {address.masked} cannot be reached: {str(error) or 'no answer in time'}")
    if isinstance(error, SentinelsRefused):
        return BusUnavailable(f"Redis at {address.masked} cannot be found: {error}")
    if isinstance(error, redis.AuthenticationError):
        return BusUnavailable(f"Redis at {address.masked} refused the login of user {address.user!r}: {error}")
    if isinstance(error, redis.exceptions.NoPermissionError):
        return BusUnavailable(f"Redis at {address.masked} does not let user {address.user!r} run {what}: {error}")
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return BusUnavailable(f"Redis at {address.masked} is out of memory and refused {what}: {error}")
    return BusUnavailable(f"Redis at {address.masked} refused {what}: {error}")
