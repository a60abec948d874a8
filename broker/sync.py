"""The same client for code without asyncio: the same names, and no `await`.

    from broker.sync import Bus

    with Bus("redis://127.0.0.1:6379/0") as bus:
        pbx = bus.server("pbx1")
        result = pbx.request("CoreShowChannels", timeout=10)
        with pbx.submit("Originate", Channel="PJSIP/100", Application="Echo") as call:
            for event in call.events():
                print(event.name)

One Bus serves any number of threads: it runs the asyncio client on a background thread of its own, and so
keeps to a few connections. Not to be used after a fork by the child, nor from a coroutine.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from broker import call as aio_call
from broker import client as aio
from broker.codec import BusEvent, BusResponse, Result
from broker.entry import HeaderValue
from broker.errors import BusUnavailable
from broker.event_stream import NOW
from broker.keys import DEFAULT_PREFIX
from broker.record import Record

__all__ = ["Bus", "Call", "Server"]

STOP_TIMEOUT_S: Final = 10.0
"""How long `close` waits for the connections to be closed."""

T = TypeVar("T")


class _Background:
    """An event loop on a thread of its own, started with its first work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, from any other thread."""
        try:
            loop = self._running()
        except BaseException:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C, say: what nobody waits for any more must not go on.
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop's thread."""

        async def called() -> T:
            return function()

        return self.run(called())

    def start_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine without waiting for it; forgotten if the loop has stopped."""
        with self._lock:
            if self._loop is not None and not self._stopped:
                asyncio.run_coroutine_threadsafe(work, self._loop)
                return
        work.close()

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one last coroutine and end the thread. Without effect if it never ran, or was stopped before."""
        with self._lock:
            if self._stopped or self._loop is None or self._thread is None:
                self._stopped = True
                return
            self._stopped = True
            loop, thread = self._loop, self._thread
        try:
            asyncio.run_coroutine_threadsafe(last(), loop).result(STOP_TIMEOUT_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_TIMEOUT_S)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._stopped:
                raise BusUnavailable("the bus is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="amibus client", daemon=True
                )
                self._thread.start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            # The runner cancels what is left, and closes the loop.
            runner.get_loop().run_forever()


class _Events:
    """An asynchronous iterator's steps, one at a time: a step that was given up is over before the next begins."""

    def __init__(self, events: AsyncGenerator[BusEvent]) -> None:
        self._events = events
        self._turn = asyncio.Lock()

    async def step(self) -> BusEvent | None:
        async with self._turn:
            return await anext(self._events, None)

    async def close(self) -> None:
        async with self._turn:
            await self._events.aclose()


def _iterate(background: _Background, events: AsyncGenerator[BusEvent]) -> Generator[BusEvent]:
    steps = _Events(events)
    try:
        while (event := background.run(steps.step())) is not None:
            yield event
    finally:
        # Not waited for: a generator may be collected on any thread, the loop's own included.
        background.start_soon(steps.close())


class Bus:
    """A client of the bus, blocking: `with Bus(url) as bus: ...`, or `bus.close()` at the end.

    The arguments are those of `broker.Bus`. Safe to use from many threads.
    """

    def __init__(self, url: str, prefix: str = DEFAULT_PREFIX, producer: str | None = None) -> None:
        self._bus = aio.Bus(url, prefix, producer)
        self._background = _Background()

    def __repr__(self) -> str:
        return repr(self._bus)

    def __enter__(self) -> Self:
        try:
            self._background.run(self._bus.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def server(self, name: str) -> "Server":
        """One Asterisk server by its name. Raises `SettingsError` for a name that the contract does not allow."""
        return Server(self._bus.server(name), self._background)

    def servers(self) -> dict[str, float]:
        """The names of all servers that ever had a worker, with the unix time of its last heartbeat."""
        return self._background.run(self._bus.servers())

    def close(self) -> None:
        """Close the connections and end the thread. Whoever still waits gets `BusUnavailable`; the actions go on."""
        self._background.stop(self._bus.close)


class Server:
    """One Asterisk server, as `Bus.server` gives it."""

    def __init__(self, server: aio.Server, background: _Background) -> None:
        self.name = server.name
        self._server = server
        self._background = background

    def __repr__(self) -> str:
        return repr(self._server)

    def request(
        self,
        action: str,
        *,
        timeout: float | None = None,
        action_id: str | None = None,
        urgent: bool = False,
        producer: str | None = None,
        deadline: float | str | None = None,
        answer_timeout: float | None = None,
        tag: str | None = None,
        traceparent: str | None = None,
        headers: aio.ExtraHeaders = (),
        raise_on_failure: bool = True,
        **pairs: HeaderValue,
    ) -> Result:
        """Put an action on the queue and wait for its whole result: see `broker.Server.request`."""
        return self._background.run(
            self._server.request(
                action,
                timeout=timeout,
                action_id=action_id,
                urgent=urgent,
                producer=producer,
                deadline=deadline,
                answer_timeout=answer_timeout,
                tag=tag,
                traceparent=traceparent,
                headers=headers,
                raise_on_failure=raise_on_failure,
                **pairs,
            )
        )

    def submit(
        self,
        action: str,
        *,
        timeout: float | None = None,
        action_id: str | None = None,
        urgent: bool = False,
        producer: str | None = None,
        deadline: float | str | None = None,
        answer_timeout: float | None = None,
        tag: str | None = None,
        traceparent: str | None = None,
        headers: aio.ExtraHeaders = (),
        **pairs: HeaderValue,
    ) -> "Call":
        """Put an action on the queue; returns when Redis has taken it: see `broker.Server.submit`."""
        call = self._background.run(
            self._server.submit(
                action,
                timeout=timeout,
                action_id=action_id,
                urgent=urgent,
                producer=producer,
                deadline=deadline,
                answer_timeout=answer_timeout,
                tag=tag,
                traceparent=traceparent,
                headers=headers,
                **pairs,
            )
        )
        return Call(call, self._background)

    def events(self, *names: str, since: str = NOW) -> Generator[BusEvent]:
        """AMI events from the server's `events` stream, without end: see `broker.Server.events`."""
        events = self._background.call(lambda: self._server.events(*names, since=since))
        return _iterate(self._background, events)

    def action_record(self, action_id: str) -> Record | None:
        """The record of an action, None if there is none. Raises `BusUnavailable`."""
        return self._background.run(self._server.action_record(action_id))

    def status(self) -> dict[str, str]:
        """The active worker's heartbeat; empty if no worker is active. Raises `BusUnavailable`."""
        return self._background.run(self._server.status())


class Call:
    """An action on its way, as `Server.submit` returns it: see `broker.Call`."""

    def __init__(self, call: aio_call.Call, background: _Background) -> None:
        self._call = call
        self._background = background

    def __repr__(self) -> str:
        return repr(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def action_id(self) -> str:
        """The ActionID, given or generated."""
        return self._call.action_id

    @property
    def action(self) -> str:
        """The action's name."""
        return self._call.action

    @property
    def server(self) -> str:
        """The server's name."""
        return self._call.server

    @property
    def entry(self) -> str:
        """The id of the stream entry."""
        return self._call.entry

    @property
    def response(self) -> BusResponse | None:
        """Asterisk's first answer, where more was to come and it has been seen on the action's channel."""
        return self._call.response

    def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> Result:
        """Wait for the result: see `broker.Call.result`."""
        return self._background.run(self._call.result(timeout, raise_on_failure=raise_on_failure))

    def action_record(self) -> Record | None:
        """The record as it is now, None if there is none. Raises `BusUnavailable`."""
        return self._background.run(self._call.action_record())

    def events(self) -> Generator[BusEvent]:
        """The events of this action in their order, until its call is over: see `broker.Call.events`."""
        return _iterate(self._background, self._call.events())

    def close(self) -> None:
        """Listen to the action's channel no more. The action goes on."""
        self._background.start_soon(self._closed())

    async def _closed(self) -> None:
        self._call.close()
