"""Connections dropped, restarts, background traffic, the public face."""

import asyncio

import pytest

import workers.simulated
from tests.simulated.raw import Message, RawClient, names, parse, value
from workers.simulated import SimulatedAsterisk


def test_every_public_name_is_there() -> None:
    assert all(hasattr(workers.simulated, name) for name in workers.simulated.__all__)


async def test_address(asterisk: SimulatedAsterisk) -> None:
    assert asterisk.address == f"127.0.0.1:{asterisk.port}"


@pytest.mark.parametrize(("which", "dropped"), [("all", 2), ("events", 1), ("actions", 1)])
async def test_drop_connections(
    asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient, which: str, dropped: int
) -> None:
    assert await asterisk.drop_connections(which) == dropped
    if which != "actions":
        assert await listener.until_eof() == ""
    if which != "events":
        assert await client.until_eof() == ""
    assert len(asterisk.sessions) == 2 - dropped


async def test_a_restart_loses_the_calls_and_boots_anew(
    asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient
) -> None:
    client.send("Action: Originate", "Channel: Local/1@default", "Async: 1", "Application: Wait", "Data: 30")
    await listener.events_until("OriginateResponse")
    await client.ask("Action: DBPut", "Family: f", "Key: k", "Val: v")
    await client.ask("Action: Setvar", "Variable: g", "Value: 1")
    port, restart = asterisk.port, asyncio.create_task(asterisk.restart(down_s=2.0))
    assert "Hangup" not in names(await _rest(listener))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await restart
    assert (asterisk.port, asterisk.calls, asterisk.variables) == (port, [], {})
    async with RawClient(port) as raw:
        await raw.login()
        await raw.events_until("FullyBooted")
        assert len(await raw.ask("Action: DBGet", "Family: f", "Key: k")) == 3
    assert len(asterisk.written) > 3


async def test_a_call_outlives_its_session(asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient) -> None:
    client.send("Action: Originate", "ActionID: o1", "Channel: Local/1@default", "Application: Wait", "Data: 0")
    await listener.events_until("DialBegin")
    await asterisk.drop_connections("actions")
    await listener.events_until("Hangup", count=2)
    assert asterisk.calls == []


async def test_background_traffic_keeps_its_rate() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()

    def rate() -> float:
        return asterisk.traffic.emitted / (loop.time() - before)

    async with SimulatedAsterisk(event_rate=2000) as asterisk, RawClient(asterisk.port) as raw:
        await raw.login()
        events = await raw.events_until("Hangup", count=40)
        assert rate() <= 2000
        async with asyncio.timeout(60):
            while rate() <= 1000:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert rate() <= 2000
        assert asterisk.calls == []
    created = [value(each, "Uniqueid") for each in events if value(each, "Event") == "Newchannel"]
    assert len(created) == len(set(created)) >= 40


async def test_emitted_events_all_arrive(asterisk: SimulatedAsterisk, listener: RawClient) -> None:
    emitting = asyncio.create_task(asterisk.emit_events(2000))
    count = 0
    async with asyncio.timeout(60):
        while count < 2000:
            count += (await listener.reader.readuntil(b"\r\n\r\n")).startswith(b"Event: ")
    await emitting
    assert asterisk.traffic.emitted == 2000


async def _rest(listener: RawClient) -> list[Message]:
    return parse(await listener.until_eof())
