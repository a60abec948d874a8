"""One worker's time as the holder of the lease: what it does, and in what order it ends."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Coroutine
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from broker.ami import Exchange, Headers
from broker.codec import BusEvent
from broker.entry import entry_time
from broker.keys import LANES, servers_key
from broker.messages import stream_event
from workers.action_worker import ActionWorker
from workers.batch import tolerated, until_done
from workers.calls import Calls
from workers.channels import Channel, Channels, entity_of, entity_question, question, snapshot
from workers.clock import ServerClock
from workers.config import Settings
from workers.connection import AnswerTimeout, ConnectionLost
from workers.diary import Diary
from workers.event_pump import EventPump
from workers.follows import Follows, TooManyFollows
from workers.journal import Journal
from workers.known_calls import KnownCalls
from workers.lease import Lease, LeaseLost
from workers.lost_work import LostWork
from workers.notes import Note
from workers.notify import notify
from workers.originates import Originates
from workers.outcome import Outcome
from workers.own_actions import OwnActions
from workers.rates import Rates
from workers.reader import Reader
from workers.recovery import Recovery
from workers.revision import Revision
from workers.schedule import CALLS, CHANGES, READS, WINDOWS, Schedule
from workers.sessions import EVENTS, Sessions
from workers.stopping import unless
from workers.version import amibus_version

MISSED_PERIOD_S: Final = 5.0
"""How often the pending list is compared with what is held in memory."""

RESUME_RETRY_S: Final = 0.2
"""How soon Asterisk is asked anew what it is, if a session was lost in the middle of it."""

DRAINED_PERIOD_S: Final = 0.1
"""How often it is looked whether the queue is empty."""

STUCK_S: Final = 30.0
"""Without any progress for so long while Redis answers, the service manager is to start the worker anew."""

DISK_FULL: Final = "the journal's disk is full: nothing that changes something is sent"

log = structlog.get_logger()


class Tenure:
    """One worker's time as the holder of the lease, with all that it needs."""

    def __init__(
        self, redis: "Redis", settings: Settings, clock: ServerClock, lease: Lease, journal: Journal, publish: str,
        doubtful_before: float = 0.0, former: "Tenure | None" = None,
    ) -> None:  # fmt: skip
        """`former`: the last one of this process, if Redis has forgotten it and nobody has served since. What it knows
        goes on here."""
        self._former = former
        self._redis = redis
        self._settings = settings
        self._clock = clock
        self._lease = lease
        self._journal = journal
        self._diary = Diary(journal, lease.epoch)
        self._revision = Revision(redis, settings, publish)
        rates = Rates(
            settings.rate, {CALLS: settings.rate_calls, CHANGES: settings.rate_changes, READS: settings.rate_reads}
        )
        self._schedule = Schedule(rates, clock.now)
        if former is None:
            self._calls = Calls(
                clock.now, int(settings.record_s * 1000), on_truth=self._on_truth, on_note=self._note
            )  # fmt: skip
            self._follows = Follows(clock.now, self._on_follow_ended)
        else:
            self._calls, self._follows = former._calls, former._follows
            self._calls.pass_on(on_truth=self._on_truth, on_note=self._note)
            self._follows.pass_on(self._on_follow_ended)
        self._pump = EventPump(
            redis, settings, lease, self._calls, self._follows, clock.now, publish,
            on_gap=self._on_gap,
        )  # fmt: skip
        self._sessions = Sessions(
            settings, on_event=self._pump.offer, on_ready=self._on_ready, on_away=self._on_away, on_back=self._on_back
        )
        self._channels = Channels(self._sessions)
        self._known_calls = KnownCalls(redis, settings.keys, self._calls, self._pump, lambda: self._stopping)
        originates = Originates(
            redis, settings, clock=clock, sessions=self._sessions, channels=self._channels, calls=self._calls,
            on_note=self._pump.note,
        )  # fmt: skip
        self._reader = Reader(redis, settings)
        self._worker = ActionWorker(
            redis, settings, lease=lease, clock=clock, sessions=self._sessions, schedule=self._schedule,
            calls=self._calls, originates=originates, diary=self._diary, reader=self._reader, publish=publish,
            own=OwnActions(
                redis, settings, clock=clock, sessions=self._sessions, channels=self._channels, follows=self._follows
            ),
            lost_work=LostWork(
                redis, settings.keys, calls=self._calls, originates=originates, diary=self._diary,
                doubtful_before=doubtful_before,
            ),
        )  # fmt: skip
        self._recovery = Recovery(redis, settings, lease, self._reader, self._worker, self._calls)
        self._asterisk = ""
        self._away_since: float | None = 0.0
        """Since when nobody has seen events (unix seconds by Redis' clock; 0: nobody knows); None: they come."""
        self._away_why = "worker-start"
        self._state = "asterisk-away"
        self._queued = 0
        self._recovered = False
        """All that an earlier worker left is taken over or settled."""
        self._redis_known_by = ""
        self._news = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._stopping = False
        self._beside: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event, *, until_drained: bool = False) -> None:
        """Serve until the stop, then drain and release. Raises `LeaseLost` or `SettingsError` in a group; `Stopped`
        before anything was begun. After `LeaseLost` it may be the `former` of another, or is to be closed."""
        try:
            await unless(stopping, self._look_back())
        except BaseException:
            self.close()
            raise
        is_fenced = False
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks = [
                    group.create_task(self._beat(), name="heartbeat"),
                    group.create_task(self._sessions.run(), name="sessions"),
                    group.create_task(self._pump.run(), name="event pump"),
                    group.create_task(self._recover_and_work(), name="actions"),
                ]
                self._calls.tell_loaded()
                await self._wait_for_end(stopping, until_drained)
                if self._resuming is not None:
                    self._resuming.cancel()  # it would let actions through again, or ask sessions that are gone
                self._stopping = True
                tasks.pop().cancel()
                await self._shut_down()
                for task in (*tasks, *self._beside):
                    task.cancel()
        except* LeaseLost:
            is_fenced = True
            if self._away_since is None:
                self._away_since = self._clock.now()
            raise
        except* Exception:
            self._journal.close()
            # Whoever mends a setting and starts again should not have to wait for the lease of the dead.
            await self._lease.release()
            raise
        finally:
            self._group = None
            if not is_fenced:
                self.close()
            await self._worker.stop()
            self._diary.close()
            self._journal.close()
        await self._lease.release()

    def close(self) -> None:
        """Leave nothing behind of the events that were not published."""
        self._pump.close()
        if self._former is not None:
            self._former.close()

    async def _look_back(self) -> None:
        """Find out what an earlier worker left, and since when nobody has watched."""
        # First of all: what Redis forgets after it was read is to be told again.
        self._redis_known_by = await until_done("what Redis is", self._lease.identify_redis)
        if self._former is not None:
            await self._known_calls.restore(self._worker.settlement.settle)
        await self._known_calls.load()
        await self._load_follows()
        entry, last = await until_done("the last event", self._last_event)
        self._away_since = entry_time(entry)
        if self._former is not None:
            former, self._former = self._former, None
            try:
                # Behind what Redis is told of the calls, so that the first event takes that along.
                is_forgotten = await self._pump.take_over(former._pump, entry, last)
            finally:
                former.close()
            if is_forgotten or not self._away_since:
                self._away_since = former._away_since

    async def _last_event(self) -> tuple[str, BusEvent | None]:
        """The last entry of the stream, 0-0 if there is none, and its event, if it is one."""
        entries: Any = await self._redis.xrevrange(self._settings.keys.events, count=1)
        if not entries:
            return "0-0", None
        [(entry, fields)] = entries
        return entry.decode(), stream_event(entry.decode(), fields.get(b"data", b""))

    async def _load_follows(self) -> None:
        """Go on following what an earlier worker did; and tell Redis of what is followed already."""
        key = self._settings.keys.follows
        deadlines: dict[Any, Any] = dict(self._follows.deadlines())
        if deadlines:
            await until_done("the calls that are followed", lambda: self._redis.hset(key, mapping=deadlines))
        raw: Any = await until_done("the calls that are followed", lambda: self._redis.hgetall(key))
        for target, until in raw.items():
            with contextlib.suppress(TooManyFollows, ValueError):
                self._follows.begin(target.decode(), float(until))

    def _on_follow_ended(self, target: str, reason: str) -> None:
        headers = Headers([("Uniqueid", target), ("reason", reason)])
        self._pump.announce_headers("BusFollowEnded", headers, followed=[target])
        self._spawn(self._strike_out(target), f"strike out {target}")

    async def _strike_out(self, target: str) -> None:
        await until_done("a follow that has ended", lambda: self._redis.hdel(self._settings.keys.follows, target))

    async def _tell_again(self) -> None:
        """Redis may have gone back in time: tell it what it has forgotten of what is done, and of our calls."""
        await self._recovery.settle_forgotten()
        await self._known_calls.tell_again()

    async def _wait_for_end(self, stopping: asyncio.Event, until_drained: bool) -> None:
        if not until_drained:
            await stopping.wait()
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAINED_PERIOD_S):
                    await stopping.wait()
            if await self._is_drained():
                log.info("drained: all that was queued is settled")
                return

    async def _is_drained(self) -> bool:
        """Whether all that was queued is settled. Not said before Asterisk is there: until then nobody knows what it
        refuses, and what was missed is not told."""
        if not self._recovered or self._state != "connected" or await self._backlog():
            return False
        return self._worker.intake.is_empty  # looked at last: what is settled on Redis may still be held here

    async def _backlog(self) -> int:
        """Entries in both lanes, or 1 while Redis does not say."""
        with tolerated("the backlog"):
            return sum([await self._redis.xlen(self._settings.keys.lane(lane)) for lane in LANES])
        return 1

    def _on_truth(self, action_id: str, outcome: Outcome) -> None:
        """What became of an action that was settled as `unknown`."""
        self._spawn(self._revise(action_id, outcome), f"revise {action_id}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Have this done beside all else; a stop does not wait for it: Redis may be away."""
        if self._group is None:
            work.close()
            return
        task = self._group.create_task(work, name=name)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def _note(self, note: Note) -> None:
        self._pump.note(note)

    async def _revise(self, action_id: str, outcome: Outcome) -> None:
        await until_done("a revision", lambda: self._revision.revise(action_id, outcome, self._clock.now()))

    async def _shut_down(self) -> None:
        notify("STOPPING=1")
        self._set_state("draining")
        await self._worker.drain(self._settings.drain_s)
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._pump.drained.wait()
        except TimeoutError:
            log.warning("the last events were not published: the next start says so by BusGap", lost=self._pump.queued)
        if self._beside:
            await asyncio.wait(self._beside, timeout=self._settings.drain_s)
        for task in self._beside:
            task.cancel()  # Redis is away, and would hold up the end

    async def _recover_and_work(self) -> None:
        await self._recovery.run()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run(), name="entries")
            group.create_task(self._look_for_missed(), name="missed entries")
            group.create_task(self._look_for_forgotten(), name="forgotten entries")

    async def _look_for_forgotten(self) -> None:
        await self._recovery.look_for_forgotten()
        self._recovered = True

    # -- Asterisk comes and goes

    def _on_ready(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        if self._group is not None and not self._stopping:
            self._resuming = self._group.create_task(self._resume(), name="resume")

    async def _resume(self) -> None:
        """Asterisk is there: say so, and what is known of the time before; then let actions through."""
        while self._sessions.is_ready:
            known, awaited, followed = self._calls.alive(), self._calls.awaited(), self._follows.known()
            try:
                core = await self._sessions.request("read", question("CoreSettings"))
                self._lease.entity = entity_of(await self._sessions.request("read", entity_question()))
                channels = await self._channels.alive()
            except (ConnectionLost, AnswerTimeout):
                await asyncio.sleep(RESUME_RETRY_S)  # the session comes back, or Asterisk is away again
                continue
            # Where Asterisk does not say, nothing is taken for gone.
            alive = known | awaited if channels is None else channels.keys()
            self._welcome(core, known - alive, channels)
            if channels is not None:
                self._follows.see(channels, followed)
            self._calls.lose(awaited - alive, ConnectionLost("nobody saw how its call ended"))
            self._set_state("connected")
            self._schedule.open(self._sessions.present & WINDOWS.keys())
            return

    def _welcome(self, core: Exchange, gone: set[str], channels: dict[str, Channel] | None) -> None:
        """Tell of Asterisk's return, of the gap, of what is alive after it, and of the legs that were hung up in it."""
        response = core.answer.response
        named = response.headers.get("AsteriskVersion") if response is not None else None
        self._asterisk = named or self._sessions.banner
        endings = self._calls.end_unseen(gone)
        seen = [] if channels is None else self._calls.see(channels)
        for note in (*[note for note, ended in endings if ended is None], *seen):
            self._pump.note(note)
        pump, settings = self._pump, self._settings
        pump.announce("BusConnected", asterisk=self._asterisk, address=settings.ami, worker=settings.name)
        if self._away_since is not None:
            since, until = f"{self._away_since:.6f}" if self._away_since else "", f"{self._clock.now():.6f}"
            # How many there were nobody knows: Asterisk does not keep them for those who are away.
            pump.announce("BusGap", reason=self._away_why, since=since, until=until, dropped="")
            self._away_since = None
            self._tell_alive(channels)
        for note, ended in endings:
            if ended is not None:
                pump.announce("BusCallEnded", [ended], [note], action_id=ended, reason="ended while nobody watched")

    def _tell_alive(self, channels: dict[str, Channel] | None) -> None:
        """What a consumer that has missed events is to know; nothing where Asterisk does not say."""
        for headers in [] if channels is None else snapshot(channels):
            self._pump.announce_headers("BusSnapshot", headers)

    def _on_gap(self) -> None:
        """Consumers have missed events while Asterisk was there."""
        self._spawn(self._ask_alive(), "snapshot")

    async def _ask_alive(self) -> None:
        with contextlib.suppress(ConnectionLost, AnswerTimeout):  # its return brings a snapshot of its own
            self._tell_alive(await self._channels.alive_from_now())

    def _on_away(self, role: str, _why: str) -> None:
        if role != EVENTS:
            self._schedule.close([role])
            return
        # Without its events the outcome of a call could not be known: nothing is sent.
        self._schedule.close()
        self._calls.look_away()
        self._follows.look_away()
        if self._state == "connected":
            self._set_state("asterisk-away")
        if self._away_since is None:
            self._away_since, self._away_why = self._clock.now(), "connection-lost"

    def _on_back(self, role: str) -> None:
        if self._state == "connected":
            self._schedule.open([role])

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
            with tolerated("what Redis is"):
                await self._look_at_redis()
            self._queued = await self._backlog()
            self._follows.expire()
            with tolerated("the list of servers"):
                await self._redis.zadd(servers_key(self._settings.prefix), {self._settings.server: self._clock.now()})
            self._watchdog()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease.period_s):
                    await self._news.wait()
            self._news.clear()

    async def _look_at_redis(self) -> None:
        known_by = await self._lease.identify_redis()
        if self._redis_known_by not in ("", known_by):
            log.warning("redis has restarted, or another server has taken its place", replication_id=known_by)
            self._spawn(self._tell_again(), "tell Redis again")
        self._redis_known_by = known_by

    async def _look_for_missed(self) -> None:
        """Every few seconds: is something pending for us that we do not hold? Then the reply to a read was lost."""
        while True:
            await asyncio.sleep(MISSED_PERIOD_S)
            for lane in LANES:
                with tolerated("the pending list"):
                    await self._worker.intake.take_missed(lane)

    def _watchdog(self) -> None:
        # Health is progress, not a running process: a worker that is up and takes nothing must not look well.
        idle_s = time.monotonic() - min(self._worker.intake.progress_at, self._pump.progress_at)
        if idle_s < STUCK_S or not self._lease.is_valid:  # without the lease it is Redis that is away
            notify("WATCHDOG=1")

    def _heartbeat(self) -> dict[str, Any]:
        totals = self._worker.settlement.totals
        return {
            "worker": self._settings.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": amibus_version(),
            "asterisk": self._asterisk,
            "state": "paused" if self._diary.is_full and self._state == "connected" else self._state,
            "why": DISK_FULL if self._diary.is_full else self._sessions.why,
            "epoch": self._lease.epoch,
            "started_at": f"{self._lease.started_at:.6f}",
            "clock_stepped_s": f"{self._clock.stepped_s:.3f}",
            "queued": self._queued,
            "in_flight": self._sessions.in_flight,
            **{state: totals[state] for state in ("done", "failed", "rejected", "expired", "cancelled", "unknown")},
            "duplicates": self._worker.settlement.duplicates,
            "calls": len(self._calls),
            "follows": len(self._follows),
            "events_in": self._pump.events_in,
            "events_dropped": self._pump.events_dropped,
            "events_queued": self._pump.queued,
            "events_spooled": self._pump.spooled,
        }
