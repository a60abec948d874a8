"""An action as bytes, and the guards in front of them."""

import re
from functools import lru_cache
from typing import Final

from broker.ami.errors import LocalProtocolError
from broker.ami.message import Action

MAX_LINE_BYTES: Final = 1022
"""Of a line, without its CRLF: Asterisk rejects an action with a longer one (manager.c:289, 7224-7256)."""

MAX_HEADERS: Final = 128
"""AST_MAX_MANHEADERS, Action and ActionID included; with one more the action is rejected (manager.h:100)."""

MAX_ACTION_ID_BYTES: Final = 64
"""ConfbridgeList and the Meetme lists cut an ActionID over 67 bytes, and the end of its line with it."""

_ACTION_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_ACTION_ID_BYTES}}}")
_TOKEN: Final = re.compile(r"[!-9;-~]+")
"""Printable ASCII without blank and colon: Asterisk finds a header by its name and the colon straight after."""

_INJECTION: Final = re.compile(rb"[\r\n\0]")
_OWN_HEADERS: Final = frozenset(("action", "actionid"))


def serialise(action: Action) -> bytes:
    """The bytes of an action and its blank line. Raises `LocalProtocolError` for what Asterisk would not take."""
    if action.wire is None:
        action.wire = _serialise(action)
    return action.wire


def _serialise(action: Action) -> bytes:
    _check_envelope(action)
    # ActionID second, since Asterisk echoes none that lies beyond its 128 headers. The guards have seen both.
    first, count = _action_line(action.name), 1
    if action.action_id is not None:
        first, count = first + f"ActionID: {action.action_id}\r\n".encode(), 2
    if not action.pairs:
        return first + b"\r\n"
    count += len(action.pairs)
    if count > MAX_HEADERS:
        raise LocalProtocolError(
            "too-many-headers",
            f"{count} headers, Action and ActionID included: Asterisk takes {MAX_HEADERS}",
        )
    return b"".join([first, *[_encode_header(name, value) for name, value in action.pairs], b"\r\n"])


@lru_cache(maxsize=1024)
def _is_token(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _action_line(name: str) -> bytes:
    return _encode_header("Action", name)


def _check_envelope(action: Action) -> None:
    # Asterisk skips blanks before a value, so that ' Login' is Login: a token leaves no room for such tricks.
    if not _is_token(action.name):
        raise LocalProtocolError("malformed", "the name of the action is not printable ASCII without blanks and colons")
    if action.action_id is not None and not _ACTION_ID.fullmatch(action.action_id):
        raise LocalProtocolError(
            "bad-action-id",
            f"the ActionID is not 1 to {MAX_ACTION_ID_BYTES} characters of A-Z a-z 0-9 . _ : -",
        )
    for name, _ in action.pairs:
        if name.lower() in _OWN_HEADERS:
            raise LocalProtocolError("malformed", f"the header {name} is given twice")


def _encode_header(name: str, value: str) -> bytes:
    if not _is_token(name):
        raise LocalProtocolError(
            "bad-header",
            f"the header name {ascii(name)[:80]} is not printable ASCII without blanks and colons",
        )
    try:
        # surrogateescape: bytes that were never UTF-8 go out as they came in.
        line = f"{name}: {value}".encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise LocalProtocolError("bad-header", f"the value of {name} holds a lone surrogate") from error
    if _INJECTION.search(line):
        # The guard against injection: what follows a line end is a header, or an action, of the value's own.
        raise LocalProtocolError("bad-header", f"the value of {name} holds CR, LF or NUL")
    if len(line) > MAX_LINE_BYTES:
        raise LocalProtocolError(
            "line-too-long",
            f"the header {name[:80]} takes {len(line)} bytes: Asterisk takes {MAX_LINE_BYTES} a line",
        )
    return line + b"\r\n"
