"""A plain model of the contract: what each call must leave behind, in dicts and lists, without Redis.

Written from the contract and not from the scripts. It knows no batches, no arguments' order and no half-way errors: one
item after the other, each whole.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.codec import unpack
from broker.keys import LANES
from tests.model.snapshot import Snapshot

FINAL: Final = frozenset((b"done", b"failed", b"rejected", b"expired", b"cancelled", b"unknown"))
NEVER_SENT: Final = frozenset(("rejected", "expired", "cancelled"))
BEGUN: Final = frozenset((b"sending", b"sent"))

Item = dict[str, Any]
Event = tuple[str, bytes, list[str], list[Item]]
"""Name, message, ActionIDs, notes."""


@dataclass(slots=True)
class Lane:
    """A stream and its group."""

    entries: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)

    def remove(self, entry: str) -> None:
        """XDEL: it stays pending."""
        self.entries = [kept for kept in self.entries if kept != entry]
        self.unread = [kept for kept in self.unread if kept != entry]

    def finish(self, entry: str) -> bool:
        """Acknowledge and delete. False: it was neither pending nor there."""
        known = entry in self.entries or entry in self.pending
        self.pending.pop(entry, None)
        self.remove(entry)
        return known


class Model:
    """One server as the contract has it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.lease = ""
        self.heartbeat: dict[str, bytes] = {}
        self.records: dict[str, dict[str, bytes]] = {}
        self.ends: dict[str, int | None] = {}
        self.lanes = {lane: Lane() for lane in LANES}
        self.legs: dict[str, str] = {}
        self.results: list[dict[str, bytes]] = []
        self.dead: list[list[bytes]] = []
        self.events: list[tuple[bytes, bytes]] = []
        self.last_event = (0, 0)
        """Epoch and number of the last event in the stream."""
        self.published: list[tuple[str, bytes]] = []

    def look(self) -> Snapshot:
        """What can be seen; what was published is told once."""
        seen = Snapshot(
            records=copy.deepcopy(self.records),
            ends=dict(self.ends),
            entries={name: [*lane.entries] for name, lane in self.lanes.items()},
            pending={name: dict(lane.pending) for name, lane in self.lanes.items()},
            legs=dict(self.legs),
            results=[*self.results],
            dead=[*self.dead],
            events=[*self.events],
            epoch=self.epoch,
            lease=self.lease,
            heartbeat=dict(self.heartbeat),
            published=self.published,
        )
        self.published = []
        return seen

    def _is_over(self, epoch: int) -> bool:
        return epoch == 0 or epoch != self.epoch  # 0: nobody has held the lease, as far as Redis knows

    # -- the life of an action

    def mark(self, epoch: int, worker: str, items: Sequence[Item], now: str) -> list[str]:
        """May these be sent? `now`: Redis' time. Nothing is said to a worker whose epoch is over."""
        if self._is_over(epoch):
            return []
        return [self._judge(epoch, worker, item, now) for item in items]

    def _judge(self, epoch: int, worker: str, item: Item, now: str) -> str:
        record = self.records.get(item["id"], {})
        state = record.get("state")
        if state is not None and _is_anothers(record, item):
            return self._second(record, item)
        if state == b"cancelled" and "entry" not in record:
            return "cancelled"
        if state in FINAL:
            self.lanes[item["lane"]].finish(item["entry"])
            return "settled"
        if state in BEGUN:
            if state == b"sending" and record["epoch"] == _bytes(epoch):
                return "sending"  # its own mark, asked again
            if not item["again"]:
                return "begun"
        elif float(now) > float(item["deadline"]):
            return "expired"
        elif item["probe"]:
            return "early"
        elif item["channel_id"] and item["channel_id"] in self.legs:
            return "duplicate-channel-id"
        self._begin(epoch, worker, item, now)
        return "sending"

    def _begin(self, epoch: int, worker: str, item: Item, now: str) -> None:
        names = ("lane", "entry", "fingerprint", "action", "producer", "queued_at", "request")
        told = {name: item[name] for name in names}
        intent = {"state": "sending", "sending_at": now, "epoch": epoch, "worker": worker}
        self.records.setdefault(item["id"], {}).update(_fields(told | intent) | _pairs(item["extra"]))
        self.ends.setdefault(item["id"], None)
        if item["channel_id"]:
            self.legs[item["channel_id"]] = item["id"]

    def _second(self, record: dict[str, bytes], item: Item) -> str:
        """A second entry with a known ActionID is never sent."""
        if record.get("fingerprint") != _bytes(item["fingerprint"]):
            return "reused"
        if record["state"] in FINAL:
            self._publish(item["id"], item["reply"], record["result"])
        self.lanes[item["lane"]].finish(item["entry"])
        return "duplicate"

    def mark_sent(self, epoch: int, items: Sequence[Item]) -> None:
        """Asterisk answered: told once, of the mark that the caller made."""
        for item in items:
            record = self.records.get(item["id"], {})
            if record.get("state") == b"sending" and record["epoch"] == _bytes(epoch):
                record.update({"state": b"sent"} | _pairs(item["fields"]))
                self.published.append((f"action:{item['id']}", item["message"]))

    def settle(self, items: Sequence[Item]) -> list[str]:
        """The final states, of whoever knows them."""
        return [self._revise(item) if item["revised"] else self._settle(item) for item in items]

    def _revise(self, item: Item) -> str:
        record = self.records.get(item["id"], {})
        if record.get("state") != b"unknown" or _is_anothers(record, item):
            return "already"
        record.pop("error_code", None)
        record.pop("error", None)
        self._write(item)
        return "revised"

    def _settle(self, item: Item) -> str:
        record, lane = self.records.get(item["id"], {}), self.lanes[item["lane"]]
        state, attempt = record.get("state"), _bytes(item["attempt"])
        is_forgotten = item["error_code"] == "action-id-reused" and "entry" not in record
        if (state is not None and _is_anothers(record, item)) or is_forgotten:
            asked = record.get("fingerprint")
            was_judged_with_it = asked is not None and item["state"] in ("expired", "cancelled")
            if was_judged_with_it and asked != _bytes(item["fingerprint"]):
                return "reused"  # it asked for something else, and is to be told that
            first = lane.finish(item["entry"])
            if was_judged_with_it:
                return "duplicate"  # it asked for the same thing, and has its answer
            if first:  # answered by a result of its own
                self._tell(item)
            return "apart"
        if attempt and record.get("epoch", attempt) != attempt:
            return "superseded"
        if not attempt and state in BEGUN and item["state"] in NEVER_SENT:
            return "superseded"  # another has begun it meanwhile: it cannot be said that it was never sent
        if state in FINAL and "entry" in record:
            lane.finish(item["entry"])
            return "already"
        if "entry" not in record and not item["base"]:
            return "missing"
        if "entry" not in record:
            self.records.setdefault(item["id"], {}).update(_pairs(item["base"]))
        self._write(item)
        lane.finish(item["entry"])
        return "settled"

    def _write(self, item: Item) -> None:
        record = self.records[item["id"]]
        final = {"state": item["state"], "settled_at": item["settled_at"], "result": item["message"]}
        record.update(_fields(final) | _pairs(item["fields"]))
        call = record.get("call")
        self.ends[item["id"]] = item["ttl_ms"] if call in (None, b"ended") else None
        # Of a call that was never placed the ChannelId is free again.
        if call is None and self.legs.get(item["channel_id"]) == item["id"]:
            del self.legs[item["channel_id"]]
        self._tell(item)

    def _tell(self, item: Item) -> None:
        names = ("entry", "action", "state", "producer", "queued_at", "settled_at", "error_code", "revised")
        line = {name: item[name] for name in names} | {"action_id": item["id"], "message": item["error"]}
        self.results.append(_fields(line) | _pairs(item["line"]))
        self._publish(item["id"], item["reply"], item["message"])
        if item["dead"]:
            self.dead.append([_bytes(part) for part in item["dead"]])

    def _publish(self, action_id: str, reply: str, message: bytes) -> None:
        self.published.append((f"action:{action_id}", message))
        if reply:
            self.published.append((f"reply:{reply}", message))

    # -- events

    def publish_events(self, epoch: int, first: int, hole_before: int, items: Sequence[Event]) -> int | list[Any]:
        """Events in order, each once, with what they change of calls; none where earlier ones are missing, unless that
        is known."""
        if self._is_over(epoch):
            return 0
        seq = self.last_event[1] if self.last_event[0] == epoch else 0
        if seq < first - 1 and hole_before != first:
            return ["", seq]
        for number, (name, message, action_ids, notes) in enumerate(items, first):
            if self.last_event[0] == epoch and number <= self.last_event[1]:
                continue
            for note in notes:
                self._note(note)
            self.events.append((name.encode(), message))
            self.last_event = (epoch, number)
            self.published.append((f"event:{name}", message))
            self.published += [(f"action:{action_id}", message) for action_id in action_ids]
        return 1

    def forget_events(self, count: int) -> None:
        """So many of the last."""
        del self.events[-count:]
        last = unpack(self.events[-1][1]) if self.events else {"epoch": 0, "seq": 0}
        self.last_event = last["epoch"], last["seq"]

    def _note(self, note: Item) -> None:
        self.legs.update(dict.fromkeys(note["add"], note["id"]))
        for uniqueid in note["drop"]:
            self.legs.pop(uniqueid, None)
        record = self.records.get(note["id"])
        if record is None or not note["fields"]:
            return
        record.update(_pairs(note["fields"]))
        if record["state"] in FINAL:
            self.ends[note["id"]] = note["ttl_ms"]

    # -- the lease

    def acquire(self, floor: int, holder: str, life_ms: int, dead_beat: str, take: str) -> list[Any]:
        """One holder at a time, each with an epoch above all that it knows of."""
        beat = self.heartbeat.get("heartbeat_at", b"none").decode()
        if self.lease not in ("", holder) and beat != dead_beat:
            return [0, self.lease, beat, self.epoch]
        if take == "0":
            return [0, "", "", self.epoch]
        before, self.epoch = self.epoch, max(self.epoch, floor) + 1
        self.lease, self.ends["lease"] = holder, life_ms
        return [self.epoch, "", before, ""]

    def beat(self, epoch: int, holder: str, lives_ms: tuple[int, int], beat: Sequence[str], now: str) -> int:
        """Renew the lease; the heartbeat with Redis' time."""
        if self._is_over(epoch):
            return 0
        self.lease, self.ends["lease"], self.ends["worker"] = holder, *lives_ms
        self.heartbeat.update(_pairs(beat) | {"heartbeat_at": now.encode()})
        return 1

    def release(self, epoch: int) -> int:
        """Give it back. True if there was one."""
        if self._is_over(epoch):
            return 0
        self.heartbeat = {}
        self.ends.pop("worker", None)
        return int(self.end_lease())

    def end_lease(self) -> bool:
        """Its life is over."""
        held, self.lease = bool(self.lease), ""
        self.ends.pop("lease", None)
        return held

    # -- what others do

    def add(self, lane: str, entry: str) -> None:
        """XADD."""
        self.lanes[lane].entries.append(entry)
        self.lanes[lane].unread.append(entry)

    def read(self, lane: str, consumer: str, count: int) -> list[str]:
        """XREADGROUP of what is new."""
        there = self.lanes[lane]
        read, there.unread = there.unread[:count], there.unread[count:]
        there.pending.update(dict.fromkeys(read, consumer))
        return read

    def claim(self, lane: str, consumer: str) -> tuple[list[str], list[str]]:
        """XAUTOCLAIM of all that is pending: what is there, and what is there no more."""
        there = self.lanes[lane]
        claimed = sorted((entry for entry in there.pending if entry in there.entries), key=there.entries.index)
        gone = [entry for entry in there.pending if entry not in there.entries]
        there.pending = dict.fromkeys(claimed, consumer)
        return claimed, gone

    def destroy_groups(self) -> None:
        """XGROUP DESTROY, and created again at 0."""
        for lane in self.lanes.values():
            lane.pending, lane.unread = {}, [*lane.entries]

    def cancel(self, action_id: str) -> None:
        """What is left of a BusCancel whose target was not seen yet."""
        self.records[action_id] = {"state": b"cancelled"}
        self.ends[action_id] = None

    def delete(self, action_id: str) -> None:
        """A record that has come to its end, or was deleted."""
        del self.records[action_id], self.ends[action_id]


def _is_anothers(record: dict[str, bytes], item: Item) -> bool:
    own = (_bytes(item["entry"]), _bytes(item["lane"]))
    return "entry" in record and (record["entry"], record["lane"]) != own


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _fields(values: Item) -> dict[str, bytes]:
    return {name: _bytes(value) for name, value in values.items()}


def _pairs(flat: Sequence[Any]) -> dict[str, bytes]:
    return {str(name): _bytes(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
