from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.ami import (
    MAX_HEADERS,
    MAX_LINE_BYTES,
    Action,
    Event,
    Headers,
    LocalProtocolError,
    Protocol,
    RawText,
    RemoteProtocolError,
    Response,
    protocol,
    serialise,
)
from tests.ami.wire import BANNER, block, bytewise, capture, cut_in_two, event, one, raw_text, received, response

FOLLOWS = (
    b"Response: Follows\r\nPrivilege: Command\r\nActionID: c1\r\n"
    b"  Name: not a header\nEvent: nor this\n\n\n  after blank lines  \n--END COMMAND--\r\n\r\n"
)
MIXTURE = b"".join(
    (
        b"Event: FullyBooted\r\nPrivilege: system,all\r\nStatus: Fully Booted\r\n\r\n",
        b"Response: Success\r\nActionID: p1\r\nMessage: Park successful\n\r\n\r\n",
        b"Event: Agents\r\nActionID: a1\r\nCallStarted: 1\nName: \r\nAccount:\r\n\r\n",
        b"Response: Success\r\nActionID: q1\r\nRuleList: r\r\nRule: 10,1,2\r\n\r\n\r\n",
        FOLLOWS,
        b"Response: Success\r\nActionID: c2\r\nMessage: Command output follows\r\nOutput:   a: b\r\nOutput: \r\n\r\n",
        b"Host             Username: x   State\n  10.0.0.1  1 ms\n\r\n",
        "Event: Newchannel\r\nCallerIDName: Jürgen Ōno\r\n\r\n".encode(),
        b"Event: Newchannel\r\nCallerIDName: J\xfcrgen\r\nAccountCode: \xc3\xbc\r\n\r\n",
        b"Event: Bare\nA: 1\n\n\n\nEvent: Mixed\nA: 1\r\nB: 2\n\r\n",
    )
)
MIXED_MESSAGES = [
    Event(Headers([("Event", "FullyBooted"), ("Privilege", "system,all"), ("Status", "Fully Booted")])),
    Response(Headers([("Response", "Success"), ("ActionID", "p1"), ("Message", "Park successful")])),
    Event(Headers([("Event", "Agents"), ("ActionID", "a1"), ("CallStarted", "1"), ("Name", ""), ("Account", "")])),
    Response(Headers([("Response", "Success"), ("ActionID", "q1"), ("RuleList", "r"), ("Rule", "10,1,2")])),
    Response(
        Headers([("Response", "Follows"), ("Privilege", "Command"), ("ActionID", "c1")]),
        ["  Name: not a header", "Event: nor this", "", "", "  after blank lines  "],
    ),
    Response(
        Headers([("Response", "Success"), ("ActionID", "c2"), ("Message", "Command output follows")]), ["  a: b", ""]
    ),
    RawText(["Host             Username: x   State", "  10.0.0.1  1 ms"]),
    Event(Headers([("Event", "Newchannel"), ("CallerIDName", "Jürgen Ōno")])),
    Event(Headers([("Event", "Newchannel"), ("CallerIDName", "Jürgen"), ("AccountCode", "ü")], ("CallerIDName",))),
    Event(Headers([("Event", "Bare"), ("A", "1")])),
    Event(Headers([("Event", "Mixed"), ("A", "1"), ("B", "2")])),
]
CAPTURE = capture("asterisk-22.10-local-calls")


# -- any cut


def test_a_mixture_of_everything_whole() -> None:
    assert received([MIXTURE]) == MIXED_MESSAGES


def test_a_mixture_of_everything_cut_at_every_position() -> None:
    for pieces in cut_in_two(MIXTURE):
        assert received(pieces) == MIXED_MESSAGES


def test_a_mixture_of_everything_byte_by_byte() -> None:
    assert received(bytewise(BANNER + MIXTURE), b"") == MIXED_MESSAGES


@given(st.lists(st.integers(0, len(MIXTURE)), max_size=20))
def test_a_mixture_of_everything_cut_anywhere(positions: list[int]) -> None:
    cuts = [0, *sorted(positions), len(MIXTURE)]
    assert received(MIXTURE[start:end] for start, end in pairwise(cuts)) == MIXED_MESSAGES


def test_a_capture_cut_at_every_position() -> None:
    part = CAPTURE[: CAPTURE.index(b"\r\n\r\n", 4000) + 4]
    whole = received([part])
    for pieces in cut_in_two(part):
        assert received(pieces) == whole


def test_a_capture_byte_by_byte() -> None:
    whole = received([CAPTURE])
    assert len(whole) == CAPTURE.count(b"\r\n\r\n") == 150
    assert received(bytewise(CAPTURE)) == whole
    assert all(isinstance(message, Event) and message.is_queued for message in whole)


def test_a_capture_loses_no_byte() -> None:
    lines = [
        f"{name}: {value}\r\n" if value is not None else "\r\n"
        for message in received([CAPTURE])
        if isinstance(message, Event)
        for name, value in [*message.headers.pairs, ("", None)]
    ]
    assert "".join(lines).encode() == CAPTURE


def test_line_ends_make_no_difference() -> None:
    assert received([CAPTURE.replace(b"\r\n", b"\n")]) == received([CAPTURE])


def test_messages_come_as_soon_as_their_blank_line() -> None:
    session = Protocol()
    assert session.receive_data(BANNER + b"Response: Success\r\n\r") == []
    assert session.receive_data(b"\n") == [Response(Headers([("Response", "Success")]))]
    assert session.receive_data(b"\r\n\r\n\n") == []


NAME = st.text("ABCDEFxyz-_()", min_size=1, max_size=8).filter(lambda name: "(" not in name or ")" in name)
VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=30)


@given(st.lists(st.tuples(NAME, VALUE), max_size=20), st.data())
def test_what_is_serialised_is_read_again(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    # An action has the form of a message; only its first header is another.
    sent = serialise(Action("Ping", pairs, "1")).replace(b"Action: Ping", b"Event: Ping", 1)
    cut = data.draw(st.integers(0, len(sent)))
    assert received([sent[:cut], sent[cut:]]) == [Event(Headers([("Event", "Ping"), ("ActionID", "1"), *pairs]))]


@settings(max_examples=300)
@given(
    st.lists(st.binary(max_size=40)),
    st.lists(st.sampled_from([b"\r\n", b"\n", b"Event: x", b": ", b"Response: Follows\r\n"])),
)
def test_no_bytes_break_it(noise: list[bytes], structure: list[bytes]) -> None:
    pieces = [piece for pair in zip(noise, structure, strict=False) for piece in pair]
    data = b"".join(pieces)
    assert received(pieces) == received(bytewise(data)) == received([data])


# -- values


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("Value: a: b: c", ("Value", "a: b: c")),
        ("Value: http://x:80", ("Value", "http://x:80")),
        ("Value:a: b", ("Value", "a: b")),
        ("Value: ", ("Value", "")),
        ("Value:", ("Value", "")),
        ("Value:   two leading", ("Value", "  two leading")),
        ("Value: trailing  ", ("Value", "trailing  ")),
        ("Value: a\rb", ("Value", "a\rb")),
        ("Value: \x85\x1c\u2028", ("Value", "\x85\x1c\u2028")),
        ("ChanVariable(SIP/192.0.2.1:5060-01): a=b", ("ChanVariable(SIP/192.0.2.1:5060-01)", "a=b")),
        ("ChanVariable(Local/1@x-01;1): a=b: c", ("ChanVariable(Local/1@x-01;1)", "a=b: c")),
        ("Key(0): x", ("Key(0)", "x")),
        ("Odd(name: x", ("Odd(name", "x")),
        ("Parent/Key: x", ("Parent/Key", "x")),
    ],
)
def test_a_line(line: str, pair: tuple[str, str]) -> None:
    assert event(block("Event: X", line, "After: y")).headers.pairs == [("Event", "X"), pair, ("After", "y")]


def test_an_irregular_line_changes_nothing_of_its_neighbours() -> None:
    headers = event(block("Event: X", "Empty:", "Value:   kept  ", "Last: a: b")).headers
    assert headers.pairs == [("Event", "X"), ("Empty", ""), ("Value", "  kept  "), ("Last", "a: b")]


def test_a_line_that_is_no_header_continues_the_value_before() -> None:
    # Getvar's Value is not escaped: a line feed in a variable comes as it is.
    got = response(b"Response: Success\r\nVariable: x\r\nValue: one\ntwo\n three\r\nActionID: 1\r\n\r\n")
    assert got.headers["Value"] == "one\ntwo\n three"
    assert got.action_id == "1"


def test_headers_that_differ_in_case_are_both_kept() -> None:
    headers = event(block("Event: UserEvent", "Channel: a", "CHANNEL: b", "Channel: c")).headers
    assert headers.to_map() == {"Event": "UserEvent", "Channel": ["a", "c"], "CHANNEL": "b"}


def test_the_kind_is_told_in_any_case() -> None:
    assert isinstance(one(block("response: Success")), Response)
    assert isinstance(one(block("EVENT:X", "A: 1")), Event)


@pytest.mark.parametrize("first", ["event", "response", "Eventful: 1", "a table", ": x"])
def test_a_block_without_headers_is_raw_text(first: str) -> None:
    assert raw_text(block(first, "b: c")).lines == [first, "b: c"]


# -- encodings


def test_a_character_cut_between_two_reads() -> None:
    data = "Event: X\r\nName: 電話\r\n\r\n".encode()
    for pieces in cut_in_two(data):
        [got] = received(pieces)
        assert isinstance(got, Event)
        assert got.headers["Name"] == "電話"
        assert got.headers.latin1 == ()


def test_what_is_not_utf8_is_latin1_and_named() -> None:
    every_byte = bytes(set(range(256)) - {10, 13})
    got = event(b"Event: X\r\nName: " + every_byte + b"\r\nOther: \xc3\xa9\r\n\r\n")
    assert got.headers["Name"].encode("latin-1") == every_byte
    assert got.headers["Other"] == "é"
    assert got.headers.latin1 == ("Name",)


def test_all_values_of_a_latin1_name_are_latin1() -> None:
    got = event(b"Event: X\r\nVar: \xc3\xa9\r\nVar: \xe9\r\n\r\n")
    assert [value.encode("latin-1") for value in got.headers.get_all("Var")] == [b"\xc3\xa9", b"\xe9"]
    assert got.headers.latin1 == ("Var",)


def test_one_bad_message_leaves_its_neighbours_alone() -> None:
    good = block("Event: Good", "Name: é")
    before, bad, after = received([good + b"Event: Bad\r\nName: \xe9\r\n\r\n" + good])
    assert before == after == event(good)
    assert isinstance(bad, Event)
    assert bad.headers.latin1 == ("Name",)


def test_latin1_in_the_output_of_a_command() -> None:
    new = response(b"Response: Success\r\nMessage: Command output follows\r\nOutput: \xe9\r\n\r\n")
    old = response(b"Response: Follows\r\nPrivilege: Command\r\n\xe9\n--END COMMAND--\r\n\r\n")
    assert new.output == old.output == ["é"]
    assert new.headers.latin1 == old.headers.latin1 == ("Output",)


def test_latin1_raw_text() -> None:
    assert raw_text(b"caf\xe9\r\n\r\n") == RawText(["café"], latin1=True)


# -- Command


def test_output_keeps_its_blanks_and_leaves_the_headers() -> None:
    got = response(block("Response: Success", "ActionID: 1", "Output:   indented ", "Output: ", "Output: a: b"))
    assert got.output == ["  indented ", "", "a: b"]
    assert got.headers.pairs == [("Response", "Success"), ("ActionID", "1")]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (b"", []),
        (b"one\n", ["one"]),
        (b"no line end", ["no line end"]),
        (b"\n\n\r\n\r\nResponse: Follows\r\nEvent: x\n\n", ["", "", "", "", "Response: Follows", "Event: x", ""]),
        (b"--END COMMAND-- is not it\n", ["--END COMMAND-- is not it"]),
        (b"ActionID of nobody\n", ["ActionID of nobody"]),
    ],
)  # fmt: skip
def test_raw_text_of_an_old_command(text: bytes, output: list[str]) -> None:
    head = b"Response: Follows\r\nPrivilege: Command\r\nActionID: 1\r\n"
    data = head + text + b"--END COMMAND--\r\n\r\nEvent: After\r\n\r\n"
    for pieces in cut_in_two(data):
        got, after = received(pieces)
        assert isinstance(got, Response)
        assert got.output == output
        assert got.action_id == "1"
        assert isinstance(after, Event)


def test_what_only_looks_like_an_old_command() -> None:
    first, second = received([block("Event: X", "Value: Response: Follows", "Response: Follows") + block("Event: Y")])
    assert isinstance(first, Event)
    assert first.headers["Value"] == "Response: Follows"
    assert isinstance(second, Event)


def test_two_old_commands_after_an_event() -> None:
    data = block("Event: X") + b"\r\n\r\n" + FOLLOWS + FOLLOWS
    for pieces in cut_in_two(data):
        assert [type(message) for message in received(pieces)] == [Event, Response, Response]


def test_a_command_of_50000_lines() -> None:
    data = block("Response: Success", "ActionID: 1", *[f"Output: line {at}" for at in range(50_000)])
    [got] = received(data[at : at + 4096] for at in range(0, len(data), 4096))
    assert isinstance(got, Response)
    assert len(got.output) == 50_000
    assert got.output[-1] == "line 49999"


# -- the banner, and the end of patience


def test_the_banner_cut_anywhere() -> None:
    for first, second in cut_in_two(BANNER):
        session = Protocol()
        session.receive_data(first)
        assert session.banner is None or not second
        session.receive_data(second + b"Event: X\r\n")
        assert session.banner == "Asterisk Call Manager/11.0.0"


def test_no_banner_yet() -> None:
    assert Protocol().banner is None


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\r\n", b"x" * 300, b"Asterisk Call Man\n"],
)
def test_who_does_not_begin_with_the_banner_is_not_asterisk(data: bytes) -> None:
    session = Protocol()
    with pytest.raises(RemoteProtocolError, match="first line"):
        session.receive_data(data)
    with pytest.raises(RemoteProtocolError, match="first line"):
        session.receive_data(BANNER)


@pytest.mark.parametrize("head", [b"Event: X\r\nValue: ", b"Response: Follows\r\n\r\n"])
def test_a_message_without_end_is_given_up(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_MESSAGE_BYTES", 10_000)
    session = Protocol()
    assert session.receive_data(BANNER + head) == []
    assert session.receive_data(b"x" * (10_000 - len(head))) == []
    with pytest.raises(RemoteProtocolError, match="10000 bytes"):
        session.receive_data(b"x")


def test_many_messages_in_one_read_are_no_message_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_MESSAGE_BYTES", 1000)
    assert len(received([CAPTURE])) == 150


# -- what we send


def test_an_action_on_the_wire() -> None:
    action = Action("Originate", [("Channel", "Local/1@x"), ("Variable", "a=é"), ("Variable", "b=\udcff")], "a.b:c_d-1")
    assert Protocol().send_action(action) == (
        b"Action: Originate\r\nActionID: a.b:c_d-1\r\nChannel: Local/1@x\r\n"
        b"Variable: a=\xc3\xa9\r\nVariable: b=\xff\r\n\r\n"
    )


def refusal(action: Action) -> LocalProtocolError:
    with pytest.raises(LocalProtocolError) as caught:
        serialise(action)
    assert "hunter2" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("forbidden", ["\r", "\n", "\0", "\r\nAction: Command\r\n\r\n"])
@pytest.mark.parametrize("form", ["{}x", "x{}", "hunter2{}x"])
def test_no_injection(forbidden: str, form: str) -> None:
    text = form.format(forbidden)
    assert refusal(Action("Ping", [("Channel", text)], "1")).code == "bad-header"
    assert refusal(Action("Ping", [(form.format(forbidden).replace("hunter2", "y"), "x")], "1")).code == "bad-header"
    assert refusal(Action(text, [], "1")).code == "malformed"
    assert refusal(Action("Ping", [], text)).code == "bad-action-id"


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:", "a: b", " a", "a ", "\ta", "é", "a\x7f", "Chan\udcffnel", "\x85"]
)
def test_header_names_are_tokens(name: str) -> None:
    assert refusal(Action("Ping", [(name, "x")], "1")).code == "bad-header"


@pytest.mark.parametrize("name", ["ChanVariable(x)", "Action-000000", "Line-000000-000001", "X_y.z/!"])
def test_header_names_that_are_fine(name: str) -> None:
    assert f"\r\n{name}: x\r\n".encode() in serialise(Action("Ping", [(name, "x")], "1"))


@pytest.mark.parametrize("name", ["", " Login", "Log in", "Login ", "Logïn", "Login:"])
def test_action_names_are_tokens(name: str) -> None:
    assert refusal(Action(name, [], "1")).code == "malformed"


@pytest.mark.parametrize("name", ["Action", "aCTION", "ActionID", "ACTIONID"])
def test_a_second_action_or_action_id_is_refused(name: str) -> None:
    assert refusal(Action("Ping", [(name, "Logoff")], "1")).code == "malformed"


@pytest.mark.parametrize("action_id", ["1526919030474-0", "u.1526919030474-0", "a" * 64, "A.b_c:d-e"])
def test_action_ids_that_are_fine(action_id: str) -> None:
    assert serialise(Action("Ping", [], action_id)) == f"Action: Ping\r\nActionID: {action_id}\r\n\r\n".encode()


@pytest.mark.parametrize("action_id", ["", "a" * 65, "a b", "a/b", "é", "a\n"])
def test_action_ids_that_are_not(action_id: str) -> None:
    assert refusal(Action("Ping", [], action_id)).code == "bad-action-id"


def test_an_action_may_go_without_action_id() -> None:
    assert serialise(Action("Ping")) == b"Action: Ping\r\n\r\n"


@pytest.mark.parametrize("character", ["x", "é", "\udcff"])
def test_a_line_is_measured_in_bytes(character: str) -> None:
    size = len(character.encode("utf-8", "surrogateescape"))
    fits = character * ((MAX_LINE_BYTES - len("Name: ")) // size)
    assert len(serialise(Action("Ping", [("Name", fits)])).split(b"\r\n")[1]) == MAX_LINE_BYTES
    assert refusal(Action("Ping", [("Name", fits + character)])).code == "line-too-long"


def test_headers_are_counted_with_action_and_action_id() -> None:
    most = [("Variable", "a=1")] * (MAX_HEADERS - 2)
    assert serialise(Action("Ping", most, "1")).count(b"\r\n") == MAX_HEADERS + 1
    assert refusal(Action("Ping", [*most, ("Variable", "b=2")], "1")).code == "too-many-headers"
    assert serialise(Action("Ping", [*most, ("Variable", "b=2")]))


@pytest.mark.parametrize("surrogate", [0xD800, 0xDC0A, 0xDC0D])
def test_only_escaped_bytes_pass_as_surrogates(surrogate: int) -> None:
    assert refusal(Action("Ping", [("Name", chr(surrogate))])).code == "bad-header"
