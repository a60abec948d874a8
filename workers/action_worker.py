"""The whole life of an entry, on one screen: `ActionWorker.handle`."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Final

import structlog
from redis.asyncio import Redis

from broker.ami import Response
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
from workers.schedule import Schedule, Turn
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
        self._begun: set[tuple[str, str]] = set()
        """The entries (lane, id) that have had their turn: they may have been written."""
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
                while begun := [self._held[lane][entry] for lane, entry in self._begun]:
                    log.info("draining", in_flight=len(begun), limit_s=limit_s)
                    await asyncio.wait(begun)
        await self.stop()

    async def stop(self) -> None:
        """Give up every entry that is held. What is not settled stays pending, for whoever comes next."""
        tasks = [task for held in self._held.values() for task in held.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for batch in (self._marks, self._sents, self._settles):
            batch.close()

    def take(self, requests: Iterable[Request]) -> None:
        """Handle these entries, each in a task of its own."""
        for request in requests:
            held = self._held[request.lane]
            if request.entry not in held:
                task = self._loop.create_task(self._hold(request), name=request.entry)
                held[request.entry] = task

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

    async def _hold(self, request: Request) -> None:
        try:
            await self.handle(request)
        except Exception as error:
            # The entry stays held: taken again by this worker it could be written again.
            if not self._failure.done():
                self._failure.set_exception(error)
            return
        finally:
            self._begun.discard((request.lane, request.entry))
        held = self._held[request.lane]
        del held[request.entry]
        if len(held) <= self._low_water:
            self._room.set()

    # -- the whole life of an entry

    async def handle(self, request: Request) -> None:
        """From the stream to its final state."""
        try:
            job = self._admit(request)
        except Refused as refusal:
            await self.settle(request, _refused(refusal))
            return
        while not await self._attempt(job):
            pass

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

    async def _attempt(self, job: Job) -> bool:
        """Wait for its turn, record the intent, send, settle. False: it is to be tried again."""
        turn = await self._schedule.turn(job.session, job.cost, job.request.deadline)
        try:
            if turn is not None:
                self._begun.add((job.request.lane, job.request.entry))
            verdict, at = await self.mark_sending(job, probe=turn is None)
            if verdict == "sending":
                job.sending_at = at
            outcome = await self._send(job, turn) if verdict == "sending" and turn else self._unsent(job, verdict)
        finally:
            if turn is not None:
                self._schedule.release(turn)
        if isinstance(outcome, Outcome):
            await self.settle(job.request, outcome, job)
        if outcome is not Next.AGAIN:
            return True
        self._begun.discard((job.request.lane, job.request.entry))
        return False

    async def mark_sending(self, job: Job, *, probe: bool) -> tuple[str, float]:
        """Ask Redis whether this entry may be sent, and record the intent: the verdict, and Redis' time.

        `probe`: its deadline seems to have passed, so only look whether Redis agrees.
        """
        return await self._marks.add(self._records.mark(job, probe=probe))

    async def _send(self, job: Job, turn: Turn) -> "Outcome | Next":
        """Write the action and await what comes of it."""
        if not await self._may_write(job):
            return _late(job)
        try:
            if job.channel_id is not None:
                return await self._originate(job, job.channel_id, turn)
            exchange = await self._sessions.request(
                job.session, job.action, job.spec, job.answer_timeout_s, lambda response: self._mark_sent(job, response)
            )
        except ConnectionLost as error:
            return self._lost(job, error)
        except AnswerTimeout as error:
            return Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message=str(error))
        return outcome_of(exchange)

    async def _originate(self, job: Job, channel_id: str, turn: Turn) -> Outcome:
        """Asterisk's response only says that it was queued; how it went comes as an event, on the events session."""
        action_id = job.request.action_id
        response = self._calls.expect(action_id, channel_id)
        placed = True
        try:
            exchange = await self._sessions.request(job.session, job.action, job.spec, job.answer_timeout_s)
            outcome = outcome_of(exchange)
            if outcome.state is not State.DONE or exchange.answer.response is None:
                placed = outcome.state is not State.FAILED
                return outcome
            self._mark_sent(job, exchange.answer.response)
            self._schedule.release(turn)  # the session is free: the next call need not wait until this one is answered
            await asyncio.wait([response], timeout=job.outcome_timeout_s)
            if not response.done() and not self._calls.has_outcome(action_id):
                raise AnswerTimeout(f"no outcome of the call within {job.outcome_timeout_s:g} s")
            return originate_outcome(exchange, await response)  # it may be here, and wait for Redis to take its event
        except ConnectionLost as error:
            placed = error.written
            raise
        finally:
            self._calls.give_up(action_id, placed=placed)

    async def _may_write(self, job: Job) -> bool:
        """The last look before the write: is the lease ours beyond doubt? A worker that was paused since the mark must
        not write."""
        while not self._lease.is_valid:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # until it is renewed, or known to be lost: then this task is cancelled
        return job.request.deadline >= self._clock.now()

    def _lost(self, job: Job, error: ConnectionLost) -> "Outcome | Next":
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

    async def settle(self, request: Request, outcome: Outcome, job: Job | None = None) -> None:
        """The final state: record, results, message and acknowledgement in one script."""
        if job is not None and job.noted is not None:
            await job.noted  # `sent` is said before the end is
        at, epoch = self._clock.now(), self._lease.epoch
        verdict = await self._settles.add(self._records.settle(request, outcome, at, job, epoch))
        if verdict == "missing":
            # Redis went back in time, or the record was deleted: it is made anew, so that the fate is known all the
            # same.
            verdict = await self._settles.add(self._records.settle(request, outcome, at, job, epoch, whole=True))
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
