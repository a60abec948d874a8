"""The journal: what was noted stays noted, and what may have been written is never said not to have been."""

import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from broker.errors import SettingsError
from tests.workers.journal_process import KEEP_S, OWNER, JournalProcess
from workers import journal as journal_module
from workers.journal import Fenced, Journal, JournalBusy, JournalError, JournalFull, Noted, file_name
from workers.journal_file import JournalFile

GRACE_S = 0.1


class Clock:
    """Redis' clock."""

    def __init__(self) -> None:
        self.now_s = 1_764_150_000.25

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    """A journal, sealed with epoch 1."""
    journal = reopen(tmp_path, clock)
    journal.seal(1)
    yield journal
    journal.close()


def reopen(directory: Path, clock: Clock | None = None, owner: str = OWNER) -> Journal:
    return Journal.open(directory, owner, keep_s=KEEP_S, now=clock or Clock(), grace_s=GRACE_S)


def path_of(directory: Path) -> Path:
    return directory / "ami_pbx1.journal"


def note(journal: Journal, *action_ids: str, epoch: int = 1, entry: str = "1-1") -> None:
    journal.note([(action_id, "actions", entry) for action_id in action_ids], epoch)


def flags(journal: Journal, *action_ids: str) -> list[bool | None]:
    """Whether each may have been written; None: it is not known."""
    found = [journal.known(action_id) for action_id in action_ids]
    return [None if each is None else each.written for each in found]


def later_boot(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let the host have started anew."""
    boot_id = directory / f"boot-{uuid.uuid4()}"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    monkeypatch.setattr(journal_module, "BOOT_ID", boot_id)


# -- notes


def test_what_is_noted_is_known(opened: Journal, clock: Clock) -> None:
    opened.note([("call-1", "actions", "1764150000000-0"), ("call-2", "urgent", "1764150000001-7")], 1)
    opened.begin_write("call-2")
    assert opened.known("call-1") == Noted("call-1", "actions", "1764150000000-0", 1, clock.now_s, written=False)
    assert opened.known("call-2") == Noted("call-2", "urgent", "1764150000001-7", 1, clock.now_s, written=True)
    assert opened.known("call-3") is None


def test_the_file_can_be_read_by_people(opened: Journal, tmp_path: Path) -> None:
    note(opened, "call-1", "call-2")
    opened.begin_write("call-2")
    head, seal, *notes = path_of(tmp_path).read_text().splitlines()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert head == "amibus-journal 1 ami:{pbx1}"
    assert seal == f"SEAL 1 {boot} {os.getpid()}"
    assert notes == [
        "A - 1764150000.250000 1 actions 1-1 call-1",
        "A W 1764150000.250000 1 actions 1-1 call-2",
    ]


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "journal"
    reopen(directory).close()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def listed(calls: list[str], name: str) -> Callable[..., Any]:
    """The system call of this name, which lists itself."""
    function = getattr(os, name)

    def call(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    return call


def test_a_note_is_one_write_and_one_sync(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("write", "pwrite", "fdatasync", "fsync"):
        monkeypatch.setattr(os, name, listed(calls, name))
    note(opened, *[f"call-{number}" for number in range(50)])
    assert calls == ["write", "fdatasync"]
    opened.begin_write("call-7")
    assert calls == ["write", "fdatasync", "pwrite"]


def test_nothing_to_note_is_no_reason_for_a_sync(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: pytest.fail("synced"))
    opened.note([], 1)


@pytest.mark.parametrize(
    "item",
    [
        ("call 1", "actions", "1-1"),
        ("call-1\nA", "actions", "1-1"),
        ("", "actions", "1-1"),
        ("c" * 65, "actions", "1-1"),
        ("käll", "actions", "1-1"),
        ("call-1", "events", "1-1"),
        ("call-1", "actions", "1-1 2"),
        ("call-1", "actions", "-"),
    ],
)
def test_a_line_that_could_be_read_as_another_is_not_written(
    opened: Journal, tmp_path: Path, item: tuple[str, str, str]
) -> None:
    before = path_of(tmp_path).read_bytes()
    with pytest.raises(ValueError, match="cannot be noted"):
        opened.note([("call-0", "actions", "1-1"), item], 1)
    assert path_of(tmp_path).read_bytes() == before
    assert opened.known("call-0") is None


def test_what_was_not_noted_is_not_begun(opened: Journal) -> None:
    with pytest.raises(KeyError):
        opened.begin_write("call-1")


def test_noting_again_does_not_unwrite(opened: Journal, tmp_path: Path, clock: Clock) -> None:
    note(opened, "call-1", "call-2", entry="1-1")
    opened.begin_write("call-1")
    note(opened, "call-1", "call-2", entry="2-2")
    assert flags(opened, "call-1", "call-2") == [True, False]
    opened.close()
    again = reopen(tmp_path, clock)
    assert flags(again, "call-1", "call-2") == [True, False]
    assert [again.known(action_id).entry for action_id in ("call-1", "call-2")] == ["2-2", "2-2"]  # type: ignore[union-attr]
    again.close()


def test_a_note_is_known_for_as_long_as_asked(opened: Journal, clock: Clock) -> None:
    note(opened, "call-1")
    clock.now_s += KEEP_S
    assert flags(opened, "call-1") == [False]
    clock.now_s += 0.001
    assert flags(opened, "call-1") == [None]


# -- crashes


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], [None, None]),
        ([("note", 3, "call-1", "call-2")], [False, False]),
        ([("note", 3, "call-1", "call-2"), ("begin_write", "call-1")], [True, False]),
        ([("note", 3, "call-1", "call-2"), ("begin_write", "call-1"), ("begin_write", "call-2")], [True, True]),
        ([("note", 3, "call-1"), ("begin_write", "call-1"), ("note", 3, "call-2")], [True, False]),
    ],
)
def test_after_a_crash_the_flags_tell_what_may_have_been_written(
    tmp_path: Path, steps: list[tuple[object, ...]], expected: list[bool | None]
) -> None:
    with JournalProcess(tmp_path) as process:
        for step in [("seal", 3), *steps]:
            assert process.ask(*step) == "done"
        process.kill()
    journal = reopen(tmp_path, clock_of_today())
    assert journal.last_epoch == 3
    assert flags(journal, "call-1", "call-2") == expected
    journal.close()


def test_under_another_boot_the_flags_tell_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = reopen(tmp_path)
    journal.seal(1)
    note(journal, "old-1")
    journal.close()
    later_boot(monkeypatch, tmp_path)
    journal = reopen(tmp_path)
    assert flags(journal, "old-1") == [True]
    journal.seal(2)
    note(journal, "new-1", "new-2", epoch=2)
    journal.begin_write("new-2")
    journal.close()
    journal = reopen(tmp_path)
    assert flags(journal, "old-1", "new-1", "new-2") == [True, False, True]
    assert journal.last_epoch == 2
    journal.close()


def test_a_boot_that_cannot_be_told_is_another_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BOOT_ID", tmp_path / "none")
    journal = reopen(tmp_path)
    journal.seal(1)
    note(journal, "call-1")
    assert flags(journal, "call-1") == [False]
    journal.close()
    journal = reopen(tmp_path)
    assert flags(journal, "call-1") == [True]
    journal.close()


def test_notes_without_a_seal_may_have_been_written(tmp_path: Path) -> None:
    path_of(tmp_path).write_text("amibus-journal 1 ami:{pbx1}\nA - 1764150000.000000 7 actions 1-1 call-1\n")
    journal = reopen(tmp_path)
    assert flags(journal, "call-1") == [True]
    assert journal.last_epoch == 7
    journal.close()


def test_a_torn_last_line_is_cut_off(opened: Journal, tmp_path: Path) -> None:
    note(opened, "call-1", "call-2")
    opened.close()
    whole = path_of(tmp_path).read_bytes()
    path_of(tmp_path).write_bytes(whole + b"A - 1764150000.250000 1 actions 1-1 call-")
    with capture_logs() as logs:
        journal = reopen(tmp_path)
    assert [line["event"] for line in logs] == ["the journal's last line is torn: cut off"]
    assert path_of(tmp_path).read_bytes() == whole
    assert flags(journal, "call-1", "call-2", "call-") == [False, False, None]
    journal.close()


def test_damage_hides_no_good_neighbour(opened: Journal, tmp_path: Path) -> None:
    note(opened, *[f"call-{number}" for number in range(6)])
    opened.close()
    lines = path_of(tmp_path).read_bytes().splitlines(keepends=True)
    lines[3] = bytes(len(lines[3]))  # a hole, with its line's end
    lines[5] = lines[5].replace(b"actions", b"act?ons")
    path_of(tmp_path).write_bytes(b"".join(lines))
    with capture_logs() as logs:
        journal = reopen(tmp_path)
    assert [(line["event"], line["lines"]) for line in logs] == [("the journal has damaged lines: skipped", 2)]
    # The damage may have been a seal.
    assert flags(journal, *[f"call-{number}" for number in range(6)]) == [False, None, True, None, True, True]
    journal.seal(2)
    note(journal, "call-6", epoch=2)
    journal.close()
    journal = reopen(tmp_path)
    assert flags(journal, "call-0", "call-2", "call-6") == [False, True, False]
    journal.close()


def test_a_flag_that_says_nothing_is_taken_as_written(opened: Journal, tmp_path: Path) -> None:
    note(opened, "call-1")
    opened.close()
    path_of(tmp_path).write_bytes(path_of(tmp_path).read_bytes().replace(b"A - ", b"A \0 "))
    journal = reopen(tmp_path)
    assert flags(journal, "call-1") == [True]
    journal.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("note"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
        st.tuples(st.just("begin"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, KEEP_S / 2, KEEP_S + 1])),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("boot"), st.none()),
    ),
    max_size=25,
)


@given(steps=STEPS, last=st.lists(st.integers(0, 9), max_size=3), cut=st.integers(0, 200))
def test_no_crash_unwrites_or_forgets(steps: list[tuple[str, Any]], last: list[int], cut: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(journal_module, "COMPACT_BYTES", 300)
        history = History(Path(name), monkeypatch)
        for step, argument in steps:
            getattr(history, step)(argument)
            history.compare()
        history.crash_in_a_note(last, cut)
        history.compare()
        history.journal.close()


class History:
    """What was done with a journal, and so must be known of it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.monkeypatch = monkeypatch
        self.clock = Clock()
        self.epoch = 0
        self.noted: dict[str, float] = {}
        self.in_doubt: set[str] = set()
        """Begun, or noted under another boot."""
        self.expired: set[str] = set()
        """Noted and expired once: the file may still have it."""
        self.journal = self.sealed()

    def sealed(self) -> Journal:
        journal = reopen(self.directory, self.clock)
        assert journal.last_epoch == self.epoch
        self.epoch += 1
        journal.seal(self.epoch)
        return journal

    def note(self, numbers: list[int]) -> None:
        action_ids = [f"call-{number}" for number in numbers]
        note(self.journal, *action_ids, epoch=self.epoch)
        self.noted |= dict.fromkeys(action_ids, self.clock.now_s)

    def begin(self, number: int) -> None:
        if (action_id := f"call-{number}") in self.noted:
            self.journal.begin_write(action_id)
            self.in_doubt.add(action_id)

    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        gone = {action_id for action_id, at in self.noted.items() if at < self.clock.now_s - KEEP_S}
        self.noted = {action_id: at for action_id, at in self.noted.items() if action_id not in gone}
        self.in_doubt -= gone
        self.expired |= gone

    def crash(self, _: None = None) -> None:
        self.journal.close()  # writes nothing to the file
        self.journal = self.sealed()

    def boot(self, _: None) -> None:
        later_boot(self.monkeypatch, self.directory)
        self.in_doubt |= self.noted.keys()
        self.crash()

    def crash_in_a_note(self, numbers: list[int], cut: int) -> None:
        """The lines of a note that has not returned, and of those only so many bytes."""
        path = path_of(self.directory)
        known = dict(self.noted)
        self.note(numbers)
        self.journal.close()
        lines = path.read_bytes().splitlines(keepends=True)
        before = sum(len(line) for line in lines[: len(lines) - len(numbers)])
        os.truncate(path, min(before + cut, path.stat().st_size))
        whole = path.read_bytes()[before:].count(b"\n")
        self.noted = known | {f"call-{number}": self.clock.now_s for number in numbers[:whole]}
        self.journal = self.sealed()

    def compare(self) -> None:
        for number in range(10):
            action_id = f"call-{number}"
            [written] = flags(self.journal, action_id)
            if action_id not in self.noted:
                assert written is None
            elif action_id in self.in_doubt:
                assert written
            elif action_id not in self.expired:
                assert written is False


def test_cut_at_any_byte_it_knows_every_whole_line(opened: Journal, tmp_path: Path) -> None:
    note(opened, "call-1", "call-2")
    opened.begin_write("call-1")
    opened.close()
    whole = path_of(tmp_path).read_bytes()
    head = whole.index(b"\n") + 1
    for size in range(len(whole) + 1):
        path_of(tmp_path).write_bytes(whole[:size])
        if size < head:
            with pytest.raises(JournalError, match="is not a journal"):
                reopen(tmp_path)
            continue
        journal = reopen(tmp_path)
        lines = whole[:size].count(b"\n")
        assert flags(journal, "call-1", "call-2") == [True if lines > 2 else None, False if lines > 3 else None]
        journal.close()


# -- one holder


def test_a_holder_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with JournalProcess(tmp_path) as process:
        process.ask("seal", 3)
        process.ask("note", 3, "call-1")
        process.stop()
        with capture_logs() as logs:
            journal = reopen(tmp_path, clock_of_today())
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


@pytest.mark.parametrize("text", ["", "{pid}", "{pid} x", "one 2"])
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


# -- whose it is, and where


@pytest.mark.parametrize(
    ("first_line", "words"),
    [
        ("amibus-journal 1 ami:{pbx2}", ["ami:{pbx2}", "ami:{pbx1}", "AMIBUS_JOURNAL_DIR"]),
        ("amibus-journal 2 ami:{pbx1}", ["format 2", "format 1", "the version that wrote it"]),
        ("amibus", ["is not a journal", "move it"]),
        ("", ["is not a journal", "move it"]),
    ],
)
def test_a_file_of_another_is_refused(tmp_path: Path, first_line: str, words: list[str]) -> None:
    text = f"{first_line}\nA - 1764150000.000000 7 actions 1-1 call-1\n"
    path_of(tmp_path).write_text(text)
    with pytest.raises(SettingsError) as caught:
        reopen(tmp_path)
    assert isinstance(caught.value, JournalError)
    assert all(word in str(caught.value) for word in [str(path_of(tmp_path)), *words])
    assert path_of(tmp_path).read_text() == text


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/journal")):
        with pytest.raises(JournalError, match=f"{directory} cannot be used .*AMIBUS_JOURNAL_DIR"):
            reopen(directory)


def test_each_server_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert file_name("ami:{pbx1}") == "ami_pbx1.journal"
    assert file_name("a/b:{../x}") == "a_b_.._x.journal"
    with pytest.raises(ValueError, match="cannot own a journal"):
        reopen(tmp_path, owner="ami:{pbx 1}\n")
    journals = [reopen(tmp_path, owner=f"ami:{{pbx{number}}}") for number in (1, 2)]
    for journal in journals:
        journal.close()


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


def may_mount() -> bool:
    return (
        os.geteuid() == 0
        and not subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
    )


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
        subprocess.run(["umount", str(tmp_path)], check=True)


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    function = getattr(os, name)

    def fail(*_: object) -> None:
        monkeypatch.setattr(os, name, function)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, name, fail)


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
        assert on.wait(10)
        on.clear()
        do(file)

    monkeypatch.setattr(JournalFile, "sync", lambda file: slowly(sync, file))
    monkeypatch.setattr(JournalFile, "sync_directory", lambda file: slowly(sync_directory, file))
    noting = threading.Thread(target=note, args=(opened, "new"))
    noting.start()
    for number in range(3):  # the new file's sync, its directory's, the note's own: none is waited for
        assert syncing.wait(10)
        syncing.clear()
        opened.begin_write(f"kept-{number}")
        on.set()
    noting.join(10)
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


def clock_of_today() -> Clock:
    clock = Clock()
    clock.now_s = time.time()
    return clock
