"""The worker as a process: start up, run, shut down."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Final

import structlog

from workers.batch import until_done
from workers.clock import ServerClock
from workers.config import Settings
from workers.diary import journal_directory
from workers.journal import Journal, JournalBusy, JournalError, JournalFull
from workers.lease import Doubt, Lease, LeaseLost
from workers.legacy import Legacy
from workers.notify import notify
from workers.outage import outage
from workers.redis_check import check_redis, publish_command, server_name
from workers.redis_client import connect
from workers.spool import prepare
from workers.standby import Standby
from workers.stopping import Stopped, unless
from workers.tenure import Tenure
from workers.version import amibus_version

THREAD_SWITCH_S: Final = 0.0005
"""How long a busy event loop lets the spool's thread wait for the interpreter, after each of its system calls. With
Python's 5 ms a flood of 35,000 events a second fills what may wait for the disk; with this twice as many do not."""

log = structlog.get_logger()


async def serve(settings: Settings, stopping: asyncio.Event | None = None, *, until_drained: bool = False) -> None:
    """Start up, run, shut down. Returns when `stopping` is set; left out, it is set by SIGTERM or SIGINT, and a second
    signal ends the process at once. `until_drained`: returns also when the queue is empty, all of it is settled, and
    Asterisk is there.

    Raises `SettingsError` for what only an operator can mend.
    """
    if stopping is None:
        stopping = asyncio.Event()
        _watch_signals(stopping)
        _calm_collector()
        sys.setswitchinterval(THREAD_SWITCH_S)
    if settings.event_spool_dir:
        prepare(Path(settings.event_spool_dir))
    redis = connect(settings.redis, settings.keys)
    clock = ServerClock()
    lease, standby = Lease(redis, settings, clock), Standby(settings)
    legacy, has_served = Legacy(), False
    log.info("starting", server=settings.server, asterisk=settings.ami, worker=settings.name, version=amibus_version())
    try:
        info = await unless(stopping, check_redis(redis, settings.redis))
        log.info("redis is here", redis=server_name(info))
        notify("READY=1")
        while True:
            await unless(stopping, standby.take_over(lease, legacy.drop))
            try:
                journal = await _open_journal(settings, clock, lease, stopping, has_served=has_served)
                if journal is None:
                    await unless(stopping, asyncio.sleep(settings.lease_s))
                else:
                    with contextlib.closing(journal):
                        doubtful_before = await unless(stopping, _doubtful_before(lease, journal, clock.now()))
                        tenure = Tenure(
                            redis, settings, clock, lease, journal, publish_command(info), doubtful_before,
                            legacy.take(lease),
                        )  # fmt: skip
                        has_served = True
                        await tenure.run(stopping, until_drained=until_drained)
                        if until_drained:
                            return
            except* LeaseLost as lost:
                legacy.leave(tenure)
                if outage().is_news("fenced"):
                    log.error("fenced: another worker has taken over, or Redis was emptied", why=str(_leaf(lost)))
    except Stopped:
        if lease.is_valid:
            await lease.release()
        log.info("stopped")
    finally:
        legacy.drop()
        await redis.aclose()


async def _open_journal(
    settings: Settings, clock: ServerClock, lease: Lease, stopping: asyncio.Event, *, has_served: bool
) -> Journal | None:
    """Open and seal this host's journal for the epoch just begun. None: another process of this host has it and cannot
    be ended, or its disk is full and this worker has served before; the lease is given back."""
    directory = journal_directory(settings.journal_dir, os.environ)
    owner = settings.keys.root.rstrip(":")
    try:
        journal = await asyncio.to_thread(Journal.open, directory, owner, keep_s=2 * settings.record_s, now=clock.now)
    except JournalBusy as error:
        log.error("the journal is held by another process of this host: standing by", why=str(error))
        await lease.release()
        return None
    except BaseException:
        await lease.release()
        raise
    try:
        if journal.last_epoch >= lease.epoch:
            log.error("redis has gone back in time", epoch=lease.epoch, epoch_of_the_journal=journal.last_epoch)
            await unless(stopping, lease.overtake(journal.last_epoch))
        await asyncio.to_thread(journal.seal, lease.epoch, settings.name)
    except JournalFull as error:
        journal.close()
        await lease.release()
        if has_served:  # at the start an operator is there, who hears of it
            log.error("the journal's disk is full: standing by", why=str(error))
            return None
        raise JournalError(f"the disk of the journal in {directory} is full ({error}): make room on it") from None
    except BaseException:
        journal.close()
        raise
    return journal


async def _doubtful_before(lease: Lease, journal: Journal, now: float) -> float:
    """Entries that were added before this (unix seconds by Redis' clock) may have been sent although Redis does not say
    so; 0: none.

    So it is where another host's worker served, whose journal is not here, and Redis may have gone back in time: since
    then (it forgot an epoch, or has restarted, or another server has taken its place), or already in that one's time.
    """
    known_by = await until_done("what Redis is", lease.ask_redis)
    await until_done("what is in doubt", lease.read_doubts)
    if lease.epoch_before and (lease.redis_before not in ("", known_by) or lease.has_gone_back):
        # What Redis has forgotten, it may have forgotten of each epoch since the one that it remembers.
        lease.doubts.append(Doubt(lease.epoch_remembered or lease.epoch_before, lease.epoch_before, now))
    await until_done("what Redis is", lease.identify_redis)
    doubts = [doubt for doubt in lease.doubts if not _is_dispelled(doubt, journal)]
    if not doubts:
        return 0.0
    log.warning(
        "redis may have gone back in time while another host's worker served: what it had queued and changes something "
        "is settled as unknown", epoch_before=lease.epoch_before, before=lease.redis_before, now=known_by,
    )  # fmt: skip
    return max(doubt.before for doubt in doubts)


def _is_dispelled(doubt: Doubt, journal: Journal) -> bool:
    return all(journal.covers(epoch) for epoch in range(doubt.first, doubt.last + 1))


def _leaf(error: BaseException) -> BaseException:
    """The first error in a group of groups."""
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _calm_collector() -> None:
    # Thousands of entries wait in memory, each in a task: going through them all again and again took a third of the
    # processor time. Little of ours is cyclic.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _watch_signals(stopping: asyncio.Event) -> None:
    def stop() -> None:
        if stopping.is_set():
            log.warning("second signal: ending at once")
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
