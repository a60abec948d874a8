"""Events that wait for Redis on disk, when memory is full: first in, first out, never waited for by whoever puts."""

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from broker.errors import SettingsError

RESERVE: Final = 0.1
"""The part of any room that only OriginateResponse and what changes the bus's own calls may use."""

CHUNK_BYTES: Final = 1024 * 1024
"""A chunk is a file: so many bytes are gathered before the disk is asked, and read back at once."""

MAX_UNWRITTEN_BYTES: Final = 8 * CHUNK_BYTES
"""What may wait in memory for a disk that is slow. More than that is refused."""

HAND_OVER_S: Final = 0.005
"""Where much waits for the disk, the event loop stands aside for so long once per chunk (some 2,000 events): one
that is always busy would starve the thread, and events would be dropped though the disk is idle."""

PREFIX_BYTES: Final = 4
"""Before each record its length, most significant byte first."""

DIRECTORY_PREFIX: Final = "amibus-spool-"

log = structlog.get_logger()


class SpoolLost(Exception):
    """The disk does not give back what it was given. `count`: the records that were in the spool, all of them."""

    def __init__(self, why: str, count: int) -> None:
        super().__init__(why)
        self.count = count


@dataclass(slots=True, eq=False)
class _Chunk:
    """Records that are written and read together."""

    number: int
    data: bytearray | None = field(default_factory=bytearray)
    """None once it is on disk."""
    count: int = 0
    size_bytes: int = 0
    writing: "Future[None] | None" = None
    has_file: bool = False
    """It is on disk, or may be."""
    is_taken: bool = False


class Spool:
    """A queue of records on disk, of bounded size, for the life of one process.

    Files are written, read and removed by a thread of its own, so that no disk holds up the event loop. They are of use
    to this process alone: what it leaves behind is removed by the next (`prepare`).
    """

    def __init__(self, base: Path, limit_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._base = base
        self._limit_bytes = limit_bytes
        self._chunk_bytes = chunk_bytes
        self._chunks: deque[_Chunk] = deque()
        self._is_open = False
        """The last chunk takes what comes."""
        self._numbers = 0
        self._unwritten_bytes = 0
        self._has_directory = False
        """Or will have one, when the thread comes to it."""
        self._is_broken = self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "spool")
        self._directory: Path | None = None
        self._lock_fd = -1
        self.count = 0
        self.size_bytes = 0

    def put(self, record: bytes, *, needed: bool = False) -> bool:
        """Append a record, unless there is no room for it; never waits.

        `needed` may use the reserve. After an error of the disk nothing is taken until all that is here has been taken
        back.
        """
        size_bytes = PREFIX_BYTES + len(record)
        share = 1.0 if needed else 1 - RESERVE
        if (
            self._is_broken
            or self.size_bytes + size_bytes > self._limit_bytes * share
            or self._unwritten_bytes + size_bytes > MAX_UNWRITTEN_BYTES * share
        ):
            return False
        chunk = self._chunks[-1] if self._is_open else self._begin_chunk()
        assert chunk.data is not None
        chunk.data += len(record).to_bytes(PREFIX_BYTES)
        chunk.data += record
        chunk.count += 1
        chunk.size_bytes += size_bytes
        self.count += 1
        self.size_bytes += size_bytes
        self._unwritten_bytes += size_bytes
        if chunk.size_bytes >= self._chunk_bytes:
            self._write(chunk)
        return True

    @property
    def is_roomy(self) -> bool:
        """Half of the room is free: worth beginning to fill it again."""
        return not self._is_broken and (
            self.size_bytes <= self._limit_bytes / 2 and self._unwritten_bytes <= MAX_UNWRITTEN_BYTES / 2
        )

    async def take(self) -> list[bytes]:
        """Take back the oldest chunk of records. There must be one; and only one task may take.

        Raises `SpoolLost` if the disk fails: the spool is empty then.
        """
        chunk = self._chunks[0]
        try:
            records = _split(await self._data_of(chunk), chunk.count)
        except (OSError, ValueError) as error:
            count = self.count
            log.error("the spool cannot be read: its events are lost", error=str(error), lost=count)
            while self._chunks:
                self._let_go_of_first()
            raise SpoolLost(str(error), count) from error
        # Only now, in one turn of the loop with the end of this: what came meanwhile belongs behind it.
        self._let_go_of_first()
        return records

    def close(self) -> None:
        """Remove everything. Does not wait for the disk."""
        self._is_closed = True
        self._thread.submit(self._remove_directory)
        self._thread.shutdown(wait=False)

    async def _data_of(self, chunk: _Chunk) -> bytes | bytearray:
        if chunk.data is not None:
            return chunk.data
        return await asyncio.wrap_future(self._thread.submit(self._read_file, chunk.number))

    def _begin_chunk(self) -> _Chunk:
        self._numbers += 1
        self._chunks.append(_Chunk(self._numbers))
        self._is_open = True
        return self._chunks[-1]

    def _write(self, chunk: _Chunk) -> None:
        assert chunk.data is not None
        self._is_open = False
        loop = asyncio.get_running_loop()

        def tell(future: "Future[None]") -> None:
            if not self._is_closed:
                loop.call_soon_threadsafe(self._written, chunk, future)

        chunk.has_file = self._has_directory = True
        chunk.writing = self._thread.submit(self._write_file, chunk.number, chunk.data)
        chunk.writing.add_done_callback(tell)
        if self._unwritten_bytes > MAX_UNWRITTEN_BYTES / 4:
            time.sleep(HAND_OVER_S)

    def _written(self, chunk: _Chunk, future: "Future[None]") -> None:
        chunk.writing = None
        error = None if future.cancelled() else future.exception()
        if error is None or chunk.is_taken:
            chunk.data = None
            self._unwritten_bytes -= chunk.size_bytes
        elif not self._is_broken:
            # What was taken in stays: in memory, which is bounded.
            self._is_broken = True
            log.error("events cannot be spooled to disk", directory=str(self._base), error=str(error))

    def _let_go_of_first(self) -> None:
        chunk = self._chunks.popleft()
        self.count -= chunk.count
        self.size_bytes -= chunk.size_bytes
        chunk.is_taken = True
        if chunk.writing is not None:
            chunk.writing.cancel()  # or it is being written; its memory is free when that is over
        elif chunk.data is not None:
            self._unwritten_bytes -= chunk.size_bytes
        if chunk.has_file:
            self._thread.submit(self._remove_file, chunk.number)
        if not self._chunks:
            self._is_open = self._is_broken = False
            if self._has_directory:
                self._has_directory = False
                self._thread.submit(self._remove_directory)

    # -- in the thread

    def _write_file(self, number: int, data: bytearray) -> None:
        path = (self._directory or self._make_directory()) / f"{number:09}"
        try:
            _write_whole(path, data)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _read_file(self, number: int) -> bytes:
        if self._directory is None:
            raise FileNotFoundError("its directory has gone")
        return (self._directory / f"{number:09}").read_bytes()

    def _remove_file(self, number: int) -> None:
        if self._directory is not None:
            (self._directory / f"{number:09}").unlink(missing_ok=True)

    def _make_directory(self) -> Path:
        made = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX, dir=self._base))
        # Held as long as the directory is in use: so the next process knows what was left behind.
        fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self._directory, self._lock_fd = made, fd
        return made

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            os.close(self._lock_fd)
            self._directory = None


def _write_whole(path: Path, data: bytearray) -> None:
    # By bare system calls: after each one this thread has to wait until the event loop's lets it go on.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        at = os.write(fd, data)
        while at < len(data):
            at += os.write(fd, memoryview(data)[at:])
    finally:
        os.close(fd)


def prepare(base: Path) -> None:
    """Make the directory for spools, or see that it can be used; remove what dead processes left in it.

    Raises `SettingsError`.
    """
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        removed = sum([_remove_if_left_over(path) for path in base.glob(f"{DIRECTORY_PREFIX}*")])
        # The only way to know whether it takes files.
        with tempfile.TemporaryFile(dir=base):
            pass
    except FileExistsError:
        raise SettingsError(f"event_spool_dir {base} cannot be used: it is not a directory") from None
    except OSError as error:
        raise SettingsError(f"event_spool_dir {base} cannot be used: {error.strerror}") from None
    if removed:
        log.warning("events that a dead worker had spooled are lost: BusGap says since when", spools=removed)


def _remove_if_left_over(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    except BlockingIOError:
        return False  # of a process that lives: another server's worker, or one of which this is the standby
    finally:
        os.close(fd)
    return True


def _split(data: bytes | bytearray, count: int) -> list[bytes]:
    """The records of a chunk. Raises `ValueError` if it is not whole."""
    records = []
    at = 0
    while at < len(data):
        start = at + PREFIX_BYTES
        at = start + int.from_bytes(data[start - PREFIX_BYTES : start])
        records.append(bytes(data[start:at]))
    if at != len(data) or len(records) != count:
        raise ValueError("a chunk of the spool is not as it was written")
    return records
