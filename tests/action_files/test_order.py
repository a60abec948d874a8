"""The text of action files: what is read, and what is refused with its line."""

import pytest

from workers.action_files.order import MAX_BYTES, BadFile, read_orders


def test_an_action_as_on_ami() -> None:
    [order] = read_orders(b"Action: Originate\r\nChannel: PJSIP/100\r\nVariable: a=1\r\nVariable:b=x: y \r\n\r\n")
    assert (order.line, order.action, order.action_id, order.lane) == (1, "Originate", None, "actions")
    assert order.headers == [("Channel", "PJSIP/100"), ("Variable", "a=1"), ("Variable", "b=x: y ")]


def test_several_with_comments() -> None:
    data = b"""
# the first
Action: Setvar
# between two headers
Variable: x
Value: # no comment

   \t

# alone

Value: last line has no end
action: DBPut
ACTIONID: mine"""
    first, second = read_orders(data)
    assert (first.line, first.action, first.headers) == (3, "Setvar", [("Variable", "x"), ("Value", "# no comment")])
    assert (second.line, second.action, second.action_id) == (12, "DBPut", "mine")
    assert second.headers == [("Value", "last line has no end")]


def test_fields_of_the_bus() -> None:
    text = "Action: Ping\nBus-Producer: crm\nBus-Deadline: +30\nBus-Lane: urgent\nBus-Tag: t\nBus-Timeout: 5\nBus-X-: n"
    [order] = read_orders(text.encode())
    assert (order.producer, order.deadline, order.lane, order.has_tag) == ("crm", "+30", "urgent", True)
    assert order.headers == [("Bus-Tag", "t"), ("Bus-Timeout", "5"), ("Bus-X-", "n")]


def test_a_byte_order_mark_and_other_languages() -> None:
    [order] = read_orders("\ufeffAction: UserEvent\nUserEvent: Grüße 你好".encode())
    assert order.headers == [("UserEvent", "Grüße 你好")]


@pytest.mark.parametrize(
    ("data", "code", "why"),
    [
        (b"", "malformed", "the file holds no action"),
        (b"# only this\n\n", "malformed", "the file holds no action"),
        (b"Action: Ping\n\nAction Ping\n", "malformed", "line 3: not a header of the form Name: value"),
        (b"Action: Ping\n\nVariable: x\n", "malformed", "line 3: an action needs the header Action"),
        (b"Action: Ping\nACTION: Ping\n", "malformed", "line 2: ACTION is given twice"),
        (b"Action:\n", "malformed", "line 1: an action needs the header Action"),
        (b"Action: Ping\nX: \xff\n", "malformed", "line 2: not UTF-8"),
        (b"Action: Ping\nX: a\0b\n", "bad-header", "line 1: the value of X holds CR, LF or NUL"),
        (b"Action: Ping\nX: a\rY: b\n", "bad-header", "line 1: the value of X holds CR, LF or NUL"),
        (b"Action: Ping\n X: 1\n", "bad-header", "line 1: header name ' X' is not printable"),
        (b"Action: Ping\nActionID: a b\n", "bad-action-id", "line 1: ActionID 'a b' is not"),
        (b"Action: Ping\nActionID: 12-0\n", "bad-action-id", "line 1: ActionID '12-0' is not"),
        (b"Action: Ping\nBus-Dedline: +1\n", "unknown-bus-field", "line 1: 'Bus-Dedline' is not a field of the bus"),
        (b"Action: Ping\nBus-Tag: 1\nBus-Tag: 2\n", "malformed", "line 1: 'Bus-Tag' is given twice"),
        (b"Action: Ping\nBus-Deadline: soon\n", "malformed", "line 2: Bus-Deadline is +seconds"),
        (b"Action: Ping\nBus-Deadline: +1801\n", "malformed", "line 1: Bus-Deadline is more than 30 minutes"),
        (b"Action: Ping\nBus-Lane: fast\n", "malformed", "line 2: Bus-Lane is actions or urgent"),
        (b"Action: Ping\nBus-Reply: me\n", "unknown-bus-field", "line 2: Bus-Reply is of no use here"),
        (b"Action: Ping\nBus-Producer: a b\n", "malformed", "line 1: Bus-Producer 'a b' does not match"),
        (b"Action: Ping\nX: " + b"x" * 2000, "line-too-long", "line 1: the header 'X' is too long"),
        (b"Action: Ping\n" + b"X: 1\n" * 200, "too-many-headers", "line 1: 202 headers"),
        (b"x" * (MAX_BYTES + 1), "malformed", f"the file is over {MAX_BYTES} bytes"),
    ],
)
def test_what_is_refused(data: bytes, code: str, why: str) -> None:
    with pytest.raises(BadFile) as caught:
        read_orders(data)
    assert (caught.value.code, str(caught.value)[: len(why)]) == (code, why)
