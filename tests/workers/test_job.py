"""Requests made ready: what goes to Asterisk, where, and for how long it is waited."""

import pytest

from broker.ami import serialise
from broker.entry import Request, decode_entry
from broker.errors import ErrorCode, Refused
from broker.keys import ACTIONS, URGENT
from workers.job import MAX_CHANNEL_ID, Job, make_job
from workers.schedule import CALLS, CHANGES, READS


def request(*fields: str | bytes, lane: str = ACTIONS) -> Request:
    raw = [field.encode() if isinstance(field, str) else field for field in fields]
    decoded = decode_entry(lane, "1700000000000-0", [b"ActionID", b"a1", b"Action", *raw])
    assert decoded.refusal is None
    return decoded


def job(*fields: str | bytes, lane: str = ACTIONS) -> Job:
    return make_job(request(*fields, lane=lane), "pbx1")


def refused(*fields: str | bytes) -> str:
    with pytest.raises(Refused) as caught:
        job(*fields)
    assert str(caught.value).isascii()
    return str(caught.value.code)


@pytest.mark.parametrize(
    ("fields", "session", "cost", "reads_only"),
    [
        (("Ping",), "read", READS, True),
        (("pING",), "read", READS, True),
        (("CoreShowChannels",), "read", READS, True),
        (("Getvar", "Variable", "x"), "read", READS, True),
        (("Getvar", "variable", "SHELL(x)"), "write", CHANGES, False),
        (("Status", "Variables", "a,CDR(x)"), "write", CHANGES, False),
        (("Setvar", "Variable", "x"), "write", CHANGES, False),
        (("NoSuchAction",), "write", CHANGES, False),
        (("Originate", "Channel", "x"), "write", CALLS, False),
        (("oRiGiNaTe", "Channel", "x"), "write", CALLS, False),
    ],
)
def test_each_kind_has_its_session_and_cost(fields: tuple[str, ...], session: str, cost: str, reads_only: bool) -> None:
    made = job(*fields)
    assert (made.session, made.cost, made.reads_only) == (session, cost, reads_only)
    assert job(*fields, lane=URGENT).session == "urgent"


def test_an_originate_is_asynchronous_and_has_a_channel_id() -> None:
    made = job(
        "Originate", "Channel", "Local/1@x", "ASYNC", "false", "async", "no", "Variable", "a=1", "Variable", "b=2"
    )
    assert made.channel_id == "amibus-pbx1-a1"
    assert made.action.pairs == [
        ("Channel", "Local/1@x"), ("Variable", "a=1"), ("Variable", "b=2"), ("ChannelId", "amibus-pbx1-a1"),
        ("Async", "true"),
    ]  # fmt: skip
    assert serialise(made.action).startswith(b"Action: Originate\r\nActionID: a1\r\n")


@pytest.mark.parametrize(
    ("fields", "channel_id"),
    [
        (("ChannelId", "mine"), "mine"),
        (("channelid", " \t mine "), "mine "),
        (("ChannelId", "first", "ChannelId", "second"), "first"),
        (("ChannelId", ""), "amibus-pbx1-a1"),
        (("ChannelId", " ", "CHANNELID", "second"), "amibus-pbx1-a1"),
        (("ChannelId", "\u00a0x"), "\u00a0x"),
    ],
)
def test_the_channel_id_is_what_asterisk_will_read(fields: tuple[str, ...], channel_id: str) -> None:
    made = job("Originate", "Channel", "x", *fields)
    assert made.channel_id == channel_id
    sent = [value.lstrip(" \t") for name, value in made.action.pairs if name.lower() == "channelid"]
    assert sent[0] == channel_id, "the first one counts for Asterisk"


def test_a_channel_id_that_cannot_be_followed_is_refused() -> None:
    assert job("Originate", "ChannelId", "x" * MAX_CHANNEL_ID).channel_id == "x" * MAX_CHANNEL_ID
    for channel_id in ("x" * (MAX_CHANNEL_ID + 1), "\u00e4" * 75, b"\xff"):
        assert refused("Originate", "ChannelId", channel_id) == ErrorCode.BAD_HEADER


@pytest.mark.parametrize(
    ("fields", "outcome_s"),
    [
        ((), 40),
        (("Timeout", "5000"), 15),
        (("timeout", " 5000"), 15),
        (("Timeout", "5000", "Timeout", "90000"), 15),
        (("Timeout", "", "Timeout", "90000"), 40),
        (("Timeout", "0"), 10),
        (("Timeout", "5000", "Bus-Timeout", "3"), 3),
        (("Bus-Timeout", "100"), 100),
        (("Timeout", "999999999"), 1000009.999),
    ],
)
def test_an_originate_is_waited_for_as_long_as_it_may_ring(fields: tuple[str, ...], outcome_s: float) -> None:
    made = job("Originate", "Channel", "x", *fields)
    assert made.outcome_timeout_s == pytest.approx(outcome_s)
    assert made.answer_timeout_s == (min(30, outcome_s) if "Bus-Timeout" in fields else 30)


@pytest.mark.parametrize("timeout", ["-1", "x", "1.5", "9" * 10, "9" * 400, "1e3", "\u0663", "5000x", b"\xff"])
def test_a_timeout_that_asterisk_would_misread_is_refused(timeout: str | bytes) -> None:
    assert refused("Originate", "Channel", "x", "Timeout", timeout) == ErrorCode.BAD_HEADER


def test_other_actions_are_waited_for_as_asked() -> None:
    assert job("Ping").answer_timeout_s == 30
    assert job("Ping", "Bus-Timeout", "1.5").answer_timeout_s == 1.5


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (("Ping", "a", "x\r\nAction: Logoff"), "bad-header"),
        (("Ping", "a\r\nAction: Logoff\r\n\r\n", "x"), "bad-header"),
        (("Ping", "a", "x\0"), "bad-header"),
        (("Ping", "", "x"), "bad-header"),
        (("Ping", "a b", "x"), "bad-header"),
        (("Ping", "a:", "x"), "bad-header"),
        (("Ping", b"\xff", "x"), "bad-header"),
        (("Ping\r\nAction: Logoff",), "malformed"),
        ((" Ping",), "malformed"),
        ((b"Ping\xff",), "malformed"),
        (("Ping", "a", "\u00e4" * 510), "line-too-long"),
        (("Originate", *("a", "b") * 126), "too-many-headers"),
    ],
)
def test_what_ami_cannot_carry_is_refused(fields: tuple[str | bytes, ...], code: str) -> None:
    assert refused(*fields) == code


def test_the_request_itself_stays_as_it_was_asked() -> None:
    asked = request("Originate", "Async", "false")
    fingerprint = asked.fingerprint
    make_job(asked, "pbx1")
    assert asked.pairs == [("Async", "false")]
    assert asked.fingerprint == fingerprint
