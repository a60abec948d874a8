"""A process that holds a journal and does what it is told, one JSON line per command; it can be killed anywhere."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workers import journal
from workers.journal import Journal

OWNER = "ami:{pbx1}"
KEEP_S = 7200.0

SYSTEM_CALLS = ("open", "close", "write", "pwrite", "pread", "ftruncate", "fdatasync", "fsync", "replace", "unlink")
"""Whatever the journal does to the disk is one of these."""


class JournalProcess:
    """The process, seen from the test."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        assert self._read() == "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def ask(self, *command: object) -> Any:
        """Have it do something: the name of a method and its arguments. None: it has died of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(command)}\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """Pause it."""
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> int:
        """End it as a crash would, if it has not ended; return its exit code."""
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait(10)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None


class _Told:
    """The process itself."""

    def __init__(self, directory: Path) -> None:
        self._clock_s = time.time()
        self._calls_left = 0
        self._journal = Journal.open(directory, OWNER, keep_s=KEEP_S, now=lambda: self._clock_s)

    def seal(self, epoch: int) -> str:
        self._journal.seal(epoch)
        return "done"

    def note(self, epoch: int, *action_ids: str) -> str:
        self._journal.note([(action_id, "actions", "1-1") for action_id in action_ids], epoch)
        return "done"

    def begin_write(self, action_id: str) -> str:
        self._journal.begin_write(action_id)
        return "done"

    def pass_time(self, seconds: float) -> str:
        self._clock_s += seconds
        return "done"

    def compact_at(self, size: int) -> str:
        journal.COMPACT_BYTES = size  # type: ignore[misc]
        self._journal._compact_at = size
        return "done"

    def limit(self, size: int) -> str:
        """The longest that a file may grow: beyond it a write fails, as on a full disk. -1: none."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return "done"

    def die_at(self, call: int) -> str:
        """Kill it right before that system call, counted from now."""
        self._calls_left = call
        for name in SYSTEM_CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        return "done"

    def _counted(self, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self._calls_left -= 1
            if self._calls_left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call


def _run(directory: Path) -> None:
    told = _Told(directory)
    print('"open"', flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = getattr(told, name)(*arguments)
        except (journal.JournalFull, journal.Fenced) as error:
            answer = type(error).__name__
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
