"""The scripts on a real server, called as workers call them, and a look at everything that they leave behind."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgpack
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.keys import GROUP, LANES, Keys
from broker.scripts import LAYOUTS, flatten, source
from tests.desk import NAMES
from tests.model.snapshot import Disagreement, Snapshot

LENGTH: Final = 10_000
"""Of the capped streams: more than an example writes. (Their caps have tests of their own.)"""

Item = dict[str, Any]
Kept = list[tuple[bytes, int, bytes]]
"""Key, milliseconds left, and its value."""


class Real:
    """One server's keys. `changed`: texts of scripts to be run in the place of the real ones."""

    def __init__(self, url: str, changed: Mapping[str, str] | None = None) -> None:
        self.redis: Any = redis.Redis.from_url(url, protocol=2)
        for command in ("XREADGROUP", "XRANGE", "XAUTOCLAIM", "XPENDING", "HGETALL"):
            self.redis.set_response_callback(command, lambda response, **_: response)
        self.keys = Keys("pbx1")
        texts = {name: source(name).decode() for name in NAMES} | dict(changed or {})
        self._shas = {name: self.redis.script_load(text) for name, text in texts.items()}
        self._listener: Any = self.redis.pubsub()  # type: ignore[no-untyped-call]
        self._listener.psubscribe("*")
        self._listener.get_message(timeout=60)

    def close(self) -> None:
        self._listener.close()
        self.redis.close()

    def empty(self) -> None:
        """As a worker finds a new server, or one that was flushed: with groups and nothing else."""
        self.redis.flushall()
        self.make_groups()

    def make_groups(self) -> None:
        for lane in LANES:
            self.redis.xgroup_create(self.keys.lane(lane), GROUP, id="0", mkstream=True)

    # -- the scripts

    def mark(self, epoch: int, worker: str, items: Sequence[Item]) -> list[tuple[str, str]]:
        """Verdict and Redis' time."""
        answer = self._call("mark_sending", epoch, "PUBLISH", worker, *_flat("mark_sending", items))
        return [(verdict.decode(), answer[0].decode()) for verdict in answer[1:]]

    def mark_sent(self, epoch: int, items: Sequence[Item]) -> None:
        self._call("mark_sent", epoch, "PUBLISH", *_flat("mark_sent", items))

    def settle(self, epoch: int, items: Sequence[Item]) -> list[str]:
        flat = _flat("settle", items)
        return [verdict.decode() for verdict in self._call("settle", epoch, "PUBLISH", LENGTH, LENGTH, *flat)]

    def publish_events(self, epoch: int, first: int, hole_before: int, items: Sequence[Any]) -> int | list[Any]:
        """The id of the stream's last entry, which the model does not know, is left out of the answer."""
        batch = msgpack.packb([*items], use_bin_type=False)
        answer = self._call("publish_events", epoch, "PUBLISH", LENGTH, 1, first, hole_before, batch)
        return ["", answer[1]] if isinstance(answer, list) else int(answer)

    def acquire(self, floor: int, holder: str, life_ms: int, dead_beat: str, take: str) -> list[Any]:
        answer = self._call("acquire", floor, holder, life_ms, dead_beat, take)
        return [part.decode() if isinstance(part, bytes) else part for part in answer]

    def beat(self, epoch: int, holder: str, lives_ms: tuple[int, int], beat: Sequence[str]) -> tuple[int, str]:
        """Whether it was renewed, and Redis' time."""
        packed = msgpack.packb([*beat], use_bin_type=False)
        renewed, *now = self._call("beat", epoch, holder, *lives_ms, packed)
        return renewed, f"{int(now[0])}.{int(now[1]):06d}" if now else ""

    def release(self, epoch: int) -> int:
        answer: int = self._call("release", epoch)
        return answer

    def _call(self, name: str, *args: Any) -> Any:
        try:
            return self.redis.evalsha(self._shas[name], 1, self.keys.epoch, self.keys.root, *args)
        except OutOfMemoryError:
            raise
        except ResponseError as error:
            raise Disagreement(f"{name} failed: {error}") from error

    # -- what others do

    @contextmanager
    def full(self) -> Iterator[None]:
        """While its memory is full."""
        self.redis.config_set("maxmemory", "1")
        try:
            yield
        finally:
            self.redis.config_set("maxmemory", "0")

    def add(self, lane: str, entry: str, fields: Sequence[str]) -> None:
        self.redis.execute_command("XADD", self.keys.lane(lane), entry, *fields)

    def read(self, lane: str, consumer: str, count: int) -> list[tuple[str, list[bytes]]]:
        stream = self.keys.lane(lane)
        command = ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", stream, ">")
        answer = self.redis.execute_command(*command)
        return [(entry.decode(), fields) for entry, fields in answer[0][1]] if answer else []

    def claim(self, lane: str, consumer: str) -> tuple[list[tuple[str, list[bytes]]], list[str]]:
        """All that is pending, and what has vanished of it."""
        command = ("XAUTOCLAIM", self.keys.lane(lane), GROUP, consumer, 0, "0-0", "COUNT", 10_000)
        _, entries, gone = self.redis.execute_command(*command)
        return [(entry.decode(), fields) for entry, fields in entries], [entry.decode() for entry in gone]

    def delete_entry(self, lane: str, entry: str) -> None:
        self.redis.xdel(self.keys.lane(lane), entry)

    def forget_events(self, count: int) -> None:
        """So many of the last."""
        for entry, _ in self.redis.xrevrange(self.keys.events, count=count):
            self.redis.xdel(self.keys.events, entry)

    def destroy_groups(self) -> None:
        for lane in LANES:
            self.redis.xgroup_destroy(self.keys.lane(lane), GROUP)
        self.make_groups()

    def cancel(self, action_id: str) -> None:
        self.redis.hset(self.keys.action(action_id), "state", "cancelled")

    def delete(self, action_id: str) -> None:
        self.redis.delete(self.keys.action(action_id))

    def end_lease(self) -> None:
        self.redis.delete(self.keys.lease)

    def keep(self) -> Kept:
        """A snapshot of the whole server, to go back to."""
        keys = [*self.redis.scan_iter(count=1000)]
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.pttl(key)
            pipe.dump(key)
        answers = pipe.execute()
        return [
            (key, max(left_ms, 0), value) for key, left_ms, value in zip(keys, answers[::2], answers[1::2], strict=True)
        ]

    def go_back(self, kept: Kept, only: Sequence[str] = ()) -> None:
        """To that snapshot. `only`: these keys and no others."""
        if not only:
            self.redis.flushall()
        for key, left_ms, value in kept:
            if not only or key.decode() in only:
                self.redis.restore(key, left_ms, value, replace=True)

    # -- what there is to see

    def record(self, action_id: str) -> list[bytes]:
        flat: list[bytes] = self.redis.hgetall(self.keys.action(action_id))
        return flat

    def look(self) -> Snapshot:
        """Everything there is, and what was published since the last look."""
        keys, root, prefix = self.keys, self.keys.root, self.keys.action("")
        names = sorted(key.decode() for key in self.redis.scan_iter(count=1000))
        records = [name for name in names if name.startswith(prefix)]
        pipe = self.redis.pipeline(transaction=False)
        pipe.publish("end", b"")
        for lane in LANES:
            pipe.xrange(keys.lane(lane))
            pipe.execute_command("XPENDING", keys.lane(lane), GROUP, "-", "+", 10_000)
        for stream in (keys.results, keys.dead, keys.events):
            pipe.xrange(stream)
        pipe.hgetall(keys.legs)
        pipe.get(keys.epoch)
        pipe.get(keys.lease)
        pipe.hgetall(keys.worker)
        mortal = [*records, *(key for key in (keys.lease, keys.worker) if key in names)]
        for key in mortal:
            pipe.pttl(key)
        for key in records:
            pipe.hgetall(key)
        answers = iter(pipe.execute()[1:])
        seen = Snapshot(strangers=[name for name in names if name not in keys.types and name not in records])
        for lane in LANES:
            seen.entries[lane] = [entry.decode() for entry, _ in next(answers)]
            seen.pending[lane] = {entry.decode(): consumer.decode() for entry, consumer, _, _ in next(answers)}
        seen.results = [_hash(fields) for _, fields in next(answers)]
        seen.dead = [fields for _, fields in next(answers)]
        seen.events = [(fields[1], fields[3]) for _, fields in next(answers)]
        seen.legs = {name: action_id.decode() for name, action_id in _hash(next(answers)).items()}
        seen.epoch = int(next(answers) or 0)
        seen.lease = (next(answers) or b"").decode()
        seen.heartbeat = _hash(next(answers))
        for key in mortal:
            left_ms = next(answers)
            seen.ends[key.removeprefix(prefix).removeprefix(root)] = left_ms if left_ms >= 0 else None
        seen.records = {key.removeprefix(prefix): _hash(next(answers)) for key in records}
        for channel, message in self._heard():
            if not channel.startswith(root):
                seen.strangers.append(channel)
            seen.published.append((channel.removeprefix(root), message))
        return seen

    def _heard(self) -> Iterator[tuple[str, bytes]]:
        while True:
            message = self._listener.get_message(ignore_subscribe_messages=True, timeout=60)
            assert message is not None, "the end never came"
            if message["channel"] == b"end":
                return
            yield message["channel"].decode(), message["data"]


def _flat(script: str, items: Sequence[Item]) -> list[Any]:
    layout = LAYOUTS[script]
    return flatten([layout.item(item) for item in items], layout)


def _hash(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
