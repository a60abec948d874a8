"""Originate, and the events of its call beside those of the same call on Asterisk 22.10.1."""

import re
from pathlib import Path

import pytest

from tests.simulated.raw import Message, RawClient, names, parse, value
from workers.simulated import SimulatedAsterisk
from workers.simulated.originate import split_variables

CAPTURES = Path(__file__).parent / "captures"
CALLER = ("Variable: a=1,b=2", 'CallerID: "Bob" <123>')
ENDLESS = ("Application: Wait", "Data: 30")


async def originate(client: RawClient, exten: str, *more: str) -> None:
    target = () if any(line.startswith("Application") for line in more) else ("Application: Wait", "Data: 1")
    channel = f"Channel: Local/{exten}@default"
    client.send("Action: Originate", "ActionID: x1", channel, "ChannelId: c1", "Async: true", *more, *target)
    await client.until("Response: Success\r\nActionID: x1\r\nMessage: Originate successfully queued\r\n\r\n")


async def whole_call(listener: RawClient) -> list[Message]:
    """Its events, up to the second Hangup and the device's last word."""
    events = await listener.events_until("Hangup", count=2)
    return events + await listener.events_until("DeviceStateChange")


def by_leg(events: list[Message]) -> dict[str, list[Message]]:
    """The events of each leg in order, times and channel numbers left out.

    Left out, too, are device states: how many of them Asterisk sends is a matter of chance.
    """
    legs: dict[str, list[Message]] = {}
    for event in events:
        channel = value(event, "Channel") or value(event, "DestChannel") or ""
        if event[0][1] == "DeviceStateChange":
            continue
        kept = [(name, _without_number(text)) for name, text in event if name != "Timestamp"]
        leg = event[0][1] if event[0][1] == "OriginateResponse" else channel.rpartition(";")[2]
        legs.setdefault(leg, []).append(kept)
    return legs


def _without_number(text: str) -> str:
    return re.sub(r"-[0-9a-f]{8}(?=;)|C-[0-9a-f]{8}", "#", text)


def real(name: str) -> list[Message]:
    return parse((CAPTURES / f"{name}.ami").read_text())


@pytest.mark.parametrize(
    ("capture", "exten", "more", "hangup"),
    [
        ("plain", "101", (), ()),
        ("answered", "101", CALLER, ()),
        ("busy", "busy", (), ()),
        ("congestion", "congestion", (), ()),
        ("noanswer", "noanswer", ("Timeout: 700",), ()),
        ("cancelled", "noanswer", (), ("Channel: c1",)),
        ("hangup", "101", ENDLESS, ("Channel: c1",)),
        ("hangup-second-leg", "101", ENDLESS, ("Channel: c1;2", "Cause: 17")),
    ],
)
async def test_a_call_tells_what_a_real_one_tells(
    capture: str, exten: str, more: tuple[str, ...], hangup: tuple[str, ...]
) -> None:
    async with (
        SimulatedAsterisk(speed=1 if hangup else 10) as asterisk,
        RawClient(asterisk.port) as client,
        RawClient(asterisk.port) as listener,
    ):
        await client.login("amibus", "Events: off")
        await listener.login("amibus-events")
        await listener.events_until("FullyBooted")
        await originate(client, exten, *more)
        before: list[Message] = []
        if hangup:
            before = await listener.events_until("DialState" if exten == "noanswer" else "OriginateResponse")
            await client.ask("Action: Hangup", *hangup)
        events = before + await whole_call(listener)
        assert asterisk.calls == []
    simulated, seen = by_leg(events), by_leg(real(capture))
    for leg in seen:
        assert simulated[leg] == seen[leg], leg
    assert simulated.keys() == seen.keys()


async def test_without_a_channel_id_the_numbers_are_fresh(client: RawClient, listener: RawClient) -> None:
    for _ in range(2):
        client.send("Action: Originate", "Channel: Local/1@default", "Application: Wait", "Data: 0", "Async: 1")
    events = await listener.events_until("Hangup", count=4)
    created = [each for each in events if value(each, "Event") == "Newchannel"]
    assert len({value(each, "Uniqueid") for each in created}) == 4
    assert len({value(each, "Channel") for each in created}) == 4
    assert len({value(each, "Linkedid") for each in created}) == 2


async def test_a_channel_id_in_use_is_refused(
    asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient
) -> None:
    await originate(client, "100", *ENDLESS)
    await listener.events_until("OriginateResponse")
    client.send(
        "Action: Originate", "ActionID: x2", "Channel: Local/101@default", "ChannelId: c1", "Async: true", *ENDLESS
    )
    await client.until("ActionID: x2\r\nMessage: Originate successfully queued")
    refused = (await listener.events_until("OriginateResponse"))[-1]
    told = {name: value(refused, name) for name in ("ActionID", "Response", "Reason", "Uniqueid", "Channel")}
    assert told == {
        "ActionID": "x2",
        "Response": "Failure",
        "Reason": "0",
        "Uniqueid": "c1",
        "Channel": "Local/101@default",
    }
    assert len(asterisk.calls) == 1


async def test_an_extension_is_run_and_cleared_normally(client: RawClient, listener: RawClient) -> None:
    client.send(
        "Action: Originate", "ActionID: x1", "Channel: Local/100@default", "ChannelId: c1", "Async: true",
        "Context: other", "Exten: 200", "Priority: 1",
    )  # fmt: skip
    events = await listener.events_until("Hangup", count=2)
    (response,) = [each for each in events if value(each, "Event") == "OriginateResponse"]
    assert (value(response, "Context"), value(response, "Exten")) == ("other", "200")
    assert value(events[-1], "Cause") == "16"
    assert value(events[-1], "Cause-txt") == "Normal Clearing"


async def test_a_channel_of_another_technology_has_one_leg(client: RawClient, listener: RawClient) -> None:
    client.send(
        "Action: Originate", "Channel: PJSIP/100", "ChannelId: c1", "Async: true", "Application: Echo",
        "Variable: a=1", "CallerID: 7",
    )  # fmt: skip
    events = await listener.events_until("Hangup")
    assert {value(each, "Uniqueid") for each in events} == {"c1", None}
    assert names(events).count("Newchannel") == 1
    assert "DialEnd" in names(events)
    assert re.fullmatch(r"PJSIP/100-[0-9a-f]{8}", value(events[0], "Channel") or "")


@pytest.mark.parametrize(("exten", "reason", "cause"), [("busy", "5", "17"), ("congestion", "8", "34")])
async def test_a_single_leg_knows_why_it_failed(
    client: RawClient, listener: RawClient, exten: str, reason: str, cause: str
) -> None:
    client.send("Action: Originate", f"Channel: PJSIP/{exten}", "Async: true", "Application: Echo")
    events = await listener.events_until("Hangup")
    assert value(events[-1], "Cause") == cause
    (response,) = [each for each in events if value(each, "Event") == "OriginateResponse"]
    assert value(response, "Reason") == reason


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "Channel not specified"),
        (("Channel: foo",), "Invalid channel"),
        (("Channel: Local/1", "Timeout: abc"), "Invalid timeout"),
        (("Channel: Local/1",), "Originate with 'Exten' requires 'Context' and 'Priority'"),
    ],
)
async def test_what_originate_refuses(client: RawClient, lines: tuple[str, ...], message: str) -> None:
    (answer,) = await client.ask("Action: Originate", *lines)
    assert answer == [("Response", "Error"), ("ActionID", "ask"), ("Message", message)]


async def test_ring_rings_before_it_answers(client: RawClient, listener: RawClient) -> None:
    await originate(client, "ring", "Application: Wait", "Data: 0")
    told = names(await listener.events_until("Hangup", count=2))
    assert told.index("DialState") < told.index("DialEnd") < told.index("Hangup")


def test_variables_are_cut_as_asterisk_cuts_them() -> None:
    assert split_variables("a=1,b=2") == [("a", "1"), ("b", "2")]
    assert split_variables(r'a=x\,y,b="q,r",c') == [("a", "x,y"), ("b", "q,r")]
    assert split_variables("F(a,b)=1,c=") == [("F(a,b)", "1"), ("c", "")]
