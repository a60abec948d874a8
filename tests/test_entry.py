"""Stream entries both ways, and that no bytes whatever are too much for `decode_entry`."""

import contextlib
import time
from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import entry as entries
from broker.ami import LocalProtocolError, serialise
from broker.entry import (
    DEFAULT_DEADLINE_S,
    Request,
    decode_entry,
    encode_action,
    entry_action_id,
    entry_time,
    fingerprint,
    printable,
    text_of,
    usable_action_id,
)
from broker.errors import ErrorCode, Refused
from broker.keys import ACTIONS, URGENT
from workers.job import make_job
from workers.policy import Policy

ENTRY = "1700000000500-7"
QUEUED = 1700000000.5
names = st.from_regex(r"[!-9;-~]{1,12}", fullmatch=True).filter(
    lambda name: name.lower() not in ("action", "actionid") and not name.lower().startswith("bus-")
)
values = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=60)
pairs_of = st.lists(st.tuples(names, values), max_size=20)


def decode(*fields: str | bytes, lane: str = ACTIONS, entry: str = ENTRY) -> Request:
    return decode_entry(lane, entry, [field.encode() if isinstance(field, str) else field for field in fields])


def refusal(*fields: str | bytes, entry: str = ENTRY) -> Refused:
    refused = decode(*fields, entry=entry).refusal
    assert refused is not None
    return refused


# -- reading


def test_an_entry_is_headers_in_order_and_an_envelope() -> None:
    request = decode(
        "Action", "Originate", "ActionID", "call-42", "Channel", "PJSIP/100", "Variable", "a=1", "variable", "b=2",
        "Bus-Producer", "crm@web", "bus-deadline", "+30", "Bus-Timeout", "2.5", "Bus-Reply", "me",
        "Bus-Tag", "T\u00e4g",
        "Bus-Traceparent", f"00-{'a' * 32}-{'b' * 16}-01", "Bus-Target", "x", "Bus-X-Mine",
        "ignored", "Bus-X-Mine", "twice",
    )  # fmt: skip
    assert request.refusal is None
    assert (request.action, request.action_id) == ("Originate", "call-42")
    assert request.pairs == [("Channel", "PJSIP/100"), ("Variable", "a=1"), ("variable", "b=2")]
    assert (request.producer, request.deadline, request.timeout_s) == ("crm@web", QUEUED + 30, 2.5)
    assert (request.reply, request.tag, request.target) == ("me", "T\u00e4g", "x")
    assert request.traceparent.endswith("-01")
    assert request.queued_at == entry_time(ENTRY) == QUEUED


def test_what_is_left_out_has_its_default() -> None:
    request = decode("Action", "Ping")
    assert request.action_id == ENTRY
    assert decode("Action", "Ping", lane=URGENT).action_id == f"u.{ENTRY}"
    assert decode("Action", "Ping", "ActionID", "").action_id == ENTRY
    assert request.deadline == QUEUED + DEFAULT_DEADLINE_S
    assert (request.timeout_s, request.reply, request.tag, request.producer) == (None, "", "", "")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ((), "malformed"),
        (("Channel", "x"), "malformed"),
        (("Action", ""), "malformed"),
        (("Action", "  "), "malformed"),
        (("Action", "Ping", "ACTION", "Logoff"), "malformed"),
        (("Action", "Ping", "ActionID", "a", "actionid", "b"), "malformed"),
        (("Action", "Ping", "ActionID", "1-2"), "bad-action-id"),
        (("Action", "Ping", "ActionID", "u.1-2"), "bad-action-id"),
        (("Action", "Ping", "ActionID", "a" * 65), "bad-action-id"),
        (("Action", "Ping", "ActionID", "a\n"), "bad-action-id"),
        (("Action", "Ping", "ActionID", b"\xff"), "bad-action-id"),
        (("Action", "Ping", "Bus-Deadlin", "+5"), "unknown-bus-field"),
        (("Action", "Ping", "bus-", "+5"), "unknown-bus-field"),
        (("Action", "Ping", "Bus-Tag", "a", "BUS-TAG", "a"), "malformed"),
        (("Action", "Ping", "Bus-Producer", "a b"), "malformed"),
        (("Action", "Ping", "Bus-Producer", "a" * 33), "malformed"),
        (("Action", "Ping", "Bus-Reply", "{x}"), "malformed"),
        (("Action", "Ping", "Bus-Tag", "x" * 257), "malformed"),
        (("Action", "Ping", "Bus-Traceparent", "00-1-2-3"), "malformed"),
        (("Action", "Ping", "Bus-Traceparent", f"00-{'a' * 32}-{'b' * 16}-01-".encode() + b"\xff"), "malformed"),
        (("Action", "Ping", "Bus-Traceparent", f"00-{'a' * 32}-{'b' * 16}-01-" + "c" * 1000), "malformed"),
        *[(("Action", "Ping", "Bus-Timeout", text), "malformed") for text in ("0", "-1", "nan", "inf", "1e3", "",
        "3601", "\u0663")],
        *[
            (("Action", "Ping", "Bus-Deadline", text), "malformed")
            for text in ("-1", "nan", "+nan", "inf", "+-5", "++5", "1e9", "", "+", "+1801", "9" * 12, "9" * 400,
            "\u0663", " 5")
        ],
        (("Action", "Ping", *("a", "b") * 127), "too-many-headers"),
        (("Action", "Ping", *("a", "b") * 10_000), "too-many-headers"),
        (("Action", "Ping", "a", "b" * 1_000_000), "line-too-long"),
        (("Action", "Ping", "a" * 1_000_000, "b"), "line-too-long"),
        (("Action", "P" * 1_000_000), "line-too-long"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_with_its_code(fields: tuple[str | bytes, ...], code: str) -> None:
    refused = refusal(*fields)
    assert refused.code == code
    assert len(str(refused)) < 300
    assert str(refused).isprintable()
    assert str(refused).isascii()


def test_whoever_asked_for_something_malformed_hears_of_it() -> None:
    request = decode(
        "Action", "Ping", "Action", "Ping", "ActionID", "a1", "Bus-Nonsense", "1", "Bus-Reply", "me", "Bus-Tag", "t"
    )
    assert request.refusal is not None
    assert (request.action_id, request.reply, request.tag) == ("a1", "me", "t")


def test_a_deadline_of_the_year_1970_has_passed() -> None:
    assert decode("Action", "Ping", "Bus-Deadline", "0").deadline == 0
    assert decode("Action", "Ping", "Bus-Deadline", "0.000").deadline == 0


@pytest.mark.parametrize("entry", ["0-1", "18446744073709551615-1", "18446744073709551615-18446744073709551615"])
def test_explicit_entry_ids_are_read_as_any_other(entry: str) -> None:
    request = decode("Action", "Ping", entry=entry)
    assert request.refusal is None
    assert request.action_id == entry
    assert request.deadline == request.queued_at + DEFAULT_DEADLINE_S


words = st.sampled_from([
    b"Action", b"ActionID", b"actionid", b"Ping", b"Getvar", b"Variable", b"x", b"", b"a1", b"a2", b"1-0", b"Bus-Tag",
    b"Bus-Reply", b"Bus-Deadline", b"bus-deadline", b"+5", b"1700000001", b"Bus-X-a", b"Bus-Oops", b"\xff",
])  # fmt: skip


@given(fields=st.lists(words, max_size=8), others=st.lists(words, max_size=8), ids=st.lists(words, max_size=3))
def test_an_entry_is_read_alike_whatever_was_read_before_it(
    fields: list[bytes], others: list[bytes], ids: list[bytes]
) -> None:
    entries._models.clear()
    for action_id in ids:
        for asked in (fields, others):
            given = [b"Action", b"Ping", *asked, b"ActionID", action_id]
            for lane, name in ((ACTIONS, "1700000000500-7"), (URGENT, "1700000000999-0")):
                for each in (given, asked):
                    assert_alike(entries.decode_entry(lane, name, each), entries._decode(lane, name, each))


def assert_alike(one: Request, other: Request) -> None:
    texts = [str(request.refusal) for request in (one, other)]
    assert texts[0] == texts[1]
    assert replace(one, refusal=None, raw=()) == replace(other, refusal=None, raw=())


def test_what_was_asked_before_is_not_read_again() -> None:
    first, second = decode("Action", "Ping", "ActionID", "a1"), decode("Action", "Ping", "ActionID", "a2")
    assert second.action_id == "a2"
    assert first.pairs is second.pairs


@pytest.mark.parametrize("deadline", ["+5", "1700000004"])
def test_a_deadline_is_read_of_each_entry(deadline: str) -> None:
    for entry, queued_at in (("1700000000000-0", 1700000000), ("1700000001000-0", 1700000001)):
        asked = decode("Action", "Ping", "Bus-Deadline", deadline, entry=entry)
        assert asked.deadline == (queued_at + 5 if deadline == "+5" else 1700000004)


def test_what_is_remembered_of_entries_has_an_end() -> None:
    for number in range(entries.MAX_MODELS + 10):
        decode("Action", "Ping", "x", str(number))
    decode("Action", "Ping", "x", "y" * entries.MAX_MODEL_BYTES)
    decode("Action", "Ping", *["x", "y"] * entries.MAX_MODEL_FIELDS)
    assert 0 < len(entries._models) <= entries.MAX_MODELS
    assert max(sum(map(len, asked)) for asked in entries._models) <= entries.MAX_MODEL_BYTES


def test_values_that_are_not_utf_8_keep_their_bytes_on_the_way_to_asterisk() -> None:
    request = decode("Action", "Setvar", "Variable", "x", "Value", b"caf\xe9 \xed\xa0\x80")
    assert request.refusal is None
    assert b"Value: caf\xe9 \xed\xa0\x80\r\n" in serialise(make_job(request, "pbx1").action)


raw = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"Action", b"ACTIONID", b"Bus-Deadline", b"Bus-Timeout", b"Bus-Reply", b"bus-tag", b"Bus-Traceparent",
         b"Bus-X-y", b"Bus-", b"Originate", b"Getvar", b"ChannelId", b"Timeout", b"Variable", b"Channel", b"Async",
         b"", b"+5", b"9" * 400, b"x\r\nAction: Logoff",
         b"\0", b"\xff\xfe", "\u212a\u0130".encode(), b"a" * 1100]
    ),
)  # fmt: skip


@given(st.lists(raw, max_size=24), st.sampled_from(["0-0", ENTRY, "18446744073709551615-9"]))
def test_no_bytes_whatever_are_too_much_or_reach_ami_beyond_their_own_headers(fields: list[bytes], entry: str) -> None:
    request = decode_entry(ACTIONS, entry, fields)
    assert usable_action_id(request.action_id) or request.action_id == entry
    for text in (
        request.reply,
        request.target,
        request.tag,
        request.traceparent,
        request.producer,
        request.fingerprint,
    ):
        text.encode()
    if request.refusal is not None:
        return
    try:
        Policy().check(request)
        wire = serialise(make_job(request, "pbx1").action)
    except (Refused, LocalProtocolError):
        return
    lines = wire.split(b"\r\n")
    assert lines[-2:] == [b"", b""], "one action, and its end"
    assert b"" not in lines[:-2]
    assert not any(b"\n" in line or b"\r" in line or b"\0" in line for line in lines)
    assert len(lines) - 2 <= 128
    assert sum(line.lower().startswith(b"action:") for line in lines) == 1
    assert not any(line.lower().startswith(b"bus-") for line in lines)


@pytest.mark.parametrize(
    "fields",
    [
        [b"Action", b"Setvar", b"Variable", b"ODBC_" * 200_000],
        [b"Action", b"Setvar", *[b"Variable", b"ODBC_" * 200] * 100],
        [b"Action", b"Originate", b"Data", b"${" * 500_000],
        [b"Action", b"Ping", *[b"Bus-Nonsense", b"x"] * 100_000],
        [b"Action", *[b"x", b"y" * 1000] * 5_000],
        [b"Action", b"A" * 5_000_000],
    ],
    ids=["one long value", "many values", "braces", "bus fields", "headers", "name"],
)
def test_a_hostile_entry_takes_no_longer_than_a_moment(fields: list[bytes]) -> None:
    began = time.process_time()
    request = decode_entry(ACTIONS, ENTRY, fields)
    if request.refusal is None:
        with contextlib.suppress(Refused):
            Policy().check(request)
            make_job(request, "pbx1")
    assert time.process_time() - began < 10


# -- writing


@given(pairs_of, st.none() | st.from_regex(r"[A-Za-z._:]{1,64}", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_what_is_encoded_comes_back_from_redis_as_it_was(
    redis_url: str, pairs: list[tuple[str, str]], action_id: str | None
) -> None:
    fields = encode_action(
        "Setvar", pairs, action_id=action_id, producer="p", deadline="+5", timeout_s=1.5, tag="\u00e4"
    )
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        entry = client.execute_command("XADD", "lane", "*", *fields)
        client.set_response_callback("XRANGE", lambda reply, **_: reply)
        [[_, raw_fields]] = client.execute_command("XRANGE", "lane", entry, entry)
    request = decode_entry(ACTIONS, entry.decode(), raw_fields)
    assert request.refusal is None
    assert request.pairs == pairs
    assert request.action_id == (action_id or entry.decode())
    assert (request.timeout_s, request.tag) == (1.5, "\u00e4")
    assert request.deadline == pytest.approx(request.queued_at + 5)
    assert request.fingerprint == fingerprint("Setvar", pairs)


def test_lists_repeat_a_header_and_none_leaves_it_out() -> None:
    fields = encode_action(
        "Originate", {"Variable": ["a=1", "b=2"], "Timeout": 5, "Async": True, "Early": False, "No": None}
    )
    assert fields == [
        "Action", "Originate", "Variable", "a=1", "Variable", "b=2", "Timeout", "5", "Async", "true", "Early", "false",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("deadline", "text"),
    [(1700000000, "1700000000"), (1700000000.25, "1700000000.25"), (100.0, "100"), (0.0, "0"), ("+30", "+30")],
)
def test_deadlines_are_written_as_the_contract_reads_them(deadline: float | str, text: str) -> None:
    assert encode_action("Ping", {}, deadline=deadline)[-1] == text


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("Var iable", "x", "bad-header"),
        ("", "x", "bad-header"),
        ("a:b", "x", "bad-header"),
        ("\u00e4", "x", "bad-header"),
        ("a", "x\r\nAction: Logoff", "bad-header"),
        ("a", "x\n", "bad-header"),
        ("a", "\0", "bad-header"),
        ("a", "\ud800 lone", "bad-header"),
        ("b", "\udcff escaped", "bad-header"),
    ],
)
def test_what_could_never_be_sent_is_refused_at_once(name: str, value: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        encode_action("Ping", {name: value})
    assert caught.value.code == code


def test_bytes_are_no_list_of_numbers() -> None:
    with pytest.raises(TypeError, match="not bytes"):
        encode_action("Ping", {"a": b"ab"})


@pytest.mark.parametrize("action_id", ["1-2", "u.1-2", "", "a b", "a" * 65, "x\n", "x:items"])
def test_an_unusable_action_id_is_refused_at_once(action_id: str) -> None:
    with pytest.raises(Refused) as caught:
        encode_action("Ping", {}, action_id=action_id)
    assert caught.value.code == ErrorCode.BAD_ACTION_ID


# -- fingerprints and texts


@given(pairs_of, st.randoms())
def test_only_the_order_among_equal_names_counts(pairs: list[tuple[str, str]], shuffler: object) -> None:
    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, value in pairs:
        by_name.setdefault(name.lower(), []).append((name.swapcase(), value))
    groups = list(by_name.values())
    shuffler.shuffle(groups)  # type: ignore[attr-defined]
    assert fingerprint("Ping", pairs) == fingerprint("Ping", [pair for group in groups for pair in group])


@given(pairs_of, pairs_of, st.sampled_from(["Ping", "Setvar"]), st.sampled_from(["Ping", "Setvar"]))
def test_asking_for_something_else_has_another_fingerprint(
    one: list[tuple[str, str]], two: list[tuple[str, str]], action: str, other: str
) -> None:
    def asked(name: str, pairs: list[tuple[str, str]]) -> object:
        lowered = sorted({given.lower() for given, _ in pairs})
        return name, [(given, [value for each, value in pairs if each.lower() == given]) for given in lowered]

    same = asked(action, one) == asked(other, two)
    assert (fingerprint(action, one) == fingerprint(other, two)) == same


def test_the_fingerprint_is_stable() -> None:
    # printf 'action\0Originate\0channel\0x\0variable\0b=2\0variable\0a=1' | sha256sum
    pairs = [("Variable", "b=2"), ("variable", "a=1"), ("Channel", "x")]
    assert fingerprint("Originate", pairs) == "aa049cfa66bb71bef287a7a8feae84c5e82715ffdf73ba0c8096c30a8a399431"


def test_order_among_equal_names_matters() -> None:
    assert fingerprint("X", [("Variable", "1"), ("Variable", "2")]) != fingerprint(
        "X", [("Variable", "2"), ("Variable", "1")]
    )


@given(st.binary(max_size=50))
def test_any_bytes_become_text_that_can_be_packed(data: bytes) -> None:
    text = text_of(data.decode("utf-8", "surrogateescape"))
    text.encode()
    assert text in (data.decode("latin-1"), data.decode("utf-8", "replace"))


@given(st.text(max_size=300))
def test_printable_text_is_one_short_ascii_line(text: str) -> None:
    shown = printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 84


def test_the_entry_ids_of_both_lanes_differ() -> None:
    assert entry_action_id(ACTIONS, "1-2") == "1-2"
    assert entry_action_id(URGENT, "1-2") == "u.1-2"
