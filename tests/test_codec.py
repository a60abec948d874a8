"""Messages both ways, as the contract lays them out; whatever else comes is a `BadMessage`."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ami import Headers
from broker.codec import (
    FINAL_STATES,
    BadMessage,
    BusEvent,
    BusResponse,
    Result,
    State,
    decode_message,
    event_map,
    pack,
    response_map,
    result_map,
    unpack,
)
from broker.errors import (
    ActionCancelled,
    ActionError,
    ActionExpired,
    ActionFailed,
    ActionRejected,
    ActionUnknown,
    ErrorCode,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.none() | st.floats(0, 4e9)
# One name once, or in a row: a map keeps the order of names and of the values of each, not how they were mixed.
grouped = st.dictionaries(text, st.lists(text, min_size=1, max_size=3), max_size=6)
headers = grouped.map(lambda groups: Headers([(name, value) for name, values in groups.items() for value in values]))
results = st.builds(
    Result,
    server=text,
    action_id=text,
    entry=text,
    action=text,
    state=st.sampled_from(sorted(FINAL_STATES)),
    producer=text,
    tag=text,
    response=st.none() | headers,
    events=st.lists(headers, max_size=3),
    output=st.lists(text, max_size=3),
    error_code=st.none() | st.sampled_from([str(code) for code in ErrorCode]),
    revised=st.booleans(),
    queued_at=times,
    sending_at=times,
    settled_at=times,
    traceparent=text,
)
events = st.builds(
    BusEvent,
    server=text,
    name=text,
    headers=headers,
    action_ids=st.lists(text, max_size=3),
    epoch=st.integers(0, 2**53),
    seq=st.integers(0, 2**53),
    calls=st.lists(text, max_size=2),
)

SAMPLE = result_map(Result("pbx1", "a1", "1-0", "Ping", State.DONE, response=Headers([("Response", "Success")])))
EVENT = event_map(BusEvent("pbx1", "Hangup", Headers([("Event", "Hangup")]), ["a1"], 3, 7))
RESPONSE = response_map(BusResponse("pbx1", "a1", Headers([("Response", "Success")]), 1.5))


@given(results)
def test_results_come_back_as_they_were(result: Result) -> None:
    if result.error_code is not None:
        result = Result(**{name: getattr(result, name) for name in result.__slots__} | {"error_message": "why"})
    assert decode_message(pack(result_map(result))) == result


@given(events)
def test_events_come_back_as_they_were(event: BusEvent) -> None:
    assert decode_message(pack(event_map(event))) == event


@given(st.builds(BusResponse, server=text, action_id=text, headers=headers, at=st.floats(0, 4e9)))
def test_responses_come_back_as_they_were(response: BusResponse) -> None:
    assert decode_message(pack(response_map(response))) == response


@given(st.lists(st.tuples(st.sampled_from(["Variable", "variable", "Channel", "\u00e4"]), text), max_size=12))
def test_maps_of_headers_lose_no_value_and_no_order_within_a_name(pairs: list[tuple[str, str]]) -> None:
    given_headers = Headers(pairs)
    mapped = given_headers.to_map()
    back = Headers.from_map(mapped)
    for name, _ in pairs:
        exact = [value for each, value in pairs if each == name]
        assert [value for each, value in back if each == name] == exact
        assert mapped[name] == (exact[0] if len(exact) == 1 else exact)
    assert len(back) == len(given_headers)


def test_the_messages_have_the_contracts_fields() -> None:
    assert list(SAMPLE) == [
        "v", "type", "server", "action_id", "entry", "action", "producer", "tag", "state", "response", "events",
        "output", "error", "revised", "queued_at", "sending_at", "settled_at",
    ]  # fmt: skip
    assert (SAMPLE["v"], SAMPLE["type"], SAMPLE["error"]) == (1, "result", None)
    assert list(EVENT) == ["v", "type", "server", "epoch", "seq", "action_ids", "name", "headers"]
    followed = event_map(BusEvent("pbx1", "Hangup", Headers([]), [], 3, 7, ["u1"]))
    assert [*followed] == [*EVENT, "calls"]
    assert list(RESPONSE) == ["v", "type", "server", "action_id", "headers", "at"]


def test_the_names_of_latin_1_values_go_along() -> None:
    latin1 = Headers([("Event", "X"), ("CallerIDName", "J\u00fcrgen")], ("CallerIDName",))
    event = BusEvent("pbx1", "X", latin1, [], 1, 1)
    response = BusResponse("pbx1", "a", latin1, 1.0)
    result = Result(
        "pbx1", "a", "1-0", "Status", State.DONE, response=Headers([("Response", "Success")]), events=[latin1]
    )
    for message, mapped in (
        (event, event_map(event)),
        (response, response_map(response)),
        (result, result_map(result)),
    ):
        assert mapped["latin1"] == ["CallerIDName"]
        assert decode_message(pack(mapped)) == message


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_only_done_is_no_error(state: State) -> None:
    result = Result("pbx1", "a1", "1-0", "Ping", state)
    kinds: dict[str, type[ActionError]] = {
        "failed": ActionFailed, "rejected": ActionRejected, "expired": ActionExpired, "cancelled": ActionCancelled,
        "unknown": ActionUnknown,
    }  # fmt: skip
    assert result.is_done == (state is State.DONE)
    if result.is_done:
        assert result.raise_for_state() is result
    else:
        with pytest.raises(kinds[state]) as caught:
            result.raise_for_state()
        assert caught.value.result is result


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x01", b"\x80", b"\x91\x01", b"\xdf\xff\xff\xff\xff", b"\x81\x01\x02", b"plain text", b"\x81",
        pack({"type": "other"}), pack({"type": ["result"]}), pack({"v": 2}), b"\xc7\x0c\xff" + b"\xff" * 12,
    ],
)  # fmt: skip
def test_what_is_no_message_is_a_bad_message(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_message(data)


INF = float("inf")
BROKEN: list[tuple[dict[str, Any], str, list[Any]]] = [
    *[(SAMPLE, name, [None, 5]) for name in ("server", "action_id", "entry", "action")],
    (SAMPLE, "state", ["queued", "sending", "sent", "new", 5, {}, "", None]),
    (SAMPLE, "response", ["text", 5, [1], {"a": 5}]),
    (SAMPLE, "events", [5, ["x"], [5]]),
    (SAMPLE, "error", ["text", 5, [1]]),
    (SAMPLE, "latin1", [5, [{}]]),
    (EVENT, "epoch", ["x", None, [], INF, float("nan")]),
    (EVENT, "seq", ["x", None, INF]),
    (EVENT, "action_ids", [None, "a1", 5, {"a": 1}, [1], [[]]]),
    (EVENT, "name", [None, 5, b"x"]),
    (EVENT, "headers", [None, "x", {"a": None}]),
    (RESPONSE, "at", [None, "x", []]),
    (RESPONSE, "action_id", [None, 5]),
]


@pytest.mark.parametrize(
    ("message", "name", "value"), [(message, name, value) for message, name, values in BROKEN for value in values]
)
def test_a_message_of_another_shape_is_a_bad_message(message: dict[str, Any], name: str, value: object) -> None:
    with pytest.raises(BadMessage):
        decode_message(pack(message | {name: value}))


@pytest.mark.parametrize(
    ("message", "names"), [(SAMPLE, ("server", "state", "error", "response")), (EVENT, tuple(EVENT)[1:])]
)
def test_a_message_without_a_field_is_a_bad_message(message: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        with pytest.raises(BadMessage):
            decode_message(pack({each: value for each, value in message.items() if each != name}))


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_anything_else(data: bytes) -> None:
    try:
        decode_message(data)
    except BadMessage:
        return


@given(st.sampled_from([SAMPLE, EVENT, RESPONSE]), st.integers(0, 400), st.integers(0, 255))
def test_no_broken_message_raises_anything_else(message: dict[str, Any], at: int, byte: int) -> None:
    data = bytearray(pack(message))
    data[at % len(data)] = byte
    try:
        decode_message(bytes(data))
    except BadMessage:
        return


def test_fields_of_a_later_version_are_let_pass() -> None:
    assert decode_message(pack(SAMPLE | {"new": 1})) == decode_message(pack(SAMPLE))
    assert unpack(msgpack.packb({"a": 1})) == {"a": 1}
