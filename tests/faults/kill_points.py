"""Kill points: every place where the worker waits, named `file:function:line`, and the order to end at one of them.

The production code knows nothing of it. A task factory wraps each coroutine; whenever it suspends, the innermost frame
that lies in `workers/` is where it waits. The moment is part of a point's name: `@suspended` just after it began to
wait, `@woken` when what it waited for is there and the code has not gone on. A few plain functions between awaits are
points as well: `@called` and `@returned`.
"""

import asyncio
import gc
import importlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import AsyncGeneratorType, CodeType, FrameType
from typing import Any, Final

import workers

ROOT: Final = f"{Path(workers.__path__[0]).resolve()}/"
NOT_BY_ITSELF: Final = ("redis_client.py", "simulated/")
"""All commands to Redis wait there: who gave the command says more."""

FUNCTIONS: Final = (
    "event_pump:EventPump._send", "diary:Diary.begin_write", "sessions:Sessions.request_all",
    "connection:Connection._write", "connection:Connection.data_received",
)  # fmt: skip
"""What happens in callbacks, between the awaits: a batch of events is taken, the last looks, the write itself, and the
answer's arrival."""


@dataclass(frozen=True)
class Orders:
    """What befalls one life of a worker. Empty: nothing."""

    point: str = ""
    visit: int = 1
    how: str = "kill"
    """`kill` (SIGKILL) or `stop` (SIGSTOP)."""
    armed_by: str = ""
    """A file: visits before it is there do not count. Empty: all do."""
    variant: str = ""
    """A deliberately broken worker, see `variants`."""
    loop: str = "uvloop"
    notes: str = ""
    """The file to which each point is noted at its first visit, and the end at one."""
    leases: str = ""
    """The file to which each lease is noted that is taken, in the order in which they are, whatever the clocks say."""

    @classmethod
    def parse(cls, text: str) -> "Orders":
        """`POINT:N`, as `--kill` takes it. Raises `ValueError`."""
        point, _, visit = text.rpartition(":")
        if not point or not visit.isdecimal() or int(visit) < 1:
            raise ValueError(f"{text!r} is not POINT:N, as in lease.py:renew:88@woken:3")
        return cls(point, int(visit))


class Points:
    """Counts the visits, and carries out the orders."""

    def __init__(self, orders: Orders) -> None:
        self.visits: Counter[str] = Counter()
        self._orders = orders
        self._met = 0
        """Visits that count of the point that was ordered."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._notes = os.open(orders.notes, flags, 0o600) if orders.notes else -1

    def visit(self, point: str) -> None:
        """Be at a point."""
        self.visits[point] = count = self.visits[point] + 1
        if count == 1:
            self._note("seen", point)
        if point == self._orders.point:
            self._meet(point)

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch all tasks that this loop will make."""
        loop.set_task_factory(self._make_task)

    def wrap_functions(self) -> None:
        """Make points of the plain functions, too. Raises `AttributeError` for one that is no more."""
        for name in FUNCTIONS:
            module, _, path = name.partition(":")
            owner, _, function = path.partition(".")
            self._wrap(
                getattr(importlib.import_module(f"workers.{module}"), owner), function, f"{module}.py:{function}"
            )

    def _meet(self, point: str) -> None:
        orders = self._orders
        if orders.armed_by and not Path(orders.armed_by).exists():
            return
        self._met += 1
        if self._met == orders.visit:
            self._note("ended", point)
            os.kill(os.getpid(), signal.SIGSTOP if orders.how == "stop" else signal.SIGKILL)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(Watched(coroutine, self.visit), loop=loop, **more)

    def _wrap(self, owner: type, function: str, name: str) -> None:
        original = getattr(owner, function)

        @wraps(original)
        def watched(*args: Any) -> Any:
            self.visit(f"{name}@called")
            answer = original(*args)
            self.visit(f"{name}@returned")
            return answer

        setattr(owner, function, watched)

    def _note(self, what: str, point: str) -> None:
        if self._notes >= 0:
            os.write(self._notes, f"{what} {point}\n".encode())


class Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells where it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], visit: Callable[[str], None]) -> None:
        self._coroutine = coroutine
        self._visit = visit
        self._at = ""

    def send(self, value: Any) -> Any:
        """Go on."""
        self._wake()
        return self._suspend(self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        self._wake()
        return self._suspend(self._coroutine.throw(*error))

    def close(self) -> None:
        """Give up."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def _wake(self) -> None:
        if self._at:
            self._visit(f"{self._at}@woken")

    def _suspend(self, yielded: Any) -> Any:
        self._at = where(self._coroutine)
        if self._at:
            self._visit(f"{self._at}@suspended")
        return yielded


def where(coroutine: Any) -> str:
    """The point at which a suspended coroutine waits: empty if none of its frames is the worker's."""
    point = ""
    while coroutine is not None:
        frame: FrameType | None = _first_of(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            point = _name(frame.f_code, frame.f_lineno) or point
        coroutine = _first_of(coroutine, "cr_await", "gi_yieldfrom", "ag_await") or _generator_of(coroutine)
    return point


def _first_of(coroutine: Any, *names: str) -> Any:
    return next((found for name in names if (found := getattr(coroutine, name, None)) is not None), None)


def _generator_of(step: Any) -> Any:
    """The generator that a step of an `async for` waits for, which Python itself does not tell."""
    if type(step).__name__ not in ("async_generator_asend", "async_generator_athrow"):
        return None
    return next((each for each in gc.get_referents(step) if isinstance(each, AsyncGeneratorType)), None)


@cache
def _name(code: CodeType, line: int) -> str:
    path = code.co_filename
    if not path.startswith(ROOT) or path.removeprefix(ROOT).startswith(NOT_BY_ITSELF):
        return ""
    return f"{path.removeprefix(ROOT)}:{code.co_name}:{line}"
