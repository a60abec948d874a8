"""How Asterisk writes values in headers: numbers, yes and no, names, durations."""

import re
from typing import Final

from broker.ami import Headers

_UNKNOWN: Final = "<unknown>"
"""What Asterisk writes for a caller whose number or name it does not know."""

_TRUE: Final = frozenset(("yes", "true", "y", "t", "1", "on"))
"""The words that are true to Asterisk (ast_true)."""

_ESCAPED: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def number(headers: Headers, name: str) -> int | None:
    """A whole number; None if the header is missing, empty or no number."""
    try:
        return int(headers.get(name, ""))
    except ValueError:
        return None


def count(headers: Headers, name: str) -> int:
    """A whole number; 0 if the header is missing, empty or no number."""
    return number(headers, name) or 0


def decimal(headers: Headers, name: str) -> float | None:
    """A number; None if the header is missing, empty or no number."""
    try:
        return float(headers.get(name, ""))
    except ValueError:
        return None


def is_true(headers: Headers, name: str) -> bool:
    """Whether it is one of Asterisk's words for yes."""
    return headers.get(name, "").lower() in _TRUE


def text(headers: Headers, name: str) -> str:
    """A text; empty if the header is missing, or says that nothing is known."""
    value = headers.get(name, "")
    return "" if value in (_UNKNOWN, "(null)") else value


def person(headers: Headers, name: str) -> str:
    """A name of a channel's snapshot: Asterisk escapes quotes, backslashes and control characters in it, as C does."""
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), text(headers, name))


def seconds(headers: Headers, name: str) -> int | None:
    """A duration in seconds, written as such or as `hours:minutes:seconds`; None if it is neither."""
    try:
        parts = [int(part) for part in headers.get(name, "").split(":")]
    except ValueError:
        return None
    total = 0
    for part in parts:
        total = total * 60 + part
    return total
