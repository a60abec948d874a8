"""Action files onto the bus, and the answers back: many at once, each taken once."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from broker.ami import spec_of
from broker.client import Bus, Server
from broker.codec import Result, State
from broker.entry import DEFAULT_DEADLINE_S
from broker.errors import BusUnavailable, ErrorCode, ItemsGone
from broker.keys import URGENT
from workers.action_files.answer import answer_lines, lost, refusal_lines
from workers.action_files.drop_box import DropBox, Outcome
from workers.action_files.names import ACTION, Taken, stem_of
from workers.action_files.order import BadFile, Order, read_orders
from workers.stopping import Stopped, unless

MAX_UNDER_WAY: Final = 1000
"""Files whose answers are waited for at once. An Originate may take half a minute: at 20 a second that is 600."""

MAX_BATCH: Final = 200
"""Files that are renamed together: what is flushed to disk then is flushed for all of them at once."""

LARGE_BYTES: Final = 64 * 1024
MAX_LARGE: Final = 16
"""Files over `LARGE_BYTES` that are held in memory at once: the others are taken, and wait."""

RECORD_LIFE_S: Final = 3600
"""A record lives so long at least (the setting `record_s` cannot be less), unless its action only reads."""

AGAIN_S: Final = 1.0
LONGEST_AGAIN_S: Final = 30.0
"""How soon Redis, or a full disk, is tried again, and how seldom at last."""

PROGRESS_S: Final = 10.0
"""How often it is said how far a long row of files is."""

REFUSED: Final = "refused"

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(slots=True)
class Tally:
    """What came of the files so far: of all actions by state, and files that could not be read as actions."""

    files: int = 0
    states: Counter[str] = field(default_factory=Counter)
    left: int = 0
    """Files that were under way at the end, or waited."""

    def shown(self) -> dict[str, int]:
        """For a line of the log."""
        counts = {str(state): count for state, count in sorted(self.states.items())}
        return {"files": self.files, "left": self.left, **counts}


class Desk:
    """Takes the files of one directory, and waits for their answers."""

    def __init__(self, box: DropBox, bus: Bus, server: Server) -> None:
        self._box = box
        self._bus = bus
        self._server = server
        self.on_taken: Callable[[str], None] = lambda name: None
        """Hears of each file that is there no more."""
        self.tally = Tally()
        self._waiting: dict[str, None] = {}
        """Names of whole files, in order."""
        self._under_way: dict[str, asyncio.Task[None]] = {}
        """By `NAME`: of two files of one name the second waits for the first's answer."""
        self._held: set[str] = set()
        self._answered: asyncio.Queue[tuple[Taken, bool, asyncio.Future[OSError | None]]] = asyncio.Queue()
        self._news = asyncio.Event()
        self._large = asyncio.Semaphore(MAX_LARGE)
        self._away = False

    def add(self, name: str) -> None:
        """This file may be taken."""
        self._waiting[name] = None
        self._news.set()

    def resume(self, left: list[Taken]) -> None:
        """These were under way when an earlier run ended."""
        for taken in left:
            self._begin(taken, resumed=True)

    async def run(self, stopping: asyncio.Event, patience_s: float, *, until_done: bool = False) -> None:
        """Work until `stopping` is set, then wait for the answers that come within `patience_s`; or until nothing waits
        and nothing is under way. Files that are under way then are left for the next run."""
        helpers = [asyncio.create_task(work) for work in (self._finish(), self._tell_progress())]
        try:
            with contextlib.suppress(Stopped):
                while not (until_done and not self._waiting and not self._under_way):
                    await self._take_what_waits(stopping)
            await self._drain(patience_s)
        finally:
            for task in (*helpers, *self._under_way.values()):
                task.cancel()
            await asyncio.gather(*helpers, *self._under_way.values(), return_exceptions=True)

    async def _drain(self, patience_s: float) -> None:
        if self._under_way:
            log.info("stopping: waiting for answers", files=len(self._under_way), patience_s=patience_s)
            await asyncio.wait([*self._under_way.values()], timeout=patience_s)
        self.tally.left = len(self._under_way) + len(self._waiting) + len(self._held)

    # -- taking

    async def _take_what_waits(self, stopping: asyncio.Event) -> None:
        """Take all that there is room for, once there is news. Raises `Stopped`, but never between a rename and what
        follows it."""
        await unless(stopping, self._news.wait())
        self._news.clear()
        while self._waiting and len(self._under_way) < MAX_UNDER_WAY:
            now = await unless(stopping, self._patiently(self._bus.time))
            names = self._next_names()
            if not names:
                break
            files = [Taken.now(stem, now) for name in names if (stem := stem_of(name)) is not None]
            for outcome in await asyncio.to_thread(self._box.take, files):
                self._note_taken(outcome)

    def _next_names(self) -> list[str]:
        room = min(MAX_BATCH, MAX_UNDER_WAY - len(self._under_way))
        names: list[str] = []
        for name in [*self._waiting]:
            if len(names) >= room:
                break
            del self._waiting[name]
            if stem_of(name) in self._under_way:
                self._held.add(name)
            else:
                names.append(name)
        return names

    def _note_taken(self, outcome: Outcome) -> None:
        taken, error = outcome
        if error is None:
            self._begin(taken)
        if error is None or isinstance(error, FileNotFoundError):  # that one was taken back
            self.on_taken(f"{taken.stem}{ACTION}")
        else:
            log.error("a file cannot be taken", file=f"{taken.stem}{ACTION}", error=error.strerror)

    def _begin(self, taken: Taken, *, resumed: bool = False) -> None:
        task = asyncio.create_task(self._answer(taken, resumed=resumed), name=f"amibus answers {taken.name}")
        self._under_way[taken.stem] = task
        task.add_done_callback(lambda task: self._over(taken, task))

    def _over(self, taken: Taken, task: "asyncio.Task[None]") -> None:
        self._under_way.pop(taken.stem, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a file is left as it is", file=taken.name, error=repr(error))
        held = f"{taken.stem}{ACTION}"
        if held in self._held:
            self._held.discard(held)
            self._waiting[held] = None
        self._news.set()

    # -- answering

    async def _answer(self, taken: Taken, *, resumed: bool) -> None:
        """The whole life of a file that was taken."""
        try:
            size_bytes = await asyncio.to_thread(self._box.size_bytes, taken)
        except FileNotFoundError:
            log.warning("a file that was under way has been removed by somebody", file=taken.name)
            return
        async with self._large if size_bytes > LARGE_BYTES else contextlib.nullcontext():
            await self._answer_whole(taken, resumed=resumed)

    async def _answer_whole(self, taken: Taken, *, resumed: bool) -> None:
        began = time.monotonic()
        await self._on_disk(taken, lambda: self._box.begin_answer(taken))
        try:
            orders = read_orders(await asyncio.to_thread(self._box.read, taken))
        except (BadFile, OSError) as error:
            await self._refuse(taken, error)
            return
        states = await self._answer_all(taken, orders, resumed=resumed)
        refused = all(state is State.REJECTED for state in states)
        await self._publish(taken, refused=refused)
        self.tally.files += 1
        self.tally.states.update(states)
        counts = {str(state): count for state, count in Counter(states).items()}
        log.info("answered", file=taken.stem, took_s=round(time.monotonic() - began, 3), **counts)

    async def _answer_all(self, taken: Taken, orders: list[Order], *, resumed: bool) -> list[State]:
        """One after the other, as they stand in the file: each sees what the one before it did."""
        place = 0
        states = []
        for number, order in enumerate(orders, 1):
            result = await self._fate(taken, number, order, resumed=resumed)

            def write(result: Result = result, place: int = place) -> int:
                return self._box.add_to_answer(taken, answer_lines(result), place)

            place = await self._on_disk(taken, write)
            states.append(result.state)
        return states

    async def _refuse(self, taken: Taken, error: BadFile | OSError) -> None:
        code = error.code if isinstance(error, BadFile) else ErrorCode.MALFORMED
        message = str(error) if isinstance(error, BadFile) else f"the file cannot be read: {error.strerror}"
        await self._on_disk(taken, lambda: self._box.add_to_answer(taken, refusal_lines(code, message), 0))
        await self._publish(taken, refused=True)
        self.tally.files += 1
        self.tally.states[REFUSED] += 1
        log.warning("refused", file=taken.stem, code=str(code), why=message)

    async def _fate(self, taken: Taken, number: int, order: Order, *, resumed: bool) -> Result:
        """What becomes of one action; Redis is waited for."""
        action_id = order.action_id or taken.action_id(number)
        if resumed and await self._is_forgotten(taken, action_id):
            return lost(self._server.name, action_id, order.action)
        try:
            result = await self._patiently(lambda: self._request(taken, number, order, action_id))
        except ItemsGone as error:
            return lost(self._server.name, action_id, order.action, error.code, str(error))
        if resumed and result.state is State.EXPIRED and spec_of(order.action).reads_only:
            # The record of a reading action is short-lived: perhaps it was answered before.
            return lost(self._server.name, action_id, order.action)
        return result

    async def _request(self, taken: Taken, number: int, order: Order, action_id: str) -> Result:
        return await self._server.request(
            order.action,
            action_id=action_id,
            headers=order.headers,
            urgent=order.lane == URGENT,
            producer=order.producer,
            deadline=deadline_of(order, taken),
            tag=None if order.has_tag else taken.tag(number),
            raise_on_failure=False,
        )

    async def _is_forgotten(self, taken: Taken, action_id: str) -> bool:
        """Whether so much time has passed that a record that is missing says nothing any more."""
        if await self._patiently(self._bus.time) < taken.taken_at + RECORD_LIFE_S:
            return False
        return await self._patiently(lambda: self._server.action_record(action_id)) is None

    async def _publish(self, taken: Taken, *, refused: bool) -> None:
        async def publish() -> None:
            await asyncio.to_thread(self._box.flush_answer, taken)
            done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
            self._answered.put_nowait((taken, refused, done))
            error = await done
            if error is not None:
                raise error

        await self._retried(taken, publish)

    async def _finish(self) -> None:
        """Have the answers that are ready together seen together."""
        while True:
            batch = [await self._answered.get()]
            while not self._answered.empty() and len(batch) < MAX_BATCH:
                batch.append(self._answered.get_nowait())
            files = [(taken, refused) for taken, refused, _ in batch]
            try:
                outcomes = await asyncio.to_thread(self._box.finish, files)
            except OSError as error:
                outcomes = [Outcome(taken, error) for taken, _ in files]
            for (_, _, done), outcome in zip(batch, outcomes, strict=True):
                if not done.done():
                    done.set_result(outcome.error)

    async def _on_disk(self, taken: Taken, step: Callable[[], T]) -> T:
        return await self._retried(taken, lambda: asyncio.to_thread(step))

    async def _retried(self, taken: Taken, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the disk refuses until there is room: the answer is known and must not be lost."""
        pause_s = AGAIN_S
        while True:
            try:
                return await step()
            except OSError as error:
                if pause_s == AGAIN_S:
                    log.error("an answer cannot be written, and waits", file=taken.stem, error=error.strerror)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_AGAIN_S)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do something on the bus, however long Redis is away: all of it may be repeated."""
        pause_s = AGAIN_S
        while True:
            try:
                value = await step()
            except BusUnavailable as error:
                if not self._away:
                    self._away = True
                    log.warning("redis is away", error=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_AGAIN_S)
            else:
                if self._away:
                    self._away = False
                    log.info("redis is back")
                return value

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            if self._under_way:
                log.info(
                    "at work", under_way=len(self._under_way), waiting=len(self._waiting), answered=self.tally.files
                )


def deadline_of(order: Order, taken: Taken) -> str:
    """When it is not to be sent any more, as a unix time: one that no restart puts off."""
    if order.deadline is None:
        return str(int(taken.taken_at + DEFAULT_DEADLINE_S))
    if order.deadline.startswith("+"):
        return f"{taken.taken_at + float(order.deadline[1:]):.6f}"
    return order.deadline
