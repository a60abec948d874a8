"""Events on disk: in order, within bounds, never waited for; and what becomes of them where the disk fails."""

import asyncio
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from broker.errors import SettingsError
from tests.bus_side import until
from workers import spool as module
from workers.spool import DIRECTORY_PREFIX, MAX_UNWRITTEN_BYTES, Spool, SpoolLost, prepare


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """One with small chunks."""
    spool = Spool(tmp_path, 100_000, 1000)
    yield spool
    spool.close()


def files(base: Path) -> list[Path]:
    """The chunks on disk."""
    return sorted(base.glob(f"{DIRECTORY_PREFIX}*/*"))


def records(count: int) -> list[bytes]:
    chance = random.Random(1)
    return [b"%d:" % number + chance.randbytes(chance.randrange(100)) for number in range(count)]


async def written(spool: Spool) -> None:
    """Until the disk has all but the last chunk."""
    await until(lambda: all(chunk.writing is None for chunk in spool._chunks))


class Stuck:
    """A disk that does not answer: whatever is asked of it waits behind this."""

    def __init__(self, spool: Spool) -> None:
        self.goes_on = threading.Event()
        spool._thread.submit(self.goes_on.wait)


async def take_all(spool: Spool) -> list[bytes]:
    found = []
    while spool.count:
        found += await spool.take()
    return found


async def test_all_comes_back_in_order_from_disk_and_from_memory(spool: Spool, tmp_path: Path) -> None:
    given = records(500)
    assert all(spool.put(record) for record in given)
    assert spool.count == 500
    await written(spool)
    assert len(files(tmp_path)) == len(spool._chunks) - 1 > 10
    assert await take_all(spool) == given
    assert (spool.count, spool.size_bytes, spool._unwritten_bytes) == (0, 0, 0)
    await until(lambda: not list(tmp_path.iterdir()))


async def test_what_comes_while_the_last_chunk_is_read_stays_behind_it(spool: Spool) -> None:
    given = records(100)
    for record in given[:50]:
        spool.put(record)
    await written(spool)
    disk, found = Stuck(spool), []
    taking = asyncio.create_task(spool.take())
    for record in given[50:]:
        spool.put(record)
        await asyncio.sleep(0)
    disk.goes_on.set()
    found = await taking
    assert found + await take_all(spool) == given


async def test_files_are_for_nobody_else(spool: Spool, tmp_path: Path) -> None:
    for record in records(100):
        spool.put(record)
    await written(spool)
    found = files(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
    assert stat.S_IMODE(found[0].parent.stat().st_mode) == 0o700


async def test_the_space_is_bounded_and_the_last_of_it_is_for_what_is_needed(spool: Spool) -> None:
    while spool.put(b"x" * 96):
        pass
    assert 89_900 < spool.size_bytes <= 90_000
    assert not spool.is_roomy
    while spool.put(b"y" * 96, needed=True):
        pass
    assert 99_900 < spool.size_bytes <= 100_000
    while spool.size_bytes > 50_000:
        await spool.take()
    assert spool.is_roomy
    assert spool.put(b"z")


async def test_a_disk_that_is_stuck_holds_nobody_up_and_memory_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 40)
    disk = Stuck(spool)
    taken = 0
    for _ in range(3):  # also where Redis takes what the disk could not
        began = time.monotonic()
        while spool.put(b"x" * 4000):
            taken += 1
        assert time.monotonic() - began < 30, "nobody waited for the disk"
        held = sum(chunk.size_bytes for chunk in spool._chunks)
        assert spool._unwritten_bytes == held <= MAX_UNWRITTEN_BYTES
        assert not spool.is_roomy
        back = len(await take_all(spool))
        assert back == taken
        taken = 0
        await until(lambda: spool._unwritten_bytes == 0)
    disk.goes_on.set()
    await until(lambda: not list(tmp_path.iterdir()))
    spool.close()


async def test_what_is_being_written_counts_until_the_disk_has_done_with_it(spool: Spool) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    write = spool._write_file

    def slowly(number: int, data: bytearray) -> None:
        begun.set()
        goes_on.wait()
        write(number, data)

    spool._write_file = slowly  # type: ignore[method-assign]
    for record in records(30):
        spool.put(record)
    await until(begun.is_set)
    first = spool._chunks[0].size_bytes
    assert await take_all(spool) == records(30)
    assert spool._unwritten_bytes >= first
    goes_on.set()
    await until(lambda: spool._unwritten_bytes == 0)


async def test_an_error_of_the_disk_loses_nothing_that_was_taken(spool: Spool, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    given = records(200)
    taken = []
    with structlog.testing.capture_logs() as logs:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # the kernel refuses to write more into a file
        try:
            for record in given:
                if spool.put(record):
                    taken.append(record)
                if len(taken) == 100:
                    await written(spool)  # or rather not
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not spool.put(b"more")
        assert not spool.is_roomy
        assert files(tmp_path) == [], "nothing half-written stays"
    assert [(line["event"], line["log_level"]) for line in logs] == [("events cannot be spooled to disk", "error")]
    assert 0 < len(taken) < len(given)
    assert await take_all(spool) == taken
    assert spool.put(b"more"), "it tries anew once it is empty"
    assert spool._unwritten_bytes == spool.size_bytes


@pytest.mark.parametrize("damage", ["removed", "cut", "overwritten", "all gone"])
async def test_what_the_disk_does_not_give_back_is_counted(spool: Spool, tmp_path: Path, damage: str) -> None:
    for record in records(200):
        spool.put(record)
    await written(spool)
    first = files(tmp_path)[0]
    if damage == "removed":
        first.unlink()
    elif damage == "cut":
        os.truncate(first, 600)
    elif damage == "overwritten":
        first.write_bytes(b"\xff" * first.stat().st_size)
    else:
        shutil.rmtree(first.parent)
    with pytest.raises(SpoolLost) as caught:
        await spool.take()
    assert caught.value.count == 200
    assert (spool.count, spool.size_bytes, spool._unwritten_bytes) == (0, 0, 0)
    await until(lambda: not list(tmp_path.iterdir()))
    given = records(50)
    assert all(spool.put(record) for record in given)
    await written(spool)
    assert await take_all(spool) == given


async def test_the_end_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30, 1000)
    for record in records(500):
        spool.put(record)
    spool.close()
    await until(lambda: not list(tmp_path.iterdir()))


DEAD = """
import asyncio, sys
from pathlib import Path
from workers.spool import Spool
async def main():
    spool = Spool(Path(sys.argv[1]), 1 << 30, 1000)
    for number in range(100):
        spool.put(b"x" * 100)
    while any(chunk.writing for chunk in spool._chunks):
        await asyncio.sleep(0.01)
    print("spooled", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    root = Path(module.__file__).parents[1]
    command = [sys.executable, "-c", DEAD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"spooled\n"
            (tmp_path / "mine").mkdir()
            prepare(tmp_path)
            assert len(files(tmp_path)) > 5
        finally:
            process.kill()
    with structlog.testing.capture_logs() as logs:
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [line["spools"] for line in logs] == [1]


def test_the_directory_is_made(tmp_path: Path) -> None:
    base = tmp_path / "a" / "b"
    prepare(base)
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert list(base.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("file", "it is not a directory"),
        ("file/below", "Not a directory"),
        ("/proc/spool", "No such file or directory"),
        ("/proc", "No such file or directory"),
    ],
)
def test_a_directory_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError) as caught:
        prepare(tmp_path / path)
    assert str(caught.value) == f"event_spool_dir {tmp_path / path} cannot be used: {why}"
