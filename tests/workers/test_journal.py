"""The journal: what was noted stays noted, and what may have been written is never said not to have been."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from broker.errors import SettingsError
from tests.workers.journal_process import KEEP_S, JournalProcess
from tests.workers.journals import Clock, clock_of_today, flags, later_boot, note, path_of, reopen
from workers import journal as journal_module
from workers.journal import Journal, JournalError, Noted, file_name

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


@pytest.mark.parametrize("name", ["pbx-host-4711", "two words", "Zoë %", "w" * 200])
def test_it_has_all_of_a_workers_epoch_if_that_worker_has_begun_it_here(tmp_path: Path, name: str) -> None:
    with contextlib.closing(reopen(tmp_path)) as journal:
        journal.seal(3, name)
        assert journal.has_all_of(3, name)
    with contextlib.closing(reopen(tmp_path)) as journal:
        journal.seal(4)
        assert journal.has_all_of(3, name)
        assert journal.covers(4)
        for epoch, worker in ((3, "another"), (3, ""), (4, name), (4, "")):
            assert not journal.has_all_of(epoch, worker)


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


def test_one_line_that_says_written_is_enough(opened: Journal, tmp_path: Path) -> None:
    note(opened, "call-1")
    note(opened, "call-1")
    opened.close()
    path_of(tmp_path).write_bytes(path_of(tmp_path).read_bytes().replace(b"A -", b"A W", 1))
    journal = reopen(tmp_path)
    assert flags(journal, "call-1") == [True]
    journal.close()


def test_a_note_is_known_for_as_long_as_asked(opened: Journal, clock: Clock) -> None:
    note(opened, "call-1")
    clock.now_s += KEEP_S
    assert flags(opened, "call-1") == [False]
    clock.now_s += 0.001
    assert flags(opened, "call-1") == [None]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_note_that_has_expired_says_nothing_of_a_new_action_of_its_name(
    opened: Journal, tmp_path: Path, clock: Clock, restarted: bool
) -> None:
    note(opened, "nightly", entry="1-1")
    opened.begin_write("nightly")
    clock.now_s += KEEP_S + 0.001
    note(opened, "nightly", entry="2-2")
    assert flags(opened, "nightly") == [False]
    if restarted:
        opened.close()
        opened = reopen(tmp_path, clock)
        assert flags(opened, "nightly") == [False]
        opened.close()


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
        st.tuples(st.just("note"), st.lists(st.integers(0, 4), min_size=1, max_size=3)),
        st.tuples(st.just("begin"), st.integers(0, 4)),
        st.tuples(st.just("wait"), st.sampled_from([KEEP_S + 1, KEEP_S / 2])),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("boot"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=400)
@given(steps=STEPS, last=st.lists(st.integers(0, 4), max_size=3), cut=st.integers(0, 200))
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
            else:
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
