"""Journals to test with."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.journal_process import KEEP_S, OWNER
from workers import journal as journal_module
from workers.journal import Journal

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


def clock_of_today() -> Clock:
    clock = Clock()
    clock.now_s = time.time()
    return clock


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    function = getattr(os, name)

    def fail(*_: object) -> None:
        monkeypatch.setattr(os, name, function)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, name, fail)


def may_mount() -> bool:
    """Whether a small disk can be made for a test."""
    return (
        os.geteuid() == 0
        and not subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
    )
