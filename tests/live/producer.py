"""A producer that knows no client of ours: plain Redis commands and msgpack, as any language would do it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import msgpack
import redis.asyncio as aredis
from redis.asyncio.client import PubSub

Message = dict[str, Any]
DEADLINE_S = 60.0


class Producer:
    """Puts actions on the queue of one server, and reads what the contract says can be read."""

    def __init__(self, url: str, server: str) -> None:
        self.server = server
        self.root = f"ami:{{{server}}}:"
        self.redis: aredis.Redis = aredis.Redis.from_url(url, protocol=2)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()

    async def add(self, *fields: str | bytes, urgent: bool = False) -> str:
        """XADD; the entry's id."""
        lane = "actions:urgent" if urgent else "actions"
        entry: bytes = await self._command("XADD", self.root + lane, "*", *fields)
        return entry.decode()

    async def ask(self, action: str, *fields: str | bytes, urgent: bool = False) -> Message:
        """SUBSCRIBE, XADD, and the result."""
        action_id = new_id(action.strip().lower())
        async with self.watch(action_id) as watch:
            await self.add("Action", action, "ActionID", action_id, *fields, urgent=urgent)
            return await watch.result()

    @asynccontextmanager
    async def watch(self, action_id: str) -> AsyncIterator["Watch"]:
        """Subscribed to an action's channel."""
        async with self.subscribed(f"action:{action_id}") as watch:
            yield watch

    @asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator["Watch"]:
        """Subscribed to a channel of this server, by its name behind the server's."""
        async with self.redis.pubsub() as pubsub:
            await pubsub.subscribe(self.root + channel)
            confirmed = await pubsub.get_message(timeout=DEADLINE_S)
            assert confirmed is not None
            assert confirmed["type"] == "subscribe"
            yield Watch(pubsub, channel)

    async def record(self, action_id: str) -> dict[str, Any]:
        """HGETALL of an action's record, its two packed fields unpacked."""
        raw = await self._hash(f"action:{action_id}")
        packed = ("request", "result")
        return {name: msgpack.unpackb(value) if name in packed else value.decode() for name, value in raw.items()}

    async def heartbeat(self) -> dict[str, str]:
        """The worker's, or nothing."""
        return {name: value.decode() for name, value in (await self._hash("worker")).items()}

    async def legs(self) -> dict[str, str]:
        """Uniqueid -> ActionID of the bus's live calls."""
        return {name: value.decode() for name, value in (await self._hash("legs")).items()}

    async def follows(self) -> list[str]:
        """The Uniqueids that are followed."""
        return [*await self._hash("follows")]

    async def events(self) -> list[Message]:
        """The whole `events` stream."""
        entries = await self._command("XRANGE", self.root + "events", "-", "+")
        return [msgpack.unpackb(fields[b"data"]) for _, fields in entries]

    async def dead(self, entry: str) -> dict[str, str]:
        """The copy of a refused entry, or nothing."""
        return await self._line("dead", entry)

    async def line(self, entry: str) -> dict[str, str]:
        """The line of an entry in the audit trail, or nothing."""
        return await self._line("results", entry)

    async def lines(self, stream: str = "results") -> list[dict[str, str]]:
        """The whole audit trail, or another stream of plain fields."""
        entries = await self._command("XRANGE", self.root + stream, "-", "+")
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]

    async def _line(self, stream: str, entry: str) -> dict[str, str]:
        found = [line for line in await self.lines(stream) if line["entry"] == entry]
        assert len(found) <= 1, f"{entry} is {len(found)} times in {stream}"
        return found[0] if found else {}

    async def queued(self) -> int:
        """XLEN of both lanes: the backlog plus what is in flight."""
        return sum([await self._command("XLEN", f"{self.root}actions{suffix}") for suffix in ("", ":urgent")])

    async def pending(self) -> int:
        """What the group's consumers hold, of both lanes."""
        lanes = (f"{self.root}actions{suffix}" for suffix in ("", ":urgent"))
        return sum([(await self._command("XPENDING", lane, "workers"))["pending"] for lane in lanes])

    async def time(self) -> float:
        """Redis' clock, by which deadlines are judged."""
        seconds, micros = await self._command("TIME")
        return float(seconds) + float(micros) / 1e6

    async def _hash(self, name: str) -> dict[str, bytes]:
        raw: dict[bytes, bytes] = await self._command("HGETALL", self.root + name)
        return {field.decode(): value for field, value in raw.items()}

    async def _command(self, *arguments: Any) -> Any:
        return await self.redis.execute_command(*arguments)  # type: ignore[no-untyped-call]


class Watch:
    """What came on one channel so far."""

    def __init__(self, pubsub: PubSub, channel: str) -> None:
        self.messages: list[Message] = []
        self._pubsub = pubsub
        self._channel = channel

    @property
    def events(self) -> list[Message]:
        return [message for message in self.messages if message["type"] == "event"]

    @property
    def names(self) -> list[str]:
        """The events' names."""
        return [event["name"] for event in self.events]

    async def until(self, wanted: Callable[[Message], bool], what: str, *, deadline_s: float = DEADLINE_S) -> Message:
        """The first message that is wanted, of those that came already or of those to come."""
        for message in self.messages:
            if wanted(message):
                return message
        try:
            async with asyncio.timeout(deadline_s):
                while not wanted(message := await self._next()):
                    pass
                return message
        except TimeoutError:
            raise AssertionError(f"{what}: not on {self._channel} in {deadline_s:g} s, but {self.messages}") from None

    async def event(self, name: str, **headers: str) -> Message:
        """The first event of that name with these headers."""

        def wanted(message: Message) -> bool:
            return is_event(message, name) and all(message["headers"].get(key) == headers[key] for key in headers)

        return await self.until(wanted, f"{name} with {headers}")

    async def result(self, *, deadline_s: float = DEADLINE_S) -> Message:
        """The action's result."""
        return await self.until(lambda message: message["type"] == "result", "a result", deadline_s=deadline_s)

    async def call_over(self, producer: Producer, action_id: str) -> dict[str, Any]:
        """Wait until the record says that the call is over, and the result is here; the record.

        What was published before that is then in `messages`.
        """
        await self.result()
        while (record := await producer.record(action_id)).get("call") != "ended":
            await self._next_within(DEADLINE_S, record)
        await self.drain(producer)
        return record

    async def drain(self, producer: Producer) -> None:
        """Take in what was published until now: what this connection gets before a message of our own."""
        mark = msgpack.packb({"type": "mark", "id": new_id("mark")})
        await producer.redis.publish(producer.root + self._channel, mark)
        await self.until(lambda message: message == msgpack.unpackb(mark), "our own mark")
        self.messages.pop()

    async def _next_within(self, deadline_s: float, record: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await self._next()
        except TimeoutError:
            raise AssertionError(f"the call goes on: {record}; {self.messages}") from None

    async def _next(self) -> Message:
        while True:
            raw = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=DEADLINE_S)
            if raw is not None:
                message: Message = msgpack.unpackb(raw["data"])
                self.messages.append(message)
                return message


def is_event(message: Message, name: str) -> bool:
    """Whether a message is that event."""
    return bool(message["type"] == "event" and message["name"] == name)


def new_id(what: str) -> str:
    """An ActionID that nobody used before."""
    kept = "".join(character for character in what if character.isalnum())
    return f"{kept[:24]}-{uuid.uuid4().hex[:12]}"
