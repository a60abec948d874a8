"""The worker's connections to Redis."""

import asyncio
import contextlib
from typing import Any, Final, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, ResponseError

from broker.keys import Keys
from broker.redis_pool import make_pool

REDIS_TIMEOUT_S: Final = 5.0
"""Silence of Redis is noticed after this; longer than the doorbell's wait."""


class _Adapted(AbstractConnection):
    """Packs commands in C, as redis-py's blocking client does; its asyncio client (8.1) packs them in Python, argument
    by argument."""

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args
        # Some names are two words, such as `XGROUP CREATE`.
        words = name.split() if isinstance(name, str) else [name]
        return [hiredis.pack_command((*words, *rest))]


class _Client(Redis):
    """A client whose commands can be cancelled, and whose WRONGTYPE names the key."""

    bus_keys: Keys | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if self.bus_keys is None or not str(error).startswith("WRONGTYPE "):
                raise
            raise await self._name_wrong_type(self.bus_keys) or error from None
        # redis-py waits with asyncio.wait_for, which up to Python 3.11 swallows a cancellation that comes in the same
        # turn of the loop as the end of what it waits for: the task would then never stop.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return answer

    async def _name_wrong_type(self, keys: Keys) -> ResponseError | None:
        """Redis says neither which key it was, nor what to do."""
        for key, wanted in keys.types.items():
            with contextlib.suppress(NoPermissionError):
                found = (await super().execute_command("TYPE", key)).decode()  # type: ignore[no-untyped-call]
                if found not in (wanted, "none"):
                    return wrong_type(key, wanted)
        return None


def wrong_type(key: str, wanted: str) -> ResponseError:
    """Redis' error for a key of a wrong type, with what Redis leaves out: which, and how to mend it."""
    return ResponseError(f"WRONGTYPE {key} is something else than a {wanted}: RENAME it away, or DEL it")


def connect(url: str, keys: Keys | None = None) -> "Redis":
    """A client without retries of its own: repeating an XADD or a script is our decision, not the library's.

    With `keys` it finds out which of them is of a wrong type, where Redis says that one is. Raises `SettingsError` for
    a URL that cannot be read.
    """
    pool = make_pool(
        url, _Adapted, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S,
        socket_keepalive=True, client_name="amibus-worker",
    )  # fmt: skip
    client = cast(_Client, _Client.from_pool(pool))
    client.bus_keys = keys
    return client
