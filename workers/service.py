"""The worker as a process: start up, run, shut down."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Coroutine
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import Redis

from broker.ami import Action, Exchange, spec_of
from broker.entry import entry_time
from broker.keys import LANES, servers_key
from workers.action_worker import ActionWorker
from workers.batch import tolerated, until_done
from workers.calls import Calls
from workers.clock import ServerClock
from workers.config import Settings
from workers.connection import AnswerTimeout, ConnectionLost
from workers.event_pump import EventPump
from workers.lease import Lease, LeaseLost
from workers.notify import notify
from workers.outage import outage
from workers.rates import Rates
from workers.reader import Reader
from workers.recovery import Recovery
from workers.redis_check import check_redis, publish_command, server_name
from workers.redis_client import connect
from workers.schedule import CALLS, CHANGES, READS, WINDOWS, Schedule
from workers.sessions import EVENTS, Sessions

MISSED_PERIOD_S: Final = 5.0
"""How often the pending list is compared with what is held in memory."""

RESUME_RETRY_S: Final = 0.2
"""How soon Asterisk is asked anew what it is, if a session was lost in the middle of it."""

STUCK_S: Final = 30.0
"""Without any progress for so long while Redis answers, the service manager is to start the worker anew."""

Result = TypeVar("Result")

log = structlog.get_logger()


def amibus_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("amibus")
    except PackageNotFoundError:
        return "unknown"


async def serve(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Start up, run, shut down. Returns when `stopping` is set; left out, it is set by SIGTERM or SIGINT, and a second
    signal ends the process at once.

    Raises `SettingsError` for what only an operator can mend.
    """
    if stopping is None:
        stopping = asyncio.Event()
        _watch_signals(stopping)
        _calm_collector()
    redis = connect(settings.redis, settings.keys)
    log.info("starting", server=settings.server, asterisk=settings.ami, worker=settings.name, version=amibus_version())
    try:
        info = await _unless(stopping, check_redis(redis, settings.redis))
        log.info("redis is here", redis=server_name(info))
        notify("READY=1")
        clock = ServerClock()
        lease = Lease(redis, settings, clock)
        while True:
            await _unless(stopping, lease.acquire())
            try:
                await Tenure(redis, settings, clock, lease, publish_command(info)).run(stopping)
            except* LeaseLost as lost:
                if outage().is_news("fenced"):
                    log.error("fenced: another worker has taken over, or Redis was emptied", why=str(_leaf(lost)))
    except _Stopped:
        log.info("stopped")
    finally:
        await redis.aclose()


def _leaf(error: BaseException) -> BaseException:
    """The first error in a group of groups."""
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


class _Stopped(Exception):
    """The stop came while something was waited for."""


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result:
    """Await work, unless the stop comes first: then raise `_Stopped`."""
    if stopping.is_set():
        work.close()
        raise _Stopped
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            raise _Stopped
        return task.result()
    finally:
        task.cancel()
        stop.cancel()


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


class Tenure:
    """One worker's time as the holder of the lease, with all that it needs."""

    def __init__(self, redis: "Redis", settings: Settings, clock: ServerClock, lease: Lease, publish: str) -> None:
        self._redis = redis
        self._settings = settings
        self._clock = clock
        self._lease = lease
        rates = Rates(
            settings.rate, {CALLS: settings.rate_calls, CHANGES: settings.rate_changes, READS: settings.rate_reads}
        )
        self._schedule = Schedule(rates, clock.now)
        self._calls = Calls(clock.now, int(settings.record_s * 1000))
        self._pump = EventPump(redis, settings, lease, self._calls, clock.now, publish)
        self._sessions = Sessions(
            settings, on_event=self._pump.offer, on_ready=self._on_ready, on_away=self._on_away, on_back=self._on_back
        )
        self._reader = Reader(redis, settings)
        self._worker = ActionWorker(
            redis, settings, lease=lease, clock=clock, sessions=self._sessions, schedule=self._schedule,
            calls=self._calls, reader=self._reader, publish=publish,
        )  # fmt: skip
        self._recovery = Recovery(redis, settings, self._reader, self._worker)
        self._asterisk = ""
        self._away_since = clock.now()
        self._away_why = "worker-start"
        self._state = "asterisk-away"
        self._queued = 0
        self._news = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._stopping = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until the stop, then drain and release. Raises `LeaseLost` or `SettingsError` in a group."""
        legs: dict[bytes, bytes] = await until_done(
            "the calls alive", lambda: self._redis.hgetall(self._settings.keys.legs)
        )
        last = await until_done("the last event", lambda: self._redis.xrevrange(self._settings.keys.events, count=1))
        if last:
            self._away_since = entry_time(last[0][0].decode())
        self._calls.load({uniqueid.decode(): action_id.decode() for uniqueid, action_id in legs.items()})
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks = [
                    group.create_task(self._beat(), name="heartbeat"),
                    group.create_task(self._sessions.run(), name="sessions"),
                    group.create_task(self._pump.run(), name="event pump"),
                    group.create_task(self._recover_and_work(), name="actions"),
                ]
                await stopping.wait()
                if self._resuming is not None:
                    self._resuming.cancel()  # it would let actions through again, or ask sessions that are gone
                self._stopping = True
                tasks.pop().cancel()
                await self._shut_down()
                for task in tasks:
                    task.cancel()
        except* LeaseLost:
            raise
        except* Exception:
            # Whoever mends a setting and starts again should not have to wait for the lease of the dead.
            await self._lease.release()
            raise
        finally:
            self._group = None
            await self._worker.stop()
        await self._lease.release()

    async def _shut_down(self) -> None:
        notify("STOPPING=1")
        self._set_state("draining")
        await self._worker.drain(self._settings.drain_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await self._pump.drained.wait()

    async def _recover_and_work(self) -> None:
        await self._recovery.run()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run(), name="entries")
            group.create_task(self._look_for_missed(), name="missed entries")

    # -- Asterisk comes and goes

    def _on_ready(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        if self._group is not None and not self._stopping:
            self._resuming = self._group.create_task(self._resume(), name="resume")

    async def _resume(self) -> None:
        """Asterisk is there: say so, and what is known of the time before; then let actions through."""
        while self._sessions.is_ready:
            known, awaited = self._calls.alive(), self._calls.awaited()
            try:
                core = await self._ask("CoreSettings")
                channels = await self._ask("CoreShowChannels") if known or awaited else None
            except (ConnectionLost, AnswerTimeout):
                await asyncio.sleep(RESUME_RETRY_S)  # the session comes back, or Asterisk is away again
                continue
            alive = known | awaited  # where Asterisk does not say, nothing is taken for gone
            if channels is not None and channels.failure is None:
                alive = {event.headers.get("Uniqueid") or "" for event in channels.answer.events}
            self._welcome(core, known - alive)
            self._calls.lose(awaited - alive, ConnectionLost("nobody saw how its call ended"))
            self._set_state("connected")
            self._schedule.open(self._sessions.present & WINDOWS.keys())
            return

    def _welcome(self, core: Exchange, gone: set[str]) -> None:
        """Tell of Asterisk's return, of the gap, and of the legs that were hung up in it."""
        response = core.answer.response
        named = response.headers.get("AsteriskVersion") if response is not None else None
        self._asterisk = named or self._sessions.banner
        endings = self._calls.end_unseen(gone)
        for note in (note for note, ended in endings if ended is None):
            self._pump.note(note)
        pump, settings = self._pump, self._settings
        pump.announce("BusConnected", asterisk=self._asterisk, address=settings.ami, worker=settings.name)
        if self._away_since:
            since, until = f"{self._away_since:.6f}", f"{self._clock.now():.6f}"
            # How many there were nobody knows: Asterisk does not keep them for those who are away.
            pump.announce("BusGap", reason=self._away_why, since=since, until=until, dropped="")
            self._away_since = 0.0
        for note, ended in endings:
            if ended is not None:
                pump.announce("BusCallEnded", [ended], [note], action_id=ended, reason="ended while nobody watched")

    def _on_away(self, role: str, _why: str) -> None:
        if role != EVENTS:
            self._schedule.close([role])
            return
        # Without its events the outcome of a call could not be known: nothing is sent.
        self._schedule.close()
        if self._state == "connected":
            self._set_state("asterisk-away")
        if not self._away_since:
            self._away_since, self._away_why = self._clock.now(), "connection-lost"

    def _on_back(self, role: str) -> None:
        if self._state == "connected":
            self._schedule.open([role])

    async def _ask(self, name: str) -> Exchange:
        # The form of an entry's id, which no producer may give as an ActionID.
        return await self._sessions.request("read", Action(name, [], f"0-{time.monotonic_ns()}"), spec_of(name), 10.0)

    def _set_state(self, state: str) -> None:
        """Change the state, and have the heartbeat say so at once."""
        self._state = state
        self._news.set()

    # -- heartbeat

    async def _beat(self) -> None:
        """Renew the lease, write the heartbeat, tell the service manager. Raises `LeaseLost`."""
        while True:
            with tolerated("the heartbeat"):
                await self._lease.renew(self._heartbeat())
            with tolerated("the backlog"):
                self._queued = sum([await self._redis.xlen(self._settings.keys.lane(lane)) for lane in LANES])
            with tolerated("the list of servers"):
                await self._redis.zadd(servers_key(self._settings.prefix), {self._settings.server: self._clock.now()})
            self._watchdog()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease.period_s):
                    await self._news.wait()
            self._news.clear()

    async def _look_for_missed(self) -> None:
        """Every few seconds: is something pending for us that we do not hold? Then the reply to a read was lost."""
        while True:
            await asyncio.sleep(MISSED_PERIOD_S)
            for lane in LANES:
                with tolerated("the pending list"):
                    await self._worker.take_missed(lane)

    def _watchdog(self) -> None:
        # Health is progress, not a running process: a worker that is up and takes nothing must not look well.
        idle_s = time.monotonic() - min(self._worker.progress_at, self._pump.progress_at)
        if idle_s < STUCK_S or not self._lease.is_valid:  # without the lease it is Redis that is away
            notify("WATCHDOG=1")

    def _heartbeat(self) -> dict[str, Any]:
        totals = self._worker.totals
        return {
            "worker": self._settings.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": amibus_version(),
            "asterisk": self._asterisk,
            "state": self._state,
            "epoch": self._lease.epoch,
            "started_at": f"{self._lease.started_at:.6f}",
            "queued": self._queued,
            "in_flight": self._sessions.in_flight,
            **{state: totals[state] for state in ("done", "failed", "rejected", "expired", "cancelled", "unknown")},
            "duplicates": self._worker.duplicates,
            "calls": len(self._calls),
            "events_in": self._pump.events_in,
            "events_dropped": self._pump.events_dropped,
            "events_queued": self._pump.queued,
        }
