"""The atomic transitions on Redis: one Lua file each, and the module that loads them.

Scripts rather than functions: functions are a global namespace that a rolling upgrade would overwrite under older
workers. Each script is called with one declared key of the server (its epoch), reaches the other keys of the same hash
slot by their root, and takes a batch of items. `#!lua` makes Redis (7.0 and later, and Valkey) refuse a script as a
whole when memory is full instead of stopping it half-way; those that finish what was begun carry `allow-oom`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from operator import itemgetter
from typing import Any, Final

import msgpack
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from broker.keys import Keys

MAX_BATCH: Final = 128
"""Items a script call takes at most: no script should hold Redis for longer than a few milliseconds."""


LAYOUTS: Final = {
    "mark_sending": (
        ("id", "lane", "entry", "fingerprint", "deadline", "reply", "channel_id", "probe", "again", "action",
         "producer", "queued_at", "request"),
        ("extra",),
    ),
    "mark_sent": (("id", "message"), ("fields",)),
    "settle": (
        ("id", "lane", "entry", "fingerprint", "attempt", "ttl_ms", "message", "reply", "channel_id", "state",
         "error_code", "error", "action", "producer", "queued_at", "settled_at", "revised"),
        ("base", "fields", "dead"),
    ),
}  # fmt: skip
"""The order in which the scripts on the send path read an item from ARGV: its single values, then its lists, each with
its length first. (Unpacking msgpack maps took half of the scripts' time.)"""


class Script:
    """One Lua script of one server, called by its SHA-1, and sent whole only where Redis does not know it yet."""

    def __init__(self, name: str, keys: Keys) -> None:
        self._source = source(name)
        # Not for security: EVALSHA names scripts so.
        self._sha = hashlib.sha1(self._source, usedforsecurity=False).hexdigest()
        self._epoch_key = keys.epoch
        self._root = keys.root
        self._layout = LAYOUTS.get(name)

    async def __call__(self, redis: "Redis", epoch: int, *args: Any) -> Any:
        """Run the script as the holder of `epoch`.

        Where it has a layout, the last argument is its batch of items; any other list goes as msgpack.
        """
        packed: list[Any] = list(args)
        if self._layout is not None:
            packed += flatten(packed.pop(), self._layout)
        else:
            packed = [_pack(arg) if isinstance(arg, list) else arg for arg in packed]
        try:
            return await redis.evalsha(self._sha, 1, self._epoch_key, self._root, epoch, *packed)
        except NoScriptError:
            return await redis.eval(self._source.decode(), 1, self._epoch_key, self._root, epoch, *packed)


def flatten(items: Sequence[Mapping[str, Any]], layout: tuple[tuple[str, ...], tuple[str, ...]]) -> list[Any]:
    """The parts of all items one after the other, by their layout."""
    singles, lists = itemgetter(*layout[0]), layout[1]
    flat: list[Any] = []
    for item in items:
        flat += singles(item)
        for name in lists:
            values = item[name]
            flat.append(len(values))
            flat += values
    return flat


@cache
def source(name: str) -> bytes:
    """The text of a script."""
    return (resources.files(__package__) / f"{name}.lua").read_bytes()


def _pack(value: Any) -> bytes:
    # Without the bin type, which Redis' cmsgpack does not read; to Lua bytes and text are the same.
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed
