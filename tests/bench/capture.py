"""The events that are measured with: a real capture, repeated, each time as other calls."""

import gzip
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Final

CAPTURE: Final = Path(__file__).with_name("local-calls.ami.gz")
"""The events of 50 short calls of Local channels on Asterisk 22.10, as its AMI wrote them."""

BLANK_LINE: Final = b"\r\n\r\n"

LAST_EVENT: Final = "BenchEnd"
LAST: Final = f"Event: {LAST_EVENT}\r\nPrivilege: system,all".encode() + BLANK_LINE
"""Ends a flood, so that whoever counts knows when all are there."""


_SECONDS: Final = 1795452
"""The first digits of all Uniqueids, Linkedids and Timestamps of the capture."""

_CHANNEL: Final = b"@default-0000"
"""What stands in the names of all its channels."""


def flood(events: int) -> bytes:
    """So many events, the last of them `LAST_EVENT`."""
    return b"".join(islice(_blocks(), events - 1)) + LAST


def _blocks() -> Iterator[bytes]:
    text = gzip.decompress(CAPTURE.read_bytes())
    for repetition in count():
        # Calls with times, ids and names of their own: whoever remembers what was there before must not profit by it.
        again = text.replace(b"%d" % _SECONDS, b"%d" % (_SECONDS + repetition))
        again = again.replace(_CHANNEL, b"@default-%04x" % repetition)
        yield from [block + BLANK_LINE for block in again.split(BLANK_LINE) if block]
