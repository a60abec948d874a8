"""The real `amibus` command as a process, and what it takes to wait for its lines."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "workers.cli")
DEADLINE_S = 60.0

Outcome = subprocess.CompletedProcess[str]


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: this process's without its settings, and the given ones."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AMIBUS_", "_AMIBUS"))}
    return {**own, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **(settings or {})}


def amibus(*arguments: str, settings: Mapping[str, str] | None = None) -> Outcome:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@contextlib.contextmanager
def _heard_interrupts() -> Iterator[None]:
    """Processes started meanwhile hear Ctrl-C, as those do that a terminal starts.

    A shell lets what it starts in the background (`pytest &`) ignore SIGINT, and that is inherited.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Running:
    """A command that goes on; it is ended with the test at the latest."""

    def __init__(
        self, *arguments: str, settings: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND
    ) -> None:
        with _heard_interrupts():
            self.process = subprocess.Popen(
                [*command, *arguments],
                env=environment(settings),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # a demo's own Valkey with it
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def line(self, part: str) -> str:
        """The next line of the output that holds this."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                line = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line with {part!r} in {self.lines}; errors: {''.join(self.errors)}")
            if part in line:
                return line

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to every process of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code

    @property
    def stderr(self) -> str:
        """All of the standard error output, once it has ended."""
        return "".join(self.errors)

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._news.put(line)
        self._news.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)


def until(condition: Callable[[], bool], what: str, running: Running | None = None) -> None:
    """Wait for a condition that nobody announces."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        if running is not None and running.process.poll() is not None:
            raise AssertionError(f"ended before {what}: {running.stderr}")
        assert time.monotonic() < deadline, f"not in time: {what}"
        pause.wait(0.02)


def connected(url: str, server: str, worker: Running | None = None) -> None:
    """Wait until a worker of this server is connected to Asterisk."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        until(lambda: client.hget(f"ami:{{{server}}}:worker", "state") == "connected", f"{server} connected", worker)
