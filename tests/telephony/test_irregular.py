"""What a caller gets of the answers that keep to no rule, from the bytes of a real Asterisk 22 and 16."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from broker import ActionFailed, NoSuchAction, Result, Server
from broker.ami import Event, Exchange, Headers, InFlight, Response, spec_of
from tests.bus_side import FakeWorker
from tests.telephony.replay import answer, irregularly_asked

Lists = dict[str, Callable[[Server], Coroutine[Any, Any, Sequence[object]]]]

EMPTY: Lists = {
    "ConfbridgeListRooms": lambda pbx: pbx.conferences(timeout=60),
    "ConfbridgeList": lambda pbx: pbx.conference("600").members(timeout=60),
    "PJSIPShowContacts": lambda pbx: pbx.pjsip_contacts(timeout=60),
    "PJSIPShowEndpoints": lambda pbx: pbx.pjsip_endpoints(timeout=60),
    "ExtensionStateList": lambda pbx: pbx.extension_states(timeout=60),
    "VoicemailUsersList": lambda pbx: pbx.mailboxes(timeout=60),
}


async def request(pbx: Server, worker: FakeWorker, series: str, action_id: str) -> Result:
    """What `request` returns, or raises, for an action that is answered as it was in the capture."""
    action = action_id.partition("-")[0]
    answer(worker, action, irregularly_asked(series)[action_id])
    return await pbx.request(action, timeout=60)


@pytest.mark.parametrize("action", EMPTY)
async def test_nothing_is_an_empty_list(pbx: Server, worker: FakeWorker, series: str, action: str) -> None:
    answer(worker, action, irregularly_asked(series)[action])
    assert await EMPTY[action](pbx) == []
    assert [request.action for request in worker.taken] == [action]


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("ConfbridgeListRooms", "No active conferences."),
        ("ConfbridgeList", "No active conferences."),
        ("PJSIPShowAors", "No AORs found"),
        ("PJSIPShowAuths", "No Auths found"),
        ("PJSIPShowContacts", "No Contacts found"),
        ("PJSIPShowEndpoints", "No endpoints found"),
        ("ParkedCalls", "Requested parking lot could not be found."),
        ("DBGet", "Database entry not found"),
        ("ShowDialPlan", "Did not find context nowhere"),
        ("FAXSession", "Session not found"),
        ("ModuleLoad", "Incomplete ModuleLoad action."),
        ("JabberSend", "Could not find Sender"),
        (
            "Command",
            "No such command 'nonsense show x' (type 'core show help nonsense show' for other possible commands)",
        ),
    ],
)
async def test_an_error_has_asterisks_words(
    pbx: Server, worker: FakeWorker, series: str, action: str, why: str
) -> None:
    with pytest.raises(ActionFailed) as failed:
        await request(pbx, worker, series, action)
    assert (failed.value.code, failed.value.result.error_message) == ("asterisk-error", why)
    assert failed.value.result.events == []


async def test_a_lot_that_there_is_not_is_no_empty_list(pbx: Server, worker: FakeWorker, series: str) -> None:
    answer(worker, "ParkedCalls", irregularly_asked(series)["ParkedCalls"])
    with pytest.raises(ActionFailed, match="parking lot could not be found"):
        await pbx.parked_calls("nowhere", timeout=60)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("VoicemailUsersList", "There are no voicemail users currently defined."),
        ("VoicemailUserStatus", "There is no voicemail user of the given info."),
    ],
)
async def test_a_success_without_a_list(
    pbx: Server, worker: FakeWorker, series: str, action: str, message: str
) -> None:
    result = await request(pbx, worker, series, action)
    assert result.events == []
    assert result.response is not None
    assert (result.response["Message"], "EventList" in result.response) == (message, False)


@pytest.mark.parametrize(("action", "events"), [("FAXStats", ["FAXStats"]), ("FAXSessions", ["FAXSessionsComplete"])])
async def test_an_event_without_a_list_and_a_list_in_another_spelling(
    pbx: Server, worker: FakeWorker, series: str, action: str, events: list[str]
) -> None:
    result = await request(pbx, worker, series, action)
    assert [event["Event"] for event in result.events] == events
    assert result.response is not None
    assert result.response.get("EventList") == ("Start" if action == "FAXSessions" else None)


async def test_a_blank_line_too_many(pbx: Server, worker: FakeWorker, series: str) -> None:
    assert (await request(pbx, worker, series, "QueueRule")).events == []


async def test_errors_in_the_middle_of_a_list(pbx: Server, worker: FakeWorker, series: str) -> None:
    with pytest.raises(ActionFailed, match="Unable to retrieve transport nowhere") as failed:
        await request(pbx, worker, series, "PJSIPShowEndpoint")
    # what came before and after them is there
    events = failed.value.result.events
    assert [event["Event"] for event in events] == ["EndpointDetail", "EndpointDetailComplete"]
    assert events[0]["ObjectName"] == "broken"


def _composed(action: str, *messages: Response | Event) -> Exchange:
    in_flight = InFlight()
    exchange = in_flight.register("x", spec_of(action))
    for message in messages:
        in_flight.add(message)
    return exchange


async def test_an_error_that_ends_a_list(pbx: Server, worker: FakeWorker) -> None:
    # Only a lack of memory makes Asterisk do it: composed from manager.c, action_coreshowchannelmap
    exchange = _composed(
        "CoreShowChannelMap",
        Response(Headers([("Response", "Success"), ("ActionID", "x"), ("EventList", "start")])),
        Event(Headers([("Event", "CoreShowChannelMap"), ("ActionID", "x"), ("ConnectedChannel", "Local/1")])),
        Response(Headers([("Response", "Error"), ("ActionID", "x"), ("Message", "Could not gather channels")])),
    )
    answer(worker, "CoreShowChannelMap", exchange)
    with pytest.raises(ActionFailed, match="Could not gather channels") as failed:
        await pbx.request("CoreShowChannelMap", timeout=60)
    assert [event["ConnectedChannel"] for event in failed.value.result.events] == ["Local/1"]


ALL: Lists = {**EMPTY, "CoreShowChannels": lambda pbx: pbx.channels(timeout=60)}


@pytest.mark.parametrize("action", ALL)
async def test_another_error_is_no_empty_list(pbx: Server, worker: FakeWorker, action: str) -> None:
    error = Response(Headers([("Response", "Error"), ("ActionID", "x"), ("Message", "Permission denied")]))
    answer(worker, action, _composed(action, error))
    with pytest.raises(ActionFailed, match="Permission denied"):
        await ALL[action](pbx)


async def test_no_response_but_a_table(pbx: Server, worker: FakeWorker, series: str) -> None:
    result = await request(pbx, worker, series, "IAXnetstats-of-a-call")
    assert [line.split("-")[0].startswith("IAX2/127.0.0.1:") for line in result.output] == [True, True]
    # an empty one is a blank line, which nothing tells from no answer: the next answer ends it
    assert (await request(pbx, worker, series, "IAXnetstats")).output == []


@pytest.mark.parametrize(
    ("action", "why"), [("VoicemailMove", "Message move failed"), ("VoicemailRemove", "Message remove failed")]
)
async def test_a_success_that_is_a_failure(pbx: Server, worker: FakeWorker, series: str, action: str, why: str) -> None:
    with pytest.raises(ActionFailed) as failed:
        await request(pbx, worker, series, action)
    if series == "16":
        assert isinstance(failed.value, NoSuchAction)
    else:
        assert failed.value.result.error_message == why
        assert failed.value.result.response is not None
        assert failed.value.result.response["Response"] == "Success"


@pytest.mark.parametrize(
    ("action", "origin", "lacking"),
    [
        ("MeetmeList", "module app_meetme.so", ("22", "16")),
        ("VoicemailBoxSummary", "module app_voicemail.so", ("16",)),
        ("CoreShowChannelMap", "newer versions of Asterisk", ("16",)),
    ],
)
async def test_what_this_asterisk_lacks_is_said(
    pbx: Server, worker: FakeWorker, series: str, action: str, origin: str, lacking: tuple[str, ...]
) -> None:
    if series in lacking:
        with pytest.raises(NoSuchAction, match=f"it comes with {origin}"):
            await request(pbx, worker, series, action)
    elif action == "VoicemailBoxSummary":
        assert (await request(pbx, worker, series, action)).events == []
    else:
        with pytest.raises(ActionFailed, match="Could not get channel snapshot"):
            await request(pbx, worker, series, action)
