"""How a command runs its coroutine: Ctrl-C ends it at once."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_MAX_NOTES: Final = 4096


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run`, where Ctrl-C is never late: it cancels `main`, and then `KeyboardInterrupt` is raised.

    A second Ctrl-C raises it wherever the command is, as with `asyncio.run`. Only for the main thread.
    """
    with asyncio.Runner() as runner, _woken_by_signals(runner.get_loop()):
        return runner.run(main)


@contextlib.contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Any signal that Python handles wakes the loop.

    Without this a signal that comes just before the loop goes to sleep is only noted: its handler runs when something
    else wakes the loop, for `tail` up to `BLOCK_S` later. `add_signal_handler` would do too, but then a second Ctrl-C
    could not break out of a write that a full pipe holds up.
    """
    ear, mouth = socket.socketpair()
    with ear, mouth:
        ear.setblocking(False)
        mouth.setblocking(False)
        loop.add_reader(ear, ear.recv, _MAX_NOTES)
        before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(ear)
