"""Bytes as Asterisk writes them, and ways to cut them."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

from broker.ami import Event, Message, Protocol, RawText, Response

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
CAPTURES = Path(__file__).with_name("captures")


def capture(name: str) -> bytes:
    """The bytes of an events session, from a real Asterisk."""
    return gzip.decompress((CAPTURES / f"{name}.ami.gz").read_bytes())


def block(*lines: str, end: str = "\r\n") -> bytes:
    """A message of these lines."""
    return "".join(f"{line}{end}" for line in (*lines, "")).encode()


def received(pieces: Iterable[bytes], banner: bytes = BANNER) -> list[Message]:
    """What a session makes of what it reads, piece by piece."""
    protocol = Protocol()
    messages = protocol.receive_data(banner)
    for piece in pieces:
        messages += protocol.receive_data(piece)
    return messages


def one(data: bytes) -> Message:
    """The one message of these bytes."""
    [message] = received([data])
    return message


def response(data: bytes) -> Response:
    message = one(data)
    assert isinstance(message, Response)
    return message


def event(data: bytes) -> Event:
    message = one(data)
    assert isinstance(message, Event)
    return message


def raw_text(data: bytes) -> RawText:
    message = one(data)
    assert isinstance(message, RawText)
    return message


def bytewise(data: bytes) -> Iterator[bytes]:
    """Byte by byte."""
    return (data[at : at + 1] for at in range(len(data)))


def cut_in_two(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut once, at every position."""
    return ((data[:at], data[at:]) for at in range(len(data) + 1))
