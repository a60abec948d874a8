"""What goes over an AMI connection: headers (ordered, repeatable, in any case) and the messages made of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Self, overload

Pairs = list[tuple[str, str]]

_SUCCESSES: Final = frozenset(("success", "follows", "goodbye", "pong"))
"""Values of `Response:` that are no error: Follows is Command's up to Asterisk 13, Goodbye is Logoff's, Pong
Ping's up to 1.4."""

_LIST_ENDS: Final = frozenset(("complete", "cancelled"))
"""Values of `EventList:` that end a list; a comment in manager.c:1905 names the second, no code sends it."""


class Headers:
    """Headers in the order of the wire; a name may repeat, also in another case. Do not change one once made."""

    __slots__ = ("latin1", "pairs")

    def __init__(self, pairs: Pairs, latin1: tuple[str, ...] = ()) -> None:
        self.pairs = pairs
        """Names and values as on the wire."""
        self.latin1 = latin1
        """The names whose values were not UTF-8: all values of such a name are Latin-1, so no byte is lost."""

    @classmethod
    def from_map(cls, mapping: Mapping[str, str | Sequence[str]], latin1: tuple[str, ...] = ()) -> Self:
        """Headers from a map of name -> text, or a list of texts for a repeated name; see `latin1`."""
        pairs: Pairs = []
        for name, value in mapping.items():
            if isinstance(value, str):
                pairs.append((name, value))
            else:
                pairs += [(name, text) for text in value]
        return cls(pairs, latin1)

    def to_map(self) -> dict[str, str | list[str]]:
        """Name -> text, or a list of texts where exactly the same name came more than once."""
        mapped: dict[str, str | list[str]] = dict(self.pairs)
        if len(mapped) == len(self.pairs):
            return mapped
        repeated: dict[str, list[str]] = {}
        for name, value in self.pairs:
            repeated.setdefault(name, []).append(value)
        return {name: values[0] if len(values) == 1 else values for name, values in repeated.items()}

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of that name, in whatever case."""
        # A message is asked a few times, and has few headers: a map of them would cost more than it saves.
        size = len(name)
        for given, value in self.pairs:
            if len(given) == size and (given == name or given.lower() == name.lower()):
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """All values of that name, in whatever case, in order."""
        lowered = name.lower()
        return [value for name, value in self.pairs if name.lower() == lowered]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self.pairs == other.pairs and self.latin1 == other.latin1

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # Names only: a value may be a secret, and a repr ends in a log.
        return f"Headers({', '.join(repr(name) for name, _ in self.pairs)})"


class Response:
    """The answer to an action: a block that begins with `Response:`."""

    __slots__ = ("headers", "output")

    def __init__(self, headers: Headers, output: list[str] | None = None) -> None:
        self.headers = headers
        """All headers but the `Output` lines of a Command, which are in `output`."""
        self.output = [] if output is None else output
        """The lines of a Command, of either shape: raw text up to Asterisk 13, `Output:` headers since 14."""

    @property
    def action_id(self) -> str | None:
        return self.headers.get("ActionID")

    @property
    def is_success(self) -> bool:
        """What the `Response:` header says. Some actions say Success of a failure: see `Exchange.failure`."""
        return self.headers.pairs[0][1].lower() in _SUCCESSES

    @property
    def message(self) -> str:
        """The text for people, without the blanks around it; empty if there is none."""
        return self.headers.get("Message", "").strip()

    @property
    def starts_list(self) -> bool:
        """Whether events follow, up to one that `completes_list` (FAXSessions writes `Start`)."""
        return self.headers.get("EventList", "").lower() == "start"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        return self.headers == other.headers and self.output == other.output

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        given = self.headers.get("Response")
        return f"<Response {given!r} action_id={self.action_id!r} {len(self.output)} lines>"


class Event:
    """A block that begins with `Event:`: a queued event, or an item of a list."""

    __slots__ = ("headers", "name")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.name = headers.pairs[0][1]
        """As Asterisk spells it, which is not always as it is documented: compare it in any case."""

    @property
    def action_id(self) -> str | None:
        return self.headers.get("ActionID")

    @property
    def is_queued(self) -> bool:
        """Whether it comes from the event bus, not from an action's handler.

        Only those have a Privilege header (manager.c:7630-7700); items of Status, too, but no queued event is
        called so.
        """
        return "privilege" in self.headers and self.name.lower() != "status"

    @property
    def completes_list(self) -> bool:
        """Whether it ends a list, whatever its name. `ListItems` is not to be relied on."""
        return self.headers.get("EventList", "").lower() in _LIST_ENDS

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self.headers == other.headers

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Event {self.name!r} action_id={self.action_id!r} {len(self.headers)} headers>"


class RawText:
    """A block that is neither Response nor Event: the table of IAXnetstats."""

    __slots__ = ("latin1", "lines")

    def __init__(self, lines: Sequence[str], *, latin1: bool = False) -> None:
        self.lines = list(lines)
        self.latin1 = latin1
        """Whether the bytes were not UTF-8, and so were read as Latin-1."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawText):
            return NotImplemented
        return self.lines == other.lines and self.latin1 == other.latin1

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<RawText {len(self.lines)} lines>"


Message = Response | Event | RawText


class Action:
    """What is asked of Asterisk. `pairs`: the headers in the order to send, without Action and ActionID."""

    __slots__ = ("action_id", "name", "pairs", "wire")

    def __init__(self, name: str, pairs: Iterable[tuple[str, str]] = (), action_id: str | None = None) -> None:
        self.name = name
        self.pairs: Pairs = list(pairs)
        self.action_id = action_id
        self.wire: bytes | None = None
        """Its bytes, once `serialise` has made them; an action is not to be changed after that."""

    @property
    def headers(self) -> Headers:
        """As they go out: ActionID second, since Asterisk echoes none that lies beyond its 128 headers."""
        first = [("Action", self.name)]
        if self.action_id is not None:
            first.append(("ActionID", self.action_id))
        return Headers(first + self.pairs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Action):
            return NotImplemented
        return (self.name, self.action_id, self.pairs) == (other.name, other.action_id, other.pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Action {self.name!r} action_id={self.action_id!r} {self.headers!r}>"
