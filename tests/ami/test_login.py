import hashlib

import pytest

from broker.ami import LocalProtocolError, Login, LoginRefused, Protocol
from tests.ami.wire import block, response

SECRET = "hunter2"
CHALLENGE = response(block("Response: Success", "ActionID: login-challenge", "Challenge: 157386411"))
ACCEPTED = response(block("Response: Success", "ActionID: login", "Message: Authentication accepted"))
REFUSED = response(block("Response: Error", "ActionID: login", "Message: Authentication failed"))


def login(*, md5: bool, secret: str = SECRET, events: str = "off") -> Login:
    return Login(Protocol(), "bus", secret, events, md5=md5)


def test_plain() -> None:
    plain = login(md5=False)
    assert plain.start() == (
        b"Action: Login\r\nActionID: login\r\nUsername: bus\r\nSecret: hunter2\r\nEvents: off\r\n\r\n"
    )
    assert not plain.done
    assert plain.receive(ACCEPTED) is None
    assert plain.done


def test_md5_keeps_the_secret_off_the_wire() -> None:
    md5 = login(md5=True, events="on")
    assert md5.start() == b"Action: Challenge\r\nActionID: login-challenge\r\nAuthType: MD5\r\n\r\n"
    sent = md5.receive(CHALLENGE)
    key = hashlib.md5(b"157386411hunter2").hexdigest()
    assert sent == (
        b"Action: Login\r\nActionID: login\r\nAuthType: MD5\r\nUsername: bus\r\n"
        b"Key: " + key.encode() + b"\r\nEvents: on\r\n\r\n"
    )
    assert not md5.done
    assert md5.receive(ACCEPTED) is None
    assert md5.done


@pytest.mark.parametrize("md5", [False, True])
def test_refused(md5: bool) -> None:
    refused = login(md5=md5)
    refused.start()
    with pytest.raises(LoginRefused) as caught:
        refused.receive(REFUSED)
    assert caught.value.message == "Authentication failed"
    assert caught.value.wrong_credentials
    assert not refused.done


def test_a_refused_challenge() -> None:
    md5 = login(md5=True)
    md5.start()
    with pytest.raises(LoginRefused, match="Login Already In Use"):
        md5.receive(response(block("Response: Error", "ActionID: login-challenge", "Message: Login Already In Use")))


def test_a_challenge_without_challenge() -> None:
    with pytest.raises(LoginRefused, match="no challenge"):
        login(md5=True).receive(response(block("Response: Success", "ActionID: login-challenge")))


def test_what_is_not_its_own_is_ignored() -> None:
    plain = login(md5=False)
    assert plain.receive(response(block("Response: Error", "ActionID: other"))) is None
    assert not plain.done
    plain.receive(ACCEPTED)
    assert plain.receive(REFUSED) is None


def test_a_secret_cannot_inject_and_is_not_shown() -> None:
    bad = login(md5=False, secret="hunter2\r\nEvents: on")
    assert SECRET not in repr(bad)
    with pytest.raises(LocalProtocolError) as caught:
        bad.start()
    assert SECRET not in str(caught.value)
