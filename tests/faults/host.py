"""A host on which workers live: its disk, its clock, its journal, and the nursery that starts them."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Final

from tests.faults import faketime
from tests.faults.faketime import FakeTime
from tests.faults.kill_points import Orders
from tests.faults.nursery import Life, Nursery
from tests.workers import journals
from workers.journal import file_name
from workers.journal_line import read_header, read_lines

HOSTS: Final = 2
"""In a world."""

DISK: Final = "4m"
PAGE_BYTES: Final = 4096
SEVERAL_BYTES: Final = 65_536


@cache
def may_mount() -> bool:
    """Whether a host can have a disk of its own, which can be filled."""
    return journals.may_mount()


def may_step() -> bool:
    """Whether a host can have a clock of its own, which can be stepped."""
    return bool(faketime.LIBRARIES)


def host_user(number: int) -> str:
    """The AMI user of this host's workers."""
    return f"amibus-host-{number}"


class Host:
    """Use `begin` and `end`. `is_small`: its disk is small enough to be filled; `is_stepped`: its clock can be set."""

    def __init__(self, directory: Path, number: int, *, is_small: bool, is_stepped: bool) -> None:
        self.user = host_user(number)
        self.directory = directory / f"host-{number}"
        self.is_small = is_small and may_mount()
        self.was_full = False
        """In this round."""
        self.journal_directory = self.directory
        """Of this round."""
        self._logs = directory
        self._stack = AsyncExitStack()
        self._nursery: Nursery | None = None
        self._clock: FakeTime | None = None
        self._is_stepped = is_stepped and may_step()
        self._waiting = asyncio.Lock()

    def begin(self) -> None:
        """Make the disk."""
        self.directory.mkdir()
        if self.is_small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.directory)], check=True)

    async def end(self, *, keep: bool) -> None:
        """Leave nothing of it but, if wanted, what is on the disk."""
        try:
            await self._stack.aclose()
        finally:
            self._end_disk_and_clock(keep=keep)

    def _end_disk_and_clock(self, *, keep: bool) -> None:
        if self._clock is not None:
            self._clock.forget_dead()
        if self.is_small:
            if keep:
                shutil.copytree(self.directory, self.directory.with_name(f"{self.directory.name}-kept"))
            subprocess.run(["umount", "--lazy", str(self.directory)], check=True)

    def renew(self, number: int) -> None:
        """Begin a round: an empty disk, and the right time."""
        for old in self.directory.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        self.journal_directory = self.directory / f"round-{number}"
        self.journal_directory.mkdir()
        self.was_full = False
        self.step(0)

    async def start(self, name: str, environment: dict[str, str], orders: Orders) -> Life:
        """Start a worker of that name."""
        async with self._waiting:
            if self._nursery is None:
                self._nursery = await self._stack.enter_async_context(Nursery(self._logs, **self._clock_environment()))
        return await self._nursery.start(name, environment, orders)

    def _clock_environment(self) -> dict[str, str]:
        if not self._is_stepped:
            return {}
        directory = self._logs / f"{self.directory.name}-clock"
        directory.mkdir()
        self._clock = FakeTime(directory)
        return self._clock.environment

    # -- what befalls it

    def step(self, seconds: float) -> None:
        """Set its clock so far off the right time."""
        if self._clock is not None:
            self._clock.step(seconds)

    def fill(self) -> None:
        """Leave no room on the disk. (What is left of the journal's last page the journal has.)"""
        self.was_full = True
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (SEVERAL_BYTES, PAGE_BYTES):
                try:
                    while ballast.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass

    def make_room(self) -> None:
        """And again some."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"

    # -- what it knows

    def written(self, owner: str) -> Iterator[str]:
        """The ActionIDs that the journal of this round has as written."""
        path = self.journal_directory / file_name(owner)
        data = path.read_bytes() if path.exists() else b""
        if read_header(data) is None:
            return
        for line in read_lines(data, data.index(b"\n") + 1, len(data)):
            match line:
                case str(action_id), note if note.written:
                    yield action_id
