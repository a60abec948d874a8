"""The exception tree: codes, and that every exception survives a process boundary."""

import inspect
import pickle

import pytest

from broker import errors
from broker.codec import BadMessage, Result, State
from broker.errors import (
    ActionCancelled,
    ActionError,
    ActionExpired,
    ActionFailed,
    ActionRejected,
    ActionUnknown,
    AmibusError,
    BusUnavailable,
    ErrorCode,
    ItemsGone,
    Refused,
    ResultTimeout,
    SettingsError,
)

CONTRACT = """malformed bad-header bad-action-id line-too-long too-many-headers unknown-bus-field forbidden
permission-denied expired cancelled too-late timeout asterisk-error not-executed originate-failed connection-lost
worker-lost entry-lost record-lost duplicate-channel-id action-id-reused"""


def result(state: State = State.FAILED, code: str | None = "timeout", message: str | None = "why") -> Result:
    return Result("pbx1", "a1", "1-0", "Ping", state, error_code=code, error_message=message)


def samples() -> list[AmibusError]:
    plain = [kind("x") for kind in (AmibusError, SettingsError, BusUnavailable, BadMessage, ItemsGone)]
    settled = [
        kind(result())
        for kind in (ActionError, ActionFailed, ActionRejected, ActionExpired, ActionCancelled, ActionUnknown)
    ]
    return [*plain, *settled, Refused(ErrorCode.FORBIDDEN, "no"), ResultTimeout("a1", 2.5)]


def test_the_codes_are_the_contracts() -> None:
    assert {str(code) for code in ErrorCode} == set(CONTRACT.split())


@pytest.mark.parametrize("error", samples(), ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling_with_all_it_carries(error: AmibusError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.code == error.code


def test_every_error_has_one_base_and_is_sampled_above() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert all(issubclass(kind, AmibusError) for kind in kinds)
    assert kinds <= {type(error) for error in samples()}


def test_a_timeout_is_caught_as_pythons_own_too() -> None:
    assert issubclass(ResultTimeout, TimeoutError)
    assert str(ResultTimeout("a1", 0.5)) == "no result of a1 within 0.5 s; the action goes on"


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (result(), "timeout", "Ping a1 failed: why"),
        (result(State.EXPIRED, None, None), "expired", "Ping a1 expired: expired"),
    ],
)
def test_an_action_error_tells_state_and_reason(given: Result, code: str, text: str) -> None:
    error = ActionError(given)
    assert (error.code, str(error), error.result, error.action_id) == (code, text, given, "a1")
