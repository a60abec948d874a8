"""A bare AMI session for captures and the lab's own tests, without the AMI code that those are to test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from tests.lab.asterisk import LabAsterisk, login

READ_BYTES = 65_536
WAIT_S = 60.0


class Session:
    """One TCP session that keeps every byte that Asterisk sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = bytearray()
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, asterisk: LabAsterisk, user: str, *, events: str = "off") -> Self:
        """Connects and logs in. RuntimeError when the login is refused."""
        session = cls(*await asyncio.open_connection(asterisk.host, asterisk.port))
        session._writer.write(login(user, asterisk.users[user], events=events))
        await session.wait_for(b"Message: Auth")
        if b"Response: Success" not in session.received:
            raise RuntimeError(f"login of {user} refused: {bytes(session.received)!r}")
        return session

    async def action(self, name: str, *headers: str, until: bytes = b"", action_id: str = "") -> bytes:
        """Sends an action, with its name as ActionID unless another is given; what came up to and with the message
        that holds `until`."""
        start = len(self.received)
        self.send(name, *headers, action_id=action_id)
        await self.wait_for(until or b"Response: ", start=start)
        return bytes(self.received[start:])

    def send(self, name: str, *headers: str, action_id: str = "") -> None:
        """Sends an action and waits for nothing."""
        lines = [f"Action: {name}", f"ActionID: {action_id or name}", *headers]
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")

    async def wait_for(self, text: bytes, *, start: int = 0, deadline_s: float = WAIT_S) -> None:
        """Reads until a whole message holds the text. TimeoutError, or ConnectionError when the session ends."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self._has(text, start):
                    await self._read_more(text)
        except TimeoutError as error:
            raise TimeoutError(
                f"no {text!r} in {deadline_s:.0f} s; the end was {bytes(self.received[-500:])!r}"
            ) from error

    async def _read_more(self, text: bytes) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError(f"Asterisk closed the session before {text!r} came")
        self.received += data

    def _has(self, text: bytes, start: int) -> bool:
        found = self.received.find(text, start)
        return found >= 0 and self.received.find(b"\r\n\r\n", found) >= 0

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def logged_in(asterisk: LabAsterisk, user: str, *, events: str = "off") -> AsyncIterator[Session]:
    """`async with logged_in(asterisk, 'observer', events='on') as session:`"""
    session = await Session.open(asterisk, user, events=events)
    try:
        yield session
    finally:
        await session.close()
