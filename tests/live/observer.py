"""An independent look at Asterisk: an AMI session of the test's own, parsed without the project's AMI code."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.lab import LabAsterisk
from tests.lab.session import WAIT_S, Session, logged_in

HeaderMap = dict[str, str | list[str]]


class Observer:
    """Sees every event that its user may read."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reading: asyncio.Task[None] | None = None

    @property
    def events(self) -> list[HeaderMap]:
        """The events so far, in order, as the contract shapes them: a repeated header is a list."""
        blocks = bytes(self.session.received).split(b"\r\n\r\n")
        return [_headers(block) for block in blocks[:-1] if block.startswith(b"Event: ")]

    def named(self, name: str, **headers: str) -> list[HeaderMap]:
        """The events of that name with these headers."""
        return [
            event
            for event in self.events
            if event["Event"] == name and all(event.get(key) == value for key, value in headers.items())
        ]

    def of_call(self, legs: set[str], action_id: str) -> list[HeaderMap]:
        """The events that the contract gives to an action with these legs."""
        return [event for event in self.events if _names_any(event, legs) or _answers(event, action_id)]

    async def until(self, name: str, **headers: str) -> HeaderMap:
        """Read until such an event is here."""
        async with asyncio.timeout(WAIT_S):
            while not (found := self.named(name, **headers)):
                await self.session.wait_for(b"Event: ", start=len(self.session.received))
        return found[0]

    async def end(self) -> list[HeaderMap]:
        """Stop reading by itself; all that Asterisk has sent until now."""
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.gather(self.reading, return_exceptions=True)
        await self.session.action("Ping")
        return self.events

    async def originate(self, channel_id: str, *headers: str) -> None:
        """Place a call that the bus knows nothing of."""
        answer = await self.session.action("Originate", "Async: true", f"ChannelId: {channel_id}", *headers)
        assert b"Response: Success" in answer

    async def answer(self, channel_id: str) -> None:
        """Have a call to a channel `Local/...@ring` answered, and wait until it is."""
        where = ("Context: default", "Exten: 101", "Priority: 1")
        answer = await self.session.action("Redirect", f"Channel: {channel_id};2", *where)
        assert b"Response: Success" in answer
        await self.until("Newstate", Uniqueid=channel_id, ChannelStateDesc="Up")


@asynccontextmanager
async def observing(asterisk: LabAsterisk, user: str = "observer") -> AsyncIterator[Observer]:
    """Sees everything; as user `amibus-events`, exactly what the worker sees."""
    async with logged_in(asterisk, user, events="on") as session:
        yield Observer(session)


@asynccontextmanager
async def recording(asterisk: LabAsterisk, user: str = "observer") -> AsyncIterator[Observer]:
    """The same, and it reads on by itself: nothing may be asked of its session before `Observer.end`."""
    async with observing(asterisk, user) as observer:
        observer.reading = asyncio.create_task(_read_on(observer.session))
        try:
            yield observer
        finally:
            observer.reading.cancel()
            await asyncio.gather(observer.reading, return_exceptions=True)


async def _read_on(session: Session) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            await session.wait_for(b"Event: ", start=len(session.received))


def _headers(block: bytes) -> HeaderMap:
    headers: HeaderMap = {}
    for line in block.split(b"\r\n"):
        name, _, value = _text(line).partition(": ")
        known = headers.get(name)
        if known is None:
            headers[name] = value
        else:
            headers[name] = [*known, value] if isinstance(known, list) else [known, value]
    return headers


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _names_any(event: HeaderMap, legs: set[str]) -> bool:
    return any(
        value in legs for name, value in event.items() if isinstance(value, str) and name.lower().endswith("uniqueid")
    )


def _answers(event: HeaderMap, action_id: str) -> bool:
    return event["Event"] == "OriginateResponse" and event.get("ActionID") == action_id
