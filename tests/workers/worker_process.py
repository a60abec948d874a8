"""A worker to test: as a process of its own that can be killed, or as a task in the test's event loop; and the desk of
whoever
puts actions on its queue and looks at what comes of them."""

import asyncio
import contextlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, cast

import redis.asyncio as aredis
from redis.exceptions import ResponseError

from broker.codec import FINAL_STATES, BusEvent, BusResponse, Result, decode_message
from broker.keys import ACTIONS, GROUP, URGENT, Keys
from broker.redis_pool import make_pool
from workers.config import Settings
from workers.service import serve
from workers.simulated import SimulatedAsterisk

SERVER = "pbx1"
SECRET = "s3cr3t-of-amibus"
"""Easily found in a log that should not have it."""

EVENTS_SECRET = "s3cr3t-of-events"
USERS = {"amibus": SECRET, "amibus-events": EVENTS_SECRET}
DEADLINE_S = 60.0
"""For what is to come: who waits in vain waits so long, however busy the machine is."""

BUSY_S = 15.0 if os.environ.get("CI") else 0.0
"""By so much a figure may be missed in CI, where others use the processor, too: less than what would be waited for
otherwise. What is seen is told."""

REDIS_TIMEOUT_S = 30.0
"""So long Redis may take for an answer, on a machine whose disk and processor are busy."""

Pair = tuple[str | bytes, str | bytes]


async def eventually(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Wait until a condition (plain or a coroutine function) is true; return what it gave."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.005)


def make_settings(redis_url: str, asterisk: SimulatedAsterisk, **more: Any) -> Settings:
    """Settings of a worker for this simulated Asterisk; a short lease, so that tests are quick."""
    settings: dict[str, Any] = {
        "redis": redis_url, "server": SERVER, "ami": asterisk.address, "ami_username": "amibus", "ami_secret": SECRET,
        "ami_events_username": "amibus-events", "ami_events_secret": EVENTS_SECRET, "lease_s": 1.0, "drain_s": 5.0,
    }  # fmt: skip
    return Settings(**settings | more)


@contextlib.asynccontextmanager
async def running_worker(settings: Settings, *, connected: bool = True) -> AsyncIterator["asyncio.Task[None]"]:
    """A worker in this event loop; its end is that of a crash: nothing is drained, the lease is not given back."""
    task = asyncio.create_task(serve(settings))
    try:
        if connected:
            async with Desk(settings.redis, settings.server) as desk:
                await eventually(lambda: task.done() or desk.is_served_by(settings.name))
                if task.done():
                    task.result()
        yield task
    except BaseException as error:
        if task.done() and not task.cancelled():
            error.add_note(f"the worker had ended: {task.exception()!r}")
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class WorkerProcess:
    """`amibus worker` as a process, ended by its pid. `log` is what it has said, one map per line."""

    command: tuple[str, ...] = ("-m", "workers.cli", "worker")

    def __init__(self, settings: Settings, **environment: str) -> None:
        self.settings = settings
        self.log: list[dict[str, Any]] = []
        self.text = ""
        """Everything that it wrote, on both outputs."""
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it; it need not be connected yet when this returns."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self.command, env=self._make_environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))

    async def connected(self, deadline_s: float = DEADLINE_S) -> Self:
        """Wait until its heartbeat says that it is connected to Asterisk."""
        async with Desk(self.settings.redis, self.settings.server) as desk:
            await eventually(lambda: self._ended() or desk.is_served_by(self.settings.name), deadline_s)
        if self._ended():
            raise RuntimeError(f"the worker ended: {self.text}")
        return self

    async def said(self, event: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait for a log line."""
        await eventually(lambda: self.lines(event), deadline_s)
        return self.lines(event)[0]

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines with this event."""
        return [line for line in self.log if line["event"] == event]

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it as a crash would, if it has not ended."""
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> int:
        """Ask it to end; return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; return its exit code."""
        assert self._process is not None
        async with asyncio.timeout(deadline_s):
            code = await self._process.wait()
            if self._reading is not None:
                await self._reading
        return code

    def _ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def _make_environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AMIBUS_")}
        given = self.settings
        names = ("redis", "server", "ami", "ami_username", "ami_secret", "ami_events_username", "ami_events_secret",
                 "lease_s", "drain_s", "rate_calls", "read_ahead", "event_buffer_mb", "event_spool_dir",
                 "event_spool_mb", "name", "journal_dir")  # fmt: skip
        own = {f"AMIBUS_{name.upper()}": str(getattr(given, name)) for name in names}
        return inherited | own | {"AMIBUS_LOG_FORMAT": "json", "AMIBUS_LOG_LEVEL": "debug"} | self._environment

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace")
            self.text += text
            try:
                self.log.append(json.loads(text))
            except ValueError:
                self.log.append({"event": text.rstrip()})


class Desk:
    """What a producer does and an operator sees, with bare Redis commands."""

    def __init__(self, url: str, server: str = SERVER) -> None:
        self.keys = Keys(server)
        self.redis: Any = aredis.Redis.from_pool(make_pool(url, socket_timeout=REDIS_TIMEOUT_S))
        # The raw reply: redis-py would make a dict of an entry, and lose repeated fields.
        cast(Any, self.redis).response_callbacks["XRANGE"] = lambda reply, **_: reply

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()

    async def add(self, action: str, action_id: str = "", *more: Pair, lane: str = ACTIONS, **headers: object) -> str:
        """Queue an action; a header's underscore stands for a hyphen. Returns the entry's id."""
        pairs: list[Pair] = [("Action", action)]
        if action_id:
            pairs.append(("ActionID", action_id))
        pairs += [(name.replace("_", "-"), str(value)) for name, value in headers.items()]
        return await self.add_fields(*pairs, *more, lane=lane)

    async def add_fields(self, *pairs: Pair, lane: str = ACTIONS) -> str:
        """Queue an entry of exactly these fields."""
        fields = [part for pair in pairs for part in pair]
        entry: bytes = await self.redis.execute_command("XADD", self.keys.lane(lane), "*", *fields)
        return entry.decode()

    async def originate(self, action_id: str, exten: str = "100", **headers: object) -> str:
        """Queue a call that the simulated Asterisk takes."""
        given: dict[str, Any] = {"Channel": f"Local/{exten}@default", "Application": "Wait", "Data": "0"}
        return await self.add("Originate", action_id, **(given | headers))

    async def record(self, action_id: str) -> dict[str, str]:
        """The record, without what is msgpack."""
        found: dict[bytes, bytes] = await self.redis.hgetall(self.keys.action(action_id))
        return {name.decode(): value.decode() for name, value in found.items() if name not in (b"request", b"result")}

    async def reaches(self, action_id: str, deadline_s: float = DEADLINE_S, **fields: str) -> dict[str, str]:
        """Wait until the record has these values; return it."""

        async def has() -> dict[str, str]:
            record = await self.record(action_id)
            return record if all(record.get(name) == value for name, value in fields.items()) else {}

        try:
            found: dict[str, str] = await eventually(has, deadline_s)
        except TimeoutError:
            raise TimeoutError(f"{action_id} did not reach {fields}: {await self.record(action_id)}") from None
        return found

    async def settled(self, action_id: str, deadline_s: float = DEADLINE_S) -> dict[str, str]:
        """Wait for an action's final state; return the record."""

        async def final() -> dict[str, str]:
            record = await self.record(action_id)
            return record if record.get("state") in FINAL_STATES else {}

        try:
            found: dict[str, str] = await eventually(final, deadline_s)
        except TimeoutError:
            raise TimeoutError(f"{action_id} is not settled: {await self.record(action_id)}") from None
        return found

    async def result(self, action_id: str, deadline_s: float = DEADLINE_S) -> Result:
        """Wait for the final state; return the result in the record."""
        await self.settled(action_id, deadline_s)
        found = await self.redis.hget(self.keys.action(action_id), "result")
        assert isinstance(found, bytes)
        result = decode_message(found)
        assert isinstance(result, Result)
        return result

    async def lines(self, stream: str) -> list[dict[str, str]]:
        """The entries of a stream of plain fields: `results`, `dead`."""
        return [dict(pairs) for pairs in await self.raw_lines(stream)]

    async def raw_lines(self, stream: str) -> list[list[tuple[str, str]]]:
        """The entries of a stream as ordered pairs."""
        entries = await self.redis.xrange(stream)
        found = [[field.decode() for field in fields] for _, fields in entries]
        return [list(zip(fields[::2], fields[1::2], strict=True)) for fields in found]

    async def events(self, *names: str) -> list[BusEvent]:
        """The events of the stream, all or of some names."""
        found = []
        for _, fields in await self.redis.xrange(self.keys.events):
            event = decode_message(fields[3])
            assert isinstance(event, BusEvent)
            if not names or event.name in names:
                found.append(event)
        return found

    async def heartbeat(self) -> dict[str, str]:
        """What the active worker says of itself."""
        found: dict[bytes, bytes] = await self.redis.hgetall(self.keys.worker)
        return {name.decode(): value.decode() for name, value in found.items()}

    async def is_served_by(self, worker: str) -> bool:
        """Whether this worker is the active one, and connected to Asterisk."""
        beat = await self.heartbeat()
        return beat.get("worker") == worker and beat.get("state") == "connected"

    async def backlog(self) -> int:
        """Entries on both lanes."""
        return sum([await self.redis.xlen(self.keys.lane(lane)) for lane in (ACTIONS, URGENT)])

    async def backlog_is_empty(self) -> bool:
        """Whether every entry has been acknowledged and deleted."""
        return await self.backlog() == 0

    async def pending(self) -> int:
        """Entries that were given to a worker and are not acknowledged."""
        try:
            return sum(
                [(await self.redis.xpending(self.keys.lane(lane), GROUP))["pending"] for lane in (ACTIONS, URGENT)]
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            return 0  # nothing was ever read, or a test destroyed the group

    @contextlib.asynccontextmanager
    async def listening(self, *channels: str) -> AsyncIterator["Ear"]:
        """Hear what is published on these channels meanwhile."""
        async with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(*channels)
            for _ in channels:
                while await pubsub.get_message(timeout=DEADLINE_S) is not None:
                    pass  # the confirmations come as None
            yield Ear(pubsub)


class Ear:
    """One subscription."""

    def __init__(self, pubsub: Any) -> None:
        self.heard: list[tuple[str, Result | BusResponse | BusEvent]] = []
        self._pubsub = pubsub

    async def until(
        self,
        enough: Callable[[list[tuple[str, Result | BusResponse | BusEvent]]], bool],
        deadline_s: float = DEADLINE_S,
    ) -> list[tuple[str, Result | BusResponse | BusEvent]]:
        """Listen until what was heard, as (channel, message), is enough."""
        async with asyncio.timeout(deadline_s):
            while not enough(self.heard):
                message = await self._pubsub.get_message(timeout=1)
                if message is not None:
                    self.heard.append((message["channel"].decode(), decode_message(message["data"])))
        return self.heard

    async def results(self, count: int = 1) -> list[Result]:
        """Listen until so many results have come; return all that came."""
        heard = await self.until(lambda heard: sum(isinstance(each, Result) for _, each in heard) >= count)
        return [each for _, each in heard if isinstance(each, Result)]


def pick_up(asterisk: SimulatedAsterisk) -> None:
    """The one phone that rings is answered now, and not when its time has come: however slow the machine is, that is
    when the test wants it."""
    (call,) = [call for call in asterisk.calls if not call.is_answered]
    call._cancel_timers()
    call._answer()


async def soon(work: Awaitable[Any], deadline_s: float = DEADLINE_S) -> Any:
    """Await, but not for ever."""
    async with asyncio.timeout(deadline_s):
        return await work
