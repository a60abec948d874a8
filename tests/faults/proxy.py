"""A network on a bad day: a TCP proxy before one Redis or one AMI port, told at run time what to do to the bytes."""

import asyncio
import hashlib
import random
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from broker.scripts import source
from tests.ports import free_port

CHUNK_BYTES: Final = 65_536
CUT_PAUSE_S: Final = 0.001
"""Between the two pieces of a cut packet, so that the receiver reads them apart."""

LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing then sends a reset, not an orderly end."""


class Cut(Enum):
    """How packets are cut in two."""

    NOT = "whole"
    EVERYWHERE = "each packet at the next byte boundary, so that in time all are seen"
    RANDOM = "each packet at a random boundary"


@dataclass
class Loss:
    """Replies to be lost: to the next `times` requests that hold the pattern. Each takes its connection with it."""

    pattern: bytes
    times: int
    lost: int = 0

    @property
    def is_over(self) -> bool:
        """All of them are lost."""
        return self.lost >= self.times


class Proxy:
    """Stands before a port of the loopback. Use it as `async with Proxy(port) as proxy` and connect to `proxy.port`.

    The switches (`delay_s`, `cut`) and the methods work at any time, on connections that are there and on those to
    come. What is random comes of the seed.
    """

    def __init__(self, upstream: int, seed: int = 0, *more: int) -> None:
        self.ports = {port: free_port() for port in (upstream, *more)}
        """Ours before each port: there may be `more` than one, and what befalls one befalls all."""
        self.upstream = upstream
        self.names: dict[bytes, bytes] = {}
        """What is called otherwise in replies, at the same length: how a server is called that is behind a proxy."""
        self.lost = 0
        """Replies lost so far."""
        self.resets = 0
        """Connections reset so far."""
        self.delay_s = 0.0
        """Each chunk waits so long, in both directions."""
        self.cut = Cut.NOT
        self.losses: list[Loss] = []
        self.links: set[_Link] = set()
        self.random = random.Random(seed)
        self.cuts = 0
        """Packets cut so far."""
        self._silent = False
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._up, self._down = asyncio.Event(), asyncio.Event()
        """Set while bytes pass: towards the server, and back."""

    async def __aenter__(self) -> Self:
        self._up.set()
        self._down.set()
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Ours before the first, or only, port."""
        return self.ports[self.upstream]

    # -- commands

    async def heal(self) -> None:
        """Pass everything again; what was held back goes on its way."""
        self.delay_s, self.cut, self._silent = 0.0, Cut.NOT, False
        self.losses.clear()
        self._up.set()
        self._down.set()
        for link in [link for link in self.links if link.is_deaf]:
            link.reset()  # there is nobody behind it
        await self._listen()

    def drop_replies(self, pattern: bytes, times: int = 1) -> Loss:
        """Lose the server's replies to the next requests that hold `pattern`, and reset their connections."""
        loss = Loss(pattern, times)
        self.losses.append(loss)
        return loss

    def drop_script_replies(self, name: str, times: int = 1) -> Loss:
        """The same, for calls of one of the bus's scripts."""
        return self.drop_replies(script_sha(name), times)

    def black_hole(self, *, up: bool = True, down: bool = True) -> None:
        """Keep connections and pass nothing: towards the server (`up`), back (`down`), or both."""
        for gate, closed in ((self._up, up), (self._down, down)):
            if closed:
                gate.clear()

    def reset_all(self) -> int:
        """Reset every connection; how many."""
        links = list(self.links)
        for link in links:
            link.reset()
        return len(links)

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        self._close()

    def accept_silently(self) -> None:
        """Accept new connections and say nothing on them, whatever comes."""
        self._silent = True

    # -- inside

    async def _listen(self) -> None:
        if self._listeners:
            return
        for upstream, port in self.ports.items():
            serve = partial(self._serve, upstream)
            listener = await asyncio.start_server(serve, "127.0.0.1", port, reuse_address=True)
            self.ports[upstream] = listener.sockets[0].getsockname()[1]
            self._listeners.append(listener)

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _serve(self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(self, upstream, reader, writer)
        self.links.add(link)
        try:
            await link.run(silent=self._silent)
        except OSError:
            link.reset()  # as the other side did
        except asyncio.CancelledError:
            pass  # the proxy ends; asyncio's streams would print it
        finally:
            self.links.discard(link)
            self._tasks.discard(task)
            link.close()

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        """Write a chunk to one side, as slowly and in as many pieces as it is told."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await gate.wait()
        at = self._boundary(len(data))
        if at:
            writer.write(data[:at])
            await writer.drain()
            await asyncio.sleep(CUT_PAUSE_S)
            await gate.wait()
        writer.write(data[at:])
        await writer.drain()

    def _boundary(self, size_bytes: int) -> int:
        """Where a chunk is cut; 0: not at all."""
        if self.cut is Cut.NOT or size_bytes < 2:
            return 0
        self.cuts += 1
        if self.cut is Cut.RANDOM:
            return self.random.randrange(1, size_bytes)
        return 1 + self.cuts % (size_bytes - 1)

    def meets(self, data: bytes, tail: bytes) -> Loss | None:
        """The loss that befalls a request which ends in `data`, if any; `tail` is what came before it."""
        for loss in self.losses:
            if not loss.is_over and loss.pattern in tail[-len(loss.pattern) + 1 :] + data:
                loss.lost += 1
                self.lost += 1
                return loss
        return None

    def translated(self, reply: bytes) -> bytes:
        """A reply with the names by which this side knows things."""
        for name, other in self.names.items():
            assert len(name) == len(other)
            reply = reply.replace(name, other)
        return reply

    @property
    def gates(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Towards the server, and back."""
        return self._up, self._down


class _Link:
    """One client's connection and the one behind it."""

    def __init__(self, proxy: Proxy, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._condemned = False
        """The reply that comes next is lost."""
        self.is_deaf = False

    async def run(self, *, silent: bool) -> None:
        if silent:
            self.is_deaf = True
            while await self._client[0].read(CHUNK_BYTES):
                pass
            return
        self._server = await asyncio.open_connection("127.0.0.1", self._upstream)
        up, down = self._proxy.gates
        ways = [asyncio.create_task(self._requests(up)), asyncio.create_task(self._replies(down))]
        try:
            # One side's end is the other's: neither protocol goes on with half a connection.
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, gate: asyncio.Event) -> None:
        assert self._server is not None
        tail = b""
        while data := await self._client[0].read(CHUNK_BYTES):
            if self._proxy.losses:
                self._condemned = self._condemned or self._proxy.meets(data, tail) is not None
            tail = data[-256:]
            await self._proxy.pass_on(data, self._server[1], gate)
        await gate.wait()  # the end, too, is only heard of where something passes

    async def _replies(self, gate: asyncio.Event) -> None:
        assert self._server is not None
        while data := await self._server[0].read(CHUNK_BYTES):
            if self._condemned:
                self.reset()
                return
            await self._proxy.pass_on(self._proxy.translated(data), self._client[1], gate)
        await gate.wait()

    def reset(self) -> None:
        """End both halves at once, and not in order."""
        self._proxy.resets += 1
        for writer in self._writers():
            sock: Any = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self._writers():
            writer.close()

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [self._client[1]] + ([] if self._server is None else [self._server[1]])


def script_sha(name: str) -> bytes:
    """What a call of a script is known by on the wire."""
    return hashlib.sha1(source(name), usedforsecurity=False).hexdigest().encode()
