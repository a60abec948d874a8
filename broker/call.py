"""One submitted action: its result, and its events up to the end of the call that it placed."""

import asyncio
import contextlib
import weakref
from collections.abc import Callable

from broker.call_events import ActionReader, Feed, Subscription
from broker.call_state import CallOutcome, CallState
from broker.call_story import CallStory, Story
from broker.codec import BusResponse, Result, State
from broker.dispatcher import Dispatcher
from broker.entry import own_channel_id
from broker.errors import ResultTimeout
from broker.items import with_items
from broker.keys import Keys
from broker.pipeline import Pipeline
from broker.record import Record
from broker.submission import Submission, Submissions
from broker.telephony import ChannelControl, TypedCalls


class Call(CallStory, ChannelControl):
    """An action on its way, as `Server.submit` returns it.

        call = await pbx.originate("PJSIP/100", "200", ring_s=20)
        outcome = await call.answered()
        if outcome.is_answered:
            await call.bridged()
        print((await call.ended()).cause_text)

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
    ) -> None:
        """To be opened before the action is queued, and started when it is."""
        self._server = server
        self._submission = submission
        self._submissions = submissions
        self._keys: Keys = submissions.keys
        self._pipeline = pipeline
        feed = self._feed = Feed(submissions)
        self._reader, reader = [
            ActionReader(submission, submissions, pipeline, dispatcher, self.channel_id) for _ in range(2)
        ]
        state = CallState(self.channel_id, submission.action_id)
        story = self._story = Story(state, reader)
        feed.readers += [self._reader, story.reader]
        self._subscription = Subscription(dispatcher, self._keys.action(submission.action_id), feed)

        def on_news() -> None:
            if submission.result is not None:
                state.settle(submission.result)
            story.tell()
            feed.wake()

        submission.on_news = on_news
        self._release = _releaser(feed, self._subscription)
        weakref.finalize(self, self._forgetter()).atexit = False

    async def _open(self) -> None:
        """Listen. Raises `BusUnavailable`."""
        await self._subscription.open()

    def _start(self) -> None:
        """The action is queued."""
        self._reader.start(self.entry)
        self._story.start(self.entry)

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
    def _name(self) -> str:
        return self.action_id

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

    async def answered(self, timeout: float | None = None) -> CallOutcome:
        """Wait until it is known how the dialling went: answered, busy, no answer, congestion or failed.

        None of these is an exception. `timeout` is the caller's own patience in seconds (None: without end). Raises
        `ResultTimeout`; the `ActionError` of a call that was not placed (`rejected`, `expired`, `cancelled`) or of
        which nobody knows (`unknown`); `BusUnavailable`.
        """
        self._must_place_call()
        await self.result(timeout, raise_on_failure=False)
        self._must_be_placed()
        return self._story.state.outcome()

    async def action_record(self) -> Record | None:
        """The record as it is now; None if there is none (not taken up yet, or expired). Raises `BusUnavailable`."""
        return await self._submissions.look(self._submission, patiently=True)

    def close(self) -> None:
        """Listen to the action's channel no more: `events` ends; `result` goes on working. The action goes on too."""
        self._release()

    async def _is_over(self) -> bool:
        # The record knows what was missed, and it is complete: it was written in the same step as the last event was.
        record = await self.action_record()
        self._must_be_placed()
        if record is not None and self._submission.owns(record):
            self._story.state.recall(record)
        state, result = self._story.state, self._submission.result
        return state.is_over or (result is not None and result.state is State.FAILED)

    def _must_place_call(self) -> None:
        if not self._submission.places_call:
            raise TypeError(f"{self.action} places no call")

    def _must_be_placed(self) -> None:
        """Raise the `ActionError` of a call that was not placed, or of which nothing is known."""
        result = self._submission.result
        if result is not None and result.state is not State.FAILED and not self._story.state.is_dialled:
            result.raise_for_state()

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


def _releaser(feed: Feed, subscription: Subscription) -> Callable[[], None]:
    def release() -> None:
        for reader in feed.readers:
            reader.close()
        subscription.close()

    return release
