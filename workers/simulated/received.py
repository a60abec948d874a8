"""An action as it came from a client, and the text of what is answered to it."""

from collections.abc import Iterable

MAX_HEADERS = 128
"""AST_MAX_MANHEADERS: one line more and the whole action is refused."""
MAX_LINE_BYTES = 1022
"""Asterisk reads into 1,024 bytes, line end included."""


class Received:
    """One action: headers in order, and a look-up that ignores case and takes the first that is not empty."""

    __slots__ = ("_first", "headers", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.headers: list[tuple[str, str]] = []
        self._first: dict[str, str] = {}
        for line in text.split("\n"):
            name, colon, value = line.partition(":")
            value = value.lstrip(" ")
            self.headers.append((name, value))
            if colon and value:
                self._first.setdefault(name.lower(), value)

    @property
    def name(self) -> str:
        return self._first.get("action", "")

    @property
    def action_id(self) -> str | None:
        return self._first.get("actionid")

    def get(self, name: str, default: str = "") -> str:
        return self._first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        name = name.lower()
        return [value for header, value in self.headers if header.lower() == name and value]

    def is_true(self, name: str) -> bool:
        """The words that Asterisk takes for yes."""
        return self.get(name).lower() in ("yes", "true", "y", "t", "1", "on")

    def fault(self) -> str | None:
        """The Error text of an action that Asterisk refuses before it looks at it."""
        if len(self.text) * 4 > MAX_LINE_BYTES and _longest_line_bytes(self.text) > MAX_LINE_BYTES:
            return "Failed to parse message: line too long"
        if len(self.headers) > MAX_HEADERS:
            return "Too many lines in message or allocation failure"
        return None if self.name else "Missing action in request"


def _longest_line_bytes(text: str) -> int:
    return max([len(line) for line in text.encode("utf-8", "surrogateescape").split(b"\n")])


def block(*pairs: tuple[str, object]) -> str:
    """A message: one header a line, a blank line after it."""
    return "".join([f"{name}: {value}\r\n" for name, value in pairs]) + "\r\n"


def respond(action: Received, kind: str, *pairs: tuple[str, object]) -> str:
    """A response in Asterisk's order: Response, ActionID, the rest."""
    action_id = action.action_id
    if action_id is None:
        return block(("Response", kind), *pairs)
    return block(("Response", kind), ("ActionID", action_id), *pairs)


def success(action: Received, message: str) -> str:
    return respond(action, "Success", ("Message", message))


def error(action: Received, message: str) -> str:
    return respond(action, "Error", ("Message", message))


def with_list(action: Received, message: str, items: Iterable[str], complete: str, *extra: tuple[str, object]) -> str:
    """A whole list: its start, its items, and the event that ends it."""
    shown = list(items)
    start = respond(action, "Success", ("EventList", "start"), ("Message", message))
    ids = identity(action)
    end = block(("Event", complete), *ids, ("EventList", "Complete"), ("ListItems", len(shown)), *extra)
    return start + "".join(shown) + end


def identity(action: Received) -> tuple[tuple[str, object], ...]:
    """The ActionID header of a list's items: none if the action had none."""
    return () if action.action_id is None else (("ActionID", action.action_id),)
