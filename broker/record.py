"""The record of an action: the hash that tells its fate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.ami import Headers
from broker.codec import FINAL_STATES, BadMessage, Result, State, decode_message, unpack

_BINARY = frozenset((b"request", b"result"))


@dataclass(frozen=True, slots=True)
class Record:
    """What `HGETALL` of an action's record says. `fields` are its texts as they are; the rest is read from them."""

    server: str
    action_id: str
    fields: Mapping[str, str]
    result: Result | None = None
    """The `result` message, None before the action is settled."""
    request: Headers | None = None
    """The headers asked for, secrets masked."""

    @property
    def state(self) -> State:
        """Where the action is in its life."""
        try:
            return State(self.fields.get("state", State.QUEUED))
        except ValueError as error:
            raise BadMessage(f"the record of {self.action_id} is of another version: {error}") from error

    @property
    def is_final(self) -> bool:
        """Whether the action is settled."""
        return self.state in FINAL_STATES

    @property
    def call(self) -> str:
        """Of an Originate: `dialing`, `up` or `ended`; empty while there is no call."""
        return self.fields.get("call", "")

    @property
    def entry(self) -> str:
        """The id of the stream entry that the action came with."""
        return self.fields.get("entry", "")

    @property
    def fingerprint(self) -> str:
        """What the action asked for, as the contract's SHA-256."""
        return self.fields.get("fingerprint", "")

    def get(self, name: str, default: str = "") -> str:
        """One field's text."""
        return self.fields.get(name, default)


def decode_record(server: str, action_id: str, reply: Sequence[bytes]) -> Record | None:
    """Read the reply of `HGETALL`; None if there is no such record. Raises `BadMessage`."""
    if not reply:
        return None
    raw = dict(zip(reply[::2], reply[1::2], strict=True))
    fields = text_fields(raw)
    result = decode_message(raw[b"result"]) if raw.get(b"result") else None
    if result is None and fields.get("state") in FINAL_STATES:
        result = result_of_fields(server, action_id, fields)
    if result is not None and not isinstance(result, Result):
        raise BadMessage(f"the record of {action_id} holds something else as its result")
    packed = raw.get(b"request")
    return Record(server, action_id, fields, result, request_headers(packed) if packed else None)


def result_of_fields(server: str, action_id: str, fields: Mapping[str, str]) -> Result:
    """A result without Asterisk's answer, from plain fields: an entry of `results`, or a record without its message."""
    try:
        state = State(fields["state"])
    except (KeyError, ValueError) as error:
        raise BadMessage(f"what is recorded of {action_id} has no state of the contract") from error
    return Result(
        server=server,
        action_id=action_id,
        entry=fields.get("entry", ""),
        action=fields.get("action", ""),
        state=state,
        producer=fields.get("producer", ""),
        tag=fields.get("tag", ""),
        error_code=fields.get("error_code") or None,
        error_message=fields.get("error") or fields.get("message") or None,
        revised=fields.get("revised", "") in ("1", "true"),
        queued_at=_time(fields.get("queued_at")),
        sending_at=_time(fields.get("sending_at")),
        settled_at=_time(fields.get("settled_at")),
        traceparent=fields.get("traceparent", ""),
    )


def request_headers(packed: bytes) -> Headers:
    """The headers asked for, from a record's `request`. Raises `BadMessage`."""
    try:
        headers = Headers.from_map(unpack(packed))
    except TypeError as error:
        raise BadMessage(f"a request whose headers are none: {error}") from error
    if not all(isinstance(text, str) for pair in headers for text in pair):
        raise BadMessage("a request whose headers are not text")
    return headers


def text_fields(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """The plain fields of a hash or stream entry as text."""
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, value in raw.items()
        if name not in _BINARY
    }


def _time(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
