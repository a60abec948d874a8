"""The directory of action files: what lies in it, and the few steps by which a file goes through it.

All of it blocks, and is meant for a thread. OSErrors come through.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from broker.errors import SettingsError
from workers.action_files.names import ACTION, ERROR, LOCK, OUT, REFUSED, Taken, is_draft, stem_of
from workers.action_files.order import MAX_BYTES

FILE_MODE: Final = 0o666
"""Of answers, less the umask: whoever may read new files in this directory may read them."""

_NO_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems say that cannot flush a directory, and need not."""


class Identity(NamedTuple):
    """By these it is seen whether a file has changed."""

    inode: int
    size_bytes: int
    changed_ns: int


class Outcome(NamedTuple):
    """How one file of a batch fared."""

    taken: Taken
    error: OSError | None


class DropBox:
    """One directory, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def open(self) -> Self:
        """Hold the directory. Raises `SettingsError` if it cannot be used, or another process holds it."""
        try:
            if not self.path.is_dir():
                raise SettingsError(f"{self.path} is not a directory")
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another amibus spool is at work in {self.path}") from None
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be used: {error.strerror}") from None
        return self

    def close(self) -> None:
        """Let it go. The lock's file stays: removing it could let two in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def actions(self) -> dict[str, Identity]:
        """The files that ask for something, by name, the oldest first. Only plain files: nothing is followed."""
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                if stem_of(entry.name) is not None and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        found[entry.name] = _identity(entry.stat(follow_symlinks=False))
        return dict(sorted(found.items(), key=lambda item: (item[1].changed_ns, item[0])))

    def identities(self, names: Iterable[str]) -> dict[str, Identity | None]:
        """What these files are now; None for one that is gone, or no plain file."""
        return {name: self._identity_of(name) for name in names}

    def recover(self) -> list[Taken]:
        """Tidy up after an earlier run; return what it left under way, the oldest first."""
        with os.scandir(self.path) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        for name in names:
            if is_draft(name):
                (self.path / name).unlink(missing_ok=True)
        left = [taken for taken in map(Taken.from_name, names) if taken is not None]
        there = set(names)
        open_ones = []
        for taken in sorted(left, key=lambda each: (each.taken_at, each.stem)):
            if f"{taken.stem}{OUT}" in there:
                self._put_away(taken, refused=False)
            elif f"{taken.stem}{ERROR}" in there:
                self._put_away(taken, refused=True)
            else:
                open_ones.append(taken)
        return open_ones

    def take(self, files: list[Taken]) -> list[Outcome]:
        """Rename these, and have that on disk. Answers to earlier files of the same names are removed before."""
        cleared = [Outcome(taken, self._try(self._forget_answers, taken)) for taken in files]
        # On disk first: an old answer beside a taken file would pass for its own.
        self._sync()
        outcomes = [each if each.error else Outcome(each.taken, self._try(self._take, each.taken)) for each in cleared]
        self._sync()
        return outcomes

    def size_bytes(self, taken: Taken) -> int:
        """Of a file that was taken. Raises `FileNotFoundError` if somebody has removed it."""
        return (self.path / taken.name).stat(follow_symlinks=False).st_size

    def read(self, taken: Taken) -> bytes:
        """Its content, one byte more than is allowed at most."""
        # A plain file when it was taken, but who knows: a pipe in its place must not hold us up.
        descriptor = os.open(self.path / taken.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a plain file")
            return file.read(MAX_BYTES + 1)

    def begin_answer(self, taken: Taken) -> None:
        """An empty answer, not to be seen yet."""
        path = self.path / taken.draft
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE))

    def add_to_answer(self, taken: Taken, lines: Iterator[str], at: int) -> int:
        """Write these at that place, whatever stood there; the place after them."""
        with (self.path / taken.draft).open("r+b") as draft:
            draft.seek(at)
            draft.truncate()
            draft.writelines(line.encode("utf-8", "replace") for line in lines)
            return draft.tell()

    def flush_answer(self, taken: Taken) -> None:
        """Have it on disk."""
        descriptor = os.open(self.path / taken.draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def finish(self, files: list[tuple[Taken, bool]]) -> list[Outcome]:
        """Let the answers, which were flushed, be seen; once that is on disk the files that they answer are done with.
        `True`: all of it was refused."""
        outcomes = [Outcome(taken, self._try(self._publish, taken, refused)) for taken, refused in files]
        self._sync()
        return [
            each if each.error is not None else Outcome(taken, self._try(self._put_away, taken, refused))
            for each, (taken, refused) in zip(outcomes, files, strict=True)
        ]

    @staticmethod
    def _try(step: Callable[..., None], *arguments: object) -> OSError | None:
        try:
            step(*arguments)
        except OSError as error:
            return error
        return None

    def _forget_answers(self, taken: Taken) -> None:
        for kind in (OUT, ERROR, REFUSED):
            (self.path / f"{taken.stem}{kind}").unlink(missing_ok=True)

    def _take(self, taken: Taken) -> None:
        (self.path / f"{taken.stem}{ACTION}").rename(self.path / taken.name)

    def _publish(self, taken: Taken, refused: bool) -> None:
        (self.path / taken.draft).replace(self.path / f"{taken.stem}{ERROR if refused else OUT}")

    def _put_away(self, taken: Taken, refused: bool) -> None:
        path = self.path / taken.name
        with contextlib.suppress(FileNotFoundError):
            if refused:
                path.replace(self.path / f"{taken.stem}{REFUSED}")
            else:
                path.unlink()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            os.close(descriptor)

    def _identity_of(self, name: str) -> Identity | None:
        try:
            found = (self.path / name).stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _identity(found) if stat.S_ISREG(found.st_mode) else None


def _identity(found: os.stat_result) -> Identity:
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns)
