"""Which files are whole: renamed, closed, still; and which are not."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.workers.worker_process import eventually, soon
from workers.action_files import lookout as lookout_module
from workers.action_files.drop_box import DropBox, Identity
from workers.action_files.lookout import DirectoryGone, Lookout

NEVER_S = 600.0
SETTLE_S = 0.2


@pytest.fixture
def box(tmp_path: Path) -> Iterator[DropBox]:
    directory = tmp_path / "box"
    directory.mkdir()
    opened = DropBox(directory).open()
    yield opened
    opened.close()


class Finder:
    """Who hears of whole files, and takes none."""

    def __init__(self, box: DropBox, settle_s: float = SETTLE_S, look_s: float = NEVER_S) -> None:
        self.found: list[str] = []
        self.lookout = Lookout(box, settle_s, look_s, self.found.append)


@contextlib.asynccontextmanager
async def looking(finder: Finder, box: DropBox) -> AsyncIterator[None]:
    task = asyncio.create_task(finder.lookout.run())
    # It listens once it tells of a file that is renamed.
    number = 0

    async def listens() -> bool:
        nonlocal number
        number += 1
        renamed(box.path, f"first-{number}.action")
        return bool(finder.found)

    await eventually(listens)
    for path in box.path.glob("first-*"):
        path.unlink()
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def renamed(directory: Path, name: str, text: str = "Action: Ping\n") -> None:
    draft = directory.parent / "draft"
    draft.write_text(text)
    draft.rename(directory / name)


async def told(finder: Finder, name: str) -> None:
    await eventually(lambda: name in finder.found)


async def test_a_renamed_file_is_whole_at_once(box: DropBox) -> None:
    finder = Finder(box, settle_s=NEVER_S)
    async with looking(finder, box):
        renamed(box.path, "a.action")
        renamed(box.path, ".hidden.action")
        renamed(box.path, "b.txt")
        (box.path / "b.txt").rename(box.path / "b.action")
        await told(finder, "b.action")
        assert {"a.action", ".hidden.action"} & set(finder.found) == {"a.action"}


async def test_a_file_that_was_written_is_whole_once_it_is_closed_and_still(box: DropBox) -> None:
    finder = Finder(box)
    async with looking(finder, box):
        (box.path / "a.action").write_text("Action: Ping\n")
        await told(finder, "a.action")


async def test_a_file_that_is_still_open_is_not_whole_however_still_it_keeps(box: DropBox) -> None:
    finder = Finder(box, look_s=0.05)
    async with looking(finder, box):
        with (box.path / "slow.action").open("w") as slow:
            slow.write("Action: Setvar\n")
            slow.flush()
            # Begun later, and whole much earlier:
            for number in range(5):
                (box.path / f"quick-{number}.action").write_text("Action: Ping\n")
                await told(finder, f"quick-{number}.action")
            assert "slow.action" not in finder.found
            slow.write("Variable: x\n")
        await told(finder, "slow.action")


async def test_a_file_that_is_opened_and_still_empty_is_not_whole(box: DropBox) -> None:
    finder = Finder(box, look_s=0.05)
    async with looking(finder, box):
        with (box.path / "slow.action").open("w") as slow:
            for number in range(3):
                (box.path / f"quick-{number}.action").write_text("Action: Ping\n")
                await told(finder, f"quick-{number}.action")
            assert "slow.action" not in finder.found
            slow.write("Action: Ping\n")
        await told(finder, "slow.action")


async def test_a_file_that_changes_after_it_was_closed_has_not_settled(box: DropBox) -> None:
    # As by `echo >` and then `echo >>`: closed after the first, and not whole.
    finder = Finder(box)
    lookout, path = finder.lookout, box.path / "a.action"

    def look_again() -> None:
        [candidate] = lookout._candidates
        lookout._candidates.clear()
        lookout._judge([candidate], box.identities([path.name]))

    path.write_text("Action: Setvar\n")
    lookout._consider([path.name])
    for text in ("Variable: x\n", "Value: 1\n"):
        with path.open("a") as more:
            more.write(text)
        look_again()
        assert finder.found == []
    look_again()
    assert finder.found == [path.name]


@contextlib.asynccontextmanager
async def running(finder: Finder) -> AsyncIterator[None]:
    task = asyncio.create_task(finder.lookout.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_file_that_was_there_before_must_keep_still(box: DropBox) -> None:
    (box.path / "old.action").write_text("Action: Ping\n")
    (box.path / "empty.action").touch()
    finder = Finder(box)
    async with running(finder):
        await told(finder, "old.action")
    assert finder.found == ["old.action"]


async def test_what_the_kernel_does_not_tell_is_found_by_looking(box: DropBox, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(lookout_module, "Inotify", none_left)
    finder = Finder(box, look_s=0.05)
    with capture_logs() as logs:
        async with running(finder):
            await eventually(lambda: logs)
            renamed(box.path, "a.action")
            await told(finder, "a.action")
            (box.path / "b.action").write_text("Action: Ping\n")
            await told(finder, "b.action")
    assert logs[0]["event"] == "the kernel does not tell of new files: the directory is looked through"


async def test_notifications_that_were_lost_are_made_good(box: DropBox) -> None:
    # More than the kernel keeps (fs.inotify.max_queued_events), while the loop does not read.
    limit = await asyncio.to_thread(queue_length)
    finder = Finder(box)
    async with looking(finder, box):
        for number in range(limit // 2 + 100):
            (box.path / f"{number}.action").write_text("Action: Ping\n")
        await eventually(lambda: len(set(finder.found) - {"first"}) > limit // 2 + 100)


async def test_a_file_that_is_there_again_is_told_of_again(box: DropBox) -> None:
    finder = Finder(box)
    async with looking(finder, box):
        for _ in range(3):
            (box.path / "a.action").write_text("Action: Ping\n")
            await told(finder, "a.action")
            (box.path / "a.action").unlink()
            finder.found.clear()
            finder.lookout.forget("a.action")


async def test_no_more_is_remembered_than_there_is_room_for(box: DropBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout_module, "MAX_KNOWN", 10)
    for number in range(35):
        (box.path / f"{number}.action").write_text("Action: Ping\n")
    finder = Finder(box)
    async with running(finder):
        seen: set[str] = set()
        while len(seen) < 35:
            await eventually(lambda: finder.found)
            assert len(finder.lookout._known) <= 10
            for name in finder.found:
                (box.path / name).unlink()
                finder.lookout.forget(name)
            seen.update(finder.found)
            finder.found.clear()


@pytest.mark.parametrize("how", ["removed", "renamed"])
async def test_a_directory_that_goes_is_noticed(box: DropBox, how: str) -> None:
    # Of a directory in which a file is open, ours, the kernel does not tell that it was removed.
    finder = Finder(box, look_s=NEVER_S if how == "renamed" else 0.05)
    task = asyncio.create_task(finder.lookout.run())
    renamed(box.path, "a.action")
    await told(finder, "a.action")
    if how == "renamed":
        box.path.rename(box.path.with_name("elsewhere"))
    else:
        for path in box.path.iterdir():
            path.unlink()
        box.path.rmdir()
    with pytest.raises(ExceptionGroup) as caught:
        await soon(task)
    assert caught.group_contains(DirectoryGone)


async def test_once_tells_of_what_is_there_and_names_what_is_not_still(
    box: DropBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.action", "b.action", "c.action"):
        (box.path / name).write_text("Action: Ping\n")
    (box.path / "empty.action").touch()

    def later(names: Iterable[str]) -> dict[str, Identity | None]:
        os.truncate(box.path / "b.action", 3)
        (box.path / "c.action").unlink()
        return look(names)

    look = box.identities
    monkeypatch.setattr(box, "identities", later)
    finder = Finder(box)
    assert await soon(finder.lookout.once()) == ["b.action"]
    assert finder.found == ["a.action"]


def queue_length() -> int:
    """How many notifications the kernel keeps."""
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
