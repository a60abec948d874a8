"""What Asterisk's answers mean, on exchanges that real messages have gone through."""

import pytest

from broker.ami import Event, Exchange, Headers, InFlight, RawText, Response, spec_of
from broker.codec import State
from broker.errors import ErrorCode
from workers.outcome import REASONS, originate_outcome, outcome_of


def response(*pairs: tuple[str, str], output: list[str] | None = None) -> Response:
    return Response(Headers([*pairs, ("ActionID", "a1")]), output)


def event(name: str, *pairs: tuple[str, str]) -> Event:
    return Event(Headers([("Event", name), *pairs, ("ActionID", "a1")]))


def exchange(action: str, *messages: Response | Event | RawText) -> Exchange:
    in_flight = InFlight()
    registered = in_flight.register("a1", spec_of(action))
    for message in messages:
        in_flight.add(message)
    return registered


def test_a_success_is_done_with_all_that_came() -> None:
    outcome = outcome_of(
        exchange(
            "CoreShowChannels",
            response(("Response", "Success"), ("EventList", "start")),
            event("CoreShowChannel", ("Uniqueid", "u")),
            event("CoreShowChannelsComplete", ("EventList", "Complete")),
        )
    )
    assert (outcome.state, outcome.code, outcome.message) == (State.DONE, None, None)
    assert outcome.response is not None
    assert [headers.get("Event") for headers in outcome.events] == ["CoreShowChannel", "CoreShowChannelsComplete"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("No such channel", ErrorCode.ASTERISK_ERROR),
        ("Permission denied", ErrorCode.PERMISSION_DENIED),
        ("permission DENIED for x", ErrorCode.PERMISSION_DENIED),
        ("Asterisk is shutting down", ErrorCode.NOT_EXECUTED),
        ("", ErrorCode.ASTERISK_ERROR),
    ],
)
def test_an_error_is_failed_with_its_code(message: str, code: ErrorCode) -> None:
    outcome = outcome_of(exchange("Redirect", response(("Response", "Error"), ("Message", message))))
    assert (outcome.state, outcome.code) == (State.FAILED, code)
    assert outcome.message


def test_a_success_that_is_none_is_failed() -> None:
    outcome = outcome_of(
        exchange("VoicemailMove", response(("Response", "Success"), ("Message", "Message move failed")))
    )
    assert (outcome.state, outcome.message) == (State.FAILED, "Message move failed")


def test_the_output_of_a_command_is_kept() -> None:
    outcome = outcome_of(exchange("Command", response(("Response", "Success"), output=["a", "", " b"])))
    assert outcome.output == ["a", "", " b"]


def test_no_response_at_all_is_unknown_but_for_a_table() -> None:
    outcome = outcome_of(exchange("Setvar"))
    assert (outcome.state, outcome.code) == (State.UNKNOWN, ErrorCode.TIMEOUT)
    outcome = outcome_of(exchange("IAXnetstats", RawText(["a table"])))
    assert (outcome.state, outcome.output) == (State.DONE, ["a table"])


def test_an_answer_that_will_never_be_whole_is_unknown_but_a_failure_stays_one() -> None:
    for answer, state, code in (
        (response(("Response", "Success")), State.UNKNOWN, ErrorCode.TIMEOUT),
        (response(("Response", "Error"), ("Message", "no")), State.FAILED, ErrorCode.ASTERISK_ERROR),
    ):
        in_flight = InFlight()
        jabber = in_flight.register("a1", spec_of("JabberSend"))
        in_flight.register("a2", spec_of("Ping"))
        in_flight.add(answer)
        in_flight.add(Response(Headers([("Response", "Success"), ("ActionID", "a2")])))
        outcome = outcome_of(jabber)
        assert (outcome.state, outcome.code) == (state, code)
        assert outcome.message


def test_a_call_that_was_answered_is_done() -> None:
    told = event(
        "OriginateResponse", ("Response", "Success"), ("Channel", "Local/1@x-1;1"), ("Reason", "4"), ("Uniqueid", "u1")
    )
    outcome = originate_outcome(told.headers)
    assert (outcome.state, outcome.code, outcome.reason) == (State.DONE, None, "4")
    assert (outcome.channel, outcome.uniqueid) == ("Local/1@x-1;1", "u1")
    assert outcome.events == [told.headers]


@pytest.mark.parametrize("reason", [*REASONS, "99", ""])
@pytest.mark.parametrize("word", ["Failure", "", "failure"])
def test_a_call_that_was_not_is_failed_with_the_reason(reason: str, word: str) -> None:
    told = event(
        "OriginateResponse", ("Response", word), ("Channel", "PJSIP/x"), ("Reason", reason), ("Uniqueid", "<null>")
    )
    outcome = originate_outcome(told.headers)
    assert (outcome.state, outcome.code) == (State.FAILED, ErrorCode.ORIGINATE_FAILED)
    assert REASONS.get(reason, "no reason given") in (outcome.message or "")
    assert (outcome.channel, outcome.uniqueid) == (None, None), "what was dialled is no channel"
