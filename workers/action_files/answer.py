"""The text of `NAME.out`: what Asterisk said, as it said it, and one block that tells what became of the action."""

from collections.abc import Iterable, Iterator
from typing import Final

from broker.ami import Headers
from broker.codec import Result, State
from broker.errors import ErrorCode


def answer_lines(result: Result) -> Iterator[str]:
    """The lines of one action: each message of Asterisk's, then the fate, each followed by a blank line."""
    if result.response is not None:
        yield from _block([*result.response, *[("Output", line) for line in result.output]])
    for event in result.events:
        yield from _block(event)
    yield from _block(_fate(result))


def refusal_lines(code: str, message: str) -> Iterator[str]:
    """The same for a file that could not be read as actions."""
    yield from _block([("Bus-State", State.REJECTED), ("Bus-Error-Code", code), ("Bus-Error", message)])


FORGOTTEN: Final = "the file was taken by an earlier run, and the record that told its fate has expired"


def lost(server: str, action_id: str, action: str, code: str = ErrorCode.RECORD_LOST, why: str = FORGOTTEN) -> Result:
    """The result of an action whose answer cannot be had any more, and of which it may not even be known whether it was
    sent."""
    return Result(server, action_id, "", action, State.UNKNOWN, error_code=code, error_message=why)


def _fate(result: Result) -> Iterable[tuple[str, str]]:
    yield "Bus-Action", result.action
    yield "Bus-ActionID", result.action_id
    yield "Bus-State", result.state
    if result.error_code is not None:
        yield "Bus-Error-Code", result.error_code
        yield "Bus-Error", result.error_message or ""


def _block(pairs: Iterable[tuple[str, str]] | Headers) -> Iterator[str]:
    for name, value in pairs:
        # A line end within a value would begin a header, or a message, of its own.
        yield f"{name}: {value}".replace("\r", "\\r").replace("\n", "\\n") + "\n"
    yield "\n"
