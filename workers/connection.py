"""One AMI session on a socket: the only file that has one. What the bytes mean is `broker.ami`'s business."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, Self, cast

import structlog

from broker.ami import (
    Action,
    ActionSpec,
    Event,
    Exchange,
    InFlight,
    Login,
    Message,
    RemoteProtocolError,
    Response,
    spec_of,
)
from broker.ami import Protocol as AmiProtocol
from broker.noise import without_noise

CONNECT_TIMEOUT_S: Final = 5.0
LOGIN_TIMEOUT_S: Final = 10.0
"""A refused login takes Asterisk a second; a silent banner, or one that is no Asterisk, should not take for ever."""

PING_AFTER_S: Final = 2.0
"""An idle session is asked whether it lives: a half-open one is found within `PING_AFTER_S` + `PING_TIMEOUT_S`."""

PING_TIMEOUT_S: Final = 3.0
PROBE_S: Final = 2
"""A session that waits for a slow action says nothing: the kernel asks the other host so often whether it is there."""

SEVERED_S: Final = 8
"""An other host whose kernel has confirmed nothing for so long is not there. Asterisk itself may take its time."""

TICK_S: Final = 0.25
"""How often a session looks at its timeouts."""

_PING: Final = spec_of("Ping")

_TCP_INFO: Final = struct.Struct("=24xI28xI")
"""Of Linux' struct tcp_info: tcpi_unacked and tcpi_last_ack_recv."""

CHUNK_ITEMS: Final = 1000
"""Items of a list that are handed on together."""

log = structlog.get_logger()


class ConnectionLost(Exception):
    """The session ended before the whole answer was here. `written`: the action may have reached Asterisk."""

    def __init__(self, why: str, *, written: bool = True) -> None:
        super().__init__(why)
        self.written = written


class AnswerTimeout(Exception):
    """Asterisk has not given its whole answer in time. The session is given up with it."""

    written: Final = True


Unanswered = ConnectionLost | AnswerTimeout
"""Why an action has no (whole) answer."""


class Question(Protocol):
    """An action to write, and how long its answer is waited for. A job is one as it stands."""

    @property
    def action(self) -> Action: ...
    @property
    def spec(self) -> ActionSpec: ...
    @property
    def answer_timeout_s(self) -> float: ...


class Asked(NamedTuple):
    """A question of nobody's job."""

    action: Action
    spec: ActionSpec
    answer_timeout_s: float


class Answers:
    """What comes of actions that were written together. Iterate: each turn gives what has come since the last one, as
    ActionID and whole answer (or `AnswerTimeout`, or `ConnectionLost`), until all have been told."""

    def __init__(self, awaited: int) -> None:
        self._awaited = awaited
        self._come: list[tuple[str, Exchange | Unanswered]] = []
        self._news: asyncio.Future[None] | None = None

    def tell(self, action_id: str, what: Exchange | Unanswered) -> None:
        """One of them has its answer."""
        self._come.append((action_id, what))
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[tuple[str, Exchange | Unanswered]]:
        if not self._awaited:
            raise StopAsyncIteration
        if not self._come:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        come, self._come = self._come, []
        self._awaited -= len(come)
        return come


OnResponse = Callable[[str, Response], None]
"""Hears of a first answer of which more is to come: ActionID and response."""

OnItems = Callable[[str, list[Event]], None]
"""Takes the items of a long list while more come: the whole answer has only those that came after."""


class _Waiter(NamedTuple):
    """Whoever waits for the answer to one action."""

    answers: Answers
    timeout_s: float
    on_response: OnResponse | None
    on_items: OnItems | None


class Connection(asyncio.Protocol):
    """A session that has logged in. Asterisk serves it serially: actions are answered in the order of writing."""

    def __init__(self, role: str, on_event: Callable[[Event], None] | None = None) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self.role = role
        self.lost: asyncio.Future[str] = loop.create_future()
        """Resolves with the reason when the session is over."""
        self.banner = ""
        self._on_event = on_event
        self._protocol = AmiProtocol()
        self._in_flight = InFlight()
        self._waiters: dict[Exchange, _Waiter] = {}
        """Not by ActionID: a Redis that went back in time may have one be asked twice."""
        self._transport: asyncio.Transport | None = None
        self._login: Login | None = None
        self._logged_in: asyncio.Future[None] = loop.create_future()
        # Nobody asks how it went where connecting was given up in the meantime.
        without_noise(self._logged_in)
        self._head_since = 0.0
        self._heard_at = 0.0
        self._pings = 0
        self._ticker: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls, role: str, host: str, port: int, username: str, secret: str, *,
        events: bool = False, on_event: Callable[[Event], None] | None = None,
    ) -> "Connection":  # fmt: skip
        """Connect and log in.

        Raises `LoginRefused`, `RemoteProtocolError`, `ConnectionLost`, `OSError` (also on a timeout), and
        `LocalProtocolError` for a user name that cannot be sent.
        """

        def make() -> Connection:
            # Whole before any byte can come: the banner may be here before `create_connection` returns.
            connection = cls(role, on_event)
            connection._login = Login(connection._protocol, username, secret, events="on" if events else "off")
            return connection

        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(make, host, port)
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                await connection._logged_in
        except BaseException as error:
            connection.abort(f"no login: {error or type(error).__name__}")
            raise
        connection._start()
        return connection

    async def request(self, asked: Question) -> Exchange:
        """Register, write, await the whole answer. Raises what `request_all` raises or tells of."""
        async for told in self.request_all([asked]):
            for _, what in told:
                if isinstance(what, Exchange):
                    return what
                raise what
        raise AssertionError("an action had no answer and no error")

    def request_all(
        self, asked: Sequence[Question], on_response: OnResponse | None = None, on_items: OnItems | None = None
    ) -> Answers:
        """Register and write actions in this order; how each was answered is told by what this returns.

        Raises `ConnectionLost` (nothing was written), and `LocalProtocolError` before anything was written. A timeout
        runs from when Asterisk can have begun: from the write, or from the answer to the action before.
        """
        if self.lost.done():
            raise ConnectionLost(self.lost.result(), written=False)
        data = b"".join([self._protocol.send_action(each.action) for each in asked])
        answers = Answers(len(asked))
        if not self._waiters:
            self._head_since = time.monotonic()
        waiter = _Waiter(answers, asked[0].answer_timeout_s, on_response, on_items)
        for each in asked:
            action_id = each.action.action_id
            assert action_id is not None
            if each.answer_timeout_s != waiter.timeout_s:
                waiter = waiter._replace(timeout_s=each.answer_timeout_s)
            self._waiters[self._in_flight.register(action_id, each.spec)] = waiter
        self._write(data)
        if asked[-1].spec.shape == "raw-text":
            # An empty table is a blank line, which is nothing: the answer to what follows tells that it was all.
            self._ping()
        return answers

    @property
    def in_flight(self) -> int:
        """Actions written and not yet answered."""
        return len(self._waiters)

    def abort(self, why: str) -> None:
        """End the session at once; whoever waits on it gets `ConnectionLost`."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    # -- writing

    def _write(self, data: bytes) -> None:
        # At once, not in the next turn of the loop: who asks has just looked whether he still may.
        if self._transport is not None and not self.lost.done():
            self._transport.write(data)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        # uvloop, too, is to write at once, and not at the end of its turn.
        self._transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The events session must take a burst while a script call is being prepared.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SEVERED_S // PROBE_S - 1)

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        try:
            messages = self._protocol.receive_data(data)
        except RemoteProtocolError as error:
            self._refuse(error)
            return
        if self._login is not None and not self._logged_in.done():
            messages = self._log_in(messages)
        receive = self._receive
        for message in messages:
            receive(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"Asterisk closed the connection{f': {exc}' if exc else ''}")

    # -- reading

    def _log_in(self, messages: list[Message]) -> list[Message]:
        """Go through the login with what came; return what came after it."""
        assert self._login is not None
        try:
            if not self.banner and self._protocol.banner:
                self.banner = self._protocol.banner
                self._write(self._login.start())
            for at, message in enumerate(messages):
                if isinstance(message, Response):
                    data = self._login.receive(message)
                    if data is not None:
                        self._write(data)
                    else:
                        self._logged_in.set_result(None)
                        return messages[at + 1 :]
        except Exception as error:
            self._refuse(error)
        return []

    def _receive(self, message: Message) -> None:
        if self._on_event is not None and isinstance(message, Event):
            self._on_event(message)
            return
        exchange = self._in_flight.add(message)
        if exchange is not None:
            for overtaken in self._in_flight.take_overtaken():
                self._advance(overtaken, message)
            self._advance(exchange, message)

    def _advance(self, exchange: Exchange, message: Message) -> None:
        waiter = self._waiters.get(exchange)
        if waiter is None:
            return
        if exchange.done:
            del self._waiters[exchange]
            self._head_since = self._heard_at
            waiter.answers.tell(exchange.action_id, exchange)
        elif not isinstance(message, Response):
            if waiter.on_items is not None and len(exchange.answer.events) >= CHUNK_ITEMS:
                waiter.on_items(exchange.action_id, exchange.take_items())
        elif exchange.started and waiter.on_response is not None:
            waiter.on_response(exchange.action_id, message)

    def _refuse(self, error: Exception) -> None:
        if not self._logged_in.done():
            self._logged_in.set_exception(error)
        self.abort(str(error))

    # -- life

    def _start(self) -> None:
        self._heard_at = time.monotonic()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        if self.lost.done():
            return
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        now = time.monotonic()
        if self._waiters:
            exchange, head = next(iter(self._waiters.items()))
            if now - self._head_since > head.timeout_s:
                self._time_out(exchange, head)
            elif self._is_severed():
                self.abort(f"the host of Asterisk has confirmed nothing for {SEVERED_S} s")
        elif now - self._heard_at > PING_AFTER_S:
            self._ping()

    def _is_severed(self) -> bool:
        """Whether what was written has not even reached the other host. The kernel's probes cease while it tries that,
        and on its own it would try for a quarter of an hour."""
        assert self._transport is not None
        try:
            sock = self._transport.get_extra_info("socket")
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            return False
        unconfirmed, confirmed_ms_ago = _TCP_INFO.unpack(info)
        return bool(unconfirmed and confirmed_ms_ago > SEVERED_S * 1000)

    def _time_out(self, exchange: Exchange, head: _Waiter) -> None:
        """Nothing more is written to this session: what comes late must not be taken for another's answer."""
        why = f"no answer within {head.timeout_s:g} s"
        del self._waiters[exchange]
        head.answers.tell(exchange.action_id, AnswerTimeout(why))
        self.abort(f"{why} to {exchange.action_id}")

    def _ping(self) -> None:
        self._pings += 1
        # The form of an entry id, which no producer may give. Nobody asks how it went: without an answer, it times out.
        self.request_all([Asked(Action("Ping", [], f"0-{self._pings}"), _PING, PING_TIMEOUT_S)])

    def _end(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        if self._ticker is not None:
            self._ticker.cancel()
        if not self._logged_in.done():
            self._logged_in.set_exception(ConnectionLost(why, written=False))
        waiters, self._waiters = self._waiters, {}
        for exchange, waiter in waiters.items():
            waiter.answers.tell(exchange.action_id, ConnectionLost(why))
