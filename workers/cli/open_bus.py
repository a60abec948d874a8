"""The bus as the commands open it: who waits for a Redis that says nothing is told so."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import click

from broker.errors import BusUnavailable
from broker.redis_url import masked
from workers.cli.presence import ended

if TYPE_CHECKING:
    from broker import Bus

SILENCE_S: Final = 5.0
"""A Redis that cannot be reached for so long is not merely restarting."""


@contextlib.asynccontextmanager
async def open_bus(redis: str, prefix: str, within_s: float | None = None) -> AsyncGenerator["Bus"]:
    """A client of the bus, open after so many seconds at most: by itself it tries a Redis that says nothing for forty.

    Raises `BusUnavailable`, `SettingsError`.
    """
    from broker.client import Bus

    async with contextlib.AsyncExitStack() as stack:
        try:
            async with silence_told(redis), asyncio.timeout(within_s):
                bus = await stack.enter_async_context(Bus(redis, prefix))
        except TimeoutError:
            raise BusUnavailable(f"Redis at {masked(redis)} did not answer within {within_s:g} s") from None
        yield bus


@contextlib.asynccontextmanager
async def silence_told(redis: str) -> AsyncGenerator[None]:
    """Say so if Redis does not answer while it is being connected to."""
    notice = asyncio.create_task(_tell_silence(redis))
    try:
        yield
    finally:
        await ended(notice)


async def _tell_silence(redis: str) -> None:
    await asyncio.sleep(SILENCE_S)
    click.echo(f"amibus: Redis at {masked(redis)} does not answer; still trying", err=True)
