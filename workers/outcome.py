"""What an answer of Asterisk's means for an action."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from broker.ami import Exchange, Headers
from broker.codec import State
from broker.errors import ErrorCode
from workers.items import Items

# Texts differ between versions and modules: only their beginnings are compared, case-insensitively.
_ERROR_CODES: Final = (
    ("permission denied", ErrorCode.PERMISSION_DENIED),
    ("asterisk is shutting down", ErrorCode.NOT_EXECUTED),
)

ANSWERED: Final = "4"

REASONS: Final = {
    "0": "no such channel or extension, or it broke off",
    "1": "hung up by the caller's side",
    "3": "rang, no answer",
    ANSWERED: "answered",
    "5": "busy",
    "8": "congestion, rejected or out of order",
}
"""`Reason` of an OriginateResponse (pbx.c, pbx_dial_reason; Asterisk 16 to 22)."""


NO_CHANNEL: Final = "<null>"
"""The Uniqueid of an OriginateResponse whose call has no channel (any more)."""


class Next(Enum):
    """What comes of an attempt that has no outcome."""

    AGAIN = "it is to be tried again"
    OVER = "there is nothing to settle"


@dataclass(slots=True)
class Outcome:
    """The final state of an action, and what is known of it."""

    state: State
    response: Headers | None = None
    events: list[Headers] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    items: Items | None = None
    """The items where they are kept apart from the result; then they are not among `events`."""
    code: ErrorCode | None = None
    message: str | None = None
    channel: str | None = None
    uniqueid: str | None = None
    reason: str | None = None
    has_no_call: bool = False
    """Of an Originate of which nobody knows more: no call of it is alive, so its ChannelId is free."""


def outcome_of(exchange: Exchange) -> Outcome:
    """What Asterisk's whole answer says: `done` or `failed`; `unknown` where there will never be a whole one."""
    answer = exchange.answer
    response = None if answer.response is None else answer.response.headers
    outcome = Outcome(State.DONE, response, [], answer.output)
    if answer.events:
        outcome.events = [event.headers for event in answer.events]
    if response is None and exchange.spec.shape != "raw-text":  # IAXnetstats answers by a table without any header
        outcome.state = State.UNKNOWN
        outcome.code = ErrorCode.TIMEOUT
        outcome.message = "Asterisk answered a later action and not this one"
    failure = exchange.failure
    if failure is not None:
        outcome.message = failure
        if exchange.is_cut_short:
            outcome.state, outcome.code = State.UNKNOWN, ErrorCode.TIMEOUT
        else:
            outcome.state, outcome.code = State.FAILED, _error_code(failure)
    return outcome


def originate_outcome(headers: Headers) -> Outcome:
    """What the headers of an OriginateResponse say of a call."""
    outcome = Outcome(State.DONE, events=[headers], reason=headers.get("Reason"))
    if headers.get("Uniqueid", NO_CHANNEL) != NO_CHANNEL:  # without a channel, Channel is only what was dialled
        outcome.channel = headers.get("Channel")
        outcome.uniqueid = headers.get("Uniqueid")
    if (headers.get("Response") or "").lower() != "success":
        outcome.state = State.FAILED
        outcome.code = ErrorCode.ORIGINATE_FAILED
        outcome.message = f"the call failed: {REASONS.get(outcome.reason or '', 'no reason given')}"
    return outcome


def answered_outcome() -> Outcome:
    """An Originate whose OriginateResponse nobody saw, and whose call was answered all the same."""
    return Outcome(State.DONE, reason=ANSWERED)


def ended_outcome(cause: str) -> Outcome:
    """The same, of a call that hung up without having been answered; `cause` is its Hangup's."""
    why = f"the call failed: it was hung up before it was answered, cause {cause}"
    return Outcome(State.FAILED, code=ErrorCode.ORIGINATE_FAILED, message=why)


def resolved_outcome(state: State, code: ErrorCode | None, why: str, response: Headers | None) -> Outcome:
    """An operator's word on an action that is `unknown`, beside Asterisk's first response where there was one.

    Of a `done` action the reason stands where Asterisk's own Message would, of a `failed` one it is the error.
    """
    why = f"resolved by an operator: {why}"
    if state is State.DONE:
        told = [] if response is None else [pair for pair in response if pair[0].lower() != "message"]
        response = Headers([*told, ("Message", why)], () if response is None else response.latin1)
    return Outcome(state, response, code=code, message=why)


def _error_code(message: str) -> ErrorCode:
    lowered = message.lower()
    for beginning, code in _ERROR_CODES:
        if lowered.startswith(beginning):
            return code
    return ErrorCode.ASTERISK_ERROR
