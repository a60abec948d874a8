"""What Redis tells of a server: its worker, its queue, its calls, what was settled and refused last."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from broker.errors import BusUnavailable
from broker.keys import GROUP, LANES, Keys, servers_key
from broker.link import Address
from broker.pipeline import Pipeline
from broker.record import text_fields
from workers.cli.open_bus import silence_told

LAST_RESULTS: Final = 5
LAST_DEAD: Final = 3

Overview = dict[str, Any]


@contextlib.asynccontextmanager
async def connected(redis: str) -> AsyncGenerator[Pipeline]:
    """A connection to Redis. Raises `BusUnavailable`, `SettingsError`."""
    pipeline = Pipeline(Address(redis))
    try:
        async with silence_told(redis):
            await pipeline.open()
        yield pipeline
    finally:
        await pipeline.close()


async def redis_time(redis: str) -> float:
    """The unix time by Redis' clock."""
    async with connected(redis) as pipeline:
        return await clock(pipeline)


async def clock(pipeline: Pipeline) -> float:
    """The unix time by Redis' clock: the one by which heartbeats and deadlines go."""
    seconds, microseconds = await pipeline.execute("TIME")
    return int(seconds) + int(microseconds) / 1e6


async def known_servers(pipeline: Pipeline, prefix: str) -> dict[str, float]:
    """The servers that ever had a worker, with the unix time of its last heartbeat."""
    reply = await pipeline.execute("ZRANGE", servers_key(prefix), 0, -1, "WITHSCORES")
    return {name.decode(): float(beat) for name, beat in zip(reply[::2], reply[1::2], strict=True)}


async def read_overview(pipeline: Pipeline, keys: Keys, last_beat: float | None) -> Overview:
    """Everything about one server, as it is shown and as `--json` has it."""
    now, worker, holder, ttl_ms, epoch, legs, events = await asyncio.gather(
        clock(pipeline),
        pipeline.execute("HGETALL", keys.worker),
        pipeline.execute("GET", keys.lease),
        pipeline.execute("PTTL", keys.lease),
        pipeline.execute("GET", keys.epoch),
        pipeline.execute("HLEN", keys.legs),
        pipeline.execute("XLEN", keys.events),
    )
    heartbeat = text_fields(_pairs(worker))
    beat = _number(heartbeat.get("heartbeat_at")) or last_beat
    return {
        "server": keys.server,
        # The heartbeat's hash outlives its worker by some seconds, the lease does not.
        "alive": bool(heartbeat) and holder is not None,
        "heartbeat_age_s": None if beat is None else round(max(0.0, now - beat), 3),
        "worker": heartbeat,
        "lease": None if holder is None else {**_holder(holder), "ttl_s": ttl_ms / 1000},
        "epoch": int(epoch or 0),
        "lanes": {lane: await _lane(pipeline, keys.lane(lane)) for lane in LANES},
        "channels": legs,
        "events": events,
        "dead": await pipeline.execute("XLEN", keys.dead),
    }


async def read_last(pipeline: Pipeline, keys: Keys) -> Overview:
    """The newest entries of `results` and of `dead`, newest first."""
    results, dead = await asyncio.gather(
        pipeline.execute("XREVRANGE", keys.results, "+", "-", "COUNT", LAST_RESULTS),
        pipeline.execute("XREVRANGE", keys.dead, "+", "-", "COUNT", LAST_DEAD),
    )
    return {"results": _entries(results), "last_dead": _entries(dead)}


async def _lane(pipeline: Pipeline, lane: str) -> dict[str, int]:
    return {"backlog": await pipeline.execute("XLEN", lane), "pending": await _pending(pipeline, lane)}


async def _pending(pipeline: Pipeline, lane: str) -> int:
    try:
        return int((await pipeline.execute("XPENDING", lane, GROUP))[0])
    except BusUnavailable as error:
        if "NOGROUP" in str(error):
            return 0  # no worker has been here yet, and so nobody has taken anything
        raise


def _entries(reply: Sequence[Any]) -> list[dict[str, str]]:
    return [{"id": entry.decode(), **text_fields(_pairs(fields))} for entry, fields in reply]


def _pairs(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    # A field that came twice (Variable, in `dead`) keeps its last value here: the entry itself has them all.
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _holder(raw: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(raw)
    except ValueError:
        return {"holder": raw.decode("utf-8", "replace")}
    return holder if isinstance(holder, dict) else {"holder": str(holder)}


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
