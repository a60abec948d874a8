"""Whoever watches a run from the side, with connections of its own that no fault befalls: what was said and kept."""

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.codec import Result, decode_message
from broker.keys import GROUP, LANES, Keys
from tests.faults.history import History, Line, Seen
from tests.faults.producer import REPLY

RESUME_S = 0.02


class Observer:
    """Subscribes to all results, and gathers at the end what Redis keeps."""

    def __init__(self, port: int, keys: Keys) -> None:
        self._port = port
        self._keys = keys
        self.redis: Any = connect(port)
        self.messages: list[Result] = []
        self.replies: list[Result] = []
        self.is_deaf = False
        """The subscription was interrupted."""
        self._marks: set[str] = set()
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen())
        await self._subscribed.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self.redis.aclose()

    async def heard(self) -> None:
        """Wait until all that was published before now is here."""
        async with asyncio.timeout(10):
            mark = f"mark-{len(self.messages)}-{id(self)}"
            while mark not in self._marks:
                with contextlib.suppress(RedisError, OSError):
                    await self.redis.publish(self._keys.action("mark"), mark)
                await asyncio.sleep(RESUME_S)

    async def gather(self, history: History) -> None:
        """Put into the history what Redis knows and what was heard."""
        redis, keys = self.redis, self._keys
        await self.heard()
        history.messages, history.replies, history.is_deaf = self.messages, self.replies, self.is_deaf
        for _, fields in await redis.xrange(keys.results):
            line = {name.decode(): value.decode() for name, value in fields.items()}
            revised = line.pop("revised", "0") == "1"
            kept = {name: line.get(name, "") for name in ("action_id", "entry", "state", "error_code", "message")}
            history.lines.append(Line(**kept, revised=revised, at=float(line["settled_at"])))
        for _, fields in await redis.xrange(keys.events):
            event: Any = decode_message(fields[b"data"])
            history.events.append(Seen(event.epoch, event.seq, event.name))
        for action_id in dict.fromkeys(entry.action_id for entry in history.entries):
            record = await redis.hgetall(keys.action(action_id))
            if record:
                history.records[action_id] = {
                    name.decode(): value.decode(errors="replace")
                    for name, value in record.items()
                    if name not in (b"request", b"result")
                }
        for lane in LANES:
            history.lengths[lane] = await redis.xlen(keys.lane(lane))
            history.pending[lane] = await self.pending(lane)
        history.legs = {name.decode(): value.decode() for name, value in (await redis.hgetall(keys.legs)).items()}

    async def pending(self, lane: str) -> int:
        """How many entries of a lane are pending."""
        with contextlib.suppress(aredis.ResponseError):  # no group, nothing pending
            return int((await self.redis.xpending(self._keys.lane(lane), GROUP))["pending"])
        return 0

    async def backlog(self) -> int:
        """Entries of both lanes."""
        return sum([await self.redis.xlen(self._keys.lane(lane)) for lane in LANES])

    async def serving(self) -> tuple[str, int]:
        """The worker that is connected and serves, by its heartbeat, and its pid; none: empty and 0."""
        state, worker, pid = await self.redis.hmget(self._keys.worker, ["state", "worker", "pid"])
        return (worker.decode(), int(pid)) if state == b"connected" else ("", 0)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self._listen_once()
            self.is_deaf = True
            await asyncio.sleep(RESUME_S)

    async def _listen_once(self) -> None:
        client: Any = connect(self._port, socket_timeout=None)
        async with client, client.pubsub() as channels:
            await channels.psubscribe(f"{self._keys.root}action:*")
            await channels.subscribe(self._keys.reply(REPLY))
            self._subscribed.set()
            async for message in channels.listen():
                if message["type"] in ("message", "pmessage"):
                    self._hear(message["type"], message["data"])

    def _hear(self, kind: str, data: bytes) -> None:
        if data.startswith(b"mark-"):
            self._marks.add(data.decode())
            return
        said = decode_message(data)
        if isinstance(said, Result):
            (self.messages if kind == "pmessage" else self.replies).append(said)


def connect(port: int, **options: Any) -> "aredis.Redis":
    """A client without retries of its own."""
    given: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "socket_timeout": 5.0} | options
    return aredis.Redis(port=port, **given)
