"""The login, as a small state machine without I/O."""

import hashlib
from typing import Final

from broker.ami.errors import LoginRefused
from broker.ami.message import Action, Pairs, Response
from broker.ami.protocol import Protocol

_CHALLENGE_ID: Final = "login-challenge"
_LOGIN_ID: Final = "login"


class Login:
    """One login. Write what `start` returns, then what `receive` returns for each response, until `done`.

    Asterisk lets 30 seconds pass (authtimeout), and answers a wrong secret only after a second.
    """

    def __init__(self, protocol: Protocol, username: str, secret: str, events: str, *, md5: bool = True) -> None:
        """`events`: 'on', 'off', or event classes with commas between. `md5`: keep the secret off the wire."""
        self.done = False
        """Whether Asterisk has accepted us."""
        self._protocol = protocol
        self._username = username
        self._secret = secret
        self._events = events
        self._md5 = md5

    def start(self) -> bytes:
        """The first bytes to write. Raises `LocalProtocolError` if the name or the secret cannot be sent."""
        if self._md5:
            return self._protocol.send_action(Action("Challenge", [("AuthType", "MD5")], _CHALLENGE_ID))
        return self._login([("Username", self._username), ("Secret", self._secret)])

    def receive(self, response: Response) -> bytes | None:
        """Take a response; return the next bytes to write, or None: then look at `done`.

        Raises `LoginRefused`: Asterisk closes the connection.
        """
        if self.done or response.action_id not in (_CHALLENGE_ID, _LOGIN_ID):
            return None
        if not response.is_success:
            raise LoginRefused(response.message or "no reason given")
        if response.action_id == _LOGIN_ID:
            self.done = True
            return None
        challenge = response.headers.get("Challenge")
        if not challenge:
            raise LoginRefused("the response to Challenge has no challenge")
        return self._login([("AuthType", "MD5"), ("Username", self._username), ("Key", self._key(challenge))])

    def __repr__(self) -> str:
        return f"<Login {self._username!r} done={self.done}>"

    def _login(self, pairs: Pairs) -> bytes:
        return self._protocol.send_action(Action("Login", [*pairs, ("Events", self._events)], _LOGIN_ID))

    def _key(self, challenge: str) -> str:
        # MD5 is what Asterisk offers (manager.c:2293-2313); there is no other than the secret in clear.
        text = (challenge + self._secret).encode("utf-8", "surrogateescape")
        return hashlib.md5(text, usedforsecurity=False).hexdigest()
