"""One submitted action: its result, and its events up to the end of the call that it placed."""

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Final, Self

from broker.codec import BusEvent, BusResponse, Result, State
from broker.dispatcher import Dispatcher
from broker.entry import own_channel_id
from broker.errors import ResultTimeout
from broker.items import with_items
from broker.keys import Keys
from broker.link import Interrupted
from broker.messages import decoded, field_of, gap_before, stream_event
from broker.pipeline import Pipeline
from broker.record import Record
from broker.submission import Submission, Submissions
from broker.telephony import ChannelControl, TypedCalls

MAX_QUEUED: Final = 1000
"""Events kept for a reader who is slower than they come. Beyond it they are read again from the `events` stream."""

LOOK_S: Final = 5.0
"""How often the record is read while no event comes, in case the last one's message was lost."""

AGAIN_S: Final = 0.5
"""How soon Redis is asked again when it could not be reached."""

PAGE: Final = 500

ENDINGS: Final = ("Hangup", "BusCallEnded")
"""After these events the record is asked whether the call is over; it is written in the same step as they are."""


class Feed:
    """What comes on the action's channel, kept until somebody reads it."""

    def __init__(self, submissions: Submissions) -> None:
        self.queue: deque[BusEvent] = deque()
        self.missed = False
        self.response: BusResponse | None = None
        self.news = asyncio.Event()
        self._submissions = submissions

    def receive(self, data: bytes) -> None:
        """A message on the channel."""
        message = decoded(data, "an action's channel")
        if isinstance(message, BusEvent):
            if len(self.queue) >= MAX_QUEUED:
                self.queue.clear()
                self.missed = True
            self.queue.append(message)
            self.news.set()
        elif isinstance(message, Result):
            self._submissions.take(message)
        elif message is not None:
            self.response = message

    def interrupted(self) -> None:
        """The channel was away for a while: what it carried then is in the `events` stream."""
        self.missed = True
        self.news.set()


class Channel:
    """The subscription to one action's channel, given back once, from whatever thread."""

    def __init__(self, dispatcher: Dispatcher, name: str, feed: Feed) -> None:
        self._dispatcher = dispatcher
        self._name = name
        self._feed = feed

    async def open(self) -> None:
        """Subscribe. Raises `BusUnavailable`."""
        await self._dispatcher.subscribe(self._name, self._feed)

    def close(self) -> None:
        """Unsubscribe; harmless when repeated."""
        self._dispatcher.unsubscribe(self._name, self._feed)


class Call(ChannelControl):
    """An action on its way, as `Server.submit` returns it.

        call = await pbx.submit("Originate", Channel="PJSIP/100", Application="Echo")
        async for event in call.events():
            print(event.name)
        result = await call.result(timeout=60)

    It listens to the action's channel until the call is over, or `close` (or the end of `async with`) says
    so, or nobody holds it any more.
    """

    def __init__(
        self,
        server: TypedCalls,
        submission: Submission,
        submissions: Submissions,
        pipeline: Pipeline,
        dispatcher: Dispatcher,
        feed: Feed,
    ) -> None:
        self._server = server
        self._submission = submission
        self._submissions = submissions
        self._pipeline = pipeline
        self._dispatcher = dispatcher
        self._feed = feed
        self._keys: Keys = submissions.keys
        self._last: tuple[int, int] | None = None
        self._read_to: tuple[int, int] | None = None
        self._position = _before(self.entry)
        self._seen_record = False
        self._asked = True
        self._asked_with: Result | None = None
        self._over = False
        submission.on_news = feed.news.set
        self._release = self._releaser()
        weakref.finalize(self, self._forgetter()).atexit = False

    @property
    def action_id(self) -> str:
        """The ActionID, given or generated."""
        return self._submission.action_id

    @property
    def action(self) -> str:
        """The action's name."""
        return self._submission.action

    @property
    def server(self) -> str:
        """The server's name."""
        return self._keys.server

    @property
    def entry(self) -> str:
        """The id of the stream entry."""
        return self._submission.entry or ""

    @property
    def channel_id(self) -> str:
        """Of an Originate: the Uniqueid of the channel that it dials, by which every action finds it."""
        return self._submission.header("ChannelId") or own_channel_id(self.server, self.action_id)

    @property
    def _calls(self) -> TypedCalls:
        return self._server

    @property
    def response(self) -> BusResponse | None:
        """Asterisk's first answer, where more was to come and it has been seen on the action's channel."""
        return self._feed.response

    def __repr__(self) -> str:
        result = self._submission.result
        return f"<Call {self.action} {self.action_id} {result.state if result else 'waiting'}>"

    async def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> Result:
        """Wait for the result: `done`, or (with `raise_on_failure=False`) any other.

        For an Originate that is the answer to the dialling, not the end of the call. A revised result (see
        the contract) is returned from the moment it is known. Raises the `ActionError` of its state,
        `ResultTimeout` after `timeout` seconds, `ItemsGone`, `BusUnavailable`.
        """
        try:
            async with asyncio.timeout(timeout) as patience:
                result = await with_items(await self._submission.settled(), self._keys, self._pipeline)
        except TimeoutError:
            if not patience.expired():
                raise
            raise ResultTimeout(self.action_id, timeout or 0.0) from None
        return result.raise_for_state() if raise_on_failure else result

    async def action_record(self) -> Record | None:
        """The record as it is now; None if there is none (not taken up yet, or expired). Raises `BusUnavailable`."""
        return await self._submissions.look(self._submission, patiently=True)

    async def events(self) -> AsyncGenerator[BusEvent]:
        """The events of this action in their order, none twice, until its call is over.

        An action that places no call is over with its result. What was missed while the subscription was
        interrupted, or because the reader was slow, is read again from the `events` stream; where that has
        been trimmed meanwhile, a `BusGap` says so. To be read by one task; a second iteration goes on where
        the first stopped. Raises `BusUnavailable`, also where this Redis user may not read `events` and
        something was missed.
        """
        ask, ended = True, self._over
        while True:
            if self._feed.missed:
                self._feed.missed = False
                async for event in self._catch_up():
                    yield event
                ask = True
            elif self._feed.queue:
                event = self._feed.queue.popleft()
                ask = ask or event.name in ENDINGS
                if self._is_news(event):
                    yield event
            elif ended:
                break
            elif ask:
                ended = await self._ends()
                ask = False
            else:
                ask = await self._wait_for_news()
        self.close()

    def close(self) -> None:
        """Listen to the action's channel no more: `events` ends; `result` goes on working. The action goes on too."""
        self._over = True
        self._release()
        self._feed.news.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _releaser(self) -> Callable[[], None]:
        return Channel(self._dispatcher, self._keys.action(self.action_id), self._feed).close

    def _forgetter(self) -> Callable[[], None]:
        # What runs when nobody holds the call any more must not hold it itself, and may run on any thread.
        release, submissions, submission = self._release, self._submissions, self._submission
        loop = asyncio.get_running_loop()

        def forget() -> None:
            release()
            submissions.forget(submission)

        def forget_on_loop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and all subscriptions with it
                loop.call_soon_threadsafe(forget)

        return forget_on_loop

    def _is_news(self, event: BusEvent) -> bool:
        at = (event.epoch, event.seq)
        if self._last is not None and at <= self._last:
            return False
        self._last = at
        return True

    async def _wait_for_news(self) -> bool:
        """Wait for an event, an interruption or the result. True if the record should be read."""
        if self._submission.failure is not None:
            raise self._submission.failure
        try:
            async with asyncio.timeout(LOOK_S if self._asked else AGAIN_S):
                await self._feed.news.wait()
        except TimeoutError:
            return True
        self._feed.news.clear()
        return self._over or self._submission.result is not self._asked_with

    async def _ends(self) -> bool:
        """Whether the action, and its call if it has one, is over, and all its events are in the queue."""
        if self._over:
            return True
        self._asked_with = self._submission.result
        try:
            self._asked = False
            if not await self._is_over():
                self._asked = True
                return False
            # The record was read on another connection: wait for what was published before that.
            await self._dispatcher.barrier()
        except Interrupted:
            # Redis is away: ask again, and once the subscription is back, what was missed is caught up with.
            return False
        return True

    async def _is_over(self) -> bool:
        # As it was before the look: a result that comes while the record is read says nothing about a record that was
        # not there yet.
        settled = self._submission.result
        if settled is not None and not self._is_call and settled.entry == self.entry:
            return True
        record = await self._submissions.look(self._submission)
        if record is None:
            # Not taken up yet; or settled, or seen before, and expired since.
            return settled is not None or self._seen_record
        if not self._submission.owns(record):
            return settled is not None
        self._seen_record = True
        self._rewind(record.entry)
        if record.call:
            return record.call == "ended"
        if not self._is_call:
            return record.is_final
        # A done Originate has a call, even if its first event is still to come.
        return record.is_final and record.state is not State.DONE

    @property
    def _is_call(self) -> bool:
        return self.action.lower() == "originate"

    def _rewind(self, entry: str) -> None:
        # The same action was asked for before: its events began with that entry.
        if self._last is None and entry and entry != self.entry and _before(entry) != self._position:
            self._position = _before(entry)
            self._feed.missed = True

    async def _catch_up(self) -> AsyncGenerator[BusEvent]:
        """What the `events` stream holds of this action and was not handed out yet."""
        ours = self.action_id.encode()
        while True:
            try:
                page = await self._pipeline.enqueue("XRANGE", self._keys.events, self._position, "+", "COUNT", PAGE)
            except Interrupted:
                self._feed.missed = True
                await asyncio.sleep(AGAIN_S)
                return
            for at, (raw_id, fields) in enumerate(page):
                data = field_of(fields, b"data")
                if at in (0, len(page) - 1) or ours in data:
                    for event in self._read_again(stream_event(raw_id.decode(), data), first=at == 0):
                        yield event
                self._position = f"({raw_id.decode()}"
            if len(page) < PAGE:
                return

    def _read_again(self, event: BusEvent | None, *, first: bool) -> list[BusEvent]:
        """An event of the stream if it is ours and new; before it a `BusGap` if the page begins after a hole."""
        if event is None:
            return []
        at = (event.epoch, event.seq)
        known = max((place for place in (self._last, self._read_to) if place is not None), default=None)
        gap = gap_before(event, known) if first else None
        news = [] if gap is None else [gap]
        self._read_to = at if known is None else max(known, at)
        if self.action_id in event.action_ids and self._is_news(event):
            news.append(event)
        return news


def _before(entry: str) -> str:
    """Where to read `events` from, to see all that came after an entry of a lane: ids are comparable by time only."""
    return f"{entry.partition('-')[0]}-0"
