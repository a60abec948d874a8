"""The commands of many callers on one connection: what waits together is written together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import redis

from broker.errors import BusUnavailable
from broker.link import ATTEMPTS, Address, Interrupted, Link, is_transient, pack_command, pauses, translated

MAX_BATCH: Final = 512
"""Commands in one write: enough that a write costs nothing per command, few enough that no reply waits long."""

MAX_BATCH_BYTES: Final = 1 << 20


class _Waiting(NamedTuple):
    command: bytes
    what: str
    reply: asyncio.Future[Any]


class Pipeline:
    """One connection, opened when first needed, one batch in flight at a time.

    While a batch is on its way the next one gathers, so hundreds of callers cost one connection and few
    writes. A caller that is cancelled leaves the connection alone: its reply is read and dropped.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def enqueue(self, *args: str | bytes | int) -> asyncio.Future[Any]:
        """Put a command in line, before anything that is put there later; the future is its reply.

        The future raises `Interrupted` or `BusUnavailable`.
        """
        if self._closed:
            raise BusUnavailable("the bus is closed")
        reply = asyncio.get_running_loop().create_future()
        what = " ".join(arg if isinstance(arg, str) else "?" for arg in args[:2])
        self._waiting.append(_Waiting(pack_command(*args), what, reply))
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="amibus pipeline")
        return reply

    async def execute(self, *args: str | bytes | int) -> Any:
        """Run a command, repeating it while Redis is briefly away: only for what may be done twice.

        An XADD of an action may, since its ActionID makes a second entry harmless. Raises `BusUnavailable`.
        """
        return await self._patiently(lambda: self.enqueue(*args))

    async def open(self) -> None:
        """Connect now rather than with the first command, so that a wrong address or password is said at once."""
        await self._patiently(self._connect)

    async def close(self) -> None:
        """Close the connection and fail whatever waits."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(self._waiting, BusUnavailable("the bus is closed"))
        await self._drop_link()

    async def _patiently(self, step: Callable[[], Awaitable[Any]]) -> Any:
        pause = pauses()
        for _ in range(ATTEMPTS - 1):
            try:
                return await step()
            except Interrupted:
                await asyncio.sleep(next(pause))
        try:
            return await step()
        except Interrupted as error:
            raise BusUnavailable(str(error)) from error

    async def _connect(self) -> Link:
        if self._link is None:
            self._link = await Link(self._address).open()
        return self._link

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._write(self._take())

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(batch) < MAX_BATCH and size_bytes < MAX_BATCH_BYTES:
            item = self._waiting.popleft()
            if not item.reply.done():
                batch.append(item)
                size_bytes += len(item.command)
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            link = await self._connect()
            replies = await link.execute([item.command for item in batch])
        except BusUnavailable as error:
            await self._drop_link()
            self._fail(batch, error)
            # Nobody behind this batch would fare better: each decides for itself whether to come again.
            self._fail(self._waiting, error)
        except BaseException:
            self._fail(batch, BusUnavailable("the bus is closed"))
            raise
        else:
            await self._hand_out(batch, replies)

    async def _hand_out(self, batch: list[_Waiting], replies: list[Any]) -> None:
        for item, reply in zip(batch, replies, strict=True):
            if item.reply.done():
                continue
            if isinstance(reply, redis.RedisError):
                item.reply.set_exception(translated(reply, self._address, item.what))
            else:
                item.reply.set_result(reply)
        if any(isinstance(reply, redis.RedisError) and is_transient(reply) for reply in replies):
            # It speaks, but is a replica now, or still loading: a new connection may find the right one.
            await self._drop_link()

    async def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    @staticmethod
    def _fail(items: "deque[_Waiting] | list[_Waiting]", error: BusUnavailable) -> None:
        for item in items:
            if not item.reply.done():
                # An exception for each: raised in many tasks, one would gather all their tracebacks.
                item.reply.set_exception(type(error)(*error.args))
        items.clear()
