"""What can go wrong in an AMI conversation.

AMIError
|-- LocalProtocolError    we tried to send what AMI cannot carry: nothing was sent
|-- RemoteProtocolError   the other side sent what cannot be AMI: close the connection
`-- LoginRefused          Asterisk does not let us in
"""

from typing import Final

_WRONG_CREDENTIALS: Final = "authentication failed"


class AMIError(Exception):
    """Base of all errors of this package."""


class LocalProtocolError(AMIError):
    """We tried to send what AMI cannot carry. Nothing was sent, and the session is as it was.

    `code` is stable: 'bad-header', 'line-too-long', 'too-many-headers', 'bad-action-id' or 'malformed'. The
    text names the header, never its value, which may be a secret.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["LocalProtocolError"], tuple[str, str]]:
        return type(self), (self.code, str(self))


class RemoteProtocolError(AMIError):
    """The other side sent what cannot be AMI. The place in the stream is lost: close the connection."""


class LoginRefused(AMIError):
    """Asterisk refused the login, and closes the connection. `message` is Asterisk's own text."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Asterisk refused the login: {message}")
        self.message = message

    def __reduce__(self) -> tuple[type["LoginRefused"], tuple[str]]:
        return type(self), (self.message,)

    @property
    def wrong_credentials(self) -> bool:
        """Whether name, secret or address is wrong: Asterisk does not say which (manager.c:2285-2313).

        False for what passes by itself: 'Asterisk is shutting down', 'Login Already In Use'.
        """
        return self.message.strip().lower() == _WRONG_CREDENTIALS
