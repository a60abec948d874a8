"""Ctrl-C while a command runs."""

import signal
import sys

import pytest

from tests.cli.commands import Running

PYTHON = (sys.executable, "-c")

DEAF = """
import signal, threading

def listen():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Event().wait()

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
threading.Thread(target=listen, daemon=True).start()
"""
"""Another thread gets the signal, and no system call of the main thread is broken off: so it is, too, where a signal
comes to the main thread just before the call."""

WAITS = """
import asyncio
from workers.cli.running import run

async def wait():
    print("waits", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)

try:
    run(wait())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""

BUSY = """
import asyncio
from workers.cli.running import run

async def be_busy():
    print("busy", flush=True)
    while not asyncio.current_task().cancelling():
        pass
    print("asked to end", flush=True)
    while True:
        pass

try:
    run(be_busy())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("prelude", ["", DEAF], ids=["asleep", "falling asleep"])
def test_it_ends_a_command_that_waits(prelude: str) -> None:
    with Running(prelude + WAITS, command=PYTHON) as waiting:
        waiting.line("waits")
        waiting.interrupt()
        assert waiting.wait() == 0
        assert waiting.lines == ["waits\n", "cleaned up\n", "interrupted\n"]
        assert waiting.stderr == ""


def test_it_is_heard_where_the_tests_run_in_the_background() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Running(WAITS, command=PYTHON) as waiting:
            waiting.line("waits")
            waiting.interrupt()
            assert waiting.wait() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_one_ends_a_command_that_does_not_listen() -> None:
    with Running(BUSY, command=PYTHON) as busy:
        for line in ("busy", "asked to end"):
            busy.line(line)
            busy.interrupt()
        assert busy.wait() == 0
        assert busy.lines == ["busy\n", "asked to end\n", "interrupted\n"]
