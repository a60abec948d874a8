"""The journal's lines, both ways: pure text, and words that `grep` finds.

    amibus-journal 1 ami:{pbx1}
    SEAL 7 0b1e8a5c-6d3f-4a39-9f0c-2d9b7f6a1c55 4711 host-4711
    A W 1764150000.123456 7 actions 1764149999123-0 call-42
    A - 1764150000.123456 7 actions 1764149999124-0 call-43

A note's flag is `-` until the action is about to be written to Asterisk, then `W`. Only a seal of this boot makes it
believable: the page cache, which has it before the disk, outlives a process and no boot. A seal names the worker: a
Redis that went back in time may hand out an epoch twice, the second time on another host.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from broker.keys import LANES

FORMAT: Final = 1
"""The version of the format, in the first line."""

UNKNOWN_BOOT: Final = "unknown"
"""Stands in a seal for a boot that is never this one."""

FLAG: Final = 2
"""Where the flag is in a note's line."""

NOT_WRITTEN: Final = b"-"
WRITTEN: Final = b"W"

_OWNER: Final = re.compile(r"[!-~]{1,128}")
_HEADER: Final = re.compile(rb"amibus-journal (\d{1,9}) ([!-~]{1,128})\n")

# Searched for in all of the file, not at the begin of each line: damage to a line's end must not hide the next one.
# A damaged flag is one that does not say "not written".
_LINE: Final = re.compile(
    rb"A (.) (\d{1,12}\.\d{6}) (\d{1,19}) (%s) (\d{1,20}-\d{1,20}) ([A-Za-z0-9._:-]{1,64})\n"
    rb"|SEAL (\d{1,19}) ([0-9A-Za-z-]{1,64}) (\d{1,19})(?: ([!-~]{1,128}))?\n" % "|".join(LANES).encode()
)


@dataclass(slots=True)
class Note:
    """A noted action, as it is held in memory: there may be hundreds of thousands. `offset` is where its line is."""

    offset: int
    at: float
    epoch: int
    lane: str
    entry: str
    written: bool


@dataclass(frozen=True, slots=True)
class Seal:
    """Whose notes follow."""

    offset: int
    epoch: int
    boot: str
    pid: int
    worker: str = ""
    """As `worker_word` has its name."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Some lines' worth of bytes that are none."""

    offset: int
    lines: int


def header(owner: str) -> bytes:
    """The first line. Raises ValueError."""
    if not _OWNER.fullmatch(owner):
        raise ValueError(f"{owner!r} cannot own a journal")
    return f"amibus-journal {FORMAT} {owner}\n".encode()


def read_header(data: bytes) -> tuple[int, str] | None:
    """The format and the owner; None: this is no journal."""
    match = _HEADER.match(data)
    return match and (int(match[1]), match[2].decode())


def seal_line(epoch: int, boot: str, pid: int, worker: str = "") -> bytes:
    """The line of a seal; `worker`: a `worker_word`. Raises ValueError."""
    return _checked(f"SEAL {epoch} {boot} {pid}{worker and f' {worker}'}\n")


def worker_word(name: str) -> str:
    """A worker's name as one word of a line."""
    return quote(name, safe="!#$&'()*+,/:;=?@[]")[:128]


def note_line(action_id: str, lane: str, entry: str, *, epoch: int, at: float, written: bool) -> bytes:
    """The line of a note. Raises ValueError for what would not be read as just this note."""
    flag = (WRITTEN if written else NOT_WRITTEN).decode()
    return _checked(f"A {flag} {at:.6f} {epoch} {lane} {entry} {action_id}\n")


def read_lines(data: bytes, start: int, end: int) -> Iterator[tuple[str, Note] | Seal | Damage]:
    """What is between `start` and `end`, both at the begin of a line. A note comes with its ActionID."""
    lanes = {lane.encode(): lane for lane in LANES}
    for match in _LINE.finditer(data, start, end):
        if match.start() > start:
            yield _damage(data, start, match.start())
        start = match.end()
        flag, at, epoch, lane, entry, action_id, seal, boot, pid, worker = match.groups()
        if seal is None:
            note = Note(match.start(), float(at), int(epoch), lanes[lane], entry.decode(), flag != NOT_WRITTEN)
            yield action_id.decode(), note
        else:
            yield Seal(match.start(), int(seal), boot.decode(), int(pid), (worker or b"").decode())
    if start < end:
        yield _damage(data, start, end)


def _damage(data: bytes, start: int, end: int) -> Damage:
    return Damage(start, data.count(b"\n", start, end) + (data[end - 1 : end] != b"\n"))


def _checked(line: str) -> bytes:
    data = line.encode("ascii", "replace")
    if not _LINE.fullmatch(data):
        raise ValueError(f"this cannot be noted: {line!r}")
    return data
