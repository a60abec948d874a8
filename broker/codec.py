"""The msgpack messages on the channels, in the `events` stream and in the records, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgpack

from broker.ami import Headers
from broker.errors import (
    ActionCancelled,
    ActionError,
    ActionExpired,
    ActionFailed,
    ActionRejected,
    ActionUnknown,
    AmibusError,
    NoSuchAction,
)

VERSION: Final = 1

HeaderMap = dict[str, str | list[str]]


class State(StrEnum):
    """Where an action is in its life."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


FINAL_STATES: Final = frozenset(
    (State.DONE, State.FAILED, State.REJECTED, State.EXPIRED, State.CANCELLED, State.UNKNOWN)
)

_ERRORS: Final[dict[str, type[ActionError]]] = {
    State.FAILED: ActionFailed,
    State.REJECTED: ActionRejected,
    State.EXPIRED: ActionExpired,
    State.CANCELLED: ActionCancelled,
    State.UNKNOWN: ActionUnknown,
}

_UNKNOWN_ACTION: Final = "invalid/unknown command"
"""How Asterisk's answer begins when it does not have an action (manager.c, process_message; 16 to 22 and since)."""

_packer = msgpack.Packer()
# Making one for each message took longer than packing it. It packs without giving up the GIL, so threads may share it.


class BadMessage(AmibusError):
    """A message that is not of the contract: another version's, or somebody else's."""

    code = "bad-message"


@dataclass(slots=True)
class Result:
    """What became of an action, exactly once: the `result` message. Times are unix seconds by Redis' clock."""

    server: str
    action_id: str
    entry: str
    action: str
    state: State
    producer: str = ""
    tag: str = ""
    response: Headers | None = None
    """Asterisk's (first) response, None if there was none."""
    events: list[Headers] = field(default_factory=list)
    """The items of a list and its terminating event."""
    output: list[str] = field(default_factory=list)
    """The lines of a Command."""
    items: int = 0
    """How many `events` there are where they are kept apart, in so many `chunks`: of a very large result."""
    chunks: int = 0
    items_latin1: tuple[str, ...] = ()
    """The `latin1` of the items kept apart."""
    error_code: str | None = None
    error_message: str | None = None
    revised: bool = False
    queued_at: float | None = None
    sending_at: float | None = None
    settled_at: float | None = None
    traceparent: str = ""
    """The W3C trace context that the producer gave."""

    @property
    def is_done(self) -> bool:
        """Asterisk's whole answer is here, and it is a success."""
        return self.state is State.DONE

    def raise_for_state(self) -> "Result":
        """Return the result of a `done` action; raise the `ActionError` of any other."""
        if self.state is State.DONE:
            return self
        raise _error_of(self)


def _error_of(result: Result) -> ActionError:
    if result.state is State.FAILED and (result.error_message or "").lower().startswith(_UNKNOWN_ACTION):
        return NoSuchAction(result)
    return _ERRORS[result.state](result)


@dataclass(slots=True)
class BusResponse:
    """Asterisk's first answer to an action of which more is to come: the `response` message."""

    server: str
    action_id: str
    headers: Headers
    at: float


@dataclass(slots=True)
class BusEvent:
    """An AMI event, or one of the pump's own (`Bus...`): the `event` message."""

    server: str
    name: str
    headers: Headers
    action_ids: list[str]
    epoch: int
    seq: int
    """Grows by one per event of an epoch: a jump means that events were trimmed or a message was lost."""
    calls: list[str] = field(default_factory=list)
    """The followed calls that it belongs to, by the Uniqueid that is followed."""
    id: str | None = None
    """The id of its entry in the `events` stream, where it was read from there."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Encode a message."""
    packed: bytes = _packer.pack(message)
    return packed


def result_map(result: Result) -> dict[str, Any]:
    """The `result` message of the contract."""
    response = result.response
    # Most results have no events, and all but a few nothing that was not UTF-8.
    events = [headers.to_map() for headers in result.events] if result.events else []
    message: dict[str, Any] = {
        "v": VERSION,
        "type": "result",
        "server": result.server,
        "action_id": result.action_id,
        "entry": result.entry,
        "action": result.action,
        "producer": result.producer,
        "tag": result.tag,
        "state": result.state,
        "response": None if response is None else response.to_map(),
        "events": events,
        "output": result.output,
        "error": None,
        "revised": result.revised,
        "queued_at": result.queued_at,
        "sending_at": result.sending_at,
        "settled_at": result.settled_at,
    }
    if result.chunks:
        del message["events"]
        message |= {"items": result.items, "chunks": result.chunks}
    if result.traceparent:
        message["traceparent"] = result.traceparent
    if result.error_code is not None:
        message["error"] = {"code": str(result.error_code), "message": result.error_message or ""}
    latin1 = [*result.items_latin1, *(() if response is None else response.latin1)]
    for headers in result.events:
        latin1 += headers.latin1
    if latin1:
        message["latin1"] = sorted(set(latin1))
    return message


def pack_items(items: Sequence[Headers]) -> bytes:
    """A chunk of the items of a very large result."""
    packed: bytes = _packer.pack([headers.to_map() for headers in items])
    return packed


def unpack_items(chunk: bytes, latin1: Sequence[str]) -> list[Headers]:
    """Read a chunk; `latin1` is its result's. Raises `BadMessage`."""
    try:
        items = msgpack.unpackb(chunk)
        return [_headers(item, {"latin1": latin1}) for item in items]
    except (TypeError, ValueError, AttributeError) as error:
        raise BadMessage(f"a chunk of items that is none: {error!r}") from error


def response_map(response: BusResponse) -> dict[str, Any]:
    """The `response` message of the contract."""
    message: dict[str, Any] = {
        "v": VERSION,
        "type": "response",
        "server": response.server,
        "action_id": response.action_id,
        "headers": response.headers.to_map(),
        "at": response.at,
    }
    if response.headers.latin1:
        message["latin1"] = list(response.headers.latin1)
    return message


def event_map(event: BusEvent) -> dict[str, Any]:
    """The `event` message of the contract."""
    message: dict[str, Any] = {
        "v": VERSION,
        "type": "event",
        "server": event.server,
        "epoch": event.epoch,
        "seq": event.seq,
        "action_ids": event.action_ids,
        "name": event.name,
        "headers": event.headers.to_map(),
    }
    if event.calls:
        message["calls"] = event.calls
    if event.headers.latin1:
        message["latin1"] = list(event.headers.latin1)
    return message


def decode_message(data: bytes) -> Result | BusResponse | BusEvent:
    """Read any message of the contract. Raises `BadMessage`."""
    message = unpack(data)
    kind = message.get("type")
    try:
        if kind == "event":
            return _event(message)
        if kind == "result":
            return _result(message)
        if kind == "response":
            return BusResponse(
                _text(message, "server"),
                _text(message, "action_id"),
                _headers(message["headers"], message),
                float(message["at"]),
            )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadMessage(f"a {kind} message without what the contract gives it: {error!r}") from error
    raise BadMessage(f"a message of type {kind!r}")


def unpack(data: bytes) -> dict[str, Any]:
    """Decode one msgpack map. Raises `BadMessage`."""
    try:
        message = msgpack.unpackb(data)
    except ValueError as error:
        raise BadMessage(f"not msgpack: {error}") from error
    if not isinstance(message, dict):
        raise BadMessage("not a msgpack map")
    return message


def _event(message: dict[str, Any]) -> BusEvent:
    action_ids = _texts(message["action_ids"], "action_ids")
    return BusEvent(
        server=_text(message, "server"),
        name=_text(message, "name"),
        headers=_headers(message["headers"], message),
        action_ids=action_ids,
        epoch=int(message["epoch"]),
        seq=int(message["seq"]),
        calls=_texts(message.get("calls", []), "calls"),
    )


def _result(message: dict[str, Any]) -> Result:
    error = message["error"] or {}
    state = State(message["state"])
    if state not in FINAL_STATES:
        raise ValueError(f"{state} is not a final state")
    return Result(
        server=_text(message, "server"),
        action_id=_text(message, "action_id"),
        entry=_text(message, "entry"),
        action=_text(message, "action"),
        state=state,
        producer=message.get("producer") or "",
        tag=message.get("tag") or "",
        response=None if message["response"] is None else _headers(message["response"], message),
        events=[_headers(item, message) for item in message.get("events") or ()],
        output=list(message.get("output") or ()),
        items=int(message.get("items") or 0),
        chunks=int(message.get("chunks") or 0),
        items_latin1=tuple(message.get("latin1") or ()) if message.get("chunks") else (),
        error_code=error.get("code"),
        error_message=error.get("message"),
        revised=bool(message.get("revised")),
        queued_at=message.get("queued_at"),
        sending_at=message.get("sending_at"),
        settled_at=message.get("settled_at"),
        traceparent=message.get("traceparent") or "",
    )


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name} is not a list of texts")
    return value


def _text(message: dict[str, Any], name: str) -> str:
    value = message[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _headers(mapped: dict[str, Any], message: dict[str, Any]) -> Headers:
    latin1 = message.get("latin1")
    return Headers.from_map(mapped, tuple(name for name in latin1 if name in mapped) if latin1 else ())
