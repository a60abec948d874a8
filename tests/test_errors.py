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
    NoSuchAction,
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
        for kind in (
            ActionError, ActionFailed, NoSuchAction, ActionRejected, ActionExpired, ActionCancelled, ActionUnknown,
        )
    ]  # fmt: skip
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


UNKNOWN = "Invalid/unknown command: {}. Use Action: ListCommands to show available commands."


@pytest.mark.parametrize(
    ("action", "advice"),
    [
        ("Monitor", " (it comes with module res_monitor.so of Asterisk up to 20)"),
        ("sippeers", " (it comes with module chan_sip.so of Asterisk up to 20)"),
        ("MeetmeList", " (it comes with module app_meetme.so)"),
        ("CoreShowChannelMap", " (it comes with newer versions of Asterisk)"),
        ("Nonsense", ""),
    ],
)
def test_an_action_that_this_asterisk_lacks_says_where_it_comes_from(action: str, advice: str) -> None:
    message = UNKNOWN.format(action)
    given = Result("pbx1", "a1", "1-0", action, State.FAILED, error_code="asterisk-error", error_message=message)
    with pytest.raises(NoSuchAction) as caught:
        given.raise_for_state()
    assert str(caught.value) == f"{action} a1 failed: {message}{advice}"


def test_a_missing_right_is_named() -> None:
    given = Result("pbx1", "a1", "1-0", "MixMonitor", State.FAILED)
    given.error_code, given.error_message = "permission-denied", "Permission denied"
    with pytest.raises(ActionFailed) as caught:
        given.raise_for_state()
    assert type(caught.value) is ActionFailed
    assert str(caught.value).endswith(
        "Permission denied (it needs class system in `write` of the worker's manager user)"
    )
    given.error_code = "asterisk-error"
    assert str(ActionFailed(given)).endswith("Permission denied")
    given.error_code, given.action = "permission-denied", "NoSuchThing"
    assert str(ActionFailed(given)).endswith("failed: Permission denied")


def test_only_asterisk_says_that_it_lacks_an_action() -> None:
    given = result(State.REJECTED, "forbidden", UNKNOWN.format("Ping"))
    with pytest.raises(ActionRejected):
        given.raise_for_state()
