"""The worker's connections to Redis."""

import asyncio
from typing import Any, Final

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError  # noqa: A004

REDIS_TIMEOUT_S: Final = 5.0
"""Silence of Redis is noticed after this; longer than the doorbell's wait."""


class _Adapted(AbstractConnection):
    """Packs commands in C, as redis-py's blocking client does; its asyncio client (8.1) packs them in Python, argument
    by argument. And loses its connection in the same words on every event loop."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            # What uvloop says of a socket that was reset in the meantime, where asyncio's loop lets the next read fail.
            if "handler is closed" not in str(error):
                raise
            raise ConnectionError(f"the connection was lost before the write: {error}") from error

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args
        # Some names are two words, such as `XGROUP CREATE`.
        words = name.split() if isinstance(name, str) else [name]
        return [hiredis.pack_command((*words, *rest))]


class _Client(Redis):
    """A client whose commands can be cancelled."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        # redis-py waits with asyncio.wait_for, which up to Python 3.11 swallows a cancellation that comes in the same
        # turn of the loop as the end of what it waits for: the task would then never stop.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return answer


def connect(url: str) -> "Redis":
    """A client without retries of its own: repeating an XADD or a script is our decision, not the library's."""
    options: dict[str, Any] = dict(parse_url(url))
    base = options.pop("connection_class", Connection)
    if not issubclass(base, UnixDomainSocketConnection):
        options["socket_keepalive"] = True
    pool = ConnectionPool(
        connection_class=type("AdaptedConnection", (_Adapted, base), {}),
        protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S,
        client_name="amibus-worker", **options,
    )  # fmt: skip
    return _Client.from_pool(pool)
