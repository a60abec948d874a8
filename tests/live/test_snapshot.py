"""Asterisk dies in mid-call, and is there again: what the bus then says of the channels and of its own calls."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.lab import LabAsterisk
from tests.lab.session import logged_in
from tests.live.calls import PlacedCall, answered, is_idle, placed
from tests.live.frail import Frail, frail, named
from tests.live.harness import Site, eventually
from tests.live.producer import Producer, new_id

PATIENT = {"lease_s": "120"}
"""The worker is paused while Asterisk starts, and must not lose its lease by that."""

STRANGERS = ("Local/101@default", "Local/30@ring")
"""Calls that the bus knows nothing of."""

Channels = set[tuple[str, str, str]]
"""Name, Uniqueid, Linkedid of each."""


async def kill(asterisk: LabAsterisk) -> None:
    await asterisk.kill()


async def restart_now(asterisk: LabAsterisk) -> None:
    """As an operator does. In the lab it ends by that, for it cannot find its libraries by itself; then it is started
    again, as a service manager would do it."""
    await asterisk.cli("core restart now")
    await eventually(lambda: _has_ended(asterisk), "Asterisk has ended")
    await asterisk.stop()  # its process is gone, the lab must know


async def _has_ended(asterisk: LabAsterisk) -> bool:
    return not asterisk.running


async def channels_of(asterisk: LabAsterisk) -> Channels:
    """As an independent session is told of them."""
    async with logged_in(asterisk, "observer") as session:
        answer = await session.action("CoreShowChannels", until=b"CoreShowChannelsComplete")
    blocks = [dict(_pairs(block)) for block in answer.decode().split("\r\n\r\n")]
    return {
        (each["Channel"], each["Uniqueid"], each["Linkedid"])
        for each in blocks
        if each.get("Event") == "CoreShowChannel"
    }


def _pairs(block: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition(": ") for line in block.split("\r\n"))]


def told_by(headers: dict[str, Any]) -> Channels:
    """The channels of a BusSnapshot."""
    columns = [headers.get(name, []) for name in ("Channel", "Uniqueid", "Linkedid")]
    lists = [[column] if isinstance(column, str) else column for column in columns]
    return set(zip(*lists, strict=True))


async def place_strangers(asterisk: LabAsterisk) -> Channels:
    """Have calls up, and ringing, that others placed; the channels that there are then."""
    async with logged_in(asterisk, "observer", events="on") as session:
        for number, channel in enumerate(STRANGERS):
            headers = (f"Channel: {channel}", "Application: Wait", "Data: 300", "Async: true", "Timeout: 60000")
            await session.action("Originate", f"ChannelId: stranger-{number}", *headers)
        await session.wait_for(b"Event: OriginateResponse")
        await session.wait_for(b"ChannelStateDesc: Ringing")
    await eventually(lambda: _count(asterisk, 2 * len(STRANGERS)), "the strangers' channels are there")
    return await channels_of(asterisk)


async def _count(asterisk: LabAsterisk, wanted: int) -> bool:
    return len(await channels_of(asterisk)) == wanted


@pytest.mark.parametrize("end", [kill, restart_now])
async def test_after_a_restart_in_mid_call(site: Site, end: Callable[[LabAsterisk], Awaitable[None]]) -> None:
    async with frail(site, new_id("snapshot"), **PATIENT) as bus:
        producer, worker = bus.producer, bus.worker
        async with answered(producer) as up, ringing(producer) as dialing:
            await dialing.watch.event("Newstate", ChannelStateDesc="Ringing")
            # it sees the end of Asterisk, and its return, only when all has happened
            worker.send(signal.SIGSTOP)
            await end(bus.asterisk)
            waiting = [new_id("waiting") for _ in range(2)]
            for action_id in waiting:
                await producer.add("Action", "Setvar", "ActionID", action_id, "Variable", "W", "Value", "1")
            await bus.asterisk.start()
            alive = await place_strangers(bus.asterisk)
            worker.send(signal.SIGCONT)
            await eventually(lambda: _has_snapshot(producer), "a snapshot")
            await _check_calls(producer, up, dialing)
            for action_id in waiting:
                await eventually(lambda: _is_done(producer, action_id), "what waited is done")  # noqa: B023
            assert [len(bus.tap.actions(action_id)) for action_id in waiting] == [1, 1]
        _check_events(await producer.events(), alive)
        await eventually(lambda: is_idle(producer), "nothing is left")
        await _check_once(bus, up, dialing)


def ringing(producer: Producer) -> Any:
    return placed(producer, "Application", "Wait", "Data", "300", "Bus-Timeout", "3", channel="Local/30@ring")


async def _check_calls(producer: Producer, up: PlacedCall, dialing: PlacedCall) -> None:
    for call in (up, dialing):
        await call.watch.result()
        record = await call.watch.call_over(producer, call.action_id)
        assert record["call"] == "ended"
        assert call.last_of_its_channels in ("Hangup", "BusCallEnded")
    states = [(await producer.record(call.action_id))["state"] for call in (up, dialing)]
    assert states[0] == "done"
    assert states[1] in ("unknown", "failed"), "Asterisk may have told of its end"


def _check_events(events: list[Any], alive: Channels) -> None:
    gap, snapshot = named(events, "BusGap")[-1], named(events, "BusSnapshot")[-1]
    assert gap["headers"]["reason"] == "connection-lost"
    assert snapshot["seq"] == gap["seq"] + 1
    assert (snapshot["headers"]["Part"], snapshot["headers"]["Parts"]) == ("1", "1")
    assert told_by(snapshot["headers"]) == alive
    assert snapshot["headers"]["Total"] == str(len(alive))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def _check_once(bus: Frail, *calls: PlacedCall) -> None:
    assert [len(bus.tap.actions(call.action_id)) for call in calls] == [1] * len(calls)


async def _has_snapshot(producer: Producer) -> bool:
    gaps = [event["headers"]["reason"] for event in named(await producer.events(), "BusGap")]
    return "connection-lost" in gaps and len(named(await producer.events(), "BusSnapshot")) == len(gaps)


async def _is_done(producer: Producer, action_id: str) -> bool:
    return (await producer.record(action_id)).get("state") == "done"


async def test_a_snapshot_after_a_start_tells_of_calls_that_were_there_before(site: Site) -> None:
    async with LabAsterisk(site.asterisk.series) as asterisk:
        alive = await place_strangers(asterisk)
        async with Site(asterisk, site.redis).serving(new_id("start")) as (producer, _):
            await eventually(lambda: _told(producer, alive), "the snapshot tells of them")
            answer = await producer.ask("CoreShowChannels")
            listed = {(each["Channel"], each["Uniqueid"], each["Linkedid"]) for each in answer["events"][:-1]}
            assert listed == alive


async def _told(producer: Producer, alive: Channels) -> bool:
    return [told_by(event["headers"]) for event in named(await producer.events(), "BusSnapshot")] == [alive]
