"""One AMI session on a socket, against the simulated Asterisk and against what is no Asterisk at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from broker.ami import Action, Exchange, LocalProtocolError, LoginRefused, RemoteProtocolError, Response, spec_of
from tests.workers.worker_process import DEADLINE_S, SECRET, USERS, eventually, soon
from workers import connection as module
from workers.connection import AnswerTimeout, Asked, Connection, ConnectionLost, Unanswered
from workers.simulated import SimulatedAsterisk

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


@pytest.fixture
async def session(asterisk: SimulatedAsterisk) -> AsyncIterator[Connection]:
    connection = await log_in(asterisk.port)
    yield connection
    connection.abort("the test is over")


async def log_in(port: int, secret: str = SECRET) -> Connection:
    return await Connection.open("read", "127.0.0.1", port, "amibus", secret)


async def ask(
    session: Connection,
    name: str,
    action_id: str,
    timeout_s: float = DEADLINE_S,
    **headers: str,
) -> Exchange:
    exchange: Exchange = await soon(session.request(asked(name, action_id, timeout_s, **headers)))
    return exchange


def asked(name: str, action_id: str, timeout_s: float = DEADLINE_S, **headers: str) -> Asked:
    return Asked(Action(name, list(headers.items()), action_id), spec_of(name), timeout_s)


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server that is no Asterisk; its port."""

    async def close_after(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(close_after, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_an_action_is_answered(session: Connection) -> None:
    exchange = await ask(session, "Ping", "a1")
    assert exchange.answer.response is not None
    assert exchange.answer.response.headers["Ping"] == "Pong"
    assert session.banner.startswith("Asterisk Call Manager/")
    assert session.in_flight == 0


async def test_a_list_is_whole_and_its_beginning_is_told_first(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.cut_bytes = 7
    begun: list[tuple[str, Response]] = []
    answers = session.request_all([asked("QueueStatus", "a1")], lambda *told: begun.append(told))
    ((_, exchange),) = await soon(anext(answers))
    assert isinstance(exchange, Exchange)
    assert [(action_id, each.starts_list) for action_id, each in begun] == [("a1", True)]
    assert exchange.answer.events[-1].completes_list
    assert {event.action_id for event in exchange.answer.events} == {"a1"}


async def test_the_lines_of_a_command(session: Connection) -> None:
    exchange = await ask(session, "Command", "a1", Command="core show version")
    assert exchange.answer.output == ["Asterisk 22.10.1 (simulated by amibus)"]


async def test_a_table_without_a_line_is_told_by_what_follows(session: Connection) -> None:
    exchange = await ask(session, "IAXnetstats", "a1")
    assert (exchange.answer.response, exchange.answer.output, exchange.failure) == (None, [], None)
    assert (await ask(session, "Ping", "a2")).answer.response is not None


async def test_pipelined_actions_get_their_own_answers(session: Connection, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.cut_bytes = 300
    asterisk.variables |= {f"v{n}": f"value {n}" for n in range(200)}
    asked = [ask(session, "Getvar", f"a{n}", Variable=f"v{n}") for n in range(200)]
    for n, exchange in enumerate(await asyncio.gather(*asked)):
        assert exchange.answer.response is not None
        assert exchange.answer.response.headers["Value"] == f"value {n}"
    assert [each.action_id for each in asterisk.written] == [f"a{n}" for n in range(200)]


async def test_two_actions_of_one_name_get_an_answer_each(session: Connection) -> None:
    first, second = [session.request_all([asked("Ping", "a1")]) for _ in range(2)]
    for answers in (first, second):
        [(action_id, exchange)] = await soon(anext(answers))
        assert (action_id, type(exchange)) == ("a1", Exchange)
    assert session.in_flight == 0


async def test_a_timeout_ends_the_session_and_whoever_else_waits_on_it(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.lose_response(times=0)
    first = asyncio.create_task(ask(session, "Setvar", "a1", 0.2, Variable="x", Value="1"))
    second = asyncio.create_task(ask(session, "Ping", "a2"))
    with pytest.raises(AnswerTimeout, match=r"no answer within 0\.2 s"):
        await first
    with pytest.raises(ConnectionLost) as lost:
        await second
    assert lost.value.written
    assert "a1" in await soon(session.lost)


async def test_the_timeout_runs_from_when_asterisk_can_have_begun(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.delay_response("a1", seconds=3.0)
    # The second is asked for now, and begun three seconds later.
    answered = await asyncio.gather(ask(session, "Ping", "a1"), ask(session, "Ping", "a2", timeout_s=2.5))
    assert all(exchange.answer.response is not None for exchange in answered)


@pytest.mark.parametrize("moment", ["unread", "before", "amid"])
async def test_a_connection_that_drops_before_the_whole_answer(
    session: Connection, asterisk: SimulatedAsterisk, moment: str
) -> None:
    asterisk.faults.drop_connection("a1", when=moment)
    with pytest.raises(ConnectionLost) as lost:
        await ask(session, "Setvar", "a1", Variable="x", Value="1")
    assert lost.value.written
    assert len(asterisk.writes("a1")) == (moment != "unread")


async def test_a_connection_that_drops_after_the_answer(session: Connection, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.drop_connection("a1", when="after")
    assert (await ask(session, "Ping", "a1")).answer.response is not None
    await soon(session.lost)
    with pytest.raises(ConnectionLost) as lost:
        await ask(session, "Ping", "a2")
    assert not lost.value.written
    assert not asterisk.writes("a2")


async def test_what_ami_cannot_carry_is_not_written_and_harms_nobody(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    with pytest.raises(LocalProtocolError):
        await ask(session, "Ping", "a1", Evil="x\r\n\r\nAction: Logoff")
    assert (await ask(session, "Ping", "a2")).answer.response is not None
    assert asterisk.write_counts() == {"a2": 1}


async def test_an_answer_out_of_order_ends_the_one_before_it(session: Connection, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.misorder("a1")
    first, second = await asyncio.gather(ask(session, "Ping", "a1"), ask(session, "Ping", "a2"))
    assert first.overtaken
    assert first.answer.response is None
    assert second.answer.response is not None
    # Its late answer is nobody's, least of all the next one's.
    assert (await ask(session, "Ping", "a3")).answer.response is not None


async def test_the_answer_to_a_caller_who_has_gone_is_not_the_next_ones(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.hold_response("a1")
    gone = asyncio.create_task(ask(session, "Getvar", "a1", Variable="CHANNEL(x)"))
    await eventually(lambda: asterisk.writes("a1"))
    gone.cancel()
    asterisk.faults.resume()
    asterisk.variables["y"] = "mine"
    exchange = await ask(session, "Getvar", "a2", Variable="y")
    assert exchange.answer.response is not None
    assert exchange.answer.response.headers["Value"] == "mine"


async def test_an_idle_session_is_kept_awake(
    session: Connection, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_AFTER_S", 0.1)
    await eventually(lambda: sum(each.action == "Ping" for each in asterisk.written) >= 2)
    assert not session.lost.done()


async def test_a_half_open_session_is_found(
    session: Connection, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_AFTER_S", 0.1)
    monkeypatch.setattr(module, "PING_TIMEOUT_S", 0.2)
    asterisk.faults.freeze()
    assert "no answer within 0.2 s" in await soon(session.lost)


async def test_events_are_handed_on_from_within_the_read(asterisk: SimulatedAsterisk) -> None:
    names: list[str] = []
    session = await Connection.open(
        "events",
        "127.0.0.1",
        asterisk.port,
        "amibus",
        SECRET,
        events=True,
        on_event=lambda event: names.append(event.name),
    )
    await asterisk.emit_events(1000)
    await eventually(lambda: len(names) >= 1001)
    assert names[0] == "FullyBooted"
    session.abort("the test is over")


async def test_a_wrong_secret(asterisk: SimulatedAsterisk) -> None:
    with pytest.raises(LoginRefused, match="Authentication failed"):
        await soon(log_in(asterisk.port, "wrong"))
    await eventually(lambda: not asterisk.sessions)


async def test_the_secret_does_not_cross_the_wire_and_shows_nowhere(asterisk: SimulatedAsterisk) -> None:
    received: list[bytes] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", asterisk.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: list[bytes]) -> None:
            while data := await source.read(65536):
                seen.append(data)
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, below, received), pump(above, writer, []))

    async with listening(forward) as port:
        session = await log_in(port)
        await ask(session, "Ping", "a1")
        session.abort("the test is over")
    assert b"Username: amibus" in b"".join(received)
    assert SECRET.encode() not in b"".join(received)
    assert SECRET not in repr(session) + repr(vars(session))


async def test_a_server_that_says_nothing(asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGIN_TIMEOUT_S", 0.2)
    asterisk.faults.silent = True
    with pytest.raises(TimeoutError):
        await soon(log_in(asterisk.port))


async def test_a_server_that_is_no_asterisk() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await writer.drain()

    async with listening(greet) as port:
        with pytest.raises(RemoteProtocolError, match="no AMI listens there"):
            await soon(log_in(port))


async def test_a_server_that_hangs_up_at_once() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(hang_up) as port:
        with pytest.raises(ConnectionLost) as lost:
            await soon(log_in(port))
    assert not lost.value.written


async def test_nobody_listens(asterisk: SimulatedAsterisk) -> None:
    await asterisk.stop()
    with pytest.raises(OSError, match="Connect call failed"):
        await soon(log_in(asterisk.port))
    await asterisk.start()


async def test_what_is_written_together_is_told_as_it_comes_and_each_once(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.lose_response("a3")
    answers = session.request_all([asked("Ping", f"a{number}") for number in range(1, 5)])
    told: list[tuple[str, Exchange | Unanswered]] = []
    async for some in answers:
        told += some
    assert [action_id for action_id, _ in told] == ["a1", "a2", "a3", "a4"]
    assert [type(what) for _, what in told[:2]] == [Exchange, Exchange]
    # Asterisk answered a later one: the answer to this one is lost.
    assert isinstance(told[2][1], Exchange)
    assert told[2][1].overtaken
    assert await soon(anext(answers, None)) is None


async def test_of_what_was_written_together_the_rest_is_lost_with_the_session(
    session: Connection, asterisk: SimulatedAsterisk
) -> None:
    for number in (2, 3):
        asterisk.faults.lose_response(f"a{number}")
    answers = session.request_all([asked("Ping", "a1"), asked("Ping", "a2", 0.3), asked("Ping", "a3")])
    told: dict[str, Exchange | Unanswered] = {}
    async for some in answers:
        told |= dict(some)
    assert [type(told[f"a{number}"]) for number in (1, 2, 3)] == [Exchange, AnswerTimeout, ConnectionLost]


async def test_nothing_is_written_to_a_session_that_is_lost(session: Connection, asterisk: SimulatedAsterisk) -> None:
    session.abort("gone")
    with pytest.raises(ConnectionLost) as caught:
        session.request_all([asked("Ping", "a1")])
    assert not caught.value.written
