"""One holder of the journal: who had it before is ended, and if that cannot be, fenced."""

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.workers.journal_process import KEEP_S, OWNER, JournalProcess
from tests.workers.journals import GRACE_S, Clock, clock_of_today, flags, note, path_of, reopen
from workers.journal import Fenced, Journal, JournalBusy, JournalError
from workers.journal_lock import JournalLock


def test_a_holder_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with JournalProcess(tmp_path) as process:
        process.ask("seal", 3)
        process.ask("note", 3, "call-1")
        process.stop()
        with capture_logs() as logs:
            # Its end may take a while, too.
            journal = Journal.open(tmp_path, OWNER, keep_s=KEEP_S, now=clock_of_today(), grace_s=3)
        assert process.kill() == -signal.SIGKILL
        assert [(line["log_level"], line["pid"]) for line in logs] == [("error", process.pid)]
        assert flags(journal, "call-1") == [False]
        journal.close()


def test_a_holder_that_ends_in_time_is_not(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    ending = threading.Timer(0.05, first.close)
    ending.start()
    with capture_logs() as logs:
        Journal.open(tmp_path, OWNER, keep_s=KEEP_S, now=Clock(), grace_s=30).close()
    ending.join()
    assert not logs


def test_a_process_does_not_kill_itself(opened: Journal, tmp_path: Path) -> None:
    with pytest.raises(JournalBusy, match="this process itself"):
        reopen(tmp_path)
    note(opened, "call-1")


@pytest.mark.parametrize("text", ["", "{pid}", "{pid} x", "{pid} 0", "one 2"])
def test_a_holder_that_is_not_known_is_not_killed(tmp_path: Path, text: str) -> None:
    with JournalProcess(tmp_path) as process:
        (tmp_path / "ami_pbx1.journal.lock").write_text(text.format(pid=process.pid))
        with pytest.raises(JournalBusy, match="does not say by which process"):
            reopen(tmp_path)
        assert process.ask("seal", 1) == "done"


def test_another_process_of_the_same_number_is_not_killed(tmp_path: Path) -> None:
    with JournalProcess(tmp_path) as process:
        lock = tmp_path / "ami_pbx1.journal.lock"
        pid, started = lock.read_text().split()
        lock.write_text(f"{pid} {int(started) - 1}\n")
        with pytest.raises(JournalBusy, match="does not end"):
            reopen(tmp_path)
        assert process.ask("seal", 1) == "done"


def test_a_holder_that_may_not_be_killed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    with JournalProcess(tmp_path) as process:
        monkeypatch.setattr(os, "kill", refuse)
        with pytest.raises(JournalBusy, match=f"process {process.pid} holds"):
            reopen(tmp_path)
        monkeypatch.undo()
        assert process.ask("seal", 1) == "done"


def test_who_has_given_it_back_is_not_taken_for_its_holder(tmp_path: Path) -> None:
    reopen(tmp_path).close()
    assert not (tmp_path / "ami_pbx1.journal.lock").read_text().strip()


def test_a_failure_to_open_gives_the_lock_back(tmp_path: Path) -> None:
    path_of(tmp_path).write_text("something else\n")
    with pytest.raises(JournalError):
        reopen(tmp_path)
    path_of(tmp_path).unlink()
    reopen(tmp_path).close()


def test_a_lock_on_a_removed_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    flock = fcntl.flock

    def remove_first(fd: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock = JournalLock.take(path, GRACE_S)
    with pytest.raises(JournalBusy):
        JournalLock.take(path, GRACE_S)
    lock.release()


def unlocked(directory: Path) -> Journal:
    """A second opener, past the lock: somebody removed its file."""
    (directory / "ami_pbx1.journal.lock").unlink()
    return reopen(directory)


def test_a_seal_fences_the_holder_before(opened: Journal, tmp_path: Path) -> None:
    note(opened, "call-1", "call-2")
    opened.begin_write("call-1")
    second = unlocked(tmp_path)
    opened.begin_write("call-1")  # not sealed yet
    second.seal(2)
    after = path_of(tmp_path).read_bytes()
    with pytest.raises(Fenced):
        opened.begin_write("call-2")
    with pytest.raises(Fenced):
        note(opened, "call-3")
    with pytest.raises(Fenced):
        opened.seal(3)
    assert path_of(tmp_path).read_bytes() == after
    assert flags(second, "call-1", "call-2", "call-3") == [True, False, None]
    second.begin_write("call-2")
    second.close()


def test_a_replaced_file_fences_the_holder_before(
    opened: Journal, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(opened, "call-1")
    path_of(tmp_path).rename(tmp_path / "old")
    (tmp_path / "old").unlink()
    with pytest.raises(Fenced):
        opened.begin_write("call-1")
    with pytest.raises(Fenced):
        note(opened, "call-2")


def test_a_seal_in_the_midst_of_a_note_is_kept(
    opened: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = unlocked(tmp_path)
    write = os.write

    def late(fd: int, data: bytes) -> int:
        monkeypatch.undo()
        second.seal(2)
        return write(fd, data)

    monkeypatch.setattr(os, "write", late)
    with pytest.raises(Fenced):
        note(opened, "call-1")
    with pytest.raises(Fenced):
        opened.begin_write("call-1")
    second.close()
    third = reopen(tmp_path)
    assert third.last_epoch == 2
    third.close()


def test_an_epoch_that_is_not_sealed_notes_nothing(tmp_path: Path) -> None:
    journal = reopen(tmp_path)
    with pytest.raises(Fenced, match="epoch 0, not 1"):
        note(journal, "call-1")
    journal.seal(1)
    journal.seal(2)
    with pytest.raises(Fenced, match="epoch 2, not 1"):
        note(journal, "call-1")
    journal.close()


def test_a_closed_journal_is_fenced(opened: Journal) -> None:
    note(opened, "call-1")
    opened.close()
    opened.close()
    with pytest.raises(Fenced, match="closed"):
        opened.begin_write("call-1")
    with pytest.raises(Fenced, match="closed"):
        note(opened, "call-2")
