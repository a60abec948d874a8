"""Whoever watches a run from the side, with connections of its own that no fault befalls: what was said and kept."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

import redis.asyncio as aredis
from redis.exceptions import RedisError

from broker.codec import Result, decode_message
from broker.keys import GROUP, LANES, Keys
from broker.redis_pool import make_pool
from tests.faults.history import XADD_S, History, Line, Said, Seen
from tests.faults.producer import REPLY
from tests.faults.tasks import end

RESUME_S = 0.02
HEARD_DEADLINE_S = 60.0

GATHER_S = 60.0
"""So long Redis may take for an answer in the end, on a machine that is held up."""


class Observer:
    """Subscribes to all results, and gathers at the end what Redis keeps."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._url = url
        self._keys = keys
        self.redis: Any = connect(url)
        self.messages: list[Said] = []
        self.replies: list[Said] = []
        self.deaf: list[tuple[float, float]] = []
        """From when until when the subscription was interrupted (unix seconds)."""
        self._lost_at = 0.0
        self._heard_at = 0.0
        """When the last message came (unix seconds): what a server says it keeps until it is on its disk, and what it
        keeps dies with it."""
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
            await end(self._listening)
        await self.redis.aclose()

    async def heard(self) -> None:
        """Wait until all that was published before now is here."""
        async with asyncio.timeout(HEARD_DEADLINE_S):
            mark = f"mark-{len(self.messages)}-{id(self)}"
            while mark not in self._marks:
                with contextlib.suppress(RedisError, OSError):
                    await self.redis.publish(self._keys.action("mark"), mark)
                await asyncio.sleep(RESUME_S)

    async def gather(self, history: History) -> None:
        """Put into the history what Redis knows and what was heard."""
        await self.heard()
        history.messages, history.replies, history.deaf = self.messages, self.replies, self.deaf
        async with connect(self._url, socket_timeout=GATHER_S) as redis:  # nothing befalls Redis any more
            await self._gather(history, redis)

    async def _gather(self, history: History, redis: Any) -> None:
        keys = self._keys
        for entry, fields in await redis.xrange(keys.results):
            line = {name.decode(): value.decode() for name, value in fields.items()}
            revised = line.pop("revised", "0") == "1"
            kept = {name: line.get(name, "") for name in ("action_id", "entry", "state", "error_code", "message")}
            history.lines.append(Line(**kept, revised=revised, at=float(line["settled_at"]), told_at=_time(entry)))
        for entry, fields in await redis.xrange(keys.events):
            event: Any = decode_message(fields[b"data"])
            history.events.append(Seen(event.epoch, event.seq, event.name, _time(entry)))
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
            history.pending[lane] = await self.pending(lane, redis)
        history.legs = {name.decode(): value.decode() for name, value in (await redis.hgetall(keys.legs)).items()}

    async def pending(self, lane: str, redis: Any = None) -> int:
        """How many entries of a lane are pending."""
        with contextlib.suppress(aredis.ResponseError):  # no group, nothing pending
            return int((await (redis or self.redis).xpending(self._keys.lane(lane), GROUP))["pending"])
        return 0

    async def backlog(self) -> int:
        """Entries of both lanes."""
        return sum([await self.redis.xlen(self._keys.lane(lane)) for lane in LANES])

    async def is_any_begun(self) -> bool:
        """Whether a record says that its action is under way."""
        async for key in self.redis.scan_iter(match=f"{self._keys.action('')}*", count=1000, _type="HASH"):
            if await self.redis.hget(key, "state") in (b"sending", b"sent"):
                return True
        return False

    async def serving(self) -> tuple[str, int]:
        """The worker that is connected and serves, by its heartbeat, and its pid; none: empty and 0."""
        state, worker, pid = await self.redis.hmget(self._keys.worker, ["state", "worker", "pid"])
        return (worker.decode(), int(pid)) if state == b"connected" else ("", 0)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self._listen_once()
            self._lost_at = self._lost_at or self._heard_at
            await asyncio.sleep(RESUME_S)

    async def _listen_once(self) -> None:
        client: Any = connect(self._url, socket_timeout=None)
        async with client, client.pubsub() as channels:
            await channels.psubscribe(f"{self._keys.root}action:*")
            await channels.subscribe(self._keys.reply(REPLY))
            async for message in channels.listen():
                self._heard_at = time.time()
                if message["type"] == "subscribe":  # the later of the two
                    self._subscribed.set()
                    if self._lost_at:
                        self.deaf.append((self._lost_at, self._heard_at))
                        self._lost_at = 0.0
                if message["type"] in ("message", "pmessage"):
                    self._hear(message["type"], message["data"])

    def _hear(self, kind: str, data: bytes) -> None:
        if data.startswith(b"mark-"):
            self._marks.add(data.decode())
            return
        said = decode_message(data)
        if isinstance(said, Result):
            heard = Said(
                said.action_id,
                said.entry,
                said.state,
                said.error_code,
                said.revised,
                said.settled_at or 0.0,
                time.time(),
            )
            (self.messages if kind == "pmessage" else self.replies).append(heard)


def connect(url: str, **options: Any) -> "aredis.Redis":
    """A client without retries of its own."""
    given: dict[str, Any] = {"socket_timeout": XADD_S} | options
    return aredis.Redis.from_pool(make_pool(url, **given))


def _time(entry: bytes) -> float:
    """When Redis took it, by its id."""
    return int(entry.partition(b"-")[0]) / 1000
