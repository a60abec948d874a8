"""Every other action of the catalog, by its name: those that only read, all of them, end one way or another."""

import pytest

from broker import NoSuchAction, Server
from broker.ami import all_actions, spec_of
from tests.live.harness import Site
from tests.live.telephony.calls import TIMEOUT_S

READING = [spec.name for spec in all_actions() if spec.reads_only]

HEADERS: dict[str, dict[str, str]] = {
    "ConfbridgeList": {"Conference": "600"},
    "DBGetTree": {"Family": "none"},
    "ExtensionState": {"Exten": "101", "Context": "default"},
    "Getvar": {"Variable": "LAB"},
    "MailboxCount": {"Mailbox": "1000@default"},
    "MailboxStatus": {"Mailbox": "1000@default"},
    "ModuleCheck": {"Module": "app_queue.so"},
    "PJSIPShowEndpoint": {"Endpoint": "labphone"},
    "PresenceState": {"Provider": "CustomPresence:100"},
    "ShowDialPlan": {"Context": "default"},
}

# what the lab has nothing of; what needs a header that is not given
EMPTY = {"ConfbridgeList", "ConfbridgeListRooms", "PJSIPShowContacts", "PJSIPShowResourceLists"}
INCOMPLETE = {
    "BridgeInfo", "CoreShowChannelMap", "DBGet", "FAXSession", "MWIGet", "PRIShowSpans", "VoicemailBoxSummary",
    "VoicemailUserStatus",
}  # fmt: skip


@pytest.mark.parametrize("action", READING)
async def test_a_reading_action(trusted: Server, site: Site, action: str) -> None:
    result = await trusted.request(action, headers=HEADERS.get(action, {}), timeout=TIMEOUT_S, raise_on_failure=False)
    lines = (await site.asterisk.cli("manager show commands")).splitlines()
    is_there = action in [line.split()[0] for line in lines if line.strip()]
    if result.is_done:
        assert is_there
        if result.response is not None and "EventList" in result.response:
            assert result.events[-1]["EventList"] == "Complete"
    elif result.error_code == "forbidden":
        assert spec_of(action).risk
    elif is_there:
        assert action in EMPTY | INCOMPLETE, result.error_message
        assert result.error_code == "asterisk-error"
    else:
        with pytest.raises(NoSuchAction, match="it comes with"):
            result.raise_for_state()
