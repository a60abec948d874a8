"""The story of a call, as it is told to those who wait for something in it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self

from broker.call_events import Reader
from broker.call_state import Bridge, CallOutcome, CallState, Leg
from broker.codec import BusEvent
from broker.errors import BusUnavailable, ResultTimeout
from broker.noise import without_noise


class Story:
    """The state of a call, kept up by a reader of its events."""

    def __init__(self, state: CallState, reader: Reader) -> None:
        self.state = state
        self.reader = reader
        self._news = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None

    def start(self, entry: str) -> None:
        """Take the events that come after that entry, from now on as they come."""
        self.reader.start(entry, self._take)

    def tell(self) -> None:
        """Something has changed: have whoever waits look at it."""
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, reached: Callable[[], bool]) -> bool:
        """Wait until that is so. False: the call is over, or is not listened to any more, and it never was.

        Raises `BusUnavailable`.
        """
        if self._driver is None or (self._driver.done() and not self._is_complete):
            self._driver = asyncio.create_task(self._drive(), name="amibus story of a call")
            without_noise(self._driver)  # whoever waited may have gone when the bus is closed
        while not reached():
            if self._driver.done():
                self._driver.result()
                return reached()
            await self._news.wait()
        return True

    @property
    def _is_complete(self) -> bool:
        driver = self._driver
        return driver is not None and driver.done() and not driver.cancelled() and driver.exception() is None

    async def _drive(self) -> None:
        """Read what was missed, and find the end."""
        try:
            async for event in self.reader.events():
                self._take(event)
        finally:
            asyncio.get_running_loop().call_soon(self.tell)  # once this task is done

    def _take(self, event: BusEvent) -> None:
        self.state.apply(event)
        self.tell()


class CallStory(ABC):
    """What a call of the bus and a call that is merely followed have in common."""

    _story: Story
    _reader: Reader

    @property
    @abstractmethod
    def _name(self) -> str:
        """What it is called in errors."""

    @property
    def uniqueid(self) -> str:
        """The Uniqueid of the channel that was dialled, or is followed."""
        return self._story.state.uniqueid

    @property
    def channel(self) -> str:
        """Its name, as far as it is known: a rename gives it another."""
        return self._story.state.channel

    @property
    def legs(self) -> tuple[Leg, ...]:
        """Every channel that the call has had so far, in the order in which they came, with their names and states.

        It is as new as the events that have come. While the connection to Redis was away some were missed; they are
        caught up with by the next `answered`, `bridged` or `ended`.
        """
        return tuple(self._story.state.legs.values())

    @abstractmethod
    async def answered(self, timeout: float | None = None) -> CallOutcome:
        """Wait until it is known how the dialling went, and return that."""

    async def bridged(self, timeout: float | None = None) -> Bridge | None:
        """Wait until a leg of the call is in a bridge with another channel, and return the first such bridge.

        None: the call is over, and never was in one. Raises `ResultTimeout` after `timeout` seconds, `BusUnavailable`;
        of a call that was not placed the `ActionError` of its action.
        """
        self._must_place_call()
        state = self._story.state
        if not await self._until(lambda: state.bridged is not None, timeout):
            await self._must_be_over()
        return state.bridged

    async def ended(self, timeout: float | None = None) -> CallOutcome:
        """Wait until the last leg has hung up, and return what became of the call, with the cause of the hangup.

        Raises `ResultTimeout` after `timeout` seconds, `BusUnavailable`; of a call that was not placed the
        `ActionError` of its action.
        """
        self._must_place_call()
        await self._until(lambda: False, timeout)
        await self._must_be_over()
        self.close()
        return self._story.state.outcome()

    async def events(self) -> AsyncGenerator[BusEvent]:
        """The events in their order, none twice, until the call is over.

        An action that places no call is over with its result. What was missed while the subscription was
        interrupted, or because the reader was slow, is read again from the `events` stream; where that has
        been trimmed meanwhile, a `BusGap` says so. To be read by one task; a second iteration goes on where
        the first stopped. Raises `BusUnavailable`, also where this Redis user may not read `events` and
        something was missed, and where Redis has lost the call's record and nothing is heard of it any more.
        """
        async for event in self._reader.events():
            yield event
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Listen no more: `events` ends. The call goes on."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    async def _is_over(self) -> bool:
        """Whether the call is over, once its events have ended; the state is to be completed by what is recorded."""

    async def _must_be_over(self) -> None:
        """Raise `BusUnavailable` where nothing is heard any more and the call goes on."""
        if not await self._is_over():
            raise BusUnavailable(f"{self._name} is not listened to any more, and its call is not over")

    @abstractmethod
    def _must_place_call(self) -> None:
        """Raise TypeError if there can be no call."""

    async def _until(self, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout_s) as patience:
                return await self._story.until(reached)
        except TimeoutError:
            if not patience.expired():
                raise
            raise ResultTimeout(self._name, timeout_s or 0.0) from None
