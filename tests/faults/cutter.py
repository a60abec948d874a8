"""A proxy before AMI that ends a session at a chosen byte of what Asterisk says: by order, by reset, or by silence."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

from tests.faults.proxy import CHUNK_BYTES, LINGER_NOT


class How(Enum):
    """What the client sees at the cut."""

    CLOSE = "the end of the connection, in order"
    RESET = "a reset"
    HOLE = "nothing more, on a connection that stays"


@dataclass
class Incision:
    """A cut right after `pattern`, or, without one, after so many bytes of each session; `times` of them."""

    pattern: bytes = b""
    after_bytes: int = 0
    how: How = How.CLOSE
    times: int = 1
    done: int = 0

    def at(self, said: bytes, new: int) -> int | None:
        """Up to which byte `said` is passed on, the last `new` of which have just come; None: all of it."""
        if self.done >= self.times:
            return None
        if not self.pattern:
            return self.after_bytes if len(said) >= self.after_bytes else None
        found = said.find(self.pattern, max(0, len(said) - new - len(self.pattern) + 1))
        return None if found < 0 else found + len(self.pattern)


class Cutter:
    """Stands before an AMI port of the loopback. Use it as `async with Cutter(port) as cutter`; connect to `port`."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self.incisions: list[Incision] = []
        self.said: list[bytes] = []
        """What each session was told, in the order of their beginnings."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.end_sessions()

    async def end_sessions(self) -> None:
        """Close every session that there is, also one that a cut has left open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, pattern: bytes = b"", *, after_bytes: int = 0, how: How = How.CLOSE, times: int = 1) -> Incision:
        """Cut at the next occurrences of this, or (without a pattern) after so many bytes of a session."""
        incision = Incision(pattern, after_bytes, how, times)
        self.incisions.append(incision)
        return incision

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._pass(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio's streams would print it
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self.upstream)
        number = len(self.said)
        self.said.append(b"")
        ways = [
            asyncio.create_task(_copy(reader, below)),
            asyncio.create_task(self._replies(number, above, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            below.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _replies(self, number: int, above: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await above.read(CHUNK_BYTES):
            before = len(self.said[number])
            self.said[number] += data
            for incision in self.incisions:
                end = incision.at(self.said[number], len(data))
                if end is not None:
                    incision.done += 1
                    writer.write(data[: max(0, end - before)])
                    await _end(writer, incision.how)
                    return
            writer.write(data)
            await writer.drain()


NEVER: Final = 3600.0


async def _end(writer: asyncio.StreamWriter, how: How) -> None:
    await writer.drain()
    if how is How.CLOSE:
        writer.close()  # right behind what was said: nothing more is to be written as an answer to that
    elif how is How.HOLE:
        await asyncio.sleep(NEVER)
    elif how is How.RESET:
        sock: Any = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
