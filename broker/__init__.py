"""The bus that carries AMI actions and events over Redis: what producers and consumers import.

    from broker import Bus

    async with Bus("redis://127.0.0.1:6379/0") as bus:
        result = await bus.server("pbx1").request("CoreShowChannels")

`broker.sync` has the same names for code without asyncio; `broker.ami` is the protocol alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.call import Call
    from broker.call_state import Bridge, CallOutcome, Disposition, Leg
    from broker.client import Bus, Server
    from broker.codec import FINAL_STATES, BadMessage, BusEvent, BusResponse, Result, State
    from broker.errors import (
        ActionCancelled,
        ActionError,
        ActionExpired,
        ActionFailed,
        ActionRejected,
        ActionUnknown,
        AmibusError,
        BusUnavailable,
        ErrorCode,
        ItemsGone,
        NoSuchAction,
        Refused,
        ResultTimeout,
        SettingsError,
    )
    from broker.follow import FollowedCall
    from broker.record import Record
    from broker.telephony import (
        Channel,
        Conference,
        ConferenceMember,
        ConferenceRoom,
        DeviceState,
        ExtensionState,
        IaxPeer,
        Mailbox,
        MailboxUser,
        ParkedCall,
        PjsipContact,
        PjsipEndpoint,
        PresenceState,
        Queue,
        QueueCaller,
        QueueMember,
        Recording,
    )

__all__ = [
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
    "ExtensionState",
    "FollowedCall",
    "IaxPeer",
    "ItemsGone",
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
]

_HOMES = {
    "Bus": "client",
    "Server": "client",
    "Call": "call",
    "FollowedCall": "follow",
    "Record": "record",
    **dict.fromkeys(("Bridge", "CallOutcome", "Disposition", "Leg"), "call_state"),
    **dict.fromkeys(("FINAL_STATES", "BadMessage", "BusEvent", "BusResponse", "Result", "State"), "codec"),
    **dict.fromkeys(
        (
            "Channel",
            "Conference",
            "ConferenceMember",
            "ConferenceRoom",
            "DeviceState",
            "ExtensionState",
            "IaxPeer",
            "Mailbox",
            "MailboxUser",
            "ParkedCall",
            "PjsipContact",
            "PjsipEndpoint",
            "PresenceState",
            "Queue",
            "QueueCaller",
            "QueueMember",
            "Recording",
        ),
        "telephony",
    ),
}


def __getattr__(name: str) -> object:
    # Names are loaded when they are first used: `import broker.ami` must not bring Redis and msgpack along.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
