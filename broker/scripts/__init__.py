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
from typing import Any, Final, NamedTuple

import msgpack
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from broker.keys import Keys

MAX_BATCH: Final = 128
"""Items a script call takes at most: no script should hold Redis for longer than a few milliseconds."""


Item = tuple[tuple[Any, ...], tuple[Any, ...]]
"""One of a batch: what others may have alike, and what is its own, each in the order of its script's `Layout`."""


class Layout(NamedTuple):
    """What a script reads of an item of its batch, and in which order."""

    shared: tuple[str, ...]
    """The single values that many items have alike: each combination goes once, before all items."""
    lists: tuple[str, ...]
    """The lists of a combination, behind its single values, each with its length first."""
    own: tuple[str, ...]
    """An item's own values, behind the number of its combination."""

    def item(self, values: Mapping[str, Any]) -> Item:
        """An item of these values, by their names."""
        shared = [values[name] for name in self.shared] + [tuple(values[name]) for name in self.lists]
        return tuple(shared), tuple([values[name] for name in self.own])

    def values(self, item: Item) -> dict[str, Any]:
        """The values of an item by their names."""
        return dict(zip((*self.shared, *self.lists, *self.own), (*item[0], *item[1]), strict=True))


LAYOUTS: Final = {
    "mark_sending": Layout(
        ("lane", "fingerprint", "reply", "probe", "again", "action", "producer", "request"),
        ("extra",),
        ("id", "entry", "deadline", "channel_id", "queued_at"),
    ),
    "mark_sent": Layout((), ("fields",), ("id", "message")),
    "settle": Layout(
        ("lane", "fingerprint", "attempt", "ttl_ms", "reply", "channel_id", "state", "error_code", "error", "action",
         "producer", "settled_at", "revised", "chunks"),
        ("base", "fields", "dead", "line"),
        ("id", "entry", "message", "queued_at"),
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


def flatten(items: Sequence[Item], layout: Layout) -> list[Any]:
    """A batch as the arguments of its script: the number of combinations, these, and then the items."""
    singles = len(layout.shared)
    numbers: dict[tuple[Any, ...], str] = {}
    combinations: list[Any] = []
    flat: list[Any] = []
    for shared, own in items:
        number = numbers.get(shared)
        if number is None:
            number = numbers[shared] = str(len(numbers) + 1)
            combinations += shared[:singles]
            for values in shared[singles:]:
                combinations.append(len(values))
                combinations += values
        flat.append(number)
        flat += own
    return [len(numbers), *combinations, *flat]


@cache
def source(name: str) -> bytes:
    """The text of a script."""
    return (resources.files(__package__) / f"{name}.lua").read_bytes()


def _pack(value: Any) -> bytes:
    # Without the bin type, which Redis' cmsgpack does not read; to Lua bytes and text are the same.
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed
