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
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from broker import call as aio_call
from broker import client as aio
from broker import follow as aio_follow
from broker import telephony
from broker.call_state import Leg
from broker.codec import BusEvent, BusResponse
from broker.errors import BusUnavailable
from broker.event_stream import NOW
from broker.keys import DEFAULT_PREFIX

__all__ = ["Bus", "Call", "Conference", "FollowedCall", "Server"]

STOP_TIMEOUT_S: Final = 10.0
"""How long `close` waits for the connections to be closed."""

T = TypeVar("T")
A = TypeVar("A")
Awaited = TypeVar("Awaited", covariant=True)
P = ParamSpec("P")


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


class _Blocking(Generic[Awaited]):
    """A part of the client whose work is done on the background thread by its counterpart of the asyncio client."""

    def __init__(self, awaited: Awaited, background: _Background) -> None:
        self._awaited = awaited
        self._background = background

    def __repr__(self) -> str:
        return repr(self._awaited)


def _blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[_Blocking[A], P], T]:
    """The blocking form of an asynchronous method: the same arguments, the same words, and no `await`."""

    @functools.wraps(method)
    def run(self: _Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._background.run(method(self._awaited, *args, **kwargs))

    return run


def _placing(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, aio_call.Call]],
) -> Callable[Concatenate[_Blocking[A], P], "Call"]:
    """The same for a method that returns a call."""

    @functools.wraps(method)
    def run(self: _Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> "Call":
        return Call(self._background.run(method(self._awaited, *args, **kwargs)), self._background)

    return run


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

    def time(self) -> float:
        """Unix seconds by Redis' clock, by which deadlines are judged. Raises `BusUnavailable`."""
        return self._background.run(self._bus.time())

    def close(self) -> None:
        """Close the connections and end the thread. Whoever still waits gets `BusUnavailable`; the actions go on."""
        self._background.stop(self._bus.close)


class Server(_Blocking[aio.Server]):
    """One Asterisk server, as `Bus.server` gives it."""

    @property
    def name(self) -> str:
        """Its name on the bus."""
        return self._awaited.name

    request = _blocking(aio.Server.request)
    submit = _placing(aio.Server.submit)

    add_queue_member = _blocking(aio.Server.add_queue_member)
    bridge = _blocking(aio.Server.bridge)
    channels = _blocking(aio.Server.channels)
    command = _blocking(aio.Server.command)
    conferences = _blocking(aio.Server.conferences)
    device_state = _blocking(aio.Server.device_state)
    device_states = _blocking(aio.Server.device_states)
    extension_state = _blocking(aio.Server.extension_state)
    extension_states = _blocking(aio.Server.extension_states)
    getvar = _blocking(aio.Server.getvar)
    hangup = _blocking(aio.Server.hangup)
    has_extension = _blocking(aio.Server.has_extension)
    hold_at = _blocking(aio.Server.hold_at)
    iax_peers = _blocking(aio.Server.iax_peers)
    mailbox = _blocking(aio.Server.mailbox)
    mailboxes = _blocking(aio.Server.mailboxes)
    monitor = _blocking(aio.Server.monitor)
    mute_recording = _blocking(aio.Server.mute_recording)
    originate = _placing(aio.Server.originate)
    park = _blocking(aio.Server.park)
    parked_calls = _blocking(aio.Server.parked_calls)
    pause_queue_member = _blocking(aio.Server.pause_queue_member)
    pjsip_contacts = _blocking(aio.Server.pjsip_contacts)
    pjsip_endpoints = _blocking(aio.Server.pjsip_endpoints)
    presence_state = _blocking(aio.Server.presence_state)
    presence_states = _blocking(aio.Server.presence_states)
    queues = _blocking(aio.Server.queues)
    record = _blocking(aio.Server.record)
    redirect = _blocking(aio.Server.redirect)
    remove_queue_member = _blocking(aio.Server.remove_queue_member)
    retrieve = _blocking(aio.Server.retrieve)
    setvar = _blocking(aio.Server.setvar)
    stop_monitor = _blocking(aio.Server.stop_monitor)
    stop_recording = _blocking(aio.Server.stop_recording)
    transfer = _blocking(aio.Server.transfer)

    action_record = _blocking(aio.Server.action_record)
    status = _blocking(aio.Server.status)

    def follow(self, uniqueid: str, *, timeout: float | None = None) -> "FollowedCall":
        """Follow a live call that the bus did not place: see `broker.Server.follow`."""
        call = self._background.run(self._awaited.follow(uniqueid, timeout=timeout))
        return FollowedCall(call, self._background)

    def conference(self, name: str) -> "Conference":
        """A conference by its name, to look into it and to steer it."""
        return Conference(self._awaited.conference(name), self._background)

    def events(self, *names: str, since: str = NOW) -> Generator[BusEvent]:
        """AMI events from the server's `events` stream, without end: see `broker.Server.events`."""
        events = self._background.call(lambda: self._awaited.events(*names, since=since))
        return _iterate(self._background, events)


class Conference(_Blocking[telephony.Conference]):
    """One conference by its name: see `broker.Conference`."""

    @property
    def name(self) -> str:
        """Its name, which is most often a number."""
        return self._awaited.name

    kick = _blocking(telephony.Conference.kick)
    kick_all = _blocking(telephony.Conference.kick_all)
    lock = _blocking(telephony.Conference.lock)
    members = _blocking(telephony.Conference.members)
    mute = _blocking(telephony.Conference.mute)
    record = _blocking(telephony.Conference.record)
    stop_recording = _blocking(telephony.Conference.stop_recording)
    unlock = _blocking(telephony.Conference.unlock)
    unmute = _blocking(telephony.Conference.unmute)


Placed = TypeVar("Placed", aio_call.Call, aio_follow.FollowedCall)


class _Story(_Blocking[Placed]):
    """What a call of the bus and one that is merely followed have in common."""

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
    def server(self) -> str:
        """The server's name."""
        return self._awaited.server

    @property
    def channel_id(self) -> str:
        """The same as `uniqueid`: by it every action finds it."""
        return self._awaited.channel_id

    @property
    def uniqueid(self) -> str:
        """The Uniqueid of the channel that was dialled, or is followed."""
        return self._awaited.uniqueid

    @property
    def channel(self) -> str:
        """Its name, as far as it is known."""
        return self._awaited.channel

    @property
    def legs(self) -> tuple[Leg, ...]:
        """Every channel that the call has had so far: see `broker.Call.legs`."""
        return self._awaited.legs

    def events(self) -> Generator[BusEvent]:
        """The events in their order, until the call is over: see `broker.Call.events`."""
        return _iterate(self._background, self._awaited.events())

    def close(self) -> None:
        """Listen no more. The call goes on."""
        self._background.start_soon(self._closed())

    async def _closed(self) -> None:
        self._awaited.close()


class FollowedCall(_Story[aio_follow.FollowedCall]):
    """A call that somebody else placed, as `Server.follow` returns it: see `broker.FollowedCall`."""

    answered = _blocking(aio_follow.FollowedCall.answered)
    bridged = _blocking(aio_follow.FollowedCall.bridged)
    ended = _blocking(aio_follow.FollowedCall.ended)

    getvar = _blocking(aio_follow.FollowedCall.getvar)
    hangup = _blocking(aio_follow.FollowedCall.hangup)
    hold_at = _blocking(aio_follow.FollowedCall.hold_at)
    park = _blocking(aio_follow.FollowedCall.park)
    record = _blocking(aio_follow.FollowedCall.record)
    redirect = _blocking(aio_follow.FollowedCall.redirect)
    retrieve = _blocking(aio_follow.FollowedCall.retrieve)
    setvar = _blocking(aio_follow.FollowedCall.setvar)
    stop_recording = _blocking(aio_follow.FollowedCall.stop_recording)


class Call(_Story[aio_call.Call]):
    """An action on its way, as `Server.submit` returns it: see `broker.Call`."""

    @property
    def action_id(self) -> str:
        """The ActionID, given or generated."""
        return self._awaited.action_id

    @property
    def action(self) -> str:
        """The action's name."""
        return self._awaited.action

    @property
    def entry(self) -> str:
        """The id of the stream entry."""
        return self._awaited.entry

    @property
    def response(self) -> BusResponse | None:
        """Asterisk's first answer, where more was to come and it has been seen on the action's channel."""
        return self._awaited.response

    result = _blocking(aio_call.Call.result)
    action_record = _blocking(aio_call.Call.action_record)
    answered = _blocking(aio_call.Call.answered)
    bridged = _blocking(aio_call.Call.bridged)
    ended = _blocking(aio_call.Call.ended)

    getvar = _blocking(aio_call.Call.getvar)
    hangup = _blocking(aio_call.Call.hangup)
    hold_at = _blocking(aio_call.Call.hold_at)
    park = _blocking(aio_call.Call.park)
    record = _blocking(aio_call.Call.record)
    redirect = _blocking(aio_call.Call.redirect)
    retrieve = _blocking(aio_call.Call.retrieve)
    setvar = _blocking(aio_call.Call.setvar)
    stop_recording = _blocking(aio_call.Call.stop_recording)
