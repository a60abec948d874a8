"""The directory: each step, and what is made good after a crash between two of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import SettingsError
from workers.action_files.drop_box import DropBox
from workers.action_files.names import LOCK, Taken

NOW = 1795533009


@pytest.fixture
def box(tmp_path: Path) -> Iterator[DropBox]:
    opened = DropBox(tmp_path).open()
    yield opened
    opened.close()


def put(box: DropBox, name: str, text: str = "x") -> Path:
    path = box.path / name
    path.write_text(text)
    return path


def names(box: DropBox) -> set[str]:
    return {path.name for path in box.path.iterdir()} - {LOCK}


def taken(box: DropBox, stem: str = "call") -> Taken:
    put(box, f"{stem}.action")
    file = Taken.now(stem, NOW)
    [outcome] = box.take([file])
    assert outcome.error is None
    return file


def test_one_process_at_a_time(box: DropBox) -> None:
    with pytest.raises(SettingsError, match="another amibus spool is at work"):
        DropBox(box.path).open()
    box.close()
    DropBox(box.path).open().close()


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(SettingsError, match=f"{name} is not a directory"):
            DropBox(tmp_path / name).open()


def test_only_plain_files_that_ask_are_seen_and_the_oldest_first(box: DropBox) -> None:
    for at, name in enumerate(("b.action", "a.action", "c.action")):
        os.utime(put(box, name), ns=(at, 10 - at))
    put(box, "call.txt")
    put(box, ".hidden.action")
    (box.path / "dir.action").mkdir()
    (box.path / "link.action").symlink_to("a.action")
    os.mkfifo(box.path / "pipe.action")
    assert [*box.actions()] == ["c.action", "a.action", "b.action"]
    assert box.identities(["dir.action", "link.action", "gone.action"]) == dict.fromkeys(
        ("dir.action", "link.action", "gone.action")
    )


def test_a_file_from_taking_to_its_answer(box: DropBox) -> None:
    put(box, "call.out", "of an earlier one")
    file = taken(box)
    assert names(box) == {file.name}
    assert box.read(file) == b"x"
    box.begin_answer(file)
    place = box.add_to_answer(file, iter(["1\n"]), 0)
    place = box.add_to_answer(file, iter(["2\n", "3\n"]), place)
    box.add_to_answer(file, iter(["b\n"]), 2)  # again, after a failure: what stood there is gone
    assert "call.out" not in names(box)
    box.flush_answer(file)
    box.finish([(file, False)])
    assert names(box) == {"call.out"}
    assert (box.path / "call.out").read_text() == "1\nb\n"


def test_a_refused_file_is_kept(box: DropBox) -> None:
    file = taken(box)
    box.begin_answer(file)
    box.finish([(file, True)])
    assert names(box) == {"call.error", "call.refused"}
    again = taken(box)
    assert names(box) == {again.name}


def test_one_that_cannot_be_taken_spoils_no_other(box: DropBox) -> None:
    put(box, "b.action")
    long = "l" * 248
    put(box, f"{long}.action")
    outcomes = box.take([Taken.now(stem, NOW) for stem in ("gone", long, "b")])
    assert [type(each.error) for each in outcomes] == [FileNotFoundError, OSError, type(None)]


def test_a_pipe_in_the_place_of_a_taken_file_holds_nobody_up(box: DropBox) -> None:
    file = taken(box)
    (box.path / file.name).unlink()
    os.mkfifo(box.path / file.name)
    with pytest.raises(OSError, match="not a plain file"):
        box.read(file)
    (box.path / file.name).unlink()
    (box.path / file.name).symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic"):
        box.read(file)


def test_nobody_else_chooses_where_an_answer_goes(box: DropBox, tmp_path: Path) -> None:
    file = taken(box)
    other = put(box, "precious")
    (box.path / file.draft).symlink_to(other)
    box.begin_answer(file)
    box.add_to_answer(file, iter(["answer\n"]), 0)
    box.finish([(file, False)])
    assert other.read_text() == "x"
    assert not (box.path / "call.out").is_symlink()


def test_recovery_returns_what_is_under_way_the_oldest_first(box: DropBox) -> None:
    later, earlier = Taken("a", NOW + 1, "b" * 10), Taken("b", NOW, "a" * 10)
    for file in (later, earlier):
        put(box, file.name)
        put(box, file.draft)
    put(box, "new.action")
    put(box, ".somebody.else.draft")
    assert box.recover() == [earlier, later]
    assert names(box) == {later.name, earlier.name, "new.action", ".somebody.else.draft"}


def test_recovery_ends_what_was_answered(box: DropBox) -> None:
    for stem, kind in (("good", "out"), ("bad", "error")):
        put(box, taken(box, stem).name)
        put(box, f"{stem}.{kind}")
    assert box.recover() == []
    assert names(box) == {"good.out", "bad.error", "bad.refused"}


def test_an_answer_beside_a_taken_file_is_its_own(box: DropBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is off the disk before the file is renamed."""
    put(box, "call.out", "old")
    put(box, "call.action")
    synced: list[set[str]] = []
    monkeypatch.setattr(box, "_sync", lambda: synced.append(names(box)))
    file = Taken.now("call", NOW)
    box.take([file])
    assert synced == [{"call.action"}, {file.name}]


def test_a_taken_file_goes_when_its_answer_is_on_disk(box: DropBox, monkeypatch: pytest.MonkeyPatch) -> None:
    file = taken(box)
    box.begin_answer(file)
    synced: list[set[str]] = []
    monkeypatch.setattr(box, "_sync", lambda: synced.append(names(box)))
    box.finish([(file, False)])
    assert synced == [{file.name, "call.out"}]
    assert names(box) == {"call.out"}
