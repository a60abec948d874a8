"""The journal's disk, full and full of room again, and a journal that cannot be the worker's: what it is asked to do is
never lost, never done twice, and an operator is told."""

import resource
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from broker.keys import URGENT
from tests.servers import RedisServer
from tests.workers.journals import may_mount
from tests.workers.worker_process import SERVER, USERS, Desk, WorkerProcess, eventually, make_settings
from workers.config import Settings
from workers.journal import Journal, file_name
from workers.simulated import SimulatedAsterisk

FULL = "the journal's disk is full: nothing that changes something is sent"
ROOM = "the journal's disk has room again"
LOST = "fenced: another worker has taken over, or Redis was emptied"
IDS = [f"v{number}" for number in range(20)]
OWNER = f"ami:{{{SERVER}}}"


class Disk(Protocol):
    """Where the journal is."""

    directory: Path

    def fill(self, pid: int) -> None:
        """Leave no room on it for this process."""

    def make_room(self, pid: int) -> None:
        """And again some."""


class SmallDisk:
    """A small tmpfs, which another's file fills."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)], check=True)

    def fill(self, _pid: int = 0) -> None:
        # Another's file takes all that is left; and what is left of the journal's last page the journal has.
        with (self.directory / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                return

    def make_room(self, _pid: int = 0) -> None:
        (self.directory / "ballast").unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.directory)], check=True)


class LimitedSize:
    """A limit of the file's size, which has the same effect and is allowed everywhere."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.journal.stat().st_size, resource.RLIM_INFINITY))

    def make_room(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @property
    def journal(self) -> Path:
        return self.directory / file_name(OWNER)


MAY_MOUNT = pytest.mark.skipif(not may_mount(), reason="may not mount; a limit of the file's size has the same effect")


@pytest.fixture(params=["limit", pytest.param("tmpfs", marks=MAY_MOUNT)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    if request.param == "limit":
        yield LimitedSize(directory)
        return
    small = SmallDisk(directory)
    yield small
    small.unmount()


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=13) as simulated:
        yield simulated


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[tuple[WorkerProcess, Desk]]:
    async with WorkerProcess(settings) as worker, Desk(settings.redis) as desk:
        await worker.connected()
        yield worker, desk


async def setvar(desk: Desk, *action_ids: str, **headers: Any) -> None:
    for action_id in action_ids:
        await desk.add("Setvar", action_id, Variable="x", Value=action_id, **headers)


async def all_end(desk: Desk, state: str, *action_ids: str) -> None:
    for action_id in action_ids:
        record = await desk.settled(action_id)
        assert record["state"] == state, record


async def is_in_state(desk: Desk, state: str) -> bool:
    return (await desk.heartbeat()).get("state") == state


async def beats_on(desk: Desk, before: str) -> bool:
    return (await desk.heartbeat()).get("heartbeat_at", "") > before


def written_of(asterisk: SimulatedAsterisk, *action_ids: str) -> list[str]:
    return [each.action_id for each in asterisk.written if each.action_id in action_ids]


async def filled(disk: Disk, worker: WorkerProcess, desk: Desk) -> None:
    """Fill it, and use up the little room that is left behind the journal's last line."""
    disk.fill(worker.pid)
    number = 0
    while not worker.lines(FULL):
        await setvar(desk, f"filler-{number}")
        number += 1
        await eventually(lambda: worker.lines(FULL) or is_settled(desk, f"filler-{number - 1}"))  # noqa: B023


async def is_settled(desk: Desk, action_id: str) -> bool:
    return "settled_at" in await desk.record(action_id)


# -- full while it runs


async def test_a_disk_that_is_full_for_a_while(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, disk: Disk, record_property: Callable[[str, object], None]
) -> None:
    settings = make_settings(own_redis.url, asterisk, journal_dir=str(disk.directory), allow=("Command",))
    async with working(settings) as (worker, desk):
        await setvar(desk, "before")
        await all_end(desk, "done", "before")
        await filled(disk, worker, desk)
        held = len(asterisk.written)
        await setvar(desk, *IDS)
        await setvar(desk, "urgent", lane=URGENT)
        await desk.originate("call")
        await setvar(desk, "late-0", "late-1", Bus_Deadline="+1")
        for number in range(20):
            await desk.add("Ping", f"read-{number}")
        await all_end(desk, "done", *[f"read-{number}" for number in range(20)])
        await eventually(lambda: is_in_state(desk, "paused"))
        await all_end(desk, "expired", "late-0", "late-1")
        began = time.monotonic()
        beat = await eventually(desk.heartbeat)
        assert beat["why"] == "the journal's disk is full: nothing that changes something is sent"
        await eventually(lambda: time.monotonic() - began > 2.5)
        await eventually(lambda: beats_on(desk, beat["heartbeat_at"]))
        assert len(worker.lines(FULL)) == 1
        assert worker.lines(FULL)[0]["level"] == "error"
        assert {each.action for each in asterisk.written[held:]} <= {"Ping"}
        disk.make_room(worker.pid)
        freed = time.monotonic()
        await all_end(desk, "done", *IDS, "urgent", "call")
        record_property("all_done_after_s", round(time.monotonic() - freed, 2))
        await eventually(lambda: is_in_state(desk, "connected"))
        assert written_of(asterisk, *IDS) == IDS
        assert not written_of(asterisk, "late-0", "late-1")
        await worker.said(ROOM)
        assert len(worker.lines(ROOM)) == 1
        assert (await desk.heartbeat())["unknown"] == "0"
        await nothing_twice_nothing_left(desk, asterisk)


async def test_a_worker_that_is_fenced_while_the_disk_is_full_stands_by_until_there_is_room(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, disk: Disk
) -> None:
    settings = make_settings(own_redis.url, asterisk, journal_dir=str(disk.directory), allow=("Command",))
    async with working(settings) as (worker, desk):
        await filled(disk, worker, desk)
        await desk.redis.flushall()
        await setvar(desk, "after")
        await worker.said("the journal's disk is full: standing by")
        disk.make_room(worker.pid)
        await all_end(desk, "done", "after")
        assert written_of(asterisk, "after") == ["after"]


async def test_what_holds_the_turn_while_the_disk_is_full_expires_too(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, disk: Disk
) -> None:
    """It is marked as `sending`, and yet it was not sent: that it waited for the disk makes nothing unknown."""
    settings = make_settings(own_redis.url, asterisk, journal_dir=str(disk.directory))
    async with working(settings) as (worker, desk):
        disk.fill(worker.pid)
        ids: list[str] = []
        while not worker.lines(FULL):
            ids.append(f"d{len(ids)}")
            await setvar(desk, ids[-1], Bus_Deadline="+2")
            await eventually(lambda: worker.lines(FULL) or is_settled(desk, ids[-1]))
        assert (await desk.record(ids[-1]))["state"] == "sending"
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > 2.2)
        disk.make_room(worker.pid)
        record = await desk.settled(ids[-1])
        assert (record["state"], record["error_code"]) == ("expired", "expired")
        assert not asterisk.writes(ids[-1])
        await setvar(desk, "after")
        await all_end(desk, "done", "after")
        await nothing_twice_nothing_left(desk, asterisk)


async def test_a_worker_that_is_killed_while_the_disk_is_full(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, disk: Disk
) -> None:
    """The next does not start while there is no room, says why, and does all of it when there is."""
    settings = make_settings(own_redis.url, asterisk, journal_dir=str(disk.directory), name="one")
    async with working(settings) as (worker, desk):
        await filled(disk, worker, desk)
        await setvar(desk, *IDS)
        await eventually(lambda: is_in_state(desk, "paused"))
        await worker.kill()
        if isinstance(disk, SmallDisk):
            async with WorkerProcess(
                make_settings(own_redis.url, asterisk, journal_dir=str(disk.directory))
            ) as next_one:
                assert await next_one.ended() == 78
                assert "is full" in next_one.text.strip().splitlines()[-1]
            disk.make_room(0)
        assert not written_of(asterisk, *IDS)
        settings = make_settings(own_redis.url, asterisk, journal_dir=str(disk.directory), name="two")
        async with working(settings):
            await all_end(desk, "done", *IDS)
            assert written_of(asterisk, *IDS) == IDS
            await nothing_twice_nothing_left(desk, asterisk)


async def nothing_twice_nothing_left(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    counts = Counter(each.action_id for each in asterisk.written if each.action in ("Setvar", "Originate"))
    assert set(counts.values()) == {1}, counts
    await eventually(desk.backlog_is_empty)
    assert await desk.pending() == 0


# -- a journal that cannot be its own


class LimitedFromTheStart(WorkerProcess):
    """No file of it may become longer than so many bytes."""

    def __init__(self, settings: Settings, size: int) -> None:
        super().__init__(settings)
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
        self.command = ("-c", f"import resource; {limit}; from workers.cli import main; main(['worker'])")


async def refuses(worker: WorkerProcess, *words: str) -> None:
    """It ends with the exit code for what only an operator can mend, and one sentence."""
    async with worker:
        assert await worker.ended() == 78, worker.text
        sentence = worker.text.strip().splitlines()[-1]
        assert sentence.startswith("amibus: ")
        assert "Traceback" not in worker.text
        for word in words:
            assert word in sentence
    async with Desk(worker.settings.redis) as desk:
        assert not await desk.redis.exists(desk.keys.lease), "whoever mends it need not wait"


def make_journal(directory: Path, owner: str = OWNER) -> None:
    journal = Journal.open(directory, owner, keep_s=7200, now=time.time)
    journal.seal(1)
    journal.close()


@pytest.fixture
def settings(redis_url: str, asterisk: SimulatedAsterisk, tmp_path: Path) -> Settings:
    return make_settings(redis_url, asterisk, journal_dir=str(tmp_path / "journal"))


ONE_KIND = pytest.mark.parametrize("redis_server", ["redis"], indirect=True)
"""It is the process that is tested: one kind of server will do."""


@ONE_KIND
async def test_the_journal_of_another_server(settings: Settings) -> None:
    directory = Path(settings.journal_dir)
    make_journal(directory, "ami:{pbx2}")
    (directory / file_name("ami:{pbx2}")).rename(directory / file_name(OWNER))
    await refuses(WorkerProcess(settings), "belongs to ami:{pbx2}, not to ami:{pbx1}", "AMIBUS_JOURNAL_DIR")


@ONE_KIND
async def test_a_file_that_is_no_journal(settings: Settings) -> None:
    make_journal(Path(settings.journal_dir))
    Path(settings.journal_dir, file_name(OWNER)).write_text("dear diary\n")  # noqa: ASYNC240
    await refuses(WorkerProcess(settings), "is not a journal of amibus: move it out of the way")


@ONE_KIND
@pytest.mark.parametrize("directory", ["/dev/null", "/proc/amibus"])
async def test_a_directory_that_cannot_be_used(redis_url: str, asterisk: SimulatedAsterisk, directory: str) -> None:
    settings = make_settings(redis_url, asterisk, journal_dir=directory)
    await refuses(WorkerProcess(settings), f"directory {directory} cannot be used", "AMIBUS_JOURNAL_DIR")


@ONE_KIND
@pytest.mark.parametrize("is_new", [True, False])
async def test_a_disk_that_is_full_at_the_start(settings: Settings, is_new: bool) -> None:
    directory = Path(settings.journal_dir)
    size = 10
    if not is_new:
        make_journal(directory)
        size = (directory / file_name(OWNER)).stat().st_size
    await refuses(LimitedFromTheStart(settings, size), "cannot be used" if is_new else "is full", str(directory))


# -- another hand at it


async def test_a_journal_that_is_deleted_under_the_worker(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, tmp_path: Path
) -> None:
    """What was under way is unknown, what was not is done; an operator is told."""
    settings = make_settings(own_redis.url, asterisk, journal_dir=str(tmp_path))
    async with working(settings) as (worker, desk):
        await setvar(desk, "before")
        await all_end(desk, "done", "before")
        asterisk.faults.hold_response("under-way")
        await setvar(desk, "under-way")
        await eventually(lambda: asterisk.writes("under-way"))
        (tmp_path / file_name(OWNER)).unlink()
        await setvar(desk, *IDS)
        await setvar(desk, "urgent", lane=URGENT)
        await desk.add("Ping", "read")
        await all_end(desk, "done", "read", *IDS)
        # It was marked, and the notes that would prove that it was not written are gone.
        await all_end(desk, "unknown", "under-way", "urgent")
        line = await worker.said(LOST)
        assert line["level"] == "error"
        assert "was written or replaced by another process" in line["why"]
        assert not asterisk.writes("urgent")
        assert written_of(asterisk, *IDS) == IDS
        assert (tmp_path / file_name(OWNER)).exists()
        await setvar(desk, "before")  # a producer that retries
        await setvar(desk, "after")
        await all_end(desk, "done", "after")
        await nothing_twice_nothing_left(desk, asterisk)
        assert len(worker.lines(LOST)) == 1
