import pickle

import pytest

from broker.ami import Action, Event, Headers, LocalProtocolError, LoginRefused, RawText, Response

PAIRS = [("Event", "UserEvent"), ("Channel", "PJSIP/1"), ("CHANNEL", "from the dialplan"), ("Var", "a"), ("Var", "b")]


def test_the_first_value_wins_in_whatever_case() -> None:
    headers = Headers(PAIRS)
    assert headers["channel"] == headers.get("CHANNEL") == "PJSIP/1"
    assert headers.get_all("cHANNEL") == ["PJSIP/1", "from the dialplan"]
    assert headers.get("missing") is None
    assert headers.get("missing", "else") == "else"
    assert headers.get_all("missing") == []
    with pytest.raises(KeyError, match="missing"):
        headers["missing"]


def test_an_empty_value_is_a_value() -> None:
    headers = Headers([("Exten", "")])
    assert "exten" in headers
    assert headers["Exten"] == ""
    assert headers.get("Exten", "else") == ""


def test_order_and_repetition_are_kept() -> None:
    headers = Headers(PAIRS)
    assert list(headers) == PAIRS
    assert len(headers) == 5
    assert 5 not in headers


def test_map_repeats_only_what_is_spelled_alike() -> None:
    headers = Headers(PAIRS)
    mapped = headers.to_map()
    assert mapped == {
        "Event": "UserEvent", "Channel": "PJSIP/1", "CHANNEL": "from the dialplan", "Var": ["a", "b"],
    }  # fmt: skip
    assert list(mapped) == ["Event", "Channel", "CHANNEL", "Var"]
    assert Headers.from_map(mapped) == headers


def test_map_without_repetition() -> None:
    assert Headers(PAIRS[:3]).to_map() == dict(PAIRS[:3])


def test_from_map_takes_the_latin1_names_apart() -> None:
    headers = Headers.from_map({"Event": "X", "latin1": ["a", "b"]}, ("Event",))
    assert headers.latin1 == ("Event",)
    assert headers.pairs == [("Event", "X"), ("latin1", "a"), ("latin1", "b")]


def test_equality() -> None:
    assert Headers(PAIRS) == Headers(list(PAIRS))
    assert Headers(PAIRS) != Headers(PAIRS[::-1])
    assert Headers(PAIRS) != Headers(PAIRS, ("Var",))
    assert Headers(PAIRS) != PAIRS
    assert Event(Headers(PAIRS)) != Response(Headers(PAIRS))
    assert Response(Headers(PAIRS), ["a"]) != Response(Headers(PAIRS), ["b"])
    assert RawText(["a"]) == RawText(["a"])
    assert RawText(["a"]) != RawText(["b"])
    assert Action("Ping", [], "1") == Action("Ping", [], "1")
    assert Action("Ping", [], "1") != Action("Ping", [], "2")


@pytest.mark.parametrize(
    "shown",
    [
        Headers([("Secret", "hunter2")]),
        Action("Login", [("Secret", "hunter2")], "1"),
        Event(Headers([("Event", "AuthDetail"), ("Password", "hunter2")])),
        Response(Headers([("Response", "Success"), ("Value", "hunter2")]), ["hunter2"]),
        RawText(["hunter2"]),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_no_repr_shows_a_value(shown: object) -> None:
    assert "hunter2" not in repr(shown)


@pytest.mark.parametrize(
    ("value", "success"),
    [
        ("Success", True), ("success", True), ("Follows", True), ("Goodbye", True), ("Pong", True),
        ("Error", False), ("", False),
    ],
)  # fmt: skip
def test_success(value: str, success: bool) -> None:
    assert Response(Headers([("Response", value)])).is_success is success


def test_response_properties() -> None:
    response = Response(
        Headers([("Response", "Success"), ("actionid", "x"), ("EventList", "Start"), ("Message", "a\n")])
    )
    assert response.action_id == "x"
    assert response.starts_list
    assert response.message == "a"
    bare = Response(Headers([("Response", "Error")]))
    assert bare.action_id is None
    assert not bare.starts_list
    assert bare.message == ""


def test_queued_events_are_those_with_a_privilege_but_for_status() -> None:
    queued = Event(Headers([("Event", "DeviceStateChange"), ("Privilege", "call,all")]))
    item = Event(Headers([("Event", "DeviceStateChange"), ("ActionID", "x")]))
    status = Event(Headers([("Event", "Status"), ("Privilege", "Call"), ("ActionID", "x")]))
    assert queued.is_queued
    assert not item.is_queued
    assert not status.is_queued
    assert item.action_id == "x"


@pytest.mark.parametrize(("value", "completes"), [("Complete", True), ("complete", True), ("start", False)])
def test_completes_list(value: str, completes: bool) -> None:
    assert Event(Headers([("Event", "PeerlistComplete"), ("EventList", value)])).completes_list is completes


def test_action_id_goes_second() -> None:
    action = Action("Setvar", [("Variable", "a"), ("Value", "1")], "x-1")
    assert action.headers.pairs == [("Action", "Setvar"), ("ActionID", "x-1"), ("Variable", "a"), ("Value", "1")]
    assert Action("Ping").headers.pairs == [("Action", "Ping")]


@pytest.mark.parametrize("error", [LocalProtocolError("bad-header", "why"), LoginRefused("Authentication failed")])
def test_errors_survive_a_process_boundary(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_wrong_credentials_are_told_from_what_passes() -> None:
    assert LoginRefused("Authentication failed").wrong_credentials
    assert not LoginRefused("Asterisk is shutting down").wrong_credentials
    assert not LoginRefused("Login Already In Use").wrong_credentials
