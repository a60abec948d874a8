"""The whole life of an entry: `ActionWorker.handle`."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from enum import Enum
from typing import Any, Final, cast

import structlog
from redis.asyncio import Redis

from broker.ami import Exchange, Response
from broker.codec import State
from broker.entry import Request, printable
from broker.errors import ErrorCode, Refused
from broker.keys import LANES
from broker.scripts import Script
from workers.batch import Batch, tolerated, until_done
from workers.calls import Calls
from workers.clock import ServerClock
from workers.config import Settings
from workers.connection import AnswerTimeout, ConnectionLost
from workers.job import Job, make_job
from workers.lease import Lease, LeaseLost
from workers.outcome import Outcome, originate_outcome, outcome_of
from workers.policy import Policy
from workers.reader import READ_COUNT, Reader
from workers.records import Item, Records
from workers.schedule import MAX_GROUP, Schedule, Turn
from workers.sessions import Sessions

REPEATS: Final = 3
"""How often a read-only action is asked again when its session was lost under it."""

DEPTH: Final = 3
"""Script calls of a kind under way at once: Redis is at one while this worker makes the next."""

ROOM_S: Final = 1.0
"""The longest wait for room in a full lane: that nothing is taken is no sign of a worker that is stuck."""

WORKER_LOST: Final = Outcome(
    State.UNKNOWN,
    code=ErrorCode.WORKER_LOST,
    message="the worker that sent it was lost before it could note the answer",
)

log = structlog.get_logger()

Told = tuple[Job, "Outcome | Next"]
"""What became of a job."""

Fate = tuple[Request, Outcome, Job | None]
"""An entry's final state; the job is missing where none could be made of it."""


class Next(Enum):
    """What comes of an attempt that has no outcome."""

    AGAIN = "it is to be tried again"
    OVER = "there is nothing to settle"


class ActionWorker:
    """Takes entries, sends what may be sent, and settles each exactly once."""

    def __init__(
        self, redis: "Redis", settings: Settings, *, lease: Lease, clock: ServerClock, sessions: Sessions,
        schedule: Schedule, calls: Calls, reader: Reader, publish: str,
    ) -> None:  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._redis = redis
        self._settings = settings
        self._lease = lease
        self._clock = clock
        self._sessions = sessions
        self._schedule = schedule
        self._calls = calls
        self._reader = reader
        self._publish = publish
        self._policy = Policy(settings.allow)
        self._records = Records(settings)
        self._scripts = {name: Script(name, settings.keys) for name in ("mark_sending", "mark_sent", "settle")}
        self._marks: Batch[Item, tuple[str, float]] = Batch("marking", self._send_marks, DEPTH)
        self._sents: Batch[Item, None] = Batch("marking sent", self._send_sents)
        self._settles: Batch[Item, str] = Batch("settling", self._send_settles, DEPTH)
        self._held: dict[str, dict[str, asyncio.Task[None]]] = {lane: {} for lane in LANES}
        self._begun: set[asyncio.Task[None]] = set()
        """The tasks that have had their turn: what they hold may have been written."""
        self._room = asyncio.Event()
        """Set when a lane has room for a whole read."""
        self._low_water = max(0, settings.read_ahead - READ_COUNT)
        self._bells: dict[str, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] = self._loop.create_future()
        """What a task could not cope with."""
        self._log_quietly = log.bind().debug
        """Bound once: it is called for every action, nearly always to no effect."""
        self.totals: Counter[str] = Counter()
        self.duplicates = 0
        self.progress_at = time.monotonic()

    # -- reading

    async def run(self) -> None:
        """Take entries and handle each in a task of its own, until cancelled. Raises what a task could not cope
        with."""
        reading = asyncio.create_task(self._read(), name="read entries")
        try:
            await asyncio.wait([reading, self._failure], return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await reading
        finally:
            for task in (reading, *self._bells.values()):
                task.cancel()

    async def drain(self, limit_s: float) -> None:
        """Let what has been begun come to its end, for at most so long; what waits for its turn stays pending."""
        self._schedule.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.sleep(0)  # a turn that was just granted begins in this
                while self._begun:
                    log.info("draining", in_flight=len(self._begun), limit_s=limit_s)
                    await asyncio.wait([*self._begun])
        await self.stop()

    async def stop(self) -> None:
        """Give up every entry that is held. What is not settled stays pending, for whoever comes next."""
        tasks = {task for held in self._held.values() for task in held.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for batch in (self._marks, self._sents, self._settles):
            batch.close()

    def take(self, requests: Iterable[Request]) -> None:
        """Handle these entries: those that only read in groups, any other in a task of its own."""
        together: list[Job] = []
        for request in requests:
            if request.entry in self._held[request.lane]:
                continue
            try:
                job = self._admit(request)
            except Refused as refusal:
                self._hold([request], self._conclude([(request, _refused(refusal), None)]))
                continue
            if self._schedule.may_share(job.session, job.cost):
                together.append(job)
            else:
                self._hold([request], self.handle([job]))
        for first in range(0, len(together), MAX_GROUP):
            jobs = together[first : first + MAX_GROUP]
            self._hold([job.request for job in jobs], self.handle(jobs))

    async def take_missed(self, lane: str) -> None:
        """Take what is pending for us and not held."""
        held = self._held[lane]
        if len(held) < self._settings.read_ahead:
            requests = await self._reader.missed(lane, held, len(held) + READ_COUNT)
            if requests:
                log.warning("entries were read and their reply was lost: taken again", lane=lane, entries=len(requests))
            self.take(requests)

    async def _read(self) -> None:
        while True:
            room = {lane: self._settings.read_ahead - len(held) for lane, held in self._held.items()}
            lanes = [lane for lane in LANES if room[lane] > 0]
            requests = []
            if lanes:
                count = min(READ_COUNT, *[room[lane] for lane in lanes])
                requests = await until_done("entries", lambda: self._reader.read(lanes, count))  # noqa: B023
                self.take(requests)
            self.progress_at = time.monotonic()
            if not requests:
                await self._wait_for_more(lanes)

    async def _wait_for_more(self, lanes: list[str]) -> None:
        """Wait until a lane that has room may have something to read, or one that is full has room again."""
        self._room.clear()
        if any(lane not in lanes and len(held) <= self._low_water for lane, held in self._held.items()):
            return
        for lane in lanes:
            bell = self._bells.get(lane)
            if bell is None or bell.done():
                self._bells[lane] = self._loop.create_task(self._ring(lane), name=f"doorbell {lane}")
        # The doorbells ring on when the wait ends: to stop one would cost its connection.
        bells = [self._bells[lane] for lane in lanes]
        if len(lanes) == len(LANES):
            await asyncio.wait(bells, return_when=asyncio.FIRST_COMPLETED)
            return
        room = self._loop.create_task(self._room.wait())
        try:
            await asyncio.wait([room, *bells], timeout=ROOM_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()

    async def _ring(self, lane: str) -> None:
        with tolerated("the doorbell"):  # the read that follows waits for Redis, and says so
            await self._reader.doorbell([lane])

    def _hold(self, requests: list[Request], work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(self._watched(work), name=requests[0].entry)
        for request in requests:
            self._held[request.lane][request.entry] = task

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            # The entries stay held: taken again by this worker they could be written again.
            if not self._failure.done():
                self._failure.set_exception(error)
        finally:
            self._begun.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _let_go(self, request: Request) -> None:
        held = self._held[request.lane]
        del held[request.entry]
        if len(held) <= self._low_water:
            self._room.set()

    # -- the whole life of an entry

    async def handle(self, jobs: list[Job]) -> None:
        """From the stream to the final state: of one entry, or of several that only read and so may share a turn."""
        while jobs:
            jobs = await self._attempt(jobs)

    def _admit(self, request: Request) -> Job:
        """Refuse what is malformed, forbidden, or more than AMI can carry."""
        if request.refusal is not None:
            raise request.refusal
        if request.action.lower().startswith("bus"):
            raise Refused(
                ErrorCode.MALFORMED, f"{printable(request.action)} is not an action of this version of amibus"
            )
        job = make_job(request, self._settings.server)
        self._policy.check(request)
        return job

    async def _attempt(self, jobs: list[Job]) -> list[Job]:
        """Wait for their turn, record the intent, send, settle. Returns those that are to be tried again."""
        first, task = jobs[0], cast("asyncio.Task[None]", asyncio.current_task())
        deadline = min([job.request.deadline for job in jobs])
        turn = await self._schedule.turn(first.session, first.cost, deadline, len(jobs))
        again: list[Job] = []
        async with asyncio.TaskGroup() as settling:
            try:
                if turn is not None:
                    self._begun.add(task)
                async with contextlib.aclosing(self._outcomes(jobs, turn)) as outcomes:
                    async for told in outcomes:
                        again += [job for job, outcome in told if outcome is Next.AGAIN]
                        for job, outcome in told:
                            if outcome is Next.OVER:
                                self._let_go(job.request)
                        fates = [(job.request, outcome, job) for job, outcome in told if isinstance(outcome, Outcome)]
                        if fates:
                            settling.create_task(self._conclude(fates))
            finally:
                if turn is not None:
                    self._schedule.release(turn)
        self._begun.discard(task)
        return again

    async def _outcomes(self, jobs: list[Job], turn: Turn | None) -> AsyncGenerator[list[Told]]:
        """What becomes of the jobs, as it becomes known: first of those that may not be sent, then of the others."""
        may_go: list[Job] = []
        unsent: list[Told] = []
        for job, (verdict, at) in zip(jobs, await self.mark_sending(jobs, probe=turn is None), strict=True):
            if verdict == "sending":
                job.sending_at = at
            if verdict == "sending" and turn is not None:
                may_go.append(job)
            else:
                unsent.append((job, self._unsent(job, verdict)))
        if unsent:
            yield unsent
        if may_go and turn is not None:
            await self._until_certain()
            now = self._clock.now()
            late = [job for job in may_go if job.request.deadline < now]
            if late:
                yield [(job, _late(job)) for job in late]
                may_go = [job for job in may_go if job.request.deadline >= now]
            send = self._originate if jobs[0].channel_id is not None else self._send
            if may_go:
                async for told in send(may_go, turn):
                    yield told

    async def mark_sending(self, jobs: list[Job], *, probe: bool) -> list[tuple[str, float]]:
        """Ask Redis whether these entries may be sent, and record the intent: the verdicts, and Redis' time.

        `probe`: the deadline seems to have passed, so only look whether Redis agrees.
        """
        return await self._marks.add_all([self._records.mark(job, probe=probe) for job in jobs])

    async def _until_certain(self) -> None:
        """The last look before the write: is the lease ours beyond doubt? A worker that was paused since the mark must
        not write."""
        while not self._lease.is_valid:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # until it is renewed, or known to be lost: then this task is cancelled

    async def _send(self, jobs: list[Job], _turn: Turn) -> AsyncIterator[list[Told]]:
        """Write the actions and await what comes of them."""
        waiting = {job.request.action_id: job for job in jobs}

        def on_response(action_id: str, response: Response) -> None:
            self._mark_sent(waiting[action_id], response)

        try:
            answers = self._sessions.request_all(jobs[0].session, [job.asked for job in jobs], on_response)
        except ConnectionLost as error:
            yield [(job, self._lost(job, error)) for job in jobs]
            return
        async for told in answers:
            yield [
                (job := waiting[action_id], outcome_of(what) if isinstance(what, Exchange) else self._lost(job, what))
                for action_id, what in told
            ]

    async def _originate(self, jobs: list[Job], turn: Turn) -> AsyncIterator[list[Told]]:
        """Asterisk's response only says that it was queued; how it went comes as an event, on the events session."""
        (job,) = jobs
        outcome: Outcome | Next
        try:
            outcome = await self._call(job, turn)
        except (ConnectionLost, AnswerTimeout) as error:
            outcome = self._lost(job, error)
        yield [(job, outcome)]

    async def _call(self, job: Job, turn: Turn) -> Outcome:
        """Place a call and await its OriginateResponse."""
        action_id, channel_id = job.request.action_id, job.channel_id
        assert channel_id is not None
        response = self._calls.expect(action_id, channel_id)
        placed = True
        try:
            exchange = await self._sessions.request(job.session, job.asked)
            outcome = outcome_of(exchange)
            if outcome.state is not State.DONE or exchange.answer.response is None:
                placed = outcome.state is not State.FAILED
                return outcome
            self._mark_sent(job, exchange.answer.response)
            self._schedule.release(turn)  # the session is free: the next call need not wait until this one is answered
            async with asyncio.timeout(job.outcome_timeout_s):
                return originate_outcome(exchange, await response)
        except ConnectionLost as error:
            placed = error.written
            raise
        except TimeoutError:
            raise AnswerTimeout(f"no outcome of the call within {job.outcome_timeout_s:g} s") from None
        finally:
            self._calls.give_up(action_id, placed=placed)

    def _lost(self, job: Job, error: Exception) -> "Outcome | Next":
        """No (whole) answer came: what that means."""
        if not isinstance(error, ConnectionLost):
            return Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message=str(error))
        job.written = job.written or error.written
        if not job.written:
            return Next.AGAIN
        job.repeats += 1
        if job.reads_only and job.repeats <= REPEATS:
            return Next.AGAIN
        message = f"the connection was lost before the answer: {error}"
        return Outcome(State.UNKNOWN, code=ErrorCode.CONNECTION_LOST, message=message)

    def _mark_sent(self, job: Job, response: Response) -> None:
        """Asterisk answered, more is to come: said while the rest is waited for."""
        job.noted = self._sents.add(self._records.sent(job, response, self._clock.now()))
        # Its error, if any, is raised by `settle`; the task may be cancelled before that.
        job.noted.add_done_callback(lambda noted: noted.cancelled() or noted.exception())

    def _unsent(self, job: Job, verdict: str) -> "Outcome | Next":
        """What to do where `mark_sending` did not let it be sent."""
        match verdict:
            case "duplicate":
                self.duplicates += 1
                return Next.OVER
            case "settled":
                return Next.OVER
            case "early":
                return Next.AGAIN
            case "sending" | "expired":
                return _late(job)
            case "cancelled":
                return Outcome(
                    State.CANCELLED, code=ErrorCode.CANCELLED, message="it was taken back before it was sent"
                )
            case "begun":
                job.again = job.reads_only
                return Next.AGAIN if job.again else WORKER_LOST
            case "reused":
                why = f"ActionID {job.request.action_id} was already used for something else"
                return _refused(Refused(ErrorCode.ACTION_ID_REUSED, why))
            case _:
                why = f"ChannelId {job.channel_id} belongs to a call that is alive"
                return _refused(Refused(ErrorCode.DUPLICATE_CHANNEL_ID, why))

    # -- settling

    async def _conclude(self, fates: Sequence[Fate]) -> None:
        await self.settle(fates)
        for request, _, _ in fates:
            self._let_go(request)

    async def settle(self, fates: Sequence[Fate]) -> None:
        """The final states: record, results, message and acknowledgement in one script."""
        for _, _, job in fates:
            if job is not None and job.noted is not None:
                await job.noted  # `sent` is said before the end is
        at, epoch = self._clock.now(), self._lease.epoch
        items = [self._records.settle(request, outcome, at, job, epoch) for request, outcome, job in fates]
        for fate, verdict in zip(fates, await self._settles.add_all(items), strict=True):
            request, outcome, job = fate
            if verdict == "missing":
                # Redis went back in time, or the record was deleted: it is made anew, so that the fate is known all
                # the same.
                item = self._records.settle(request, outcome, at, job, epoch, whole=True)
                verdict = await self._settles.add(item)  # noqa: PLW2901
            if verdict in ("settled", "apart"):
                self.totals[outcome.state] += 1
                self._log(request, outcome)

    def _log(self, request: Request, outcome: Outcome) -> None:
        if outcome.state in (State.DONE, State.FAILED):
            self._log_quietly(
                "settled", action=request.action, action_id=request.action_id, state=outcome.state, code=outcome.code
            )
        else:
            log.info(
                "settled", action=request.action[:80], action_id=request.action_id, entry=request.entry,
                producer=request.producer, state=outcome.state, code=outcome.code, why=outcome.message,
            )  # fmt: skip

    async def _send_marks(self, items: list[Item]) -> list[tuple[str, float]]:
        script, settings = self._scripts["mark_sending"], self._settings
        verdicts = await script(self._redis, self._lease.epoch, self._publish, settings.name, items)
        if not verdicts:
            raise LeaseLost(f"epoch {self._lease.epoch} is over")
        return [(verdict.decode(), float(at)) for verdict, at in verdicts]

    async def _send_sents(self, items: list[Item]) -> list[None]:
        await self._scripts["mark_sent"](self._redis, self._lease.epoch, self._publish, items)
        return [None] * len(items)

    async def _send_settles(self, items: list[Item]) -> list[str]:
        settings = self._settings
        verdicts: list[bytes] = await self._scripts["settle"](
            self._redis, self._lease.epoch, self._publish, settings.results_length, settings.dead_length, items
        )
        return [verdict.decode() for verdict in verdicts]


def _refused(refusal: Refused) -> Outcome:
    return Outcome(State.REJECTED, code=ErrorCode(refusal.code), message=str(refusal))


def _late(job: Job) -> Outcome:
    """Its deadline has passed: expired if it never was written, otherwise nobody knows."""
    if job.written:
        return Outcome(
            State.UNKNOWN,
            code=ErrorCode.CONNECTION_LOST,
            message="the connection was lost, and then its deadline passed",
        )
    return Outcome(State.EXPIRED, code=ErrorCode.EXPIRED, message="its deadline passed before it could be sent")
