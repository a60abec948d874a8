"""The journal on the Asterisk host: each action that changes something is noted here before it is written to Asterisk.

Redis may go back in time: a failover to a replica that lagged, FLUSHALL, a restored snapshot. What is noted here is
known to have been sent, or to have been about to be, whatever Redis says. A note is on the disk before the first of
its actions is written; right before each single write the action's flag is set, without a sync, so that after a crash
of the process alone (same boot) it is known which of them may have been written, and that the others were not.
"""

import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from broker.errors import SettingsError
from workers.journal_file import Fenced, JournalFile, JournalFull
from workers.journal_line import (
    FLAG,
    FORMAT,
    UNKNOWN_BOOT,
    WRITTEN,
    Damage,
    Note,
    Seal,
    header,
    note_line,
    read_header,
    read_lines,
    seal_line,
    worker_word,
)
from workers.journal_lock import JournalBusy, JournalLock

__all__ = ["Fenced", "Journal", "JournalBusy", "JournalError", "JournalFull", "Noted"]

COMPACT_BYTES: Final = 1 << 20
"""A file of less is not replaced by a shorter one, however much of it has expired."""

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger()


class JournalError(SettingsError):
    """It belongs to another server, is of another format, or its directory cannot be used."""


@dataclass(frozen=True, slots=True)
class Noted:
    """One noted action. `at` is unix seconds by Redis' clock; `written`: its bytes may have reached Asterisk."""

    action_id: str
    lane: str
    entry: str
    epoch: int
    at: float
    written: bool


class Journal:
    """Blocking, for one caller at a time in any thread; `known` and `begin_write` may be called meanwhile."""

    def __init__(
        self, file: JournalFile, lock: JournalLock, owner: str, keep_s: float, now: Callable[[], float]
    ) -> None:
        self._file = file
        self._lock = lock
        self._owner = owner
        self._keep_s = keep_s
        self._now = now
        self._boot = _boot_id()
        self._epoch = 0
        self._closed = False
        self._turn = threading.Lock()
        """Held by the one caller, also while the disk syncs."""
        self._instant = threading.Lock()
        """Held while the file is touched, never while the disk syncs: the event loop waits for it."""
        self._shift = 0
        """What has been cut off the front: an offset less this is the position in the file of today."""
        self._notes: dict[str, Note] = {}
        self._seals: list[Seal] = []
        self._batches: deque[tuple[float, int]] = deque()
        """What was noted when, from which offset on, without what has expired."""
        self._begun: list[int] | None = None
        """The offsets of what was begun while a new file is being made."""
        self._compact_at = COMPACT_BYTES
        self._must_replace = False
        """A sync has failed: nobody knows what of this file is on the disk. A new one is made before all else."""
        self._damaged = False
        self.last_epoch = 0
        """The highest epoch ever sealed here; 0: none."""
        self._load()

    @classmethod
    def open(
        cls, directory: Path, owner: str, *, keep_s: float, now: Callable[[], float], grace_s: float = 1.0
    ) -> "Journal":
        """Open the journal of e.g. `ami:{pbx1}`. A process that holds it longer than `grace_s` is killed.

        Raises `JournalError` and `JournalBusy`.
        """
        path = directory / file_name(owner)
        try:
            with ExitStack() as undo:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = JournalLock.take(path.with_name(f"{path.name}.lock"), grace_s)
                undo.callback(lock.release)
                file = _open_file(path, owner)
                undo.callback(file.close)
                journal = cls(file, lock, owner, keep_s, now)
                undo.pop_all()
                return journal
        except (OSError, JournalFull) as error:
            raise JournalError(
                f"the journal's directory {directory} cannot be used ({error}): set AMIBUS_JOURNAL_DIR "
                "to one on a local disk with room, where this user may write"
            ) from None

    def close(self) -> None:
        """Release the lock, as soon as the call that is under way has ended."""
        with self._turn, self._instant:
            if not self._closed:
                self._closed = True
                self._file.close()
                self._lock.release()

    def known(self, action_id: str) -> Noted | None:
        """The newest note of this ActionID that is not older than `keep_s`."""
        note = self._notes.get(action_id)
        if note is None or note.at < self._now() - self._keep_s:
            return None
        return Noted(action_id, note.lane, note.entry, note.epoch, note.at, note.written)

    def covers(self, epoch: int) -> bool:
        """Whether an epoch of this number was begun here, and all that was noted in it is here."""
        return any(seal.epoch == epoch for seal in self._seals) and not self._damaged

    def has_all_of(self, epoch: int, worker: str) -> bool:
        """Whether all that this worker noted in this epoch is here, so that what is not it never wrote to Asterisk."""
        word = worker_word(worker)
        return bool(word) and any(
            (seal.epoch, seal.worker) == (epoch, word) for seal in self._seals if not self._damaged
        )

    def seal(self, epoch: int, worker: str = "") -> None:
        """Begin an epoch of this worker: whoever held this journal before writes nothing from now on. Raises
        `JournalFull` and `Fenced`."""
        with self._turn:
            if self._must_replace:
                self._make_room()
            pid, word = os.getpid(), worker_word(worker)
            offset = self._append(seal_line(epoch, self._boot, pid, word))
            self._seals.append(Seal(offset, epoch, self._boot, pid, word))
            self._epoch = epoch
            self.last_epoch = max(self.last_epoch, epoch)

    def note(self, items: Sequence[tuple[str, str, str]], epoch: int) -> None:
        """Note actions, each as (ActionID, lane, entry), with one write and one sync. Once it has returned they may
        be written.

        Raises `JournalFull`, with nothing noted, and `Fenced`, also for an epoch other than the one sealed.
        """
        with self._turn:
            if epoch != self._epoch:
                raise Fenced(f"the journal is sealed with epoch {self._epoch}, not {epoch}")
            if not items:
                return
            self._make_room()
            at = round(self._now(), 6)  # as its line has it
            # Noting an action again does not unwrite it.
            lines = [note_line(*item, epoch=epoch, at=at, written=self._was_written(item[0], at)) for item in items]
            offset = self._append(b"".join(lines))
            self._batches.append((at, offset))
            with self._instant:
                for (action_id, lane, entry), line in zip(items, lines, strict=True):
                    self._notes[action_id] = Note(offset, at, epoch, lane, entry, self._was_written(action_id, at))
                    offset += len(line)

    def begin_write(self, action_id: str) -> None:
        """The last look before a noted action is written to Asterisk: from here on it may have been.

        Does not wait for the disk. Raises `Fenced`, `JournalFull` where the file system wants room even for this, and
        KeyError for what was not noted.
        """
        with self._instant:
            self._look()
            note = self._notes[action_id]
            self._file.overwrite(note.offset - self._shift + FLAG, WRITTEN)
            note.written = True
            if self._begun is not None:
                self._begun.append(note.offset)

    def _was_written(self, action_id: str, at: float) -> bool:
        """Whether the newest note of this ActionID said so, and had not expired by then."""
        note = self._notes.get(action_id)
        return note is not None and note.written and note.at >= at - self._keep_s

    def _look(self) -> None:
        if self._closed:
            raise Fenced("the journal is closed")
        self._file.look()

    def _append(self, data: bytes) -> int:
        """Append and sync; returns where. Raises `JournalFull`, with nothing appended, and `Fenced`."""
        with self._instant:
            self._look()
            before = self._file.size
            self._file.append(data)
        try:
            self._file.sync()
        except JournalFull:
            self._must_replace = True
            with self._instant:
                self._file.cut_back(before)
            raise
        return before + self._shift

    # -- reading it

    def _load(self) -> None:
        data = self._file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            log.warning("the journal's last line is torn: cut off", file=str(self._file.path), bytes=len(data) - end)
            self._file.cut_back(end)
        boot, damaged = UNKNOWN_BOOT, 0
        for line in read_lines(data, len(header(self._owner)), end):
            match line:
                case Seal():
                    self._seals.append(line)
                    boot = line.boot
                    self.last_epoch = max(self.last_epoch, line.epoch)
                case Damage():
                    # It may have been a seal: up to the next, no flag is believed.
                    self._seals.append(Seal(line.offset, 0, UNKNOWN_BOOT, 0))
                    boot = UNKNOWN_BOOT
                    damaged += line.lines
                case action_id, note:
                    note.written = note.written or boot != self._boot or self._was_written(action_id, note.at)
                    self._notes[action_id] = note
                    self.last_epoch = max(self.last_epoch, note.epoch)
                    if not self._batches or self._batches[-1][0] != note.at:
                        self._batches.append((note.at, note.offset))
        self._damaged = damaged > 0
        if damaged:
            log.error("the journal has damaged lines: skipped", file=str(self._file.path), lines=damaged)

    # -- shortening it

    def _make_room(self) -> None:
        """Replace the file by a shorter one, if that is worth it."""
        expired = self._now() - self._keep_s
        while self._batches and self._batches[0][0] < expired:
            self._batches.popleft()
        size = self._file.size
        cut = self._batches[0][1] - self._shift if self._batches else size
        if not self._must_replace and (size <= self._compact_at or cut * 2 <= size):
            return
        try:
            self._replace(cut)
        except JournalFull as error:
            if self._must_replace:
                raise
            log.warning("the journal could not be made shorter: it grows on", error=str(error), bytes=size)
            self._compact_at = size + COMPACT_BYTES
        else:
            self._compact_at = COMPACT_BYTES

    def _replace(self, cut: int) -> None:
        """Make a new file of what follows this position, and put it in the old one's place as a whole."""
        first = cut + self._shift
        front, seals = self._front(first)
        shift = first - len(front)
        kept = {action_id: note for action_id, note in self._notes.items() if note.offset >= first}
        path = self._file.path
        with self._instant:
            self._look()
            self._begun = []
        try:
            with JournalFile.making(path) as new:
                new.append(front)
                new.copy(self._file, cut)
                if self._must_replace:  # of the old file's flags some may be lost
                    _set_flags(new, shift, [note.offset for note in kept.values() if note.written])
                new.sync()
                with self._instant:
                    self._look()
                    _set_flags(new, shift, [offset for offset in self._begun if offset >= first])
                    new.move(path)
                    old, self._file = self._file, new
                    self._shift, self._notes, self._seals = shift, kept, seals
        finally:
            self._begun = None
        old.close()
        self._must_replace = True  # until its name is on the disk, too
        new.sync_directory()
        self._must_replace = False

    def _front(self, first: int) -> tuple[bytes, list[Seal]]:
        """What a file that begins at this offset has before it, and the seals of that file."""
        inside = [seal for seal in self._seals if seal.offset >= first]
        in_force = [seal for seal in self._seals if seal.offset < first][-1:]
        lines = [header(self._owner)]
        if all(seal.epoch != self.last_epoch for seal in (*in_force, *inside)):
            lines.append(seal_line(self.last_epoch, UNKNOWN_BOOT, 0))
        lines += [seal_line(seal.epoch, seal.boot, seal.pid, seal.worker) for seal in in_force]
        return b"".join(lines), in_force + inside


def file_name(owner: str) -> str:
    """Such as `ami_pbx1.journal` of `ami:{pbx1}`."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', owner).strip('_')}.journal"


def _set_flags(file: JournalFile, shift: int, offsets: Sequence[int]) -> None:
    for offset in offsets:
        file.overwrite(offset - shift + FLAG, WRITTEN)


def _open_file(path: Path, owner: str) -> JournalFile:
    JournalFile.remove_unfinished(path)
    file = JournalFile(path) if path.exists() else _make_file(path, owner)
    try:
        _check_header(file, owner)
        file.sync_directory()
    except BaseException:
        file.close()
        raise
    return file


def _make_file(path: Path, owner: str) -> JournalFile:
    with JournalFile.making(path) as file:
        file.append(header(owner))
        file.sync()
        file.move(path)
    return file


def _check_header(file: JournalFile, owner: str) -> None:
    match read_header(file.read()):
        case None:
            raise JournalError(f"{file.path} is not a journal of amibus: move it out of the way")
        case found, _ if found != FORMAT:
            raise JournalError(
                f"the journal {file.path} is of format {found}, and this version of amibus knows format {FORMAT}: "
                "use the version that wrote it, or move it out of the way when none of its actions can come again"
            )
        case _, other if other != owner:
            raise JournalError(
                f"the journal {file.path} belongs to {other}, not to {owner}: give each a directory of its own "
                "(AMIBUS_JOURNAL_DIR)"
            )


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"unreadable-{secrets.token_hex(8)}"  # equal to no other, so that no flag is believed
