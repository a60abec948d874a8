"""The text of an action file: AMI headers as they are, blank lines between actions, comments."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from broker.entry import decode_entry, encode_action
from broker.errors import AmibusError, ErrorCode, Refused
from broker.keys import ACTIONS, URGENT

MAX_BYTES: Final = 1 << 20
"""Of one file: some thousands of actions. It is held in memory while it is under way."""

COMMENT: Final = "#"
LANE: Final = "bus-lane"
"""Which lane to use, the one field that is not the bus's but ours: `urgent` or `actions`."""

Pairs = list[tuple[str, str]]


class BadFile(AmibusError):
    """An action file that could never be executed as it stands; nothing of it is. The text names the line."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Order:
    """One action of a file, as the client takes it."""

    line: int
    """Where it begins, counted from 1."""
    action: str = ""
    action_id: str | None = None
    lane: str = ACTIONS
    producer: str | None = None
    deadline: str | None = None
    """`Bus-Deadline` as it was written: unix seconds, or `+` and seconds from when the file was taken."""
    headers: Pairs = field(default_factory=list)
    """All others, in their order; the other `Bus-*` fields among them."""

    @property
    def has_tag(self) -> bool:
        """Whether it brings a `Bus-Tag` of its own."""
        return any(name.lower() == "bus-tag" for name, _ in self.headers)


def read_orders(data: bytes) -> list[Order]:
    """The actions of a file, one at least. Raises `BadFile`."""
    if len(data) > MAX_BYTES:
        raise BadFile(ErrorCode.MALFORMED, f"the file is over {MAX_BYTES} bytes")
    orders = [_read_order(lines) for lines in _blocks(_text(data))]
    if not orders:
        raise BadFile(ErrorCode.MALFORMED, "the file holds no action")
    return orders


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile(ErrorCode.MALFORMED, f"line {line}: not UTF-8") from None


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each action."""
    block: list[tuple[int, str]] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.removesuffix("\r")
        if line.startswith(COMMENT):
            continue
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _read_order(lines: list[tuple[int, str]]) -> Order:
    order = Order(lines[0][0])
    pairs: Pairs = []
    single: set[str] = set()
    for number, line in lines:
        name, colon, rest = line.partition(":")
        if not colon:
            raise BadFile(ErrorCode.MALFORMED, f"line {number}: not a header of the form Name: value")
        value = rest.lstrip(" \t")
        lowered = name.lower()
        if lowered not in _OWN:
            pairs.append((name, value))
            continue
        if lowered in single:
            raise BadFile(ErrorCode.MALFORMED, f"line {number}: {name} is given twice")
        single.add(lowered)
        _take_own(order, lowered, value, number)
    if not order.action:
        raise BadFile(ErrorCode.MALFORMED, f"line {order.line}: an action needs the header Action")
    order.headers = pairs
    _check(order)
    return order


_OWN: Final = frozenset(("action", "actionid", "bus-producer", "bus-deadline", "bus-reply", LANE))
"""What is not handed on as a header but given to the client by a name of its own."""
_DEADLINE: Final = re.compile(r"\+?\d{1,12}(\.\d{1,9})?", re.ASCII)


def _take_own(order: Order, name: str, value: str, number: int) -> None:
    if name == "action":
        order.action = value
    elif name == "actionid":
        order.action_id = value or None
    elif name == "bus-producer":
        order.producer = value
    elif name == "bus-deadline" and _DEADLINE.fullmatch(value):
        order.deadline = value
    elif name == "bus-deadline":
        raise BadFile(ErrorCode.MALFORMED, f"line {number}: Bus-Deadline is +seconds, or a unix time")
    elif name == LANE and value in (ACTIONS, URGENT):
        order.lane = value
    elif name == LANE:
        raise BadFile(ErrorCode.MALFORMED, f"line {number}: Bus-Lane is {ACTIONS} or {URGENT}")
    else:
        raise BadFile(ErrorCode.UNKNOWN_BUS_FIELD, f"line {number}: Bus-Reply is of no use here, the answer is a file")


def _check(order: Order) -> None:
    """Refuse at once what the worker would refuse, so that of a file with a mistake nothing is executed."""
    try:
        fields = encode_action(
            order.action,
            order.headers,
            action_id=order.action_id,
            producer=order.producer,
            deadline=order.deadline if order.deadline is None or order.deadline.startswith("+") else None,
        )
        refusal = decode_entry(order.lane, "0-1", [text.encode() for text in fields]).refusal
        if refusal is not None:
            raise refusal
    except Refused as refusal:
        raise BadFile(refusal.code, f"line {order.line}: {refusal}") from None
