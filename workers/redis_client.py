"""The worker's connections to Redis."""

import asyncio
from typing import Any, Final

import hiredis
from redis.asyncio import Redis

from broker.redis_pool import make_pool

REDIS_TIMEOUT_S: Final = 5.0
"""Silence of Redis is noticed after this; longer than the doorbell's wait."""


class _PackedByHiredis:
    """Packs commands in C, as redis-py's blocking client does; its asyncio client (8.1) packs them in Python, argument
    by argument."""

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
    """A client without retries of its own: repeating an XADD or a script is our decision, not the library's.

    Raises `SettingsError` for a URL that cannot be read.
    """
    pool = make_pool(
        url, _PackedByHiredis, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S,
        socket_keepalive=True, client_name="amibus-worker",
    )  # fmt: skip
    return _Client.from_pool(pool)
