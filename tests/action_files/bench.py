"""A directory at work: the command's process in the test's event loop, a worker, and a simulated Asterisk."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.workers.worker_process import eventually, soon
from workers.action_files.desk import Tally
from workers.action_files.names import LOCK
from workers.action_files.service import serve


def put(directory: Path, name: str, *actions: str) -> None:
    """Write an action file as one should: under another name first. Lines are separated by `; `."""
    draft = directory / f".{name}.tmp"
    draft.write_text("\n\n".join(action.replace("; ", "\n") for action in actions) + "\n")
    draft.rename(directory / f"{name}.action")


def names(directory: Path) -> set[str]:
    """What lies in the directory, the lock apart."""
    return {path.name for path in directory.iterdir()} - {LOCK}


def states(text: str) -> list[str]:
    """The fates that an answer tells."""
    return re.findall(r"^Bus-State: (.*)$", text, re.MULTILINE)


async def answer(directory: Path, name: str, kind: str = "out", deadline_s: float = 60.0) -> str:
    """Wait for an answer; its text."""
    path = directory / f"{name}.{kind}"
    await eventually(path.exists, deadline_s)
    return path.read_text()


async def run(directory: Path, url: str, **settings: Any) -> Tally:
    """Serve a directory, with short times."""
    given: dict[str, Any] = {"redis": url, "prefix": "ami", "settle_s": 0.2, "look_s": 0.5, "drain_s": 5.0}
    return await serve(directory, "pbx1", **(given | settings))


@contextlib.asynccontextmanager
async def spooling(directory: Path, url: str, **settings: Any) -> AsyncIterator["asyncio.Task[Tally]"]:
    """Serve a directory meanwhile."""
    stopping = asyncio.Event()
    task = asyncio.create_task(run(directory, url, stopping=stopping, **settings))
    try:
        yield task
    finally:
        stopping.set()
        await soon(asyncio.gather(task, return_exceptions=True))
    task.result()
