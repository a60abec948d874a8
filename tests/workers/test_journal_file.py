"""The journal's file: a disk that takes no more, and getting shorter while it is in use."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.workers.journal_process import KEEP_S, JournalProcess
from tests.workers.journals import Clock, clock_of_today, fail_once, flags, later_boot, may_mount, note, path_of, reopen
from workers import journal as journal_module
from workers.journal import Journal, JournalFull
from workers.journal_file import JournalFile

# -- a disk that takes no more


def test_a_full_disk_notes_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    with JournalProcess(tmp_path) as process:
        process.ask("seal", 1)
        process.ask("note", 1, "call-1")
        before = path_of(tmp_path).read_bytes()
        process.ask("limit", len(before) + 70)  # one line fits, and a part of the next
        assert process.ask("note", 1, "call-2", "call-3") == "JournalFull"
        assert path_of(tmp_path).read_bytes() == before
        assert process.ask("begin_write", "call-1") == "done"
        process.ask("limit", len(before))
        assert process.ask("note", 1, "call-2") == "JournalFull"
        assert process.ask("seal", 2) == "JournalFull"
        process.ask("limit", -1)
        assert process.ask("note", 1, "call-2", "call-3") == "done"
        process.kill()
    journal = reopen(tmp_path, clock_of_today())
    assert flags(journal, "call-1", "call-2", "call-3") == [True, False, False]
    journal.close()


@pytest.mark.skipif(not may_mount(), reason="may not mount; a limit of the file's size has the same effect")
def test_a_real_disk_that_is_full(tmp_path: Path, clock: Clock) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        journal = reopen(tmp_path, clock)
        journal.seal(1)
        noted: list[str] = []
        while True:
            batch = [f"call-{len(noted) + number}" for number in range(7)]
            try:
                note(journal, *batch)
            except JournalFull as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                break
            noted += batch
        assert len(noted) > 500
        before = path_of(tmp_path).read_bytes()
        assert before.endswith(b"\n")
        assert flags(journal, batch[0], noted[-1]) == [None, False]
        journal.begin_write(noted[-1])
        subprocess.run(["mount", "-o", "remount,size=128k", str(tmp_path)], check=True)
        note(journal, *batch)
        journal.close()
        journal = reopen(tmp_path, clock)
        assert set(flags(journal, *noted[:-1], *batch)) == {False}
        assert flags(journal, noted[-1]) == [True]
        journal.close()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_after_a_failed_sync_the_file_is_made_anew(
    opened: Journal, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(opened, "call-1", "call-2")
    opened.begin_write("call-1")
    fail_once(monkeypatch, "fdatasync")
    with pytest.raises(JournalFull, match="Input/output error"):
        note(opened, "call-3")
    assert flags(opened, "call-1", "call-2", "call-3") == [True, False, None]
    assert b"call-3" not in path_of(tmp_path).read_bytes()
    # The flag never reached the disk, and the page was dropped.
    path_of(tmp_path).write_bytes(path_of(tmp_path).read_bytes().replace(b"A W", b"A -"))
    before = path_of(tmp_path).stat().st_ino
    fail_once(monkeypatch, "fdatasync")
    with pytest.raises(JournalFull):
        note(opened, "call-3")
    assert path_of(tmp_path).stat().st_ino == before
    fail_once(monkeypatch, "fsync")  # of the directory
    with pytest.raises(JournalFull):
        opened.seal(1)
    assert path_of(tmp_path).stat().st_ino != before
    note(opened, "call-3")
    opened.begin_write("call-3")
    opened.close()
    journal = reopen(tmp_path, clock)
    assert flags(journal, "call-1", "call-2", "call-3") == [True, False, True]
    journal.close()


@pytest.mark.parametrize(
    ("call", "act"),
    [("write", lambda journal: note(journal, "call-2")), ("pwrite", lambda journal: journal.begin_write("call-1"))],
)
def test_a_failed_write_is_a_full_disk(
    opened: Journal, monkeypatch: pytest.MonkeyPatch, call: str, act: Callable[[Journal], None]
) -> None:
    note(opened, "call-1")
    fail_once(monkeypatch, call)
    with pytest.raises(JournalFull, match="Input/output error"):
        act(opened)
    assert flags(opened, "call-1", "call-2") == [False, None]


# -- getting shorter


def fill(journal: Journal, name: str, epoch: int = 1) -> None:
    """About 3,500 bytes."""
    note(journal, *[f"{name}-{number}" for number in range(60)], epoch=epoch)


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 4096)


@pytest.mark.usefixtures("_short")
def test_what_has_expired_goes_and_the_rest_is_as_it_was(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = reopen(tmp_path, clock)
    journal.seal(9)
    fill(journal, "old", epoch=9)
    journal.close()
    later_boot(monkeypatch, tmp_path)  # and Redis has forgotten the epoch
    journal = reopen(tmp_path, clock)
    journal.seal(1)
    fill(journal, "older")
    clock.now_s += KEEP_S - 1
    note(journal, "doubtful")
    journal.close()
    later_boot(monkeypatch, tmp_path)
    journal = reopen(tmp_path, clock)
    journal.seal(2)
    note(journal, "kept-1", "kept-2", epoch=2)
    journal.begin_write("kept-1")
    before = path_of(tmp_path).stat()
    clock.now_s += 2
    note(journal, "new-1", "new-2", epoch=2)
    after = path_of(tmp_path).stat()
    assert after.st_ino != before.st_ino
    assert after.st_size < 700 < before.st_size
    journal.begin_write("kept-2")
    journal.begin_write("new-1")
    expected = [None, None, True, True, True, True, False]
    names = ["old-1", "older-1", "doubtful", "kept-1", "kept-2", "new-1", "new-2"]
    assert flags(journal, *names) == expected
    with pytest.raises(KeyError):
        journal.begin_write("old-1")
    journal.close()
    journal = reopen(tmp_path, clock)
    assert flags(journal, *names) == expected
    assert journal.last_epoch == 9
    assert sorted(path.suffix for path in tmp_path.glob("ami*")) == [".journal", ".lock"]
    journal.close()


@pytest.mark.usefixtures("_short")
def test_what_was_noted_twice_stays_written(tmp_path: Path, opened: Journal, clock: Clock) -> None:
    fill(opened, "old")
    fill(opened, "older")
    note(opened, "call-1")
    opened.begin_write("call-1")
    clock.now_s += KEEP_S - 1
    note(opened, "call-1")
    clock.now_s += 2
    note(opened, "new")
    opened.close()
    assert path_of(tmp_path).read_bytes().count(b" call-1\n") == 1
    journal = reopen(tmp_path, clock)
    assert flags(journal, "call-1") == [True]
    journal.close()


@pytest.mark.usefixtures("_short")
def test_a_file_that_is_mostly_of_use_stays(tmp_path: Path, opened: Journal, clock: Clock) -> None:
    fill(opened, "old")
    clock.now_s += KEEP_S
    fill(opened, "new")
    fill(opened, "newer")
    clock.now_s += 1
    before = path_of(tmp_path).stat().st_ino
    note(opened, "newest")
    assert path_of(tmp_path).stat().st_ino == before


@pytest.mark.usefixtures("_short")
def test_nothing_is_noted_in_a_file_whose_name_may_be_lost(
    opened: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(opened, "old")
    fill(opened, "older")
    clock.now_s += KEEP_S + 1
    fail_once(monkeypatch, "fsync")
    with pytest.raises(JournalFull):
        note(opened, "new-1")
    assert flags(opened, "new-1") == [None]
    note(opened, "new-1")
    opened.begin_write("new-1")


@pytest.mark.usefixtures("_short")
def test_all_may_expire_and_the_highest_epoch_stays(tmp_path: Path, clock: Clock) -> None:
    journal = reopen(tmp_path, clock)
    journal.seal(9)
    journal.seal(1)
    for _ in range(3):
        fill(journal, "old")
        fill(journal, "older")
        clock.now_s += KEEP_S + 1
        note(journal, "new")
        assert path_of(tmp_path).stat().st_size < 400
    journal.close()
    journal = reopen(tmp_path, clock)
    assert journal.last_epoch == 9
    assert flags(journal, "new") == [False]
    journal.close()


@pytest.mark.usefixtures("_short")
def test_what_cannot_be_made_shorter_grows_on(
    opened: Journal, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(opened, "old")
    fill(opened, "older")
    fill(opened, "oldest")
    clock.now_s += KEEP_S + 1
    fail_once(monkeypatch, "replace")
    with capture_logs() as logs:
        note(opened, "new-1")
        note(opened, "new-2")
    assert [line["event"] for line in logs] == ["the journal could not be made shorter: it grows on"]
    assert path_of(tmp_path).stat().st_size > 8000
    opened.begin_write("new-1")
    assert flags(opened, "new-1", "new-2", "old-1") == [True, False, None]
    fill(opened, "more")  # another so many bytes later it is tried again
    fill(opened, "still-more")
    note(opened, "new-3")
    assert path_of(tmp_path).stat().st_size < 6500
    assert flags(opened, "new-1", "new-2", "old-1") == [True, False, None]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".journal", ".lock"]


@pytest.mark.usefixtures("_short")
def test_what_is_begun_while_the_file_is_replaced_is_not_forgotten(
    opened: Journal, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(opened, "old")
    fill(opened, "older")
    clock.now_s += KEEP_S - 1
    note(opened, *[f"kept-{number}" for number in range(9)])
    clock.now_s += 2
    syncing, on = threading.Event(), threading.Event()
    sync, sync_directory = JournalFile.sync, JournalFile.sync_directory

    def slowly(do: Any, file: JournalFile) -> None:
        syncing.set()
        assert on.wait(60)
        on.clear()
        do(file)

    monkeypatch.setattr(JournalFile, "sync", lambda file: slowly(sync, file))
    monkeypatch.setattr(JournalFile, "sync_directory", lambda file: slowly(sync_directory, file))
    noting = threading.Thread(target=note, args=(opened, "new"))
    noting.start()
    for number in range(3):  # the new file's sync, its directory's, the note's own: none is waited for
        assert syncing.wait(60)
        syncing.clear()
        opened.begin_write(f"kept-{number}")
        on.set()
    noting.join(60)
    assert not noting.is_alive()
    assert path_of(tmp_path).stat().st_size < 1500
    monkeypatch.undo()
    opened.close()
    journal = reopen(tmp_path, clock)
    assert flags(journal, *[f"kept-{number}" for number in range(5)], "new") == [True] * 3 + [False] * 3
    journal.close()


def test_a_crash_at_any_system_call_leaves_it_whole(tmp_path: Path) -> None:
    outcomes = []
    for call in range(1, 100):
        directory = tmp_path / str(call)
        with JournalProcess(directory) as process:
            process.ask("compact_at", 1024)
            process.ask("seal", 7)
            process.ask("note", 7, *[f"old-{number}" for number in range(60)])
            process.ask("pass_time", KEEP_S - 1)
            process.ask("note", 7, "kept-1", "kept-2")
            process.ask("begin_write", "kept-1")
            process.ask("pass_time", 2)
            process.ask("die_at", call)
            outcomes.append(process.ask("note", 7, "new-1", "new-2"))
            process.kill()
        clock = clock_of_today()
        clock.now_s += KEEP_S + 1
        journal = reopen(directory, clock)
        assert flags(journal, "kept-1", "kept-2", "old-1") == [True, False, None]
        assert journal.last_epoch == 7
        new = flags(journal, "new-1", "new-2")
        assert new in ([False, False], [None, None])
        assert outcomes[-1] is None or new == [False, False]
        assert sorted(path.suffix for path in directory.iterdir()) == [".journal", ".lock"]
        journal.close()
        if outcomes[-1] == "done":
            break
    assert outcomes == [None] * (len(outcomes) - 1) + ["done"]
    assert len(outcomes) > 10
    assert path_of(directory).stat().st_size < 700


def test_a_large_journal(tmp_path: Path, clock: Clock) -> None:
    journal = reopen(tmp_path, clock)
    journal.seal(1)
    for batch in range(300):
        note(journal, *[f"call-{batch}-{number}" for number in range(500)])
    journal.begin_write("call-299-499")
    journal.close()
    journal = reopen(tmp_path, clock)
    assert flags(journal, "call-0-0", "call-299-498", "call-299-499", "call-300-0") == [False, False, True, None]
    clock.now_s += KEEP_S + 1
    journal.seal(2)
    note(journal, "new", epoch=2)
    assert path_of(tmp_path).stat().st_size < 1000
    journal.close()
