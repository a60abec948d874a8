"""Stream entries, both ways: AMI headers as they are, plus `Bus-*` fields that never reach Asterisk."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from broker.ami import MAX_HEADERS, MAX_LINE_BYTES
from broker.errors import ErrorCode, Refused
from broker.keys import URGENT

Pairs = list[tuple[str, str]]
HeaderValue = str | int | float | bool | Sequence[str | int | float | bool] | None

DEFAULT_DEADLINE_S = 30 * 60.0
"""An entry never outlives the records that guard it against a second write."""

DEFAULT_TIMEOUT_S = 30.0
"""How long Asterisk's full answer is waited for once an action is sent."""

MAX_TIMEOUT_S = 3600.0
MAX_TAG_BYTES = 256
MAX_NAME = 256
"""Characters of an action's name that are kept; Asterisk's own have at most 30."""
MAX_SHORT_NAME = 64
"""Names up to this length are remembered once read; a hostile entry's may be of any length."""

MAX_MODELS: Final = 1024
MAX_MODEL_FIELDS: Final = 24
MAX_MODEL_BYTES: Final = 1024
"""What is remembered of entries that were read: with these bounds it takes about 3 MB at most."""

_ACTION_ID = re.compile(r"(?!(u\.)?\d+-\d+\Z)[A-Za-z0-9._:-]{1,64}(?<!:items)", re.ASCII)
_PRODUCER = re.compile(r"[A-Za-z0-9_@-]{1,32}")
_REPLY = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_TARGET = re.compile(r"[!-~]{1,149}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
_HEADER_NAME = re.compile(r"[!-9;-~]+")
_BUS_FIELDS = frozenset(
    ("bus-producer", "bus-deadline", "bus-timeout", "bus-reply", "bus-tag", "bus-traceparent", "bus-target")
)


def usable_action_id(action_id: str) -> bool:
    """Whether a producer may give this ActionID. `digits-digits` and `u.digits-digits` are the entry ids' own, and the
    record of `x:items` would be where the items of `x` are."""
    return _ACTION_ID.fullmatch(action_id) is not None


def entry_action_id(lane: str, entry: str) -> str:
    """The ActionID of an entry that brought none; ids are unique per stream only, hence the `u.`."""
    return f"u.{entry}" if lane == URGENT else entry


def own_channel_id(server: str, action_id: str) -> str:
    """The ChannelId that the worker gives to an Originate which brought none."""
    return f"amibus-{server}-{action_id}"


@dataclass(slots=True)
class Request:
    """One entry as the worker sees it. A malformed entry has a `refusal`, and is never sent."""

    lane: str
    entry: str
    action_id: str
    action: str = ""
    pairs: Pairs = field(default_factory=list)
    """The AMI headers in the order given, without Action, ActionID and `Bus-*`."""
    producer: str = ""
    deadline: float = 0.0
    """Unix seconds by Redis' clock: not to be sent after it."""
    timeout_s: float | None = None
    """Seconds to wait for Asterisk's full answer; None: the default of the action."""
    reply: str = ""
    tag: str = ""
    traceparent: str = ""
    target: str = ""
    """`Bus-Target`: the ActionID or Uniqueid that the worker's own actions are about."""
    fingerprint: str = ""
    refusal: Refused | None = None
    raw: Sequence[bytes] = ()
    """The entry's fields as they were given; left out where they are not at hand."""
    name: str = ""
    """The action's name as it may be kept: text, and not without end."""

    queued_at: float = 0.0
    """Unix seconds: Redis' time when the entry was added, from its id."""

    def __post_init__(self) -> None:
        self.queued_at = entry_time(self.entry)


def entry_time(entry: str) -> float:
    """The unix time in seconds that an entry's id holds."""
    return _time(entry.partition("-")[0])


@lru_cache(maxsize=256)
def _time(milliseconds: str) -> float:
    # Entries come in bursts, so that many have the same.
    return int(milliseconds) / 1000


def decode_entry(lane: str, entry: str, fields: Sequence[bytes]) -> Request:
    """Read an entry's raw fields (name, value, name, value, ...).

    Never raises for what an entry holds: whatever is wrong becomes the request's `refusal`. Values that are not UTF-8
    keep their bytes (surrogateescape). Do not change the `pairs` of what this returns: entries that ask for the same
    thing share them.
    """
    request = _read(lane, entry, fields)
    request.raw = fields
    return request


def _read(lane: str, entry: str, fields: Sequence[bytes]) -> Request:
    # Who asks the same thing again and again, under one ActionID after the other, is read once.
    action_id, asked = _split(fields)
    if not asked or (action_id is not None and not usable_action_id(action_id)):
        return _decode(lane, entry, fields)
    model = _models.get(asked)
    if model is not None:
        return _like(model, lane, entry, action_id or entry_action_id(lane, entry))
    request = _decode(lane, entry, fields)
    if _is_model(request, asked):
        if len(_models) >= MAX_MODELS:
            _models.clear()
        _models[asked] = request
    return request


_models: dict[tuple[bytes, ...], Request] = {}
"""Requests by their entry's fields without the ActionID."""


def _split(fields: Sequence[bytes]) -> tuple[str | None, tuple[bytes, ...]]:
    """The ActionID and what is left without it; nothing is left where that is not plainly to be told."""
    if len(fields) > MAX_MODEL_FIELDS:
        return None, ()
    try:
        at = fields.index(b"ActionID")
    except ValueError:
        return None, tuple(fields)
    if at % 2 or at + 1 == len(fields):
        return None, ()
    return fields[at + 1].decode("utf-8", "surrogateescape"), (*fields[:at], *fields[at + 2 :])


def _is_model(request: Request, asked: tuple[bytes, ...]) -> bool:
    """Whether an entry with the same fields is read the same way whenever it comes."""
    if request.refusal is not None or sum(map(len, asked)) > MAX_MODEL_BYTES:
        return False
    return not any(_read_name(name)[1] in ("actionid", "bus-deadline") for name in asked[::2])


def _like(model: Request, lane: str, entry: str, action_id: str) -> Request:
    request = Request(
        lane, entry, action_id, model.action, model.pairs, model.producer, 0.0, model.timeout_s, model.reply, model.tag,
        model.traceparent, model.target, model.fingerprint, None, (), model.name,
    )  # fmt: skip
    request.deadline = request.queued_at + DEFAULT_DEADLINE_S
    return request


def _decode(lane: str, entry: str, fields: Sequence[bytes]) -> Request:
    request = Request(lane, entry, entry_action_id(lane, entry))
    request.deadline = request.queued_at + DEFAULT_DEADLINE_S
    bus: dict[str, str] = {}
    try:
        _read_fields(request, bus, fields)
    except Refused as refusal:
        request.refusal = refusal
    # Read the envelope even of a refused entry: whoever asked should hear of the refusal.
    for name, value in bus.items():
        try:
            _read_bus_field(request, name, value)
        except Refused as refusal:
            request.refusal = request.refusal or refusal
    request.name = text_of(request.action)[:MAX_NAME]
    request.fingerprint = fingerprint(request.action, request.pairs)
    return request


def _read_fields(request: Request, bus: dict[str, str], fields: Sequence[bytes]) -> None:
    refusals: list[Refused] = []
    ids: list[str] = []
    actions: list[str] = []
    pairs = request.pairs
    for raw_name, raw_value in zip(fields[::2], fields[1::2], strict=False):
        name, lowered = _short_name(raw_name) if len(raw_name) <= MAX_SHORT_NAME else _read_name(raw_name)
        value = raw_value.decode("utf-8", "surrogateescape")
        if lowered == "action":
            actions.append(value)
        elif lowered == "actionid":
            ids.append(value)
        elif lowered.startswith("bus-"):
            if lowered.startswith("bus-x-"):
                continue
            if not refusals:  # one is enough, however many there are
                refusals += _bus_field_refusals(name, lowered, bus)
            bus.setdefault(lowered, value)
        else:
            pairs.append((name, value))
    if len(actions) == 1 and actions[0].strip():
        request.action = actions[0]
    else:
        refusals.append(
            Refused(
                ErrorCode.MALFORMED,
                f"an entry needs the field Action once, not {len(actions)} times"
                if len(actions) != 1
                else "the field Action is empty",
            )
        )
    if len(ids) > 1:
        refusals.append(Refused(ErrorCode.MALFORMED, "ActionID is given twice"))
    elif ids and usable_action_id(ids[0]):
        request.action_id = ids[0]
    elif ids and ids[0]:
        refusals.append(
            Refused(
                ErrorCode.BAD_ACTION_ID,
                f"ActionID {printable(ids[0])} is not 1 to 64 characters of A-Z a-z 0-9 . _ : -, is like an"
                " entry id, or ends in :items",
            )
        )
    _check_size([("Action", request.action), *pairs], refusals)
    if refusals:
        raise refusals[0]


def _bus_field_refusals(name: str, lowered: str, known: Mapping[str, str]) -> list[Refused]:
    if lowered in known:
        return [Refused(ErrorCode.MALFORMED, f"{printable(name)} is given twice")]
    if lowered not in _BUS_FIELDS:
        why = "is not a field of the bus (Bus-X-* is yours)"
        return [Refused(ErrorCode.UNKNOWN_BUS_FIELD, f"{printable(name)} {why}")]
    return []


def _read_name(raw: bytes) -> tuple[str, str]:
    """A field's name, and the same in lower case."""
    name = raw.decode("utf-8", "surrogateescape")
    return name, name.lower()


_short_name = lru_cache(maxsize=1024)(_read_name)
# The same few names come in every entry.


def _check_size(pairs: Pairs, refusals: list[Refused]) -> None:
    # Here, before anything looks closer: a pattern that is quick on a line of AMI may take minutes on a megabyte.
    if len(pairs) + 1 > MAX_HEADERS:  # the ActionID is not among them
        many = f"{len(pairs) + 1} headers, Action and ActionID included: Asterisk takes {MAX_HEADERS}"
        refusals.append(Refused(ErrorCode.TOO_MANY_HEADERS, many))
    for name, value in pairs:
        if len(name) + len(value) + 2 > MAX_LINE_BYTES:
            long = f"the header {printable(name)} is too long: Asterisk takes {MAX_LINE_BYTES} bytes a line"
            refusals.append(Refused(ErrorCode.LINE_TOO_LONG, long))
            return


def _read_bus_field(request: Request, name: str, value: str) -> None:
    if name == "bus-producer":
        request.producer = _producer(value)
    elif name == "bus-reply":
        request.reply = _matched("Bus-Reply", value, _REPLY)
    elif name == "bus-target":
        request.target = _matched("Bus-Target", value, _TARGET)
    elif name == "bus-traceparent":
        request.traceparent = _matched("Bus-Traceparent", value, _TRACEPARENT)
    elif name == "bus-tag":
        if len(value.encode("utf-8", "surrogateescape")) > MAX_TAG_BYTES:
            raise Refused(ErrorCode.MALFORMED, f"Bus-Tag is over {MAX_TAG_BYTES} bytes")
        request.tag = text_of(value)
    elif name == "bus-timeout":
        request.timeout_s = _seconds("Bus-Timeout", value)
        if not 0 < request.timeout_s <= MAX_TIMEOUT_S:
            raise Refused(ErrorCode.MALFORMED, f"Bus-Timeout {value} is not between 0 and {MAX_TIMEOUT_S:g} seconds")
    elif name == "bus-deadline":
        request.deadline = _deadline(value, request.queued_at)


def _deadline(value: str, queued_at: float) -> float:
    if value.startswith("+"):
        deadline = queued_at + _seconds("Bus-Deadline", value[1:])
    else:
        deadline = _seconds("Bus-Deadline", value)
    if deadline > queued_at + DEFAULT_DEADLINE_S:
        # A record guards its ActionID for a limited time; an entry that outlived it could be sent twice.
        raise Refused(
            ErrorCode.MALFORMED, f"Bus-Deadline is more than {DEFAULT_DEADLINE_S / 60:g} minutes after the entry's time"
        )
    return deadline


def _seconds(name: str, value: str) -> float:
    if not re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value, re.ASCII):
        raise Refused(ErrorCode.MALFORMED, f"{name} {printable(value)} is not a number of seconds")
    return float(value)


@lru_cache(maxsize=1024)
def _producer(value: str) -> str:
    return _matched("Bus-Producer", value, _PRODUCER)


def _matched(name: str, value: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(value):
        raise Refused(ErrorCode.MALFORMED, f"{name} {printable(value)} does not match {pattern.pattern}")
    return value


def fingerprint(action: str, pairs: Sequence[tuple[str, str]]) -> str:
    """SHA-256 over the headers as given, without ActionID and `Bus-*`: whether two entries ask for the same thing.

    Names are lower-cased and sorted; the order among equal names (Variable) is kept.
    """
    if not pairs:
        return hashlib.sha256(f"action\0{action}".encode("utf-8", "surrogateescape")).hexdigest()
    asked = sorted([("action", action), *((name.lower(), value) for name, value in pairs)], key=lambda pair: pair[0])
    text = "\0".join([part for pair in asked for part in pair])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def encode_action(
    action: str,
    headers: Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]],
    *,
    action_id: str | None = None,
    producer: str | None = None,
    deadline: float | str | None = None,
    timeout_s: float | None = None,
    reply: str | None = None,
    tag: str | None = None,
    traceparent: str | None = None,
) -> list[str]:
    """The field list of an XADD (name, value, name, value, ...).

    A header given as a list is repeated; None leaves it out; True and False become AMI's `true` and `false`.
    `deadline` is unix seconds, or text such as `+30`. Raises `Refused` for what could never be sent.
    """
    fields = ["Action", _sendable("Action", action)]
    if action_id is not None:
        if not usable_action_id(action_id):
            raise Refused(
                ErrorCode.BAD_ACTION_ID,
                f"ActionID {printable(action_id)} is not 1 to 64 characters of A-Z a-z 0-9 . _ : -",
            )
        fields += ["ActionID", action_id]
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        for text in _texts(value):
            fields += [_header_name(name), _sendable(name, text)]
    bus = {
        "Bus-Producer": producer,
        "Bus-Deadline": deadline,
        "Bus-Timeout": timeout_s,
        "Bus-Reply": reply,
        "Bus-Tag": tag,
        "Bus-Traceparent": traceparent,
    }
    for name, given in bus.items():
        if given is not None:
            fields += [name, f"{given:.6f}".rstrip("0").rstrip(".") if isinstance(given, float) else str(given)]
    return fields


def _texts(value: HeaderValue) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (bytes, bytearray)):
        raise TypeError("the value of a header is text, not bytes")  # as a sequence it would be one header per byte
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [str(value)]


def _header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise Refused(
            ErrorCode.BAD_HEADER, f"header name {printable(name)} is not printable ASCII without blanks and colons"
        )
    return name


def _sendable(name: str, value: str) -> str:
    # The guard against injection: a line end would begin a header, or an action, of the value's own.
    if any(forbidden in value for forbidden in "\r\n\0"):
        raise Refused(ErrorCode.BAD_HEADER, f"the value of {name} holds CR, LF or NUL")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(ErrorCode.BAD_HEADER, f"the value of {name} holds a lone surrogate") from None
    return value


def text_of(value: str) -> str:
    """A value fit for msgpack and people: bytes that were not UTF-8 are read as Latin-1, the whole value at once."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def printable(value: str, limit: int = 80) -> str:
    """A value as it may stand in a message for a person: one line, ASCII-safe, cut."""
    shown = ascii(value[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[:limit]}...'"
