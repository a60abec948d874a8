"""The public surface is what `__all__` says, and nothing slips into it or out of it unnoticed."""

import inspect
import subprocess
import sys

import pytest

import broker
import broker.sync
from broker import client, sync

PUBLIC = {
    "FINAL_STATES",
    "ActionCancelled",
    "ActionError",
    "ActionExpired",
    "ActionFailed",
    "ActionRejected",
    "ActionUnknown",
    "AmibusError",
    "BadMessage",
    "Bridge",
    "Bus",
    "BusEvent",
    "BusResponse",
    "BusUnavailable",
    "Call",
    "CallOutcome",
    "Channel",
    "Conference",
    "ConferenceMember",
    "ConferenceRoom",
    "DeviceState",
    "Disposition",
    "ErrorCode",
    "ItemsGone",
    "ExtensionState",
    "FollowedCall",
    "IaxPeer",
    "Leg",
    "Mailbox",
    "MailboxUser",
    "NoSuchAction",
    "ParkedCall",
    "PjsipContact",
    "PjsipEndpoint",
    "PresenceState",
    "Queue",
    "QueueCaller",
    "QueueMember",
    "Record",
    "Recording",
    "Refused",
    "Result",
    "ResultTimeout",
    "Server",
    "SettingsError",
    "State",
}


def test_the_public_names_are_these() -> None:
    assert set(broker.__all__) == PUBLIC
    assert set(broker.sync.__all__) == {"Bus", "Call", "Conference", "FollowedCall", "Server"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in broker.__all__:
        value = getattr(broker, name)
        assert name == "FINAL_STATES" or inspect.getdoc(value), name
    assert set(broker.__all__) <= set(dir(broker))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(broker, "Client")


BOTH = [
    pytest.param(client.Bus, sync.Bus, id="Bus"),
    pytest.param(client.Server, sync.Server, id="Server"),
    pytest.param(broker.Call, sync.Call, id="Call"),
    pytest.param(broker.Conference, sync.Conference, id="Conference"),
    pytest.param(broker.FollowedCall, sync.FollowedCall, id="FollowedCall"),
]


@pytest.mark.parametrize(("theirs", "ours"), BOTH)
def test_both_clients_have_the_same_names(theirs: type, ours: type) -> None:
    assert public(theirs) == public(ours)


@pytest.mark.parametrize(("theirs", "ours"), BOTH)
def test_both_clients_take_the_same_arguments(theirs: type, ours: type) -> None:
    for name in public(theirs):
        if callable(getattr(theirs, name)):
            assert arguments(theirs, name) == arguments(ours, name), name


@pytest.mark.parametrize(("theirs", "ours"), BOTH)
def test_what_is_awaited_there_is_not_here(theirs: type, ours: type) -> None:
    assert not any(inspect.iscoroutinefunction(getattr(ours, name)) for name in public(ours))
    assert all(inspect.getdoc(getattr(kind, name)) for kind in (theirs, ours) for name in public(kind))


@pytest.mark.parametrize(("theirs", "ours"), BOTH)
def test_each_name_of_the_blocking_client_is_for_the_same_of_the_other(theirs: type, ours: type) -> None:
    for name in public(ours):
        wrapped = getattr(getattr(ours, name), "__wrapped__", None)
        assert wrapped is None or wrapped is getattr(theirs, name), name


def test_the_protocol_alone_needs_nothing_installed() -> None:
    code = "import sys, broker.ami; print([m for m in ('redis', 'msgpack', 'asyncio') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def public(kind: type) -> set[str]:
    """The public names of a class, those that it inherits included; but not what an instance has by its __init__."""
    return {name for each in kind.__mro__ for name in vars(each) if not name.startswith("_")} - {"name"}


def arguments(kind: type, name: str) -> list[tuple[str, object]]:
    """What a method takes: names, kinds, defaults."""
    given = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
    return [(each.name, (each.kind, each.default)) for each in given]
