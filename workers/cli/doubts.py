"""The actions of a server that are `unknown`: from its `results`, and from their records where these still live."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from broker.codec import State
from broker.keys import Keys
from broker.pipeline import Pipeline
from broker.record import text_fields

PAGE: Final = 1000

MAX_RECORDS: Final = 500
"""Records asked for at once."""

_OF_RECORD: Final = ("state", "entry", "error", "tag", "sending_at", "call")

Doubt = dict[str, Any]
"""One action that is `unknown`, as `--json` has it."""


class Doubts:
    """What is `unknown` and was not corrected, oldest first; and since when that is known."""

    def __init__(self, found: list[Doubt], since: str) -> None:
        self.found = found
        self.since = since
        """When the oldest line was settled that was looked at (unix time); empty: there was none."""


async def read_doubts(pipeline: Pipeline, keys: Keys, start: str = "-") -> Doubts:
    """Look through `results` from there on. Raises `BusUnavailable`."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    since = ""
    async for line in _results(pipeline, keys, start):
        since = since or line.get("settled_at", "")
        # By entry: a second one with the same ActionID has a fate of its own.
        place = (line.get("action_id", ""), line.get("entry", ""))
        if line.get("state") == State.UNKNOWN:
            lines.pop(place, None)
            lines[place] = line
        elif line.get("revised") == "1":
            lines.pop(place, None)
    found: list[Doubt] = []
    unknown = list(lines.values())
    for first in range(0, len(unknown), MAX_RECORDS):
        page = unknown[first : first + MAX_RECORDS]
        doubts = await asyncio.gather(*[_doubt(pipeline, keys, line) for line in page])
        found += [doubt for doubt in doubts if doubt is not None]
    return Doubts(found, since)


async def _results(pipeline: Pipeline, keys: Keys, start: str) -> AsyncGenerator[dict[str, str]]:
    while True:
        page = await pipeline.execute("XRANGE", keys.results, start, "+", "COUNT", PAGE)
        for _, raw in page:
            yield text_fields(dict(zip(raw[::2], raw[1::2], strict=True)))
        if len(page) < PAGE:
            return
        start = f"({page[-1][0].decode()}"


async def _doubt(pipeline: Pipeline, keys: Keys, line: dict[str, str]) -> Doubt | None:
    """One of them, with what only its record tells; None if that says that it is settled otherwise by now."""
    key = keys.action(line.get("action_id", ""))
    values, ttl_ms = await asyncio.gather(
        pipeline.execute("HMGET", key, *_OF_RECORD), pipeline.execute("PTTL", key)
    )  # fmt: skip
    record = text_fields({name.encode(): value for name, value in zip(_OF_RECORD, values, strict=True) if value})
    lives = record.get("entry") == line.get("entry")
    if lives and record.get("state") != State.UNKNOWN:
        return None  # corrected just now
    if not lives:
        record = {}
    return {
        "server": keys.server,
        "action_id": line.get("action_id", ""),
        "entry": line.get("entry", ""),
        "action": line.get("action", ""),
        "producer": line.get("producer", ""),
        "tag": record.get("tag", ""),
        "state": line.get("state", ""),
        "error": {"code": line.get("error_code", ""), "message": record.get("error") or line.get("message", "")},
        "call": record.get("call", ""),
        "queued_at": _number(line.get("queued_at")),
        "sending_at": _number(record.get("sending_at")),
        "settled_at": _number(line.get("settled_at")),
        "record_lives": lives,
        "record_ttl_s": ttl_ms / 1000 if lives and ttl_ms >= 0 else None,
    }


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
