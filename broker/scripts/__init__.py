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
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgpack
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from broker.keys import Keys

MAX_BATCH: Final = 128
"""Items a script call takes at most: no script should hold Redis for longer than a few milliseconds."""


class Layout(NamedTuple):
    """The order in which a script reads its batch from ARGV: unpacking msgpack maps took half of its time."""

    shared: tuple[str, ...]
    """What many items have alike: each combination goes once, before the items, and each item names its number."""
    own: tuple[str, ...]
    """The single values of an item, behind that number where there is one."""
    lists: tuple[str, ...]
    """Its lists, each with its length first."""


LAYOUTS: Final = {
    "mark_sending": Layout(
        ("lane", "fingerprint", "reply", "probe", "again", "action", "producer", "request"),
        ("id", "entry", "deadline", "channel_id", "queued_at"),
        ("extra",),
    ),
    "mark_sent": Layout((), ("id", "message"), ("fields",)),
    "settle": Layout(
        ("lane", "fingerprint", "attempt", "ttl_ms", "reply", "channel_id", "state", "error_code", "error", "action",
         "producer", "settled_at", "revised", "chunks"),
        ("id", "entry", "message", "queued_at"),
        ("base", "fields", "dead"),
    ),
}  # fmt: skip


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


def flatten(items: Sequence[Mapping[str, Any]], layout: Layout) -> list[Any]:
    """The parts of all items one after the other, by their layout; before them what they share."""
    own, lists = itemgetter(*layout.own), layout.lists
    shared = itemgetter(*layout.shared) if layout.shared else None
    groups: dict[tuple[Any, ...], str] = {}
    flat: list[Any] = []
    for item in items:
        if shared is not None:
            group = shared(item)
            number = groups.get(group)
            if number is None:
                number = groups[group] = str(len(groups) + 1)
            flat.append(number)
        flat += own(item)
        for name in lists:
            values = item[name]
            flat.append(len(values))
            flat += values
    if shared is None:
        return flat
    return [len(groups), *chain.from_iterable(groups), *flat]


@cache
def source(name: str) -> bytes:
    """The text of a script."""
    return (resources.files(__package__) / f"{name}.lua").read_bytes()


def _pack(value: Any) -> bytes:
    # Without the bin type, which Redis' cmsgpack does not read; to Lua bytes and text are the same.
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed
