"""Actions on channels and on the system, with the headers that Asterisk 22.10.1 gives."""

import pytest

from tests.simulated.raw import RawClient, names, value
from workers.simulated import SimulatedAsterisk


@pytest.fixture
async def call(asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient) -> RawClient:
    """A call that is up, and the listener that saw it come."""
    client.send(
        "Action: Originate", "Channel: Local/100@default", "ChannelId: c1", "Async: true", "Application: Wait",
        "Data: 30",
    )  # fmt: skip
    await listener.events_until("OriginateResponse")
    await listener.events_until("DeviceStateChange", count=2)
    return listener


async def test_core_show_channels(client: RawClient, call: RawClient) -> None:
    start, first, second, complete = await client.ask("Action: CoreShowChannels")
    assert start == [
        ("Response", "Success"),
        ("ActionID", "ask"),
        ("EventList", "start"),
        ("Message", "Channels will follow"),
    ]
    assert " ".join([name for name, _ in first]) == (
        "Event ActionID Channel ChannelState ChannelStateDesc CallerIDNum CallerIDName ConnectedLineNum"
        " ConnectedLineName Language AccountCode Context Exten Priority Uniqueid Linkedid Application"
        " ApplicationData Duration BridgeId"
    )
    assert (value(first, "Uniqueid"), value(second, "Uniqueid")) == ("c1", "c1;2")
    assert (value(first, "Application"), value(first, "ApplicationData")) == ("Wait", "30")
    assert complete == [
        ("Event", "CoreShowChannelsComplete"),
        ("ActionID", "ask"),
        ("EventList", "Complete"),
        ("ListItems", "2"),
    ]


async def test_status(client: RawClient, call: RawClient) -> None:
    start, first, _, complete = await client.ask("Action: Status")
    assert value(start, "Message") == "Channel status will follow"
    assert first[:3] == [("Event", "Status"), ("Privilege", "Call"), first[2]]
    assert first[-1] == ("ActionID", "ask")
    assert complete[-2:] == [("ListItems", "2"), ("Items", "2")]
    assert len(await client.ask("Action: Status", "Channel: c1;2")) == 3
    assert value((await client.ask("Action: Status", "Channel: c9"))[0], "Message") == "No such channel"


async def test_hangup_by_name_in_any_case(asterisk: SimulatedAsterisk, client: RawClient, call: RawClient) -> None:
    name = asterisk.calls[0].legs[0].channel.upper()
    (answer,) = await client.ask("Action: Hangup", f"Channel: {name}")
    assert value(answer, "Message") == "Channel Hungup"
    await call.events_until("Hangup", count=2)
    (answer,) = await client.ask("Action: Hangup", "Channel: c1")
    assert answer[0] == ("Response", "Error")
    assert value(answer, "Message") == "No such channel"


async def test_hangup_by_pattern(asterisk: SimulatedAsterisk, client: RawClient, call: RawClient) -> None:
    messages = await client.ask("Action: Hangup", "Channel: /^Local/")
    assert names(messages) == ["Success", "ChannelHungup", "ChannelHungup", "ChannelsHungupListComplete"]
    assert asterisk.calls == []
    assert len(await client.ask("Action: Hangup", "Channel: /^Local/")) == 2
    assert value((await client.ask("Action: Hangup"))[0], "Message") == "No channel specified"


async def test_redirect_moves_the_call(asterisk: SimulatedAsterisk, client: RawClient, call: RawClient) -> None:
    target = ("Context: elsewhere", "Exten: 200", "Priority: 1")
    (answer,) = await client.ask("Action: Redirect", "Channel: c1", *target)
    assert value(answer, "Message") == "Redirect successful"
    moved = (await call.events_until("Newexten"))[-1]
    assert (value(moved, "Context"), value(moved, "Exten"), value(moved, "Uniqueid")) == ("elsewhere", "200", "c1")
    shown = (await client.ask("Action: CoreShowChannels"))[1]
    assert (value(shown, "Context"), value(shown, "Exten")) == ("elsewhere", "200")


async def test_redirect_of_an_unanswered_call_fails_its_originate(
    asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient
) -> None:
    client.send(
        "Action: Originate", "ActionID: o1", "Channel: Local/noanswer@default", "ChannelId: c1", "Async: true",
        "Application: Wait", "Data: 30", "Timeout: 5000",
    )  # fmt: skip
    await listener.events_until("DialState")
    await client.ask("Action: Redirect", "Channel: c1", "Context: default", "Exten: 101", "Priority: 1")
    response = (await listener.events_until("OriginateResponse"))[-1]
    assert (value(response, "ActionID"), value(response, "Reason")) == ("o1", "0")
    rest = await listener.events_until("Hangup", count=2)
    assert "OriginateResponse" not in names(rest)
    assert asterisk.calls == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "Channel not specified"),
        (("Channel: nix", "Exten: 1", "Priority: 1"), "Channel does not exist: nix"),
        (("Channel: c1", "Exten: 1", "Priority: x"), "Invalid priority"),
    ],
)
async def test_what_redirect_refuses(client: RawClient, call: RawClient, lines: tuple[str, ...], message: str) -> None:
    (answer,) = await client.ask("Action: Redirect", *lines)
    assert value(answer, "Message") == message


async def test_variables_of_a_channel(asterisk: SimulatedAsterisk, client: RawClient, call: RawClient) -> None:
    for channel, uniqueid in (("c1", "c1"), ("c1;2", "c1;2")):
        await client.ask("Action: Setvar", f"Channel: {channel}", "Variable: foo", f"Value: {channel}")
        (answer,) = await client.ask("Action: Getvar", f"Channel: {channel}", "Variable: foo")
        assert answer[2:] == [("Variable", "foo"), ("Value", channel)]
        event = (await call.events_until("VarSet"))[-1]
        assert (value(event, "Uniqueid"), value(event, "Value")) == (uniqueid, channel)
    (answer,) = await client.ask("Action: Getvar", "Channel: c1", "Variable: CHANNEL")
    assert value(answer, "Value") == asterisk.calls[0].legs[0].channel


async def test_global_variables(client: RawClient, listener: RawClient) -> None:
    (answer,) = await client.ask("Action: Setvar", "Variable: GG", "Value: b")
    assert value(answer, "Message") == "Variable Set"
    event = (await listener.events_until("VarSet"))[-1]
    assert event[3:] == [("Channel", "none"), ("Uniqueid", "none"), ("Variable", "GG"), ("Value", "b")]
    (answer,) = await client.ask("Action: Getvar", "Variable: GG")
    assert answer[2:] == [("Variable", "GG"), ("Value", "b")]


@pytest.mark.parametrize("action", ["Getvar", "Setvar"])
async def test_variables_that_cannot_be(client: RawClient, action: str) -> None:
    (answer,) = await client.ask(f"Action: {action}")
    assert value(answer, "Message") == "No variable specified"
    (answer,) = await client.ask(f"Action: {action}", "Channel: nix", "Variable: a")
    assert value(answer, "Message") == "No such channel"
