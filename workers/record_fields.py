"""Some fields of an action's record, read by the worker."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from broker.keys import Keys
from workers.batch import until_done


async def record_fields(redis: "Redis", keys: Keys, action_id: str, names: Sequence[str]) -> list[bytes | None]:
    """The values of these fields, None for what is not there; waits while Redis is away.

    Nothing is there, either, where something of another type has the record's place: its marking says what comes of it.
    """
    key = keys.action(action_id)

    async def read() -> list[bytes | None]:
        try:
            values: list[Any] = await redis.hmget(key, list(names))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE "):
                raise
            return [None] * len(names)
        return values

    found: list[bytes | None] = await until_done("a record", read)
    return found
