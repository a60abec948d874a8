"""What Asterisk answers to the questions of the typed calls, while there is something of everything.

Each action has its name as ActionID.
"""

import asyncio

from tests.lab.asterisk import LabAsterisk
from tests.lab.phone import Phone
from tests.lab.session import Session, logged_in

# ChannelId -> extension, of the calls that are up
CALLS = {"queued": "301", "meeting-1": "601", "meeting-2": "601", "parked": "park", "talking": "110"}
# where a quote, a backslash and an umlaut come back escaped, and where not
CALLER = r'"Jürgen \"the <x>\" \\ Groß" <5551000>'

# action -> its headers, and what its answer ends with ("" for a single response)
QUESTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "CoreShowChannels": ((), "CoreShowChannelsComplete"),
    "ParkedCalls": ((), "ParkedCallsComplete"),
    "ConfbridgeListRooms": ((), "ConfbridgeListRoomsComplete"),
    "ConfbridgeList": (("Conference: 601",), "ConfbridgeListComplete"),
    "QueueStatus": ((), "QueueStatusComplete"),
    "IAXpeerlist": ((), "PeerlistComplete"),
    "PJSIPShowEndpoints": ((), "EndpointListComplete"),
    "PJSIPShowContacts": ((), "ContactListComplete"),
    "VoicemailUsersList": ((), "VoicemailUserEntryComplete"),
    "MailboxCount": (("Mailbox: 1000@default",), ""),
    "ExtensionState": (("Exten: 100", "Context: default"), ""),
    "ExtensionStateList": ((), "ExtensionStateListComplete"),
    "DeviceStateList": ((), "DeviceStateListComplete"),
    "PresenceState": (("Provider: CustomPresence:100",), ""),
    "PresenceStateList": ((), "PresenceStateListComplete"),
    "Getvar": (("Variable: DEVICE_STATE(Custom:100)",), ""),
    "Command": (("Command: core show channels",), ""),
    "MixMonitor": (("Channel: talking;2", "File: lab.wav", "Options: i(LAB_ID)"), ""),
    "Monitor": (("Channel: talking;2", "File: lab", "Format: wav"), ""),
}


async def telephony(asterisk: LabAsterisk) -> bytes:
    """All that came on one session that asked for all of it."""
    with Phone(asterisk) as phone:
        await asyncio.to_thread(phone.register, 3600)
        async with (
            logged_in(asterisk, "observer") as setting,
            logged_in(asterisk, "observer", events="on") as events,
            logged_in(asterisk, "observer") as session,
        ):
            await _set_the_scene(setting, events)
            for action, (headers, end) in QUESTIONS.items():
                await session.action(action, *headers, until=f"Event: {end}".encode() if end else b"")
            return bytes(session.received)


async def _set_the_scene(session: Session, events: Session) -> None:
    for channel_id, extension in CALLS.items():
        # not Async: its response comes when the channel has answered
        await session.action(
            "Originate",
            f"Channel: Local/{extension}@default",
            "Application: Wait",
            "Data: 60",
            f"ChannelId: {channel_id}",
            f"CallerID: {CALLER}",
        )
    for seen in (b"QueueCallerJoin", b"ConfbridgeJoin", b"ParkedCall", b"BridgeEnter"):
        await events.wait_for(b"Event: " + seen)
    await session.action("Setvar", "Variable: PRESENCE_STATE(CustomPresence:100)", "Value: away,lunch,back at two")
    await session.action("Setvar", "Variable: DEVICE_STATE(Custom:100)", "Value: RINGINUSE")
    await session.action("ConfbridgeMute", "Conference: 601", "Channel: Local/601@default-00000001;2")
    await session.action("ConfbridgeLock", "Conference: 601")
    member = "Interface: Local/101@default/n"
    await session.action("QueuePause", "Queue: support", member, "Paused: yes", "Reason: lunch")
    await events.wait_for(b"Event: PresenceStateChange")
    await events.wait_for(b"Event: ExtensionStatus")
