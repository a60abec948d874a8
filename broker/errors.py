"""What can go wrong, as exceptions with a stable code each.

AmibusError
|-- SettingsError            a setting, or Redis' own configuration, cannot work: mend it and start again
|-- BusUnavailable           Redis cannot be reached, or refused the connection or command
|-- Refused                  an entry that must not reach Asterisk; `code` is the contract's
|-- ActionError              an action ended otherwise than `done`; carries its `Result`
|   |-- ActionFailed         Asterisk's whole answer is here, and it is a failure
|   |   `-- NoSuchAction     this Asterisk does not have the action: its version, or a module that is not loaded
|   |-- ActionRejected       malformed, refused by policy, or beyond Asterisk's limits; never sent
|   |-- ActionExpired        its deadline passed first; never sent
|   |-- ActionCancelled      taken back before it was sent
|   `-- ActionUnknown        it was or may have been sent, and no answer came or can be had any more
|-- ItemsGone                the items of a very large result are not kept any more
`-- ResultTimeout            the caller's own patience ended; the action goes on, and its record tells its fate
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from broker.ami import lookup, origin_of

if TYPE_CHECKING:
    from broker.codec import Result


class ErrorCode(StrEnum):
    """The contract's `error_code` values: they never change their meaning."""

    MALFORMED = "malformed"
    BAD_HEADER = "bad-header"
    BAD_ACTION_ID = "bad-action-id"
    LINE_TOO_LONG = "line-too-long"
    TOO_MANY_HEADERS = "too-many-headers"
    UNKNOWN_BUS_FIELD = "unknown-bus-field"
    FORBIDDEN = "forbidden"
    PERMISSION_DENIED = "permission-denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    TOO_LATE = "too-late"
    TIMEOUT = "timeout"
    ASTERISK_ERROR = "asterisk-error"
    NOT_EXECUTED = "not-executed"
    ORIGINATE_FAILED = "originate-failed"
    CONNECTION_LOST = "connection-lost"
    WORKER_LOST = "worker-lost"
    ENTRY_LOST = "entry-lost"
    RECORD_LOST = "record-lost"
    DUPLICATE_CHANNEL_ID = "duplicate-channel-id"
    ACTION_ID_REUSED = "action-id-reused"


class AmibusError(Exception):
    """Base of all that amibus raises on purpose. `code` is stable, the text is one sentence for a person."""

    code = "error"


class SettingsError(AmibusError):
    """A setting, or Redis' own configuration, cannot work."""

    code = "settings"


class BusUnavailable(AmibusError):
    """Redis cannot be reached, or refused the connection or command."""

    code = "bus-unavailable"


class Refused(AmibusError):
    """An entry that must not reach Asterisk. `code` is the contract's; the text says which field and why."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return type(self), (self.code, str(self))


class ResultTimeout(AmibusError, TimeoutError):
    """The caller's own timeout passed. The action goes on: `HGETALL` of its record tells its fate."""

    code = "result-timeout"

    def __init__(self, action_id: str, timeout_s: float) -> None:
        super().__init__(f"no result of {action_id} within {timeout_s:g} s; the action goes on")
        self.action_id = action_id
        self.timeout_s = timeout_s

    def __reduce__(self) -> tuple[type[ResultTimeout], tuple[str, float]]:
        return type(self), (self.action_id, self.timeout_s)


class ItemsGone(AmibusError):
    """The items of a very large result, which are kept as long as the record, are gone: it was read too late."""

    code = "items-gone"


class ActionError(AmibusError):
    """An action ended otherwise than `done`. `result` is all that is known of it."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.action_id = result.action_id
        self.code = result.error_code or result.state
        why = result.error_message or self.code
        super().__init__(f"{result.action} {result.action_id} {result.state}: {why}{self._advice()}")

    def __reduce__(self) -> tuple[type[ActionError], tuple[Result]]:
        return type(self), (self.result,)

    def _advice(self) -> str:
        """What a person can do about it, behind Asterisk's own words."""
        return ""


class ActionFailed(ActionError):
    """Asterisk's whole answer is here, and it is a failure."""

    def _advice(self) -> str:
        spec = lookup(self.result.action)
        if self.code != ErrorCode.PERMISSION_DENIED or spec is None or not spec.privileges:
            return ""
        return f" (it needs class {' or '.join(spec.privileges)} in `write` of the worker's manager user)"


class NoSuchAction(ActionFailed):
    """This Asterisk does not have the action: it is of another version, or of a module that is not loaded."""

    def _advice(self) -> str:
        origin = origin_of(self.result.action)
        return "" if origin is None else f" (it comes with {origin})"


class ActionRejected(ActionError):
    """Malformed, refused by policy, or beyond Asterisk's limits. It was never sent."""


class ActionExpired(ActionError):
    """Its deadline passed before it could be sent. It was never sent."""


class ActionCancelled(ActionError):
    """It was taken back before it was sent."""


class ActionUnknown(ActionError):
    """It was or may have been sent, and no answer came in time or can be had any more."""
