"""What of a typed call's arguments is refused before anything is queued."""

from typing import Final

from broker.ami import MAX_LINE_BYTES, is_regex_channel
from broker.entry import printable
from broker.errors import ErrorCode, Refused

MAX_CAUSE: Final = 127


def refused(why: str, code: ErrorCode = ErrorCode.MALFORMED) -> Refused:
    """The error for an argument that cannot be."""
    return Refused(code, why)


def given(name: str, value: str) -> str:
    """A text that must not be empty, and that Asterisk reads as it is: it skips blanks in front, and keeps those
    behind."""
    if not value or value != value.strip():
        raise refused(f"{name} {printable(value)} is empty, or begins or ends with a blank")
    return value


def channel_name(value: str, name: str = "channel") -> str:
    """One channel, by its name or its Uniqueid; never a regular expression, which may be every channel there is."""
    if is_regex_channel(value):
        raise refused(f"{name} {printable(value)} is a regular expression", ErrorCode.FORBIDDEN)
    return given(name, value)


def cause_code(cause: int | None) -> int | None:
    """A Q.850 cause."""
    if cause is not None and not 0 <= cause <= MAX_CAUSE:
        raise refused(f"cause {cause} is not between 0 and {MAX_CAUSE}")
    return cause


def milliseconds(name: str, seconds: float | None) -> int | None:
    """Seconds as AMI's milliseconds."""
    if seconds is None:
        return None
    if not 0 < seconds < 1e6:
        raise refused(f"{name} {seconds:g} is not a number of seconds above 0")
    return max(1, round(seconds * 1000))


def file_name(value: str) -> str:
    """A file to record to: MixMonitor takes what follows a comma for its options, and for a program to run."""
    if "," in value:
        raise refused(f"file {printable(value)} holds a comma, which would begin the options", ErrorCode.FORBIDDEN)
    return given("file", value)


def one_line(name: str, value: str) -> str:
    """A header's value that fits into a line of AMI."""
    size_bytes = len(f"{name}: {value}".encode("utf-8", "surrogateescape"))
    if size_bytes > MAX_LINE_BYTES:
        raise refused(
            f"{name} {printable(value)} takes {size_bytes} bytes: Asterisk takes {MAX_LINE_BYTES} a line",
            ErrorCode.LINE_TOO_LONG,
        )
    return value
