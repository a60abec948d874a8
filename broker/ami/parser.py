"""A block of lines as a message: pure functions. Lines end in bare LF here, and the closing blank line is gone."""

from typing import Final

from broker.ami.message import Event, Headers, Message, Pairs, RawText, Response

COMMAND_END: Final = "--END COMMAND--"
"""Ends the raw text of a Command up to Asterisk 13."""

_OUTPUT: Final = "Output"
_COMMAND_HEADERS: Final = frozenset(("Privilege", "ActionID"))
"""What stands between `Response: Follows` and the raw text, which may look like headers itself."""


def parse_text(block: str) -> Message:
    """The message of a block that is UTF-8."""
    lines = block.split("\n")
    if block.startswith("Event: "):
        return Event(Headers(_pairs(lines)))
    if block.startswith("Response: ") and _OUTPUT not in block:
        return Response(Headers(_pairs_of_answer(lines)))
    if not _has_headers(lines[0]):
        return RawText(lines)
    return _message(_pairs(lines), ())


def parse_bytes(block: bytes) -> Message:
    """The message of a block of any bytes: values that are not UTF-8 are read as Latin-1, their names noted."""
    try:
        return parse_text(block.decode())
    except UnicodeDecodeError:
        pass
    lines = block.decode("latin-1").split("\n")
    if not _has_headers(lines[0]):
        return RawText(lines, latin1=True)
    return _message(*_reread(_pairs(lines)))


def parse_command(block: bytes) -> Response:
    """The message of a Command up to Asterisk 13: headers, raw text (blank lines too), `--END COMMAND--`."""
    latin1: tuple[str, ...] = ()
    try:
        text = block.decode()
    except UnicodeDecodeError:
        text, latin1 = block.decode("latin-1"), (_OUTPUT,)
    lines = text[: text.rfind(COMMAND_END)].removesuffix("\n").split("\n")
    first_of_text = 1
    while first_of_text < len(lines) and lines[first_of_text].partition(":")[0] in _COMMAND_HEADERS:
        first_of_text += 1
    return Response(Headers(_pairs(lines[:first_of_text]), latin1), lines[first_of_text:])


def _has_headers(line: str) -> bool:
    name, found, _ = line.partition(":")
    return bool(found) and name.lower() in ("event", "response")


MAX_KNOWN_LINES: Final = 8192
"""Lines whose reading is remembered: the events of a call repeat most of theirs some twenty times."""

MAX_KNOWN_LINE: Final = 128
"""Characters of a line worth remembering: with the above, all that is remembered takes about 3 MB at most."""


class _Irregular(Exception):
    """A line is not plainly `Name: value`."""


class _KnownLines(dict[str, tuple[str, str]]):
    """Lines and what they say: the same line is read once, and its texts are in memory once."""

    def __missing__(self, line: str) -> tuple[str, str]:
        name, found, value = line.partition(": ")
        if not found or ":" in name:
            raise _Irregular
        pair = (name, value)
        if len(line) <= MAX_KNOWN_LINE:
            if len(self) >= MAX_KNOWN_LINES:
                self.clear()
            self[line] = pair
        return pair


_known = _KnownLines()


def _pairs(lines: list[str]) -> Pairs:
    # The hot path: one look-up a line. Where one is not plainly `Name: value`, all are read again, line by line.
    known = _known
    try:
        return [known[line] for line in lines]
    except _Irregular:
        return _irregular_pairs(lines)


def _pairs_of_answer(lines: list[str]) -> Pairs:
    # Half of its lines are its own (ActionID, Timestamp, ...): to remember them would only push out the others.
    pairs: Pairs = []
    for line in lines:
        name, found, value = line.partition(": ")
        if not found or ":" in name:
            return _irregular_pairs(lines)
        pairs.append((name, value))
    return pairs


def _irregular_pairs(lines: list[str]) -> Pairs:
    pairs: Pairs = []
    for line in lines:
        name, found, value = _partition(line)
        if found:
            pairs.append((name, value.removeprefix(" ")))
        else:
            # A stray LF inside a value (Getvar and DBGet do not escape them): the rest of that value.
            name, value = pairs[-1]
            pairs[-1] = (name, f"{value}\n{line}")
    return pairs


def _partition(line: str) -> tuple[str, str, str]:
    name, found, value = line.partition(":")
    if "(" in name and ")" not in name:
        # `ChanVariable(SIP/192.0.2.1:5060-00000001): a=b` has a channel's name in its own (manager.c:7619).
        outer, closed, rest = line.partition("):")
        if closed:
            return f"{outer})", ":", rest
    return name, found, value


def _message(pairs: Pairs, latin1: tuple[str, ...]) -> Message:
    if pairs[0][0].lower() == "event":
        return Event(Headers(pairs, latin1))
    output = [value for name, value in pairs if name == _OUTPUT]
    if output:
        pairs = [pair for pair in pairs if pair[0] != _OUTPUT]
    return Response(Headers(pairs, latin1), output)


def _reread(pairs: Pairs) -> tuple[Pairs, tuple[str, ...]]:
    """Read as UTF-8 what is UTF-8, of pairs that were read as Latin-1.

    All values of one name are read alike: otherwise nobody could tell which bytes a text was.
    """
    latin1 = {name: None for name, value in pairs if _utf8(value) is None or _utf8(name) is None}
    reread = [(name, value) if name in latin1 else (_utf8(name) or name, _utf8(value) or "") for name, value in pairs]
    return reread, tuple(latin1)


def _utf8(text: str) -> str | None:
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        return None
