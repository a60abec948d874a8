"""What may reach Asterisk."""

import pytest

from broker.entry import Request
from broker.errors import ErrorCode, Refused
from broker.keys import ACTIONS
from workers.policy import Policy


def request(action: str, *pairs: tuple[str, str]) -> Request:
    return Request(ACTIONS, "1-0", "a1", action, [*pairs])


DANGEROUS = [
    ("Command", request("Command", ("Command", "module unload x"))),
    ("GetConfig", request("getconfig", ("Filename", "manager.conf"))),
    ("Originate:System", request("Originate", ("Application", "TrySystem"), ("Data", "x"))),
    ("function:SHELL", request("Setvar", ("Variable", "x"), ("Value", "${SHELL(ls)}"))),
    ("regex-hangup", request("Hangup", ("Channel", "/./"))),
]


@pytest.mark.parametrize(("token", "asked"), DANGEROUS)
def test_dangerous_things_are_forbidden_until_they_are_allowed_by_name(token: str, asked: Request) -> None:
    with pytest.raises(Refused, match=f"allow={token}") as caught:
        Policy().check(asked)
    assert caught.value.code == ErrorCode.FORBIDDEN
    with pytest.raises(Refused):
        Policy([other for other, _ in DANGEROUS if other != token]).check(asked)
    Policy([token]).check(asked)
    Policy([token.upper()]).check(asked)


@pytest.mark.parametrize("action", ["Login", "Logoff", "Challenge", "Events", "Filter", "WaitEvent", "logOFF"])
def test_what_is_the_sessions_own_no_setting_allows(action: str) -> None:
    with pytest.raises(Refused, match="no setting allows it") as caught:
        Policy([action]).check(request(action))
    assert caught.value.code == ErrorCode.FORBIDDEN


def test_all_dangers_must_be_allowed_not_only_the_first() -> None:
    asked = request("Originate", ("Application", "System"), ("Data", "${SHELL(ls)}"))
    with pytest.raises(Refused):
        Policy(["Originate:System"]).check(asked)
    with pytest.raises(Refused):
        Policy(["function:SHELL"]).check(asked)
    Policy(["Originate:System", "function:SHELL"]).check(asked)


@pytest.mark.parametrize(
    "asked",
    [
        request("Ping"),
        request("Command", ("Command", "core show channels")),
        request("Originate", ("Channel", "PJSIP/1"), ("Application", "Wait"), ("Data", "1")),
        request("NoSuchAction"),
    ],
)
def test_ordinary_things_pass(asked: Request) -> None:
    Policy().check(asked)
