"""The answers that keep to no rule, from captured bytes: which messages belong to them, and when they are whole."""

import pytest

from broker.ami import Exchange
from tests.lab.suites import SUITES
from tests.telephony.replay import irregularly_asked

both = pytest.mark.parametrize("series", list(SUITES))

ERROR_FOR_AN_EMPTY_LIST = (
    "ConfbridgeListRooms", "ConfbridgeList", "PJSIPShowAors", "PJSIPShowAuths", "PJSIPShowContacts",
    "PJSIPShowEndpoints", "ParkedCalls", "DBGet", "ShowDialPlan",
)  # fmt: skip


def whole(series: str, action_id: str, *, overtaken: bool = False) -> Exchange:
    """The exchange, which has ended by itself unless it can only be overtaken by the next answer."""
    exchange = irregularly_asked(series)[action_id]
    assert (exchange.done, exchange.overtaken) == (True, overtaken)
    return exchange


def names(exchange: Exchange) -> list[str]:
    return [event.name for event in exchange.answer.events]


@both
@pytest.mark.parametrize("action", ERROR_FOR_AN_EMPTY_LIST)
def test_an_error_for_an_empty_list(series: str, action: str) -> None:
    exchange = whole(series, action)
    assert exchange.failure
    assert (names(exchange), exchange.answer.extra) == ([], [])


@both
def test_an_empty_list(series: str) -> None:
    exchange = whole(series, "ExtensionStateList")
    assert (exchange.failure, names(exchange)) == (None, ["ExtensionStateListComplete"])


@both
@pytest.mark.parametrize("action", ["VoicemailUsersList", "VoicemailUserStatus", "QueueRule"])
def test_a_success_without_a_list(series: str, action: str) -> None:
    exchange = whole(series, action)
    assert (exchange.failure, names(exchange)) == (None, [])


@both
def test_an_event_without_a_list(series: str) -> None:
    exchange = whole(series, "FAXStats")
    assert (exchange.failure, names(exchange)) == (None, ["FAXStats"])
    assert whole(series, "FAXSession").failure == "Session not found"


@both
def test_a_list_that_starts_with_a_capital(series: str) -> None:
    assert names(whole(series, "FAXSessions")) == ["FAXSessionsComplete"]


@both
def test_errors_in_the_middle_of_a_list(series: str) -> None:
    exchange = whole(series, "PJSIPShowEndpoint")
    assert names(exchange) == ["EndpointDetail", "EndpointDetailComplete"]
    assert [response.message for response in exchange.answer.extra] == [
        "Unable to retrieve transport nowhere",
        "Unable to format endpoint broken",
    ]
    assert exchange.failure == "Unable to retrieve transport nowhere"


@both
def test_two_responses(series: str) -> None:
    exchange = whole(series, "JabberSend")
    assert exchange.answer.response is not None
    assert exchange.answer.response.message == "Attempting to send Jabber Message"
    assert [response.message for response in exchange.answer.extra] == ["Could not find Sender"]
    assert exchange.failure == "Could not find Sender"


@both
def test_three_responses(series: str) -> None:
    # the first one decides; the others have the same ActionID, and are nobody's
    exchange = whole(series, "ModuleLoad")
    assert (exchange.failure, exchange.answer.extra) == ("Incomplete ModuleLoad action.", [])


@both
def test_no_response(series: str) -> None:
    exchange = whole(series, "IAXnetstats-of-a-call")
    assert (exchange.answer.response, len(exchange.answer.output)) == (None, 2)
    empty = whole(series, "IAXnetstats", overtaken=True)
    assert (empty.answer.response, empty.answer.output, empty.failure) == (None, [], None)


@pytest.mark.parametrize(
    ("action", "why"), [("VoicemailMove", "Message move failed"), ("VoicemailRemove", "Message remove failed")]
)
def test_a_success_that_is_a_failure(action: str, why: str) -> None:
    exchange = whole("22", action)
    assert exchange.answer.response is not None
    assert exchange.answer.response.is_success
    assert exchange.failure == why
