"""Waiting that a stop ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Stopped(Exception):
    """The stop came while something was waited for."""


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result:
    """Await work, unless the stop comes first: then raise `Stopped`."""
    if stopping.is_set():
        work.close()
        raise Stopped
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            raise Stopped
        return task.result()
    finally:
        task.cancel()
        stop.cancel()
