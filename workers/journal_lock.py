"""One holder on this host: a lock file that says which process holds it, so that a stuck one can be ended."""

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Final, Self

import structlog

LOOK_S: Final = 0.01
"""How often a lock that somebody else holds is tried again."""

WIDTH: Final = 48
"""Bytes of the holder's line. Always as many: overwritten in place, it needs no new room on a full disk."""

START_TIME: Final = 19
"""Where a process' start time is in /proc/<pid>/stat, counted from the field after its name (the 22nd of all)."""

log = structlog.get_logger()


class JournalBusy(Exception):
    """Another live process on this host holds the journal, and could not be ended."""


class JournalLock:
    """Held from `take` to `release`, or to the end of the process, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path, grace_s: float) -> Self:
        """Take it, waiting at most `grace_s` for its holder; then end the holder, and wait as long again.

        Raises `JournalBusy`, and OSError where the file cannot be opened.
        """
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not _locked(fd, grace_s):
                    _end_holder(fd, path)
                    if not _locked(fd, grace_s):
                        raise JournalBusy(f"the holder of {path} does not end")
                if _names(path, fd):
                    _write(fd, f"{os.getpid()} {_start_time(os.getpid())}")
                    return cls(fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # somebody removed the file meanwhile: a lock on it excludes nobody

    def release(self) -> None:
        """Give it back."""
        # This process may live on: whoever finds the lock taken by a third must not think that it is by this one.
        try:
            _write(self._fd, "")
        finally:
            os.close(self._fd)


def _locked(fd: int, grace_s: float) -> bool:
    """Whether the lock is ours now, or came to be within `grace_s`."""
    deadline = time.monotonic() + grace_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_S)  # a waiting flock could not be given up
        else:
            return True


def _end_holder(fd: int, path: Path) -> None:
    """Kill the process that wrote itself down as the holder, if it is still that process."""
    match os.pread(fd, WIDTH, 0).split():
        case [pid, started] if pid.isdigit() and started.isdigit() and int(started):
            _kill(int(pid), int(started), path)
        case _:
            raise JournalBusy(f"{path} is locked, and does not say by which process")


def _kill(pid: int, started: int, path: Path) -> None:
    if pid == os.getpid():
        raise JournalBusy(f"this process itself holds {path}")
    if _start_time(pid) != started:
        return  # it has ended, and its number may be another's by now
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        raise JournalBusy(f"process {pid} holds {path}, and this one may not end it") from None
    log.error("the journal was held by another process: it was killed", pid=pid, lock=str(path))


def _start_time(pid: int) -> int:
    """In ticks since the host's boot; 0 where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The name, in parentheses, may hold blanks and parentheses itself.
    return int(stat[stat.rindex(b")") + 1 :].split()[START_TIME])


def _names(path: Path, fd: int) -> bool:
    """Whether the path still leads to this open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _write(fd: int, text: str) -> None:
    os.pwrite(fd, f"{text:<{WIDTH - 1}}\n".encode(), 0)
