"""Each fault, seen from the wire."""

import asyncio

import pytest

from tests.simulated.raw import RawClient, becomes, parse, value
from workers.simulated import Faults, SimulatedAsterisk


async def test_refused_login(asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.refuse_login = True
    async with RawClient(asterisk.port) as raw:
        await raw.login()
        assert "Authentication failed" in raw.text
        assert await raw.until_eof() == ""
    asterisk.faults.clear()
    async with RawClient(asterisk.port) as raw:
        await raw.login()
        assert "Authentication accepted" in raw.text


async def test_silent_banner() -> None:
    async with SimulatedAsterisk(faults=Faults(silent=True)) as asterisk, RawClient(asterisk.port) as raw:
        raw.send("Action: Login", "Username: amibus", "Secret: amibus")
        await becomes(lambda: bool(asterisk.sessions))
        await asterisk.drop_connections()
        assert await raw.until_eof() == ""
        assert asterisk.logins == []


async def test_lost_response(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.lose_response("setvar", nth=2)
    for number in range(1, 4):
        client.send("Action: Setvar", f"ActionID: s{number}", "Variable: v", f"Value: {number}")
    messages = parse(await client.until(r"ActionID: s3\r\n.*?\r\n\r\n"))
    assert [value(each, "ActionID") for each in messages] == ["s1", "s3"]
    assert asterisk.write_counts() == {"s1": 1, "s2": 1, "s3": 1}
    assert asterisk.variables["v"] == "3"


async def test_a_rule_may_name_an_action_id_and_last(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.lose_response("p1", times=0)
    for action_id in ("p1", "p2", "p1", "p3"):
        client.send("Action: Ping", f"ActionID: {action_id}")
    messages = parse(await client.until(r"ActionID: p3\r\n.*?\r\n\r\n"))
    assert [value(each, "ActionID") for each in messages] == ["p2", "p3"]


async def test_late_response_delays_all_behind_it(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.delay_response("p1", seconds=0.1)
    before = asyncio.get_running_loop().time()
    client.send("Action: Ping", "ActionID: p1")
    client.send("Action: Ping", "ActionID: p2")
    messages = parse(await client.until(r"ActionID: p2\r\n.*?\r\n\r\n"))
    assert [value(each, "ActionID") for each in messages] == ["p1", "p2"]
    assert asyncio.get_running_loop().time() - before >= 0.1


async def test_a_held_response_is_sent_on_resume_and_those_behind_it_with_it(
    asterisk: SimulatedAsterisk, client: RawClient
) -> None:
    asterisk.faults.hold_response("p1")
    client.send("Action: Ping", "ActionID: p1")
    client.send("Action: Ping", "ActionID: p2")
    await becomes(lambda: asterisk.write_counts() == {"p1": 1})
    async with RawClient(asterisk.port) as other:  # the others go on
        await other.login()
        other.send("Action: Ping", "ActionID: p3")
        await other.until(r"ActionID: p3\r\n")
    with pytest.raises(TimeoutError):
        await client.until("ActionID", deadline_s=0.05)
    asterisk.faults.resume()
    messages = parse(await client.until(r"ActionID: p2\r\n.*?\r\n\r\n"))
    assert [value(each, "ActionID") for each in messages] == ["p1", "p2"]
    client.send("Action: Ping", "ActionID: p1")
    await client.until(r"ActionID: p1\r\nPing: Pong")


async def test_an_error_instead_of_the_action(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.answer_error("Setvar")
    (answer,) = await client.ask("Action: Setvar", "Variable: v", "Value: 1")
    assert answer == [("Response", "Error"), ("ActionID", "ask"), ("Message", "Asterisk is shutting down")]
    assert "v" not in asterisk.variables


async def test_shutting_down(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.shutting_down = True
    client.send("Action: Ping", "ActionID: p1")
    await client.until("Response: Error\r\nActionID: p1\r\nMessage: Asterisk is shutting down\r\n\r\n")


async def test_misordered_responses(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.misorder("p1")
    for number in range(1, 4):
        client.send("Action: Ping", f"ActionID: p{number}")
    messages = parse(await client.until(r"ActionID: p3\r\n.*?\r\n\r\n"))
    assert [value(each, "ActionID") for each in messages] == ["p2", "p1", "p3"]


@pytest.mark.parametrize(
    ("when", "answer", "executed"),
    [
        ("unread", "", False),
        ("before", "", True),
        ("amid", "Response: Success\r\nActionID: ", True),
        ("after", "Response: Success\r\nActionID: s1\r\nMessage: Variable Set\r\n\r\n", True),
    ],
)
async def test_dropped_connection(
    asterisk: SimulatedAsterisk, client: RawClient, when: str, answer: str, executed: bool
) -> None:
    asterisk.faults.drop_connection("Setvar", when=when)
    client.send("Action: Setvar", "ActionID: s1", "Variable: v", "Value: 1")
    client.send("Action: Setvar", "ActionID: s2", "Variable: v", "Value: 2")
    assert await client.until_eof() == answer
    assert asterisk.variables == ({"v": "1"} if executed else {})
    assert asterisk.write_counts() == ({"s1": 1} if executed else {})


async def test_packets_cut_in_pieces_carry_the_same_bytes(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    whole = await client.ask("Action: QueueStatus")
    asterisk.faults.cut_bytes = 3
    client.send("Action: QueueStatus", "ActionID: ask")
    text, reads = "", 0
    async with asyncio.timeout(60):
        while "QueueStatusComplete" not in text or not text.endswith("\r\n\r\n"):
            text += (await client.reader.read(65536)).decode()
            reads += 1
    assert parse(text) == whole
    assert reads > 10


async def test_stopped_reading_leaves_actions_unread(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    asterisk.faults.stop_reading()
    client.send("Action: Ping", "ActionID: p1")
    async with RawClient(asterisk.port) as other:
        await other.until("Asterisk Call Manager")
    assert asterisk.written == []
    asterisk.faults.resume()
    await client.until("ActionID: p1\r\nPing: Pong")


async def test_frozen_says_nothing_until_resumed(
    asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient
) -> None:
    asterisk.faults.freeze()
    client.send("Action: Ping", "ActionID: p1")
    asterisk.traffic.emit(10)
    async with RawClient(asterisk.port) as newcomer:
        await becomes(lambda: len(asterisk.sessions) == 3)
        with pytest.raises(TimeoutError):
            await listener.until("Event: ", deadline_s=0.05)
        asterisk.faults.resume()
        await newcomer.until("Asterisk Call Manager")
        await listener.until("Event: Newchannel")
        await client.until("ActionID: p1\r\nPing: Pong")
