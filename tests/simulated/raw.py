"""A bare AMI client for these tests: bytes in and out, and headers cut by hand."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

DEADLINE_S = 60.0

Message = list[tuple[str, str]]


def parse(text: str) -> list[Message]:
    """The messages of a text: each a list of (name, value)."""
    blocks = [each for each in re.split(r"(?:\r?\n){2,}", text) if each.strip()]
    return [[_header(line) for line in each.splitlines() if line] for each in blocks]


def value(message: Message, name: str) -> str | None:
    return dict(message).get(name)


def names(messages: list[Message]) -> list[str]:
    return [message[0][1] for message in messages]


async def becomes(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for what the simulation announces to nobody."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class RawClient:
    """One connection; everything read so far stays in `text`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.text = ""
        self.mark = 0

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def send(self, *lines: str, end: str = "\r\n") -> None:
        """One action; the lines are its headers."""
        self.writer.write((end.join([*lines, "", ""])).encode("utf-8", "surrogateescape"))

    async def until(self, pattern: str, deadline_s: float = DEADLINE_S) -> str:
        """Read until the pattern has come; what is new since the last call, up to and with it."""
        async with asyncio.timeout(deadline_s):
            while (match := re.compile(pattern, re.DOTALL).search(self.text, self.mark)) is None:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError(f"no {pattern!r} in {self.text[self.mark :]!r}")
                self.text += data.decode("utf-8", "surrogateescape")
        new = self.text[self.mark : match.end()]
        self.mark = match.end()
        return new

    async def until_eof(self, deadline_s: float = DEADLINE_S) -> str:
        """Read until the server has closed; what is new since the last call."""
        with suppress(ConnectionError):
            async with asyncio.timeout(deadline_s):
                self.text += (await self.reader.read()).decode("utf-8", "surrogateescape")
        new, self.mark = self.text[self.mark :], len(self.text)
        return new

    async def ask(self, *lines: str) -> list[Message]:
        """Send an action and return its messages: what carries its ActionID, up to the Ping that follows."""
        self.send(lines[0], "ActionID: ask", *lines[1:])
        self.send("Action: Ping", "ActionID: fence")
        text = await self.until(r"ActionID: fence\r\nPing: Pong\r\nTimestamp: \d+\.\d+\r\n\r\n")
        return [each for each in parse(text) if ("ActionID", "ask") in each]

    async def login(self, user: str = "amibus", *more: str) -> list[Message]:
        self.send("Action: Login", "ActionID: login", f"Username: {user}", f"Secret: {user}", *more)
        return parse(await self.until(r"ActionID: login\r\nMessage: [^\r]*\r\n\r\n"))

    async def events_until(self, last: str, count: int = 1) -> list[Message]:
        """The events up to the `count`th of that name."""
        found = ""
        for _ in range(count):
            found += await self.until(rf"Event: {last}\r\n.*?\r\n\r\n")
        return parse(found)


def _header(line: str) -> tuple[str, str]:
    name, _, text = line.partition(":")
    return name, text.removeprefix(" ")
