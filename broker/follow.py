"""A call that the bus did not place, followed by its Uniqueid."""

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from typing import Final

from broker.ami import Headers
from broker.call_events import Feed, Reader, Subscription
from broker.call_state import TIME_LIMIT, CallOutcome, CallState
from broker.call_story import CallStory, Story
from broker.codec import BusEvent
from broker.dispatcher import Dispatcher
from broker.errors import ActionError, ActionFailed, AmibusError, BusUnavailable, ErrorCode, ResultTimeout
from broker.keys import Keys
from broker.pipeline import Pipeline
from broker.submission import Submissions
from broker.telephony import ChannelControl, TypedCalls

FOLLOW_S: Final = 600.0
"""For how long the worker is asked to publish the events. It ends by itself if nobody asks again."""

RENEW_S: Final = 200.0
"""How soon it is asked again: two of three times may fail."""

AGAIN_S: Final = 5.0
"""How soon it is asked again after that."""

PATIENCE_S: Final = 30.0
"""How long the answer is waited for."""


class Following:
    """The worker's promise to publish a call's events, renewed until the call is over or nobody wants them any more."""

    def __init__(self, server: TypedCalls, uniqueid: str) -> None:
        self.uniqueid = uniqueid
        self.is_over = False
        self.failure: AmibusError | None = None
        self.on_news: Callable[[], None] = lambda: None
        self._server = server
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self, timeout_s: float | None) -> tuple[str, list[Headers]]:
        """Ask for the first time. Returns the stream entry of the request, and the legs that are alive."""
        entry, legs = await self._ask(timeout_s)
        self._task = asyncio.create_task(self._renew(), name=f"amibus follows {self.uniqueid}")
        return entry, legs

    def hear(self, event: BusEvent) -> None:
        """An event of the call came."""
        if event.name != "BusFollowEnded" or event.headers.get("Uniqueid") != self.uniqueid:
            return
        if event.headers.get("reason") == TIME_LIMIT:
            self.ask_soon()
        else:
            self._end()

    def ask_soon(self) -> None:
        """Ask at once whether the call is alive: events may have been missed."""
        self._wake.set()

    def fail(self, error: AmibusError) -> None:
        """Nothing can be heard any more."""
        self.failure = error
        self.stop()
        self.on_news()

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, timeout_s: float | None) -> tuple[str, list[Headers]]:
        result = await self._server.request(
            "BusFollow",
            headers={"Bus-Target": self.uniqueid},
            answer_timeout=FOLLOW_S,
            timeout=timeout_s,
            urgent=True,
            deadline=f"+{PATIENCE_S:g}",
        )
        return result.entry, result.events

    async def _renew(self) -> None:
        pause_s = RENEW_S
        while not self.is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            if self.is_over:  # told of while this waited
                return
            self._wake.clear()
            try:
                await self._ask(PATIENCE_S)
                pause_s = RENEW_S
            except ActionFailed as error:
                if error.code == ErrorCode.ASTERISK_ERROR:  # there is no such channel any more
                    self._end()
                pause_s = AGAIN_S
            except (ActionError, BusUnavailable, ResultTimeout):
                pause_s = AGAIN_S

    def _end(self) -> None:
        self.is_over = True
        self._wake.set()
        self.on_news()


class FollowFeed(Feed):
    """A feed that tells the following what it must know."""

    def __init__(self, submissions: Submissions, following: Following) -> None:
        super().__init__(submissions)
        self._following = following

    def hand_out(self, event: BusEvent) -> None:
        super().hand_out(event)
        self._following.hear(event)

    def interrupted(self) -> None:
        super().interrupted()
        self._following.ask_soon()


class FollowReader(Reader):
    """The events of a followed call."""

    def __init__(self, keys: Keys, pipeline: Pipeline, dispatcher: Dispatcher, following: Following) -> None:
        super().__init__(keys, pipeline, dispatcher, following.uniqueid)
        self._following = following

    def _is_ours(self, event: BusEvent) -> bool:
        if self._following.uniqueid not in event.calls:
            return False
        self._following.hear(event)
        return True

    def _has_news(self) -> bool:
        return self._following.is_over

    def _failure(self) -> AmibusError | None:
        return self._following.failure

    async def _is_over(self) -> bool:
        return self._following.is_over


class FollowedCall(CallStory, ChannelControl):
    """A call that somebody else placed, as `Server.follow` returns it.

        async with await pbx.follow("1700000000.42") as call:
            async for event in call.events():
                print(event.name, event.headers.get("Channel"))
            print((await call.ended()).cause_text)

    It is followed until it is over, or `close` (or the end of `async with`) says so, or nobody holds it any more.
    """

    def __init__(
        self,
        server: TypedCalls,
        uniqueid: str,
        keys: Keys,
        submissions: Submissions,
        pipeline: Pipeline,
        dispatcher: Dispatcher,
    ) -> None:
        self._keys = keys
        self._server = server
        self._following = following = Following(server, uniqueid)
        feed = FollowFeed(submissions, following)
        self._reader = FollowReader(keys, pipeline, dispatcher, following)
        self._story = Story(CallState(uniqueid), FollowReader(keys, pipeline, dispatcher, following))
        feed.readers += [self._reader, self._story.reader]
        following.on_news = feed.wake
        self._subscription = Subscription(dispatcher, keys.call(uniqueid), feed)
        self._release = _releaser(feed, self._subscription, following)
        weakref.finalize(self, _on_loop(self._release)).atexit = False

    async def _open(self, timeout_s: float | None) -> None:
        """Begin to follow. Raises the `ActionError` of the BusFollow, `ResultTimeout`, `BusUnavailable`."""
        await self._subscription.open()
        entry, legs = await self._following.begin(timeout_s)
        self._story.state.begin(legs)
        self._reader.start(entry)
        self._story.start(entry)

    @property
    def server(self) -> str:
        """The server's name."""
        return self._keys.server

    @property
    def channel_id(self) -> str:
        """The Uniqueid: every action finds the channel by it."""
        return self.uniqueid

    @property
    def _name(self) -> str:
        return self.uniqueid

    @property
    def _calls(self) -> TypedCalls:
        return self._server

    def __repr__(self) -> str:
        return f"<FollowedCall {self.uniqueid} {'over' if self._following.is_over else 'alive'}>"

    async def answered(self, timeout: float | None = None) -> CallOutcome:
        """Wait until the channel has answered, or the call is over, and return which.

        At once if it was up when the following began. `timeout` is in seconds (None: without end). Raises
        `ResultTimeout`, `BusUnavailable`.
        """
        state = self._story.state
        if not await self._until(lambda: state.is_dialled, timeout):
            await self._must_be_over()
        return state.outcome()

    def close(self) -> None:
        """Listen no more: `events` ends. The call goes on."""
        self._release()

    def _must_place_call(self) -> None:
        pass  # there is one

    async def _is_over(self) -> bool:
        if self._following.is_over:
            self._story.state.end()
        return self._story.state.is_over


def _releaser(feed: Feed, subscription: Subscription, following: Following) -> Callable[[], None]:
    def release() -> None:
        for reader in feed.readers:
            reader.close()
        subscription.close()
        following.stop()

    return release


def _on_loop(release: Callable[[], None]) -> Callable[[], None]:
    """The same, from whatever thread."""
    loop = asyncio.get_running_loop()

    def release_on_loop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all subscriptions with it
            loop.call_soon_threadsafe(release)

    return release_on_loop
