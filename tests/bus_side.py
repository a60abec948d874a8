"""A stand-in for the worker, for tests of the client: reads the lanes and answers with messages of the contract."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.ami import Headers
from broker.codec import BusEvent, BusResponse, Result, State, event_map, pack, response_map, result_map
from broker.entry import Request, decode_entry
from broker.keys import ACTIONS, URGENT, Keys

NAME = "bus-side"
"""By this name the stand-in's connections are told from the client's."""

Handler = Callable[["FakeWorker", Request], Awaitable[None]]


class FakeWorker:
    """Takes every entry once, in order, and lets the test's handler for its action do the rest.

    What it has no handler for is `done` at once. A second entry of a known ActionID is treated as the
    contract says.
    """

    def __init__(self, url: str, server: str = "pbx1", prefix: str = "ami") -> None:
        self.keys = Keys(server, prefix)
        self.taken: list[Request] = []
        self.errors: list[BaseException] = []
        self.epoch = 1
        self.seq = 0
        # A few connections, whatever the load: redis-py's default pool has one for each command on its way.
        pool = aredis.BlockingConnectionPool.from_url(
            url,
            max_connections=8,
            timeout=None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            protocol=2,
            client_name=NAME,
        )
        self.redis: aredis.Redis = aredis.Redis.from_pool(pool)
        # The raw reply: redis-py would make a dict of an entry, and lose repeated headers.
        callbacks: Any = self.redis.response_callbacks
        callbacks["XREAD"] = _as_it_is
        self._handlers: dict[str, Handler] = {}
        self._settled: dict[str, tuple[Request, Result]] = {}
        self._known: dict[str, Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self._spawn(self._read())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.redis.aclose()
        if exc is None and self.errors:
            raise self.errors[0]

    def on(self, action: str, handler: Handler) -> None:
        """Answer this action so."""
        self._handlers[action] = handler

    def entries_of(self, action_id: str) -> int:
        """How many entries had this ActionID."""
        return sum(request.action_id == action_id for request in self.taken)

    async def settle(
        self,
        request: Request,
        state: State = State.DONE,
        *,
        code: str | None = None,
        message: str = "",
        response: Headers | None = None,
        events: list[Headers] | None = None,
        output: list[str] | None = None,
        revised: bool = False,
        say: bool = True,
        record: bool = True,
        **fields: str,
    ) -> Result:
        """Write the record and publish the result (unless `say` is false, as if the message were lost)."""
        result = Result(
            server=self.keys.server,
            action_id=request.action_id,
            entry=request.entry,
            action=request.action,
            state=state,
            producer=request.producer,
            tag=request.tag,
            response=response or Headers([("Response", "Success"), ("ActionID", request.action_id)]),
            events=events or [],
            output=output or [],
            error_code=code,
            error_message=message or None,
            revised=revised,
            queued_at=request.queued_at,
            sending_at=time.time(),
            settled_at=time.time(),
        )
        self._settled[request.action_id] = (request, result)
        async with self.redis.pipeline(transaction=True) as script:
            if record:
                script.hset(self.keys.action(request.action_id), mapping=record_fields(request, result, fields))
            script.xadd(self.keys.results, results_fields(result))
            if say:
                self._publish_result(script, request, result)
            script.xdel(self.keys.lane(request.lane), request.entry)
            await script.execute()
        return result

    async def update(self, request: Request, **fields: str) -> None:
        """Write fields of the record."""
        await self.redis.hset(self.keys.action(request.action_id), mapping=record_fields(request, None, fields))

    async def respond(self, request: Request, *pairs: tuple[str, str]) -> None:
        """Publish the first response of an action of which more is to come."""
        response = BusResponse(self.keys.server, request.action_id, Headers(list(pairs)), time.time())
        await self.redis.publish(self.keys.action(request.action_id), pack(response_map(response)))

    async def event(
        self,
        name: str,
        *action_ids: str,
        headers: dict[str, str] | None = None,
        say: bool = True,
        then: dict[str, str] | None = None,
        calls: Sequence[str] = (),
    ) -> str:
        """One event: into `events` and on the channels, with `then` written to the action's record, in one step."""
        self.seq += 1
        pairs = [("Event", name), *(headers or {}).items()]
        event = BusEvent(self.keys.server, name, Headers(pairs), list(action_ids), self.epoch, self.seq, list(calls))
        data = pack(event_map(event))
        async with self.redis.pipeline(transaction=True) as script:
            script.xadd(self.keys.events, {"event": name, "data": data})
            for action_id in action_ids:
                if then:
                    script.hset(self.keys.action(action_id), mapping=dict[Any, Any](then))
                if say:
                    script.publish(self.keys.action(action_id), data)
            for uniqueid in calls if say else ():
                script.publish(self.keys.call(uniqueid), data)
            entry: bytes = (await script.execute())[0]
        return entry.decode()

    def _publish_result(self, script: Any, request: Request, result: Result) -> None:
        data = pack(result_map(result))
        script.publish(self.keys.action(request.action_id), data)
        if request.reply:
            script.publish(self.keys.reply(request.reply), data)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.errors.append(task.exception() or RuntimeError())

    async def _read(self) -> None:
        places = {self.keys.urgent: b"0", self.keys.actions: b"0"}
        while True:
            try:
                reply = await self.redis.execute_command(  # type: ignore[no-untyped-call]
                    "XREAD", "COUNT", 200, "BLOCK", 1000, "STREAMS", *places.keys(), *places.values()
                )
            except (aredis.ConnectionError, aredis.TimeoutError):
                # The server is being restarted by the test.
                await asyncio.sleep(0.05)
                continue
            for key, entries in reply or ():
                lane = URGENT if key.decode() == self.keys.urgent else ACTIONS
                for entry, fields in entries:
                    places[key.decode()] = entry
                    self._take(decode_entry(lane, entry.decode(), fields))

    def _take(self, request: Request) -> None:
        self.taken.append(request)
        first = self._known.setdefault(request.action_id, request)
        if first is not request:
            self._spawn(self._duplicate(request, first))
            return
        handler = self._handlers.get(request.action)
        self._spawn(handler(self, request) if handler else _done_at_once(self, request))

    async def _duplicate(self, request: Request, first: Request) -> None:
        if request.fingerprint != first.fingerprint:
            await self.settle_refused(request, "action-id-reused", "this ActionID asked for something else")
        elif request.action_id in self._settled:
            async with self.redis.pipeline(transaction=True) as script:
                self._publish_result(script, request, self._settled[request.action_id][1])
                await script.execute()

    async def settle_refused(self, request: Request, code: str, message: str, *, say: bool = True) -> None:
        """Answer an entry whose ActionID's record, if any, is another's."""
        known = self._settled.get(request.action_id)
        await self.settle(request, State.REJECTED, code=code, message=message, say=say, record=False)
        if known:
            self._settled[request.action_id] = known


class Proxy:
    """Between a client and Redis: can lose the reply to a command, or hold it back."""

    def __init__(self, port: int) -> None:
        self.losses: list[bytes] = []
        """Commands whose next reply is lost, and the connection with it."""
        self.held: bytes | None = None
        """A command: from the next one on, its connection gets nothing more until `release`."""
        self.holding = False
        """Whether something waits for `release`."""
        self.messages_held = False
        """Whether what is published waits until `release`, too."""
        self._upstream = port
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def release(self) -> None:
        """Let what was held pass."""
        self._released.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        above, below = await asyncio.open_connection("127.0.0.1", self._upstream)
        fates: set[str] = set()
        answers = asyncio.create_task(self._answer(above, writer, fates))
        try:
            while data := await reader.read(65536):
                lost = [command for command in self.losses if command in data]
                if lost:
                    self.losses.remove(lost[0])
                    fates.add("lost")
                if self.held is not None and self.held in data:
                    fates.add("held")
                if b"SUBSCRIBE" in data:
                    fates.add("subscriber")
                below.write(data)
        finally:
            answers.cancel()
            for end in (writer, below):
                end.close()
            self._tasks.discard(task)

    async def _answer(self, above: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: set[str]) -> None:
        while data := await above.read(65536):
            if "lost" in fates:
                break
            if "held" in fates or (self.messages_held and "subscriber" in fates):
                self.holding = True
                await self._released.wait()
            writer.write(data)
        writer.close()


async def until(condition: Callable[[], Any], deadline_s: float = 60.0) -> None:
    """Wait for a condition, which may be a coroutine function; fail after the deadline."""
    async with asyncio.timeout(deadline_s):
        while True:
            met = condition()
            if await met if asyncio.iscoroutine(met) else met:
                return
            await asyncio.sleep(0.01)


async def _done_at_once(worker: FakeWorker, request: Request) -> None:
    await worker.settle(request)


def _as_it_is(reply: Any, **_: Any) -> Any:
    return reply


def record_fields(request: Request, result: Result | None = None, more: dict[str, str] | None = None) -> dict[Any, Any]:
    """The fields of a record."""
    fields: dict[Any, Any] = {
        "state": "sending",
        "action": request.action,
        "lane": request.lane,
        "entry": request.entry,
        "producer": request.producer,
        "tag": request.tag,
        "fingerprint": request.fingerprint,
        "request": pack(Headers(request.pairs).to_map()),
        "queued_at": f"{request.queued_at:.6f}",
    }
    if result is not None:
        fields |= {
            "state": str(result.state),
            "error_code": result.error_code or "",
            "error": result.error_message or "",
            "settled_at": f"{result.settled_at:.6f}",
            "result": pack(result_map(result)),
        }
    return {**fields, **(more or {})}


def results_fields(result: Result) -> dict[Any, Any]:
    """An entry of `results`."""
    return {
        "action_id": result.action_id,
        "entry": result.entry,
        "action": result.action,
        "state": str(result.state),
        "error_code": result.error_code or "",
        "message": result.error_message or "",
        "queued_at": f"{result.queued_at:.6f}",
        "settled_at": f"{result.settled_at:.6f}",
        "revised": "1" if result.revised else "",
    }
