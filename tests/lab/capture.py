"""What a real Asterisk sends, byte for byte, kept as examples for the tests of the AMI code.

Each is all that Asterisk sent on one session, from the banner on. `python -m tests.lab capture all` makes them anew.
"""

import gzip
from pathlib import Path

from tests.lab.asterisk import LabAsterisk
from tests.lab.irregular import irregular
from tests.lab.outcomes import outcomes
from tests.lab.session import Session, logged_in
from tests.lab.telephony import telephony

CAPTURES = Path(__file__).parent / "captures"
# the sessions that are captured: answers of every shape; one call as user amibus-events sees it, and with every class
# of events; what the typed calls ask for; the answers that keep to no rule; every way in which a call can go
NAMES = ("actions", "call", "call-all", "telephony", "irregular", "outcomes")
CALL_ID = "capture-call"
# ChannelId -> extension, of the calls that are up while the lists are asked for
WAITING = {"capture-up": "101", "capture-queued": "301"}


def capture_path(series: str, name: str) -> Path:
    """Where the capture of one session lies."""
    return CAPTURES / f"asterisk-{series}-{name}.ami.gz"


def read_capture(series: str, name: str) -> bytes:
    """The bytes of a capture by its name, one of NAMES."""
    return gzip.decompress(capture_path(series, name).read_bytes())


async def make_captures(series: str, directory: Path = CAPTURES) -> list[Path]:
    """Starts an Asterisk for each kind of capture, makes them and returns their paths."""
    async with LabAsterisk(series) as asterisk:
        sessions = {"actions": await _actions(asterisk), **await _call(asterisk)}
    async with LabAsterisk(series) as asterisk:
        sessions["telephony"] = await telephony(asterisk)
    async with LabAsterisk(series) as asterisk:
        sessions["outcomes"] = await outcomes(asterisk)
    sessions["irregular"] = await irregular(series)
    return [_write(directory / capture_path(series, name).name, received) for name, received in sessions.items()]


def _write(path: Path, received: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # no time in the gzip header: the same bytes make the same file
    path.write_bytes(gzip.compress(received, mtime=0))
    return path


async def _actions(asterisk: LabAsterisk) -> bytes:
    """Answers of every shape on a session with `Events: off`, while two calls are up."""
    async with (
        logged_in(asterisk, "observer") as session,
        logged_in(asterisk, "amibus-events", events="on") as events,
    ):
        await session.action("Ping")
        await _place_waiting_calls(session)
        await events.wait_for(b"Event: QueueCallerJoin")
        await session.action("CoreShowChannels", until=b"Event: CoreShowChannelsComplete")
        await session.action("Status", "Variables: LAB", until=b"Event: StatusComplete")
        await session.action("QueueStatus", until=b"Event: QueueStatusComplete")
        await session.action("QueueSummary", until=b"Event: QueueSummaryComplete")
        await session.action("ConfbridgeList", "Conference: none")
        await session.action("VoicemailUsersList", until=b"Event: VoicemailUserEntryComplete")
        await session.action("IAXpeers", until=b"Event: PeerlistComplete")
        # no response of its own, and without an IAX call no text either: only a blank line, before the next answer
        session.send("IAXnetstats")
        await session.action("Ping")
        await session.action("PJSIPShowEndpoints", until=b"Event: EndpointListComplete")
        await session.action("ParkedCalls", until=b"Event: ParkedCallsComplete")
        await session.action("Getvar", "Variable: LAB")
        await session.action("Command", "Command: core show version", until=b"Message: Command output follows")
        await session.action("Command", "Command: no such command", until=b"Output: No such command")
        await session.action(
            "Redirect", "Channel: Local/nobody@default-0;1", "Context: default", "Exten: 101", "Priority: 1"
        )
        await session.action("NoSuchAction")
        for channel in WAITING:
            await session.action("Hangup", f"Channel: {channel}")
            await _wait_for_hangups(events, channel)
        await session.action("Logoff", until=b"Response: Goodbye")
        return bytes(session.received)


async def _place_waiting_calls(session: Session) -> None:
    """One call that is up, and one caller in a queue without members."""
    for channel_id, extension in WAITING.items():
        # not Async: its response comes when the channel has answered, and there are no events on this session
        await session.action(
            "Originate",
            f"Channel: Local/{extension}@default",
            "Application: Wait",
            "Data: 60",
            f"ChannelId: {channel_id}",
            "CallerID: Lab Caller <5551000>",
        )


async def _call(asterisk: LabAsterisk) -> dict[str, bytes]:
    """One Originate to the last Hangup, seen by the production user for events and by one that sees all classes."""
    async with (
        logged_in(asterisk, "amibus") as actions,
        logged_in(asterisk, "amibus-events", events="on") as events,
        logged_in(asterisk, "observer", events="on") as everything,
    ):
        answer = await actions.action(
            "Originate",
            "Channel: Local/100@default",
            "Application: Wait",
            "Data: 1",
            "Async: true",
            f"ChannelId: {CALL_ID}",
            "Variable: a=1",
            "Variable: b=2",
        )
        if b"Response: Success" not in answer:
            raise RuntimeError(f"the call of the capture was refused: {answer!r}")
        for session in (events, everything):
            await _wait_for_hangups(session, CALL_ID)
        return {"call": bytes(events.received), "call-all": bytes(everything.received)}


async def _wait_for_hangups(session: Session, channel_id: str) -> None:
    """Waits until both legs of a Local channel are gone: the one with our ChannelId, and its peer."""
    for leg in (channel_id, f"{channel_id};2"):
        await _wait_for_hangup(session, leg)


async def _wait_for_hangup(session: Session, uniqueid: str) -> None:
    start = 0
    while True:
        await session.wait_for(b"Event: Hangup\r\n", start=start)
        begin = session.received.index(b"Event: Hangup\r\n", start)
        start = session.received.index(b"\r\n\r\n", begin)
        if f"\r\nUniqueid: {uniqueid}\r\n".encode() in session.received[begin : start + 2]:
            return
