"""Ending a task that talks to Redis."""

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.1


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel it until it has ended, whatever it ends with: up to Python 3.11 redis-py may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)
    if not task.cancelled():
        task.exception()  # asked for, so that nobody is told that it never was
