"""What is written on Redis for one entry."""

from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ami import Headers, Response
from broker.codec import BusResponse, Result, State, decode_message
from broker.entry import Request, decode_entry
from broker.errors import ErrorCode, Refused
from broker.keys import ACTIONS
from broker.scripts import LAYOUTS, Item, flatten
from workers.config import Settings
from workers.job import Job, make_job
from workers.outcome import Outcome
from workers.records import MAX_COPIED_BYTES, Records

ENTRY = "1700000000500-7"


@pytest.fixture
def records() -> Records:
    return Records(Settings(server="pbx1", name="w1", record_s=7200, record_read_s=5))


def request(*fields: str | bytes) -> Request:
    return decode_entry(ACTIONS, ENTRY, [field.encode() if isinstance(field, str) else field for field in fields])


def job(*fields: str | bytes) -> Job:
    return make_job(request(*fields), "pbx1")


def values(script: str, item: Item) -> dict[str, Any]:
    """What the script reads of an item, by the names."""
    return LAYOUTS[script].values(item)


def as_map(fields: Sequence[Any]) -> dict[str, Any]:
    assert len(fields) % 2 == 0
    names = fields[::2]
    assert len(set(names)) == len(names)
    return dict(zip(names, fields[1::2], strict=True))


def sendable(value: Any) -> bool:
    """Whether redis-py can put it on the wire."""
    if isinstance(value, str):
        value.encode()
    return isinstance(value, (str, bytes, int, float)) and not isinstance(value, bool)


def test_nothing_ends_before_it_has_begun(records: Records) -> None:
    made = job("Action", "Ping", "ActionID", "a1")
    made.sending_at = 1700000002.004
    item = values("settle", records.settle(made.request, Outcome(State.DONE), 1700000002.0, made, 3))
    assert item["settled_at"] == "1700000002.004000"
    assert decode_message(item["message"]).settled_at == 1700000002.004  # type: ignore[union-attr]


def test_a_mark_brings_what_the_script_and_the_record_need(records: Records) -> None:
    made = job(
        "Action", "Originate", "ActionID", "a1", "Channel", "x", "Bus-Tag", "t", "Bus-Producer", "p", "Bus-Reply", "me"
    )
    item = values("mark_sending", records.mark(made))
    assert (item["id"], item["lane"], item["entry"], item["reply"]) == ("a1", ACTIONS, ENTRY, "me")
    assert (item["deadline"], item["channel_id"]) == ("1700001800.500000", "amibus-pbx1-a1")
    assert (item["probe"], item["again"]) == (0, 0)
    assert values("mark_sending", records.mark(made, probe=True))["probe"] == 1
    assert item["queued_at"] == "1700000000.500000"
    assert (item["action"], item["producer"]) == ("Originate", "p")
    assert item["extra"] == ("reply", "me", "tag", "t")
    assert msgpack.unpackb(item["request"]) == {"Action": "Originate", "Channel": "x"}
    whole = as_map(records.base(made.request))
    assert whole.pop("worker") == "w1"
    assert whole == {"tag": "t", "reply": "me"} | {name: item[name] for name in whole if name != "tag"}


def test_the_request_is_kept_as_it_was_asked_with_its_secrets_masked(records: Records) -> None:
    made = request(
        "Action",
        "X",
        "Variable",
        "a=1",
        "Secret",
        "hush",
        "Variable",
        "b=2",
        "Variable",
        "PASSWORD=hush",
        "secret",
        "hush2",
    )
    kept = msgpack.unpackb(as_map(records.base(made))["request"])
    assert kept == {"Action": "X", "Variable": ["a=1", "b=2", "PASSWORD=***"], "Secret": "***", "secret": "***"}
    item = values(
        "settle", records.settle(made, Outcome(State.REJECTED, code=ErrorCode.FORBIDDEN, message="no"), 1.0, None, 3)
    )
    assert "hush" not in repr(item)
    assert item["dead"].count("***") == 2


def test_a_final_state_brings_result_record_line_and_times(records: Records) -> None:
    made = job("Action", "Setvar", "ActionID", "a1", "Bus-Tag", "t")
    made.sending_at = 1700000001.25
    outcome = Outcome(
        State.FAILED, Headers([("Response", "Error"), ("Message", "m")]), code=ErrorCode.ASTERISK_ERROR, message="m"
    )
    item = values("settle", records.settle(made.request, outcome, 1700000002.0, made, 3))
    result = decode_message(item["message"])
    assert isinstance(result, Result)
    assert (result.state, result.error_code, result.error_message, result.tag) == ("failed", "asterisk-error", "m", "t")
    assert (result.queued_at, result.sending_at, result.settled_at) == (1700000000.5, 1700000001.25, 1700000002.0)
    fields = as_map(item["fields"])
    assert (item["state"], item["settled_at"], fields["response"]) == ("failed", "1700000002.000000", "Error")
    assert (fields["message"], fields["error_code"], fields["error"]) == ("m", "asterisk-error", "m")
    assert (item["attempt"], item["ttl_ms"], item["dead"]) == (3, 7_200_000, ())
    assert item["base"] == ()
    assert values("settle", records.settle(made.request, outcome, 1.0, made, 3, whole=True))["base"] == records.base(
        made.request
    )


def test_what_was_never_marked_has_no_attempt_and_brings_its_first_fields(records: Records) -> None:
    made = job("Action", "Ping", "ActionID", "a1")
    item = values("settle", records.settle(made.request, Outcome(State.EXPIRED), 1.0, made, 3))
    assert item["attempt"] == ""
    assert item["base"] == records.base(made.request)
    assert item["ttl_ms"] == 5000, "it only reads"


def test_only_a_call_that_was_not_placed_gives_its_channel_id_back(records: Records) -> None:
    made = job("Action", "Originate", "ActionID", "a1", "ChannelId", "u1")
    taken = Outcome(State.REJECTED, code=ErrorCode.DUPLICATE_CHANNEL_ID, message="x")
    assert values("settle", records.settle(made.request, taken, 1.0, made, 3))["channel_id"] == "", "it never had it"
    made.sending_at = 1.0
    assert values("settle", records.settle(made.request, Outcome(State.DONE), 1.0, made, 3))["channel_id"] == ""
    failed = Outcome(State.FAILED, code=ErrorCode.ORIGINATE_FAILED, message="x")
    assert values("settle", records.settle(made.request, failed, 1.0, made, 3))["channel_id"] == "u1"


def test_an_originates_outcome_is_in_the_record(records: Records) -> None:
    made = job("Action", "Originate", "ActionID", "a1")
    outcome = Outcome(State.DONE, reason="4", channel="Local/1@x-1;1", uniqueid="u1")
    fields = as_map(values("settle", records.settle(made.request, outcome, 1.0, made, 3))["fields"])
    assert (fields["reason"], fields["channel"], fields["uniqueid"]) == ("4", "Local/1@x-1;1", "u1")
    fields = as_map(
        values("settle", records.settle(made.request, Outcome(State.FAILED, reason="5"), 1.0, made, 3))["fields"]
    )
    assert fields["reason"] == "5"
    assert not {"channel", "uniqueid"} & set(fields), "what its events told of the channel stays"


def test_sent_brings_the_response(records: Records) -> None:
    made = job("Action", "Status", "ActionID", "a1")
    item = values("mark_sent", records.sent(made, Response(Headers([("Response", "Success"), ("Message", "m")])), 2.5))
    assert as_map(item["fields"]) == {"sent_at": "2.500000", "response": "Success", "message": "m"}
    message = decode_message(item["message"])
    assert isinstance(message, BusResponse)
    assert (message.action_id, message.at) == ("a1", 2.5)


raw = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"Action",
            b"Bus-Traceparent",
            b"Bus-Tag",
            b"ChannelId",
            b"Originate",
            b"Secret",
            b"\xff",
            b"\xed\xa0\x80",
            b"",
        ]
    ),
)


@given(st.lists(raw, max_size=20))
def test_whatever_an_entry_holds_can_be_marked_and_settled(fields: list[bytes]) -> None:
    records = Records(Settings(server="pbx1", name="w1"))
    asked = decode_entry(ACTIONS, ENTRY, fields)
    items = [
        ("settle", records.settle(asked, Outcome(State.REJECTED, code=ErrorCode.MALFORMED, message="m"), 1.0, None, 3))
    ]
    if asked.refusal is None:
        try:
            made = make_job(asked, "pbx1")
        except Refused:
            made = None
        if made is not None:
            items.append(("mark_sending", records.mark(made)))
    for name, item in items:
        assert all(sendable(value) for value in flatten([item], LAYOUTS[name]))


@pytest.mark.parametrize(
    "fields",
    [
        [b"Action", b"A" * 1_000_000],
        [b"Action", b"Ping", b"x", b"y" * 1_000_000],
        [b"Action", b"Ping", *[b"n%d" % (at // 2) for at in range(20_000)]],
        [b"Action", b"Ping", *[b"same", b"v"] * 10_000],
        [b"Action", b"Ping", b"x" * 1_000_000, b"y"],
        [
            b"Action",
            b"Ping",
            b"Bus-Tag",
            b"t" * 1_000_000,
            b"ActionID",
            b"i" * 1_000_000,
            b"Bus-Reply",
            b"r" * 1_000_000,
        ],
    ],
    ids=["name", "value", "headers", "repeated", "header name", "bus fields"],
)
def test_copies_of_a_huge_entry_are_cut(records: Records, fields: list[bytes]) -> None:
    asked = decode_entry(ACTIONS, ENTRY, fields)
    assert asked.refusal is not None or len(asked.action) > 1000
    item = values(
        "settle", records.settle(asked, Outcome(State.REJECTED, code=ErrorCode.MALFORMED, message="m"), 1.0, None, 3)
    )
    flat = flatten([LAYOUTS["settle"].item(item)], LAYOUTS["settle"])
    assert len(flat) < 2000, "Lua passes only some thousands of arguments to one command"
    assert sum(len(str(value)) for value in flat) < 5 * MAX_COPIED_BYTES
    assert len(item["message"]) < 10_000


def test_the_copy_of_a_refused_entry_says_why_and_whence(records: Records) -> None:
    asked = request(
        "Action", "Logoff", "Action", "Ping", "ActionID", "not usable", "Bus-Producer", "p", "Bus-Deadlin", "+5",
        "Secret", "hush", "x", "1", "", "empty",
    )  # fmt: skip
    assert asked.refusal is not None
    outcome = Outcome(State.REJECTED, code=ErrorCode.MALFORMED, message=str(asked.refusal))
    dead = values("settle", records.settle(asked, outcome, 1.0, None, 3))["dead"]
    assert dead[:4] == ("reason_code", "malformed", "reason", str(asked.refusal))
    assert dead[4:12] == ("lane", ACTIONS, "entry", ENTRY, "action_id", ENTRY, "producer", "p")
    assert dead[12:] == (
        "Action", "Logoff", "Action", "Ping", "ActionID", "not usable", "Bus-Producer", "p", "Bus-Deadlin", "+5",
        "Secret", "***", "x", "1", "(empty)", "empty",
    )  # fmt: skip
