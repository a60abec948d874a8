"""The answers that keep to no rule, from an Asterisk with almost nothing in it.

An Error instead of an empty list, one in the middle of a list, a Success without the list, no EventList, two or three
responses, none, a Success that is a failure. Each action has its name as ActionID.
"""

from tests.lab.asterisk import LabAsterisk
from tests.lab.session import Session, logged_in

# A message follows that shows that the answer is whole: some have no end to be told by.
AFTER = b"Ping: Pong"
IAX_CALL = "over-the-trunk"

NO_PJSIP = ""
# an endpoint that cannot be listed to its end, for its transport is not there
BROKEN_PJSIP = """
[broken]
type = endpoint
transport = nowhere
context = default
disallow = all
allow = ulaw
"""

QUESTIONS: tuple[tuple[str, ...], ...] = (
    ("ConfbridgeListRooms",),
    ("ConfbridgeList", "Conference: 600"),
    ("PJSIPShowAors",),
    ("PJSIPShowAuths",),
    ("PJSIPShowContacts",),
    ("PJSIPShowEndpoints",),
    ("ExtensionStateList",),
    ("ParkedCalls", "ParkingLot: nowhere"),
    ("DBGet", "Family: none", "Key: none"),
    ("ShowDialPlan", "Context: nowhere"),
    ("VoicemailUsersList",),
    ("VoicemailUserStatus", "Context: default", "Mailbox: 1000"),
    ("VoicemailBoxSummary", "Context: default", "Mailbox: 1000"),
    ("VoicemailMove", "Context: default", "Mailbox: 1000", "Folder: INBOX", "ID: none", "ToFolder: Old"),
    ("VoicemailRemove", "Context: default", "Mailbox: 1000", "Folder: INBOX", "ID: none"),
    ("FAXStats",),
    ("FAXSession", "SessionNumber: 1"),
    ("FAXSessions",),
    ("QueueRule",),
    ("JabberSend", "Jabber: nobody", "ScreenName: nobody", "JID: somebody@example.invalid", "Message: hello"),
    ("ModuleLoad",),
    ("MeetmeList",),
    ("CoreShowChannelMap", "Channel: none"),
    ("Command", "Command: nonsense show x"),
    ("IAXnetstats",),
)


async def irregular(series: str) -> bytes:
    """All that came on one session that asked for all of it."""
    asterisk = LabAsterisk(series)
    _empty(asterisk)
    async with asterisk, logged_in(asterisk, "observer") as session:
        for action, *headers in QUESTIONS:
            await _ask(session, action, *headers)
        await session.action(
            "Originate", "Channel: Local/9123@default", "Application: Wait", "Data: 60", f"ChannelId: {IAX_CALL}"
        )
        await _ask(session, "IAXnetstats", action_id="IAXnetstats-of-a-call")
        _write(asterisk, "pjsip.conf", BROKEN_PJSIP)
        await asterisk.cli("module reload res_pjsip.so")
        await _ask(session, "PJSIPShowEndpoint", "Endpoint: broken")
        return bytes(session.received)


async def _ask(session: Session, action: str, *headers: str, action_id: str = "") -> None:
    session.send(action, *headers, action_id=action_id)
    await session.action("Ping", until=AFTER)


def _empty(asterisk: LabAsterisk) -> None:
    """No phones, no mailboxes, no hints; and the module of JabberSend, which the lab leaves out."""
    _write(asterisk, "pjsip.conf", NO_PJSIP)
    _write(asterisk, "voicemail.conf", "[general]\nformat = wav\n")
    _write(asterisk, "xmpp.conf", "[general]\n")
    for file, unwanted in (("extensions.conf", ",hint,"), ("modules.conf", "xmpp")):
        lines = (asterisk.config_dir / file).read_text().splitlines()
        _write(asterisk, file, "\n".join(line for line in lines if unwanted not in line))


def _write(asterisk: LabAsterisk, file: str, text: str) -> None:
    (asterisk.config_dir / file).write_text(text)
