"""`amibus worker` with a short memory: what it keeps for two hours (the journal's notes) or one (doubts about calls) it
keeps for so many seconds, and its journal's file short, so that a soak of minutes sees whether all of it goes again. A
leak never goes."""

import sys
from typing import Any, Final

from workers import journal, service
from workers.calls import Calls
from workers.cli import main
from workers.journal import Journal

KEEP_S: Final = float(sys.argv[1])
COMPACT_BYTES: Final = 1 << 16


def open_journal(*arguments: Any, keep_s: float, **options: Any) -> Journal:
    """As the worker opens it, for a shorter time."""
    return Journal.open(*arguments, keep_s=min(keep_s, KEEP_S), **options)


def make_calls(now: Any, record_ttl_ms: int, **options: Any) -> Calls:
    """The same."""
    return Calls(now, min(record_ttl_ms, int(KEEP_S * 1000)), **options)


class _Journal:
    open = staticmethod(open_journal)


if __name__ == "__main__":
    names: Any = service
    names.Journal, names.Calls = _Journal, make_calls
    if KEEP_S < 60:
        vars(journal)["COMPACT_BYTES"] = COMPACT_BYTES
    main(["worker"])
