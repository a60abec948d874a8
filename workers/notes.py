"""Changes of calls that wait to be written: one note per call, whatever happened to it meanwhile."""

from collections.abc import Iterable
from typing import Any

Note = dict[str, Any]
"""What an event changes of a call: see the script `publish_events`."""


class Notes:
    """Notes on their way to the records, merged by call, so that their number is bounded by that of the calls.

    The script writes a merged note as it would have written its parts one after the other. Writing one again does no
    harm, also where some of its parts were written before: a leg that has gone stays gone.
    """

    def __init__(self) -> None:
        self._by_call: dict[str, Note] = {}

    def __len__(self) -> int:
        return len(self._by_call)

    def add(self, notes: Iterable[Note]) -> None:
        """Notes that are newer than all that are here."""
        for note in notes:
            known = self._by_call.get(note["id"])
            self._by_call[note["id"]] = note if known is None else _merge(known, note)

    def all(self) -> list[Note]:
        """What is to be written."""
        return list(self._by_call.values())

    def clear(self) -> None:
        """They are on their way."""
        self._by_call.clear()


def _merge(older: Note, newer: Note) -> Note:
    added = [uniqueid for uniqueid in older["add"] if uniqueid not in newer["drop"]]
    dropped = [uniqueid for uniqueid in older["drop"] if uniqueid not in newer["add"]]
    fields = _pairs(older["fields"]) | _pairs(newer["fields"])
    return {
        "id": older["id"],
        "add": [*dict.fromkeys([*added, *newer["add"]])],
        "drop": [*dict.fromkeys([*dropped, *newer["drop"]])],
        "fields": [part for pair in fields.items() for part in pair],
        "ttl_ms": newer["ttl_ms"] if newer["ttl_ms"] is not None else older["ttl_ms"],
    }


def _pairs(fields: list[str]) -> dict[str, str]:
    return dict(zip(fields[::2], fields[1::2], strict=True))
