"""Errors of futures that nobody may ask for: asyncio would write a traceback to standard error."""

import asyncio
from typing import Any


def without_noise(future: "asyncio.Future[Any]") -> None:
    """Who waits for it hears of its error all the same; where nobody waits, or any more, that is no news."""
    future.add_done_callback(_look)


def _look(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
