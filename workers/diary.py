"""The journal as the send path uses it: noted in batches off the event loop, asked before each write."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from workers.backoff import Backoff
from workers.batch import Batch
from workers.job import Job
from workers.journal import Fenced, Journal, JournalFull
from workers.lease import LeaseLost
from workers.notify import notify

RETRY_MOST_S: Final = 1.0
"""The longest wait between two tries of a disk that was full."""

Line = tuple[str, str, str]
"""ActionID, lane, entry."""

log = structlog.get_logger()


class Diary:
    """What this worker, in its epoch, notes of actions that change something."""

    def __init__(self, journal: Journal, epoch: int) -> None:
        self._journal = journal
        self._epoch = epoch
        self._notes: Batch[Line, None] = Batch("the journal", self._write)
        self.is_full = False
        """The disk takes no more: nothing that changes something is sent."""

    async def note(self, jobs: list[Job]) -> None:
        """Have these on the disk before any of them is written to Asterisk; waits while the disk is full.

        Raises `LeaseLost` if another worker has sealed the journal.
        """
        await self._notes.add_all([(job.request.action_id, job.request.lane, job.request.entry) for job in jobs])

    def written_at(self, job: Job) -> float | None:
        """When this was noted that may have been written already, whatever Redis says; None: it was not."""
        noted = self._journal.known(job.request.action_id)
        return noted.at if noted is not None and noted.written else None

    def begin_write(self, job: Job) -> bool:
        """The last word before the write. False: it may have been written already, by whomever; it must not be again.

        Does not wait. Raises `LeaseLost`, and `JournalFull`.
        """
        noted = self._journal.known(job.request.action_id)
        if noted is None or noted.written:
            return False
        try:
            self._journal.begin_write(job.request.action_id)
        except Fenced as error:
            raise LeaseLost(str(error)) from None
        return True

    def proves_unwritten(self, job: Job) -> bool:
        """Whether what a lost worker began was surely never written: this journal has all of its time, and knows that
        this action was not, or knows nothing of it."""
        if job.epoch is None or job.epoch >= self._epoch:
            return False
        noted = self._journal.known(job.request.action_id)
        return self._journal.has_all_of(job.epoch, job.marked_by) and (noted is None or not noted.written)

    def close(self) -> None:
        """Give up what waits for the disk."""
        self._notes.close()

    async def _write(self, lines: list[Line]) -> list[None]:
        backoff = Backoff(0.05, RETRY_MOST_S)
        while True:
            try:
                await asyncio.to_thread(self._journal.note, lines, self._epoch)
            except Fenced as error:
                raise LeaseLost(str(error)) from None
            except JournalFull as error:
                if not self.is_full:
                    log.error("the journal's disk is full: nothing that changes something is sent", error=str(error))
                self.is_full = True
                notify("WATCHDOG=1")  # starting anew would make no room
                await asyncio.sleep(backoff.next_s())
            else:
                if self.is_full:
                    log.info("the journal's disk has room again")
                self.is_full = False
                return [None] * len(lines)


def journal_directory(setting: str, environment: Mapping[str, str]) -> Path:
    """Where the journal is kept: as set, or where systemd or the XDG rules put state."""
    if setting:
        return Path(setting)
    if environment.get("STATE_DIRECTORY"):
        return Path(environment["STATE_DIRECTORY"].split(":")[0])
    home = environment.get("XDG_STATE_HOME") or f"{environment.get('HOME') or '/var/lib'}/.local/state"
    return Path(home) / "amibus"
