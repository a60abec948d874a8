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
            return _none(error, names)
        return values

    found: list[bytes | None] = await until_done("a record", read)
    return found


async def many_record_fields(
    redis: "Redis", records: Sequence[bytes], names: Sequence[str]
) -> list[list[bytes | None]]:
    """The same of each of these records, named by their keys, in one round trip. Does not wait while Redis is away."""
    async with redis.pipeline(transaction=False) as commands:
        for key in records:
            commands.hmget(key, list(names))
        answers = await commands.execute(raise_on_error=False)
    return [_none(answer, names) if isinstance(answer, ResponseError) else answer for answer in answers]


def _none(error: ResponseError, names: Sequence[str]) -> list[bytes | None]:
    if not str(error).startswith("WRONGTYPE "):
        raise error
    return [None] * len(names)
