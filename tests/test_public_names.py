"""The public surface is what `__all__` says, and nothing slips into it or out of it unnoticed."""

import inspect
import subprocess
import sys

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
    "Bus",
    "BusEvent",
    "BusResponse",
    "BusUnavailable",
    "Call",
    "ErrorCode",
    "ItemsGone",
    "Record",
    "Refused",
    "Result",
    "ResultTimeout",
    "Server",
    "SettingsError",
    "State",
}


def test_the_public_names_are_these() -> None:
    assert set(broker.__all__) == PUBLIC
    assert set(broker.sync.__all__) == {"Bus", "Call", "Server"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in broker.__all__:
        value = getattr(broker, name)
        assert name == "FINAL_STATES" or inspect.getdoc(value), name
    assert set(broker.__all__) <= set(dir(broker))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(broker, "Client")


def test_both_clients_have_the_same_names() -> None:
    for theirs, ours in ((client.Bus, sync.Bus), (client.Server, sync.Server), (broker.Call, sync.Call)):
        assert public(theirs) == public(ours)


def test_both_clients_take_the_same_arguments() -> None:
    for name in ("request", "submit", "events", "action_record", "status"):
        asynchronous = inspect.signature(getattr(client.Server, name)).parameters
        blocking = inspect.signature(getattr(sync.Server, name)).parameters
        assert [(p.name, p.kind, p.default) for p in asynchronous.values()] == [
            (p.name, p.kind, p.default) for p in blocking.values()
        ], name


def test_the_protocol_alone_needs_nothing_installed() -> None:
    code = "import sys, broker.ami; print([m for m in ('redis', 'msgpack', 'asyncio') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}
