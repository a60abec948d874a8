"""The events of one action, or of one followed call, in their order, none twice and none silently missing."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

from broker.call_state import CallState
from broker.codec import BusEvent, BusResponse, Result, State
from broker.dispatcher import Dispatcher
from broker.errors import AmibusError, BusUnavailable, ErrorCode
from broker.keys import Keys
from broker.link import Interrupted
from broker.messages import decoded, field_of, gap_before, stream_event
from broker.pipeline import Pipeline
from broker.submission import Submission, Submissions

MAX_QUEUED: Final = 1000
"""Events kept for a reader who is slower than they come. Beyond it they are read again from the `events` stream."""

LOOK_S: Final = 5.0
"""How often the record is read while no event comes, in case the last one's message was lost."""

AGAIN_S: Final = 0.5
"""How soon Redis is asked again when it could not be reached."""

UNSEEN_S: Final = 5.0
"""How long the first event of a call that has failed is waited for: Asterisk may tell that it failed before it tells of
its channels, and of one that could not be made it tells nothing more."""

GONE_S: Final = 30.0
"""How long a call is listened to whose record is gone, or says nothing of it, while nothing is heard of it: a worker
that goes on following it after Redis has lost its memory writes the record anew."""

PAGE: Final = 500

ENDINGS: Final = ("Hangup", "BusCallEnded", "BusFollowEnded")
"""After these events it is asked whether the call is over; that is written in the same step as they are."""


class Feed:
    """What comes on one channel, handed to its readers."""

    def __init__(self, submissions: Submissions) -> None:
        self.response: BusResponse | None = None
        self.readers: list[Reader] = []
        self._submissions = submissions

    def receive(self, data: bytes) -> None:
        """A message on the channel."""
        message = decoded(data, "the channel of an action or a call")
        if isinstance(message, BusEvent):
            self.hand_out(message)
        elif isinstance(message, Result):
            self._submissions.take(message)
        elif message is not None:
            self.response = message

    def hand_out(self, event: BusEvent) -> None:
        """Give an event to every reader."""
        for reader in self.readers:
            reader.offer(event)

    def interrupted(self) -> None:
        """The channel was away for a while: what it carried then is in the `events` stream."""
        for reader in self.readers:
            reader.interrupted()

    def wake(self) -> None:
        """Have every reader look whether it is over."""
        for reader in self.readers:
            reader.news.set()


class Subscription:
    """A feed's subscription to its channel, given back once, from whatever thread."""

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


class Reader(ABC):
    """One reader of a channel's events, up to the end of what they are about.

    What was missed while the subscription was interrupted, or because the reader was slow, is read again from the
    `events` stream. Events are kept from the beginning; `start` must come before they are read.
    """

    def __init__(self, keys: Keys, pipeline: Pipeline, dispatcher: Dispatcher, marker: str) -> None:
        """`marker` stands in every event that is ours."""
        self.news = asyncio.Event()
        self.missed = False
        self.is_closed = False
        self._keys = keys
        self._pipeline = pipeline
        self._dispatcher = dispatcher
        self._marker = marker.encode()
        self._entry = ""
        self._sink: Callable[[BusEvent], None] | None = None
        self._queue: deque[BusEvent] = deque()
        self._last: tuple[int, int] | None = None
        self._read_to: tuple[int, int] | None = None
        self._position = "0"
        self._look_s = LOOK_S
        self._may_be_over = False

    def start(self, entry: str, sink: Callable[[BusEvent], None] | None = None) -> None:
        """Begin: the events come after that entry of a lane. A `sink` gets them as they come; `events` is then only
        needed for what was missed, and for the end."""
        self._entry, self._position, self._sink = entry, _before(entry), sink
        while sink is not None and self._queue and not self.missed:
            self._hand_out(self._queue.popleft(), sink)

    def offer(self, event: BusEvent) -> None:
        """An event came."""
        if self._sink is not None and not self.missed and not self._queue:
            self._hand_out(event, self._sink)
        else:
            if len(self._queue) >= MAX_QUEUED:
                self._queue.clear()
                self.missed = True
            self._queue.append(event)
        self.news.set()

    def interrupted(self) -> None:
        """Events may have been missed until now."""
        self.missed = True
        self.news.set()

    def close(self) -> None:
        """Let `events` end with what is here."""
        self.is_closed = True
        self.news.set()

    async def events(self) -> AsyncGenerator[BusEvent]:
        """The events, until what they are about is over; of a reader with a sink only those that it has not got.

        Raises `BusUnavailable`, also where this Redis user may not read `events` and something was missed.
        """
        ask, ended = True, self.is_closed
        while True:
            if self.missed:
                self.missed = False
                async for event in self._catch_up():
                    yield event
                ask = True
            elif self._queue:
                event = self._queue.popleft()
                ask = ask or event.name in ENDINGS
                if self._is_news(event):
                    yield event
            elif ended:
                return
            elif ask:
                ended = await self._ends()
                ask = False
            else:
                ask = await self._wait_for_news()

    @abstractmethod
    def _is_ours(self, event: BusEvent) -> bool:
        """Whether an event of the stream is one of these."""

    @abstractmethod
    async def _is_over(self) -> bool:
        """Whether no more of them can be published. Raises `Interrupted`, `BusUnavailable`."""

    @abstractmethod
    def _has_news(self) -> bool:
        """Whether something was heard since `_is_over` that may change its answer."""

    def _failure(self) -> AmibusError | None:
        """Why nothing can be heard any more."""
        return None

    def _is_doubtful(self) -> bool:
        """Whether it should soon be asked again whether it is over."""
        return False

    def _hand_out(self, event: BusEvent, sink: Callable[[BusEvent], None]) -> None:
        self._may_be_over = self._may_be_over or event.name in ENDINGS
        if self._is_news(event):
            sink(event)

    def _is_news(self, event: BusEvent) -> bool:
        at = (event.epoch, event.seq)
        if self._last is not None and at <= self._last:
            return False
        self._last = at
        return True

    async def _wait_for_news(self) -> bool:
        """Wait for an event, an interruption or other news. True if it should be asked whether it is over."""
        failure = self._failure()
        if failure is not None:
            raise failure
        try:
            async with asyncio.timeout(self._look_s):
                await self.news.wait()
        except TimeoutError:
            return True
        self.news.clear()
        ending, self._may_be_over = self._may_be_over, False
        return ending or self.is_closed or self._has_news()

    async def _ends(self) -> bool:
        """Whether it is over, and all its events are in the queue."""
        if self.is_closed:
            return True
        self._look_s = AGAIN_S
        try:
            if not await self._is_over():
                self._look_s = AGAIN_S if self._is_doubtful() else LOOK_S
                return False
            # That was said on another connection: wait for what was published before it.
            await self._dispatcher.barrier()
        except Interrupted:
            # Redis is away: ask again, and once the subscription is back, what was missed is caught up with.
            return False
        return True

    def _rewind(self, entry: str) -> None:
        """The events began with that entry, not with ours: the same was asked for before."""
        if self._last is None and entry and entry != self._entry and _before(entry) != self._position:
            self._position = _before(entry)
            self.missed = True

    async def _catch_up(self) -> AsyncGenerator[BusEvent]:
        """What the `events` stream holds of this and was not handed out yet."""
        while True:
            try:
                page = await self._pipeline.enqueue("XRANGE", self._keys.events, self._position, "+", "COUNT", PAGE)
            except Interrupted:
                self.missed = True
                await asyncio.sleep(AGAIN_S)
                return
            for at, (raw_id, fields) in enumerate(page):
                data = field_of(fields, b"data")
                if at in (0, len(page) - 1) or self._marker in data:
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
        if self._is_ours(event) and self._is_news(event):
            news.append(event)
        return news


class ActionReader(Reader):
    """The events of an action. One that places no call is over with its result."""

    def __init__(
        self,
        submission: Submission,
        submissions: Submissions,
        pipeline: Pipeline,
        dispatcher: Dispatcher,
        uniqueid: str,
    ) -> None:
        """`uniqueid` is that of the channel which the call begins with, if it places one."""
        super().__init__(submissions.keys, pipeline, dispatcher, submission.action_id)
        self._submission = submission
        self._submissions = submissions
        self._seen_record = False
        self._asked_with: Result | None = None
        self._unseen_since: float | None = None
        self._seen = CallState(uniqueid, submission.action_id)
        self._recorded = ""
        """What the record has said last of the call."""
        self._silent_since: float | None = None
        """Since when neither the record nor an event says anything of a call that is known to be alive."""

    def _is_ours(self, event: BusEvent) -> bool:
        return self._submission.action_id in event.action_ids

    def _has_news(self) -> bool:
        return self._submission.result is not self._asked_with

    def _failure(self) -> AmibusError | None:
        return self._submission.failure

    async def _is_over(self) -> bool:
        # As it was before the look: a result that comes while the record is read says nothing about a record that was
        # not there yet.
        settled = self._asked_with = self._submission.result
        if settled is not None and not self._submission.places_call and settled.entry == self._entry:
            return True
        record = await self._submissions.look(self._submission)
        if record is None:
            # Not taken up yet; or settled, or seen before, and expired since.
            return (settled is not None or self._seen_record) and self._may_end()
        if not self._submission.owns(record):
            return settled is not None
        self._seen_record = True
        self._rewind(record.entry)
        if record.call:
            self._unseen_since = self._silent_since = None
            self._recorded = record.call
            return record.call == "ended"
        if not self._submission.places_call:
            return record.is_final
        if record.get("error_code") == ErrorCode.ORIGINATE_FAILED:
            now = asyncio.get_running_loop().time()
            if self._unseen_since is None:
                self._unseen_since = now
            return now - self._unseen_since >= UNSEEN_S
        # A done Originate has a call, even if its first event is still to come.
        return record.is_final and record.state is not State.DONE and self._may_end()

    def _may_end(self) -> bool:
        """Whether nothing speaks against it that it is over, where its record says nothing of a call. Raises
        `BusUnavailable` where the end of a call can not be known."""
        is_alive = bool(self._seen.legs) or self._recorded in ("dialing", "up")
        if self._seen.is_over or not is_alive:
            return True
        now = asyncio.get_running_loop().time()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since < GONE_S:
            return False
        self._silent_since = None  # who asks again waits again
        raise BusUnavailable(
            f"Redis has lost the record of the call {self._submission.action_id}, and nothing was heard of it for "
            f"{GONE_S:g} s: perhaps nobody follows it any more"
        )

    def _is_news(self, event: BusEvent) -> bool:
        is_news = super()._is_news(event)
        if is_news:
            self._seen.apply(event)
            self._silent_since = None
        return is_news

    def _is_doubtful(self) -> bool:
        return self._unseen_since is not None


def _before(entry: str) -> str:
    """Where to read `events` from, to see all that came after an entry of a lane: ids are comparable by time only."""
    return f"{entry.partition('-')[0]}-0"
