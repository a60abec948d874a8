"""Messages as the client reads them: from channels and from entries of the `events` stream."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from broker.ami import Headers
from broker.codec import BadMessage, BusEvent, BusResponse, Result, decode_message
from broker.entry import entry_time

_log = logging.getLogger(__name__)


def decoded(data: bytes, where: str) -> Result | BusResponse | BusEvent | None:
    """A message; None for what is not of the contract, which is logged and stops nobody from reading on."""
    try:
        return decode_message(data)
    except BadMessage as error:
        _log.warning("a message on %s is not of the contract: %s", where, error)
        return None


def field_of(fields: Sequence[bytes], name: bytes) -> bytes:
    """A field of a stream entry, empty if it has none of that name."""
    for at in range(0, len(fields) - 1, 2):
        if fields[at] == name:
            return fields[at + 1]
    return b""


def stream_event(entry: str, data: bytes) -> BusEvent | None:
    """The event of an entry of `events`, with the entry's id."""
    event = decoded(data, "the events stream")
    return replace(event, id=entry) if isinstance(event, BusEvent) else None


def gap_before(event: BusEvent, previous: tuple[int, int] | None) -> BusEvent | None:
    """A `BusGap` if events are missing between the (epoch, seq) read last and this one.

    The numbers of another epoch begin anew and say nothing; the pump announces what was missed then, and what Redis
    has forgotten.
    """
    if previous is None or event.epoch != previous[0] or event.seq <= previous[1] + 1:
        return None
    if event.name == "BusGap" and event.headers.get("reason") == "forgotten":
        return None
    return trimmed(event, event.seq - previous[1] - 1)


def trimmed(event: BusEvent, dropped: int | None) -> BusEvent:
    """The `BusGap` in front of an event; `dropped` is None where nobody can say how many were missed."""
    until = f"{entry_time(event.id):.6f}" if event.id else ""
    missed = "" if dropped is None else str(dropped)
    headers = Headers([("reason", "trimmed"), ("since", ""), ("until", until), ("dropped", missed)])
    return BusEvent(event.server, "BusGap", headers, [], event.epoch, event.seq - 1)
