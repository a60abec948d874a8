"""The journal's file on the disk: lines are appended, a byte is overwritten, the whole is replaced; and a look tells
whether another hand has been at it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

COPY_BYTES: Final = 1 << 20
"""How much is copied at once when the file is replaced."""

UNFINISHED: Final = ".new"
"""How the name of a file ends that is not yet in the place of the one before."""


class JournalFull(Exception):
    """The disk takes no more: nothing may be sent. Try again later."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"the journal {path} cannot be written ({error.strerror}): nothing is sent until it can")


class Fenced(Exception):
    """Another holder has sealed the journal, or replaced it: nothing may be written to Asterisk any more."""


class JournalFile:
    """An open file. Its methods are not for two threads at once."""

    def __init__(self, path: Path, flags: int = 0) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | flags, 0o600)
        try:
            # For the lines: what another has appended unseen must not be overwritten. (With O_APPEND, pwrite, too,
            # would write at the end.)
            self._end_fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = os.fstat(self._fd).st_size
        """The size as this process left it."""

    @classmethod
    @contextlib.contextmanager
    def making(cls, path: Path) -> Iterator[Self]:
        """A new file, under another name until it is moved to `path`; removed again if that fails.

        Raises `JournalFull` instead of OSError.
        """
        # With the pid in its name it is nobody else's, even if another process believes that it holds the journal.
        draft = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
        try:
            file = cls(draft, os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise JournalFull(path, error) from None
        try:
            yield file
        except BaseException as error:
            file.close()
            with contextlib.suppress(OSError):
                draft.unlink()
            if isinstance(error, OSError):
                raise JournalFull(path, error) from None
            raise

    @staticmethod
    def remove_unfinished(path: Path) -> None:
        """Remove what a crash has left of new files."""
        for draft in path.parent.glob(f"{path.name}.*{UNFINISHED}"):
            draft.unlink(missing_ok=True)

    def close(self) -> None:
        """Close it."""
        os.close(self._end_fd)
        os.close(self._fd)

    def look(self) -> None:
        """One system call. Raises `Fenced` if the file is not as this process left it."""
        found = os.fstat(self._fd)
        if found.st_size != self.size or not found.st_nlink:
            raise Fenced(f"{self.path} was written or replaced by another process")

    def read(self) -> bytes:
        """The whole of it."""
        return os.pread(self._fd, self.size, 0)

    def append(self, data: bytes) -> None:
        """Append with one write, not synced yet. Raises `JournalFull`, leaving nothing of it, and `Fenced`."""
        self.look()
        before = self.size
        try:
            written = os.write(self._end_fd, data)
        except OSError as error:
            raise JournalFull(self.path, error) from None
        self.size += written
        if written < len(data):
            self.cut_back(before)
            # Why, only a further write would tell; it is nearly always this.
            raise JournalFull(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self.look()

    def cut_back(self, size: int) -> None:
        """Take back what was appended since the file was of this size. Raises `Fenced`: it may not be ours alone."""
        self.look()
        with contextlib.suppress(OSError):  # then the next look finds it longer, and nothing is written any more
            os.ftruncate(self._fd, size)
        self.size = size

    def sync(self) -> None:
        """Make what was appended last. Raises `JournalFull`: nobody knows then what of it has reached the disk."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise JournalFull(self.path, error) from None

    def overwrite(self, position: int, data: bytes) -> None:
        """Write over what is there, without a sync. Raises `JournalFull`."""
        try:
            os.pwrite(self._fd, data, position)
        except OSError as error:  # some file systems take new room even for this
            raise JournalFull(self.path, error) from None

    def copy(self, other: "JournalFile", start: int) -> None:
        """Append what the other file has from `start` on."""
        while start < other.size:
            data = os.pread(other._fd, min(COPY_BYTES, other.size - start), start)
            if not data:
                raise Fenced(f"{other.path} was cut short by another process")
            self.append(data)
            start += len(data)

    def move(self, path: Path) -> None:
        """Let it be the one of this name, at once and as a whole. `sync_directory` makes that last."""
        self.path.replace(path)
        self.path = path

    def sync_directory(self) -> None:
        """Make the file's name last. Raises `JournalFull`."""
        try:
            fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise JournalFull(self.path, error) from None
