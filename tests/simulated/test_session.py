"""Framing and the serial session."""

import asyncio

import pytest

from tests.simulated.raw import RawClient, names, parse, value
from workers.simulated import SimulatedAsterisk

PING = b"Action: Ping\r\nActionID: cut\r\n\r\n"


@pytest.mark.parametrize("at", range(1, len(PING)))
async def test_an_action_may_come_in_two_pieces(client: RawClient, at: int) -> None:
    client.writer.write(PING[:at])
    await client.writer.drain()
    client.writer.write(PING[at:])
    answer = await client.until(r"Timestamp: .*?\r\n\r\n")
    assert names(parse(answer)) == ["Success"]


async def test_bare_line_feeds_end_lines(client: RawClient) -> None:
    client.send("Action: Ping", "ActionID: lf", end="\n")
    await client.until("Response: Success\r\nActionID: lf\r\nPing: Pong\r\n")


async def test_pipelined_actions_are_answered_in_order(client: RawClient) -> None:
    for number in range(50):
        client.send("Action: Ping", f"ActionID: p{number}")
    answers = parse(await client.until(r"ActionID: p49\r\nPing: Pong\r\nTimestamp: [\d.]+\r\n\r\n"))
    assert [value(answer, "ActionID") for answer in answers] == [f"p{number}" for number in range(50)]


async def test_each_blank_line_is_an_empty_action(client: RawClient) -> None:
    client.writer.write(b"\r\n\r\n\r\n" + PING)
    answers = parse(await client.until(r"Pong\r\n.*?\r\n\r\n"))
    assert answers[:3] == [[("Response", "Error"), ("Message", "Missing action in request")]] * 3
    assert len(answers) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("Foo: x",), "Missing action in request"),
        (("Action:", "Foo: x"), "Missing action in request"),
        (("Action: Ping", "Foo: " + "x" * 1018), "Failed to parse message: line too long"),
        (("Action: Ping", "Foo: " + "ä" * 509), "Failed to parse message: line too long"),
        (
            ("Action: Ping", *["F: x"] * 127),
            "Too many lines in message or allocation failure",
        ),
        (
            ("Action: Nope",),
            "Invalid/unknown command: Nope. Use Action: ListCommands to show available commands.",
        ),
    ],
)
async def test_refusals(client: RawClient, lines: tuple[str, ...], message: str) -> None:
    assert await client.ask(lines[0], *lines[1:]) == [
        [("Response", "Error"), ("ActionID", "ask"), ("Message", message)]
    ]


async def test_the_longest_line_and_the_most_headers_pass(client: RawClient) -> None:
    for lines in (("Foo: " + "x" * 1017,), ("Foo: " + "ä" * 508,), ("F: x",) * 126):
        (answer,) = await client.ask("Action: Ping", *lines)
        assert value(answer, "Ping") == "Pong"


async def test_names_in_any_case_and_the_first_value_counts(client: RawClient) -> None:
    client.send("aCTION:Ping", "ActionID:   x1  ", "actionid: x2")
    await client.until("Response: Success\r\nActionID: x1  \r\nPing: Pong\r\n")


async def test_bytes_that_are_not_utf8_come_back(client: RawClient) -> None:
    client.writer.write(b"Action: Getvar\r\nVariable: \xff\xe4\r\n\r\n")
    assert "Variable: \udcff\udce4\r\n" in await client.until(r"Value: \r\n")


async def test_a_response_precedes_its_own_events(asterisk: SimulatedAsterisk) -> None:
    async with RawClient(asterisk.port) as raw:
        await raw.login()
        raw.send("Action: UserEvent", "ActionID: u1", "UserEvent: Hello", "A: b", "Foo: bar")
        messages = parse(await raw.until(r"Foo: bar\r\n\r\n"))
    assert names(messages)[-2:] == ["Success", "UserEvent"]
    event = [pair for pair in messages[-1] if pair[0] != "Timestamp"]
    assert event == [
        ("Event", "UserEvent"),
        ("Privilege", "user,all"),
        ("UserEvent", "Hello"),
        ("ActionID", "u1"),
        ("A", "b"),
        ("Foo", "bar"),
    ]


async def test_a_synchronous_originate_blocks_its_session_and_holds_its_events(
    asterisk: SimulatedAsterisk,
) -> None:
    async with RawClient(asterisk.port) as raw:
        await raw.login()
        await raw.until("Status: Fully Booted\r\n\r\n")
        raw.send("Action: Originate", "ActionID: o1", "Channel: Local/1@default", "Application: Wait", "Data: 0")
        raw.send("Action: Ping", "ActionID: p1")
        messages = parse(await raw.until(r"ActionID: p1\r\n.*?\r\n\r\n"))
    assert [value(each, "ActionID") for each in messages if each[0][0] == "Response"] == ["o1", "p1"]
    assert messages[0] == [
        ("Response", "Success"),
        ("ActionID", "o1"),
        ("Message", "Originate successfully queued"),
    ]
    assert "Newchannel" in names(messages)
    assert "OriginateResponse" not in names(messages)


async def test_a_failed_synchronous_originate(client: RawClient) -> None:
    (answer,) = await client.ask("Action: Originate", "Channel: Local/busy@default", "Application: Wait", "Data: 1")
    assert answer == [("Response", "Error"), ("ActionID", "ask"), ("Message", "Originate failed")]


async def test_the_ledger_keeps_every_write(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    for _ in range(2):
        await client.ask("Action: Setvar", "Variable: a", "Value: 1", "Variable: b")
    first, second = asterisk.writes("ask")
    assert first.action == "Setvar"
    assert first.headers == [
        ("Action", "Setvar"),
        ("ActionID", "ask"),
        ("Variable", "a"),
        ("Value", "1"),
        ("Variable", "b"),
    ]
    assert first.session == second.session
    assert first.at <= second.at
    assert asterisk.write_counts() == {"ask": 2, "fence": 2}


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async with SimulatedAsterisk(write_timeout_s=0.05) as asterisk, RawClient(asterisk.port) as raw:
        await raw.login()
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (session,) = asterisk.sessions
        while not session.is_stalled:
            asterisk.traffic.emit(2000)
            await asyncio.sleep(0)
        await session.closed
