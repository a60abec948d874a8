"""The one pub/sub connection of a client: messages to whoever listens on their channel."""

import asyncio
import logging
from collections import deque
from typing import Any, Final, NamedTuple, Protocol

import redis

from broker.errors import BusUnavailable
from broker.link import ATTEMPTS, Address, Interrupted, Link, pack_command, pauses, translated

PROBE_S: Final = 4.0
"""After so long a silence Redis is asked whether it is there, and after as long again taken for gone."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who listens on a channel. Both methods are called on the event loop and must not wait."""

    def receive(self, data: bytes) -> None:
        """Take a message of the channel."""

    def interrupted(self) -> None:
        """The channel was not subscribed for a while and is again: messages may have been missed, until now."""


class _Channel:
    __slots__ = ("key", "listeners", "live", "waiters", "was_live")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.listeners: list[Listener] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.live = False
        self.was_live = False


class _Expected(NamedTuple):
    """A reply that is still to come. Redis answers in order, and names no command."""

    channel: _Channel | None = None
    barrier: asyncio.Future[None] | None = None


class Dispatcher:
    """Subscriptions that outlive their connection: it is opened when first needed and again whenever it is
    lost.

    Pub/sub has no memory, so a reconnect is never hidden: every listener hears of it by `interrupted`, once
    its channel is subscribed again, when what it then reads from Redis can no longer be overtaken by a missed
    message.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._channels: dict[bytes, _Channel] = {}
        self._outbox: list[bytes] = []
        self._outgoing = asyncio.Event()
        self._expected: deque[_Expected] = deque()
        self._online = False
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._closed = False

    async def subscribe(self, name: str, listener: Listener) -> None:
        """Listen on a channel; returns when Redis has confirmed it. Raises `BusUnavailable`."""
        if self._closed:
            raise BusUnavailable("the bus is closed")
        key = name.encode()
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(key)
            self._send(_Expected(channel=channel), "SUBSCRIBE", key)
        channel.listeners.append(listener)
        if channel.live:
            return
        self._start()
        waiter = asyncio.get_running_loop().create_future()
        channel.waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            self.unsubscribe(name, listener)
            raise

    def unsubscribe(self, name: str, listener: Listener) -> None:
        """Listen no more. Without effect if it does not."""
        channel = self._channels.get(name.encode())
        if channel is None or listener not in channel.listeners:
            return
        channel.listeners.remove(listener)
        if not channel.listeners:
            del self._channels[channel.key]
            self._send(_Expected(), "UNSUBSCRIBE", channel.key)

    async def barrier(self) -> None:
        """Return when every message published before this call has been handed out.

        Redis answers a connection in order, so its PONG comes after them. Raises `Interrupted` if the
        connection is lost meanwhile: then messages may have been missed.
        """
        if not self._online:
            raise Interrupted("the subscriptions are interrupted")
        passed = asyncio.get_running_loop().create_future()
        self._send(_Expected(barrier=passed), "PING")
        await passed

    @property
    def subscriptions(self) -> int:
        """How many channels are listened to."""
        return len(self._channels)

    async def close(self) -> None:
        """Close the connection, forget all subscriptions, and take no more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._refuse_waiters(BusUnavailable("the bus is closed"))
        self._channels.clear()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="amibus dispatcher")

    def _send(self, expected: _Expected, *command: str | bytes) -> None:
        # While offline nothing is kept: a new session subscribes to all that is wanted then.
        if self._online:
            self._expected.append(expected)
            self._outbox.append(pack_command(*command))
            self._outgoing.set()

    async def _run(self) -> None:
        pause = pauses()
        while True:
            try:
                await self._session()
            except Interrupted as error:
                if self._failures == 0:
                    pause = pauses()
                self._failures += 1
                if self._failures >= ATTEMPTS:
                    self._refuse_waiters(error)
            except BusUnavailable as error:
                self._refuse_waiters(error)
            await asyncio.sleep(next(pause))
            if not self._channels:
                return

    async def _session(self) -> None:
        link = await Link(self._address).open()
        writer: asyncio.Task[None] | None = None
        try:
            self._online = True
            for channel in self._channels.values():
                self._send(_Expected(channel=channel), "SUBSCRIBE", channel.key)
            writer = asyncio.create_task(self._write(link), name="amibus dispatcher writes")
            await self._read(link)
        finally:
            self._go_offline()
            await link.close()
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])

    async def _write(self, link: Link) -> None:
        try:
            while True:
                await self._outgoing.wait()
                self._outgoing.clear()
                outbox, self._outbox = self._outbox, []
                await link.send(b"".join(outbox))
        except BusUnavailable:
            # The reader notices it too, and ends the session.
            await link.close()

    async def _read(self, link: Link) -> None:
        probing = False
        while True:
            reply = await link.read(timeout_s=PROBE_S)
            if reply is None:
                if probing:
                    raise Interrupted(f"Redis at {self._address.masked} says nothing any more")
                self._send(_Expected(), "PING")
                probing = True
                continue
            probing = False
            self._handle(reply)

    def _handle(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            self._hand_out(reply[1], reply[2])
            return
        if not self._expected:
            raise Interrupted(f"Redis at {self._address.masked} sent an unexpected reply")
        expected = self._expected.popleft()
        if expected.barrier is not None and not expected.barrier.done():
            # A PING that an ACL refuses is answered in order as well.
            expected.barrier.set_result(None)
        if expected.channel is not None:
            if isinstance(reply, redis.ResponseError):
                error = translated(reply, self._address, "SUBSCRIBE")
                if isinstance(error, Interrupted):
                    raise error  # on this connection the channel would stay dead
                self._refuse(expected.channel, error)
            else:
                self._confirm(expected.channel)

    def _hand_out(self, key: bytes, data: bytes) -> None:
        channel = self._channels.get(key)
        if channel is None:
            return
        for listener in tuple(channel.listeners):
            try:
                listener.receive(data)
            except Exception:
                # Whatever one listener makes of a message, the others get theirs.
                _log.exception("a message on %s could not be handled", key.decode())

    def _confirm(self, channel: _Channel) -> None:
        self._failures = 0
        channel.live = True
        for waiter in channel.waiters:
            if not waiter.done():
                waiter.set_result(None)
        channel.waiters.clear()
        if channel.was_live:
            for listener in tuple(channel.listeners):
                listener.interrupted()
        channel.was_live = True

    @staticmethod
    def _refuse(channel: _Channel, error: BusUnavailable) -> None:
        for waiter in channel.waiters:
            if not waiter.done():
                waiter.set_exception(type(error)(*error.args))
        channel.waiters.clear()

    def _refuse_waiters(self, error: BusUnavailable) -> None:
        for channel in self._channels.values():
            self._refuse(channel, BusUnavailable(*error.args))

    def _go_offline(self) -> None:
        self._online = False
        for channel in self._channels.values():
            channel.live = False
        for expected in self._expected:
            if expected.barrier is not None and not expected.barrier.done():
                expected.barrier.set_exception(Interrupted("the subscriptions were interrupted"))
        self._expected.clear()
        self._outbox.clear()
