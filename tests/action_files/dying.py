"""`amibus spool`, killed at a given step: `python -m tests.action_files.dying PLACE NTH ARGUMENTS...`.

It ends itself with SIGKILL right before or after the NTH call of a method, as a crash of the machine's would.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from broker.client import Server
from workers.action_files.drop_box import DropBox
from workers.cli import main

PLACES: Final[dict[str, tuple[type, str, bool]]] = {
    "old answers are removed": (DropBox, "_forget_answers", False),
    "before it is taken": (DropBox, "_take", True),
    "it is taken": (DropBox, "_take", False),
    "that is on disk": (DropBox, "_sync", False),
    "its answer is begun": (DropBox, "begin_answer", False),
    "before an action is queued": (Server, "_add", True),
    "an action is queued": (Server, "_add", False),
    "the result is here": (Server, "request", False),
    "the result is written": (DropBox, "add_to_answer", False),
    "the answer is on disk": (DropBox, "flush_answer", False),
    "the answer is seen": (DropBox, "_publish", False),
    "it is put away": (DropBox, "_put_away", False),
}
"""By name: where, and whether before it rather than after it."""


def die_at(place: str, nth: int) -> None:
    """Arm it."""
    owner, name, before = PLACES[place]
    method = inspect.getattr_static(owner, name)
    calls = iter(range(1, 10**9))
    setattr(owner, name, _dying(method, lambda: next(calls) == nth, before=before))


def _dying(method: Callable[..., Any], is_due: Callable[[], bool], *, before: bool) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def step(*arguments: Any, **named: Any) -> Any:
            due = is_due()
            _die_if(due and before)
            value = await method(*arguments, **named)
            _die_if(due)
            return value

    else:

        @functools.wraps(method)
        def step(*arguments: Any, **named: Any) -> Any:
            due = is_due()
            _die_if(due and before)
            value = method(*arguments, **named)
            _die_if(due)
            return value

    return step


def _die_if(due: bool) -> None:
    if due:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]))
    main(["spool", *sys.argv[3:]])
