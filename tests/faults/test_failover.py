"""Redis goes back in time: a fail-over to a replica that lagged, or FLUSHALL in mid-load. Nothing is written twice."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from broker import submission
from broker.client import Bus
from broker.codec import FINAL_STATES
from broker.errors import ActionUnknown
from tests.faults.redis_stage import CHANGES
from tests.sentinel import Sentinels
from tests.servers import RedisServer
from tests.workers.worker_process import DEADLINE_S, USERS, Desk, WorkerProcess, eventually, make_settings
from workers.simulated import SimulatedAsterisk

SENT = [f"sent-{number}" for number in range(20)]
"""Done before the fail-over, which their records do not survive."""

HELD = [f"held-{number}" for number in range(10)]
"""Taken by the worker, the first of them written, when Redis fails over."""

Note = Callable[[str, object], None]
"""`record_property`: what was seen, for the report."""


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=11) as simulated:
        yield simulated


class Scene:
    """What producers do and see, whatever Redis does meanwhile."""

    def __init__(self, desk: Desk, asterisk: SimulatedAsterisk) -> None:
        self.desk = desk
        self.asterisk = asterisk

    async def met(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition, which is not met while Redis does not answer."""

        async def answer() -> Any:
            with contextlib.suppress(RedisError, OSError):
                return await condition()
            return None

        return await eventually(answer, DEADLINE_S)

    async def queue(self, *action_ids: str) -> None:
        """Put an action on the queue for each, of a kind that its name tells; given again it is the same."""
        for action_id in action_ids:
            await self.met(lambda: self._add(action_id))  # noqa: B023 - awaited before the next turn

    async def settled(self, *action_ids: str) -> dict[str, Counter[str]]:
        """Wait for the final state of each; how many there are of each state and of each code."""
        records = [await self.met(lambda: self._final(action_id)) for action_id in action_ids]  # noqa: B023
        return {
            "states": Counter(record["state"] for record in records),
            "codes": Counter(record["error_code"] for record in records if record.get("error_code")),
        }

    async def done(self, *action_ids: str) -> None:
        """Have these done."""
        await self.queue(*action_ids)
        assert (await self.settled(*action_ids))["states"] == {"done": len(action_ids)}

    def written(self, *action_ids: str) -> list[int]:
        """How often each was written to Asterisk."""
        return [self.asterisk.write_counts()[action_id] for action_id in action_ids]

    def twice(self) -> list[str]:
        """What changes something and was written more than once."""
        counts = Counter(each.action_id for each in self.asterisk.written if each.action in CHANGES)
        return [action_id for action_id, count in counts.items() if action_id and count > 1]

    async def is_idle(self) -> bool:
        """Nothing waits, nothing is pending, no call is left."""
        legs = await self.desk.redis.hgetall(self.desk.keys.legs)
        return (await self.desk.backlog(), await self.desk.pending(), legs) == (0, 0, {})

    async def _add(self, action_id: str) -> str:
        if action_id.startswith("call"):
            return await self.desk.originate(action_id, Data="600" if "long" in action_id else "0")
        if action_id.startswith("read"):
            return await self.desk.add("Ping", action_id)
        return await self.desk.add("Setvar", action_id, Variable="x", Value=action_id)

    async def _final(self, action_id: str) -> dict[str, str]:
        record = await self.desk.record(action_id)
        return record if record.get("state") in FINAL_STATES else {}

    async def has_pending(self, count: int) -> bool:
        """So many entries are held by the worker."""
        return await self.desk.pending() == count


@contextlib.asynccontextmanager
async def scene(url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[Scene]:
    async with Desk(url) as desk:
        yield Scene(desk, asterisk)


def worker(url: str, asterisk: SimulatedAsterisk, name: str, **settings: Any) -> WorkerProcess:
    """A worker; of another host with a `journal_dir` of its own."""
    return WorkerProcess(make_settings(url, asterisk, name=name, **settings))


async def fall_behind(sentinels: Sentinels) -> None:
    """From now on what is written is lost by a fail-over; all before is not."""
    await asyncio.to_thread(sentinels.catch_up)
    await asyncio.to_thread(sentinels.lag)


def hang_up(asterisk: SimulatedAsterisk) -> None:
    """The oldest call ends."""
    asterisk.switch.live[0].hang_up(asterisk.switch.legs[0], 16)


async def test_a_worker_goes_on_after_a_fail_over_that_lost_records(
    sentinels: Sentinels, asterisk: SimulatedAsterisk, record_property: Note
) -> None:
    url = sentinels.url
    calls = ["call-0", "call-1"]
    async with scene(url, asterisk) as on, worker(url, asterisk, "one") as one:
        await one.connected()
        await on.done("early")
        await fall_behind(sentinels)
        await on.done(*SENT, *calls)
        asterisk.faults.freeze()
        await on.queue(*HELD)
        await on.desk.reaches(HELD[0], state="sending")
        await on.met(lambda: on.has_pending(len(HELD)))
        await asyncio.to_thread(sentinels.fail_over)
        asterisk.faults.resume()
        # what it held is not lost by that
        assert (await on.settled(*HELD))["states"] == {"done": len(HELD)}
        assert await on.desk.record(SENT[0]) == {}
        await on.queue(*SENT, *calls, *HELD, "early")
        lost = await on.settled(*SENT, *calls)
        record_property("lost", dict(lost["codes"]))
        assert lost == {"states": {"unknown": 22}, "codes": {"record-lost": 22}}
        assert (await on.settled(*HELD, "early"))["states"] == {"done": len(HELD) + 1}
        await on.done("after")
        await on.met(on.is_idle)
        assert on.written("early", *SENT, *calls, *HELD, "after") == [1] * (len(SENT) + len(HELD) + 4)
        await on.met(lambda: counts_unknown(on, 22))
        await one.said("redis has restarted, or another server has taken its place")


async def counts_unknown(on: Scene, count: int) -> bool:
    return int((await on.desk.heartbeat()).get("unknown", 0)) == count


async def test_what_its_successor_on_this_host_finds_after_a_fail_over_that_lost_records(
    sentinels: Sentinels, asterisk: SimulatedAsterisk, record_property: Note
) -> None:
    url = sentinels.url
    queued = ["queued-0", "queued-1", "call-queued", "read-queued"]
    async with scene(url, asterisk) as on, worker(url, asterisk, "one", lease_s=30.0) as one:
        await one.connected()
        # these the replica has, and not that they were sent
        asterisk.faults.freeze()
        await on.queue("first", *queued)
        await on.desk.reaches("first", state="sending")
        await fall_behind(sentinels)
        asterisk.faults.resume()
        await on.settled("first", *queued)
        await on.done(*SENT)
        await one.kill()
        await on.queue("never-sent")
        await asyncio.to_thread(sentinels.fail_over)
        await on.desk.redis.delete(on.desk.keys.lease)  # not to wait for it
        await on.queue(*SENT, "never-sent")
        async with worker(url, asterisk, "two") as two:
            await two.connected()
            found = await on.settled("first", "queued-0", "queued-1", "call-queued", *SENT)
            record_property("lost", dict(found["codes"]))
            assert found["states"]["unknown"] == found["codes"].total() >= len(SENT)
            assert set(found["codes"]) <= {"record-lost", "worker-lost"}
            assert (await on.settled("read-queued", "never-sent"))["states"] == {"done": 2}
            await on.met(on.is_idle)
            assert on.written(*SENT, "never-sent") == [1] * (len(SENT) + 1)
            assert on.twice() == []


@pytest.mark.parametrize("standing_by", [True, False], ids=["a standby", "started later"])
async def test_what_another_host_finds_after_a_fail_over_that_lost_records(
    sentinels: Sentinels, asterisk: SimulatedAsterisk, standing_by: bool, tmp_path: Path, record_property: Note
) -> None:
    url = sentinels.url
    queued = ["queued-0", "queued-1", "call-queued"]
    # The lease's usual life: on a busy machine a process may well stand still for as long as a shorter one lasts.
    far = worker(url, asterisk, "far", journal_dir=str(tmp_path / "journal"), lease_s=5.0)
    one = worker(url, asterisk, "one", lease_s=5.0)
    async with scene(url, asterisk) as on, one, contextlib.AsyncExitStack() as stack:
        await one.connected()
        if standing_by:
            await stack.enter_async_context(far)
            await far.said("standing by: another worker serves this server")
        asterisk.faults.freeze()
        await on.queue("first", "read-0", *queued, "call-long")
        await on.desk.reaches("first", state="sending")
        await fall_behind(sentinels)
        asterisk.faults.resume()
        assert (await on.settled("first", "read-0", *queued, "call-long"))["states"] == {"done": 6}
        await one.kill()
        await asyncio.to_thread(sentinels.fail_over)
        if not standing_by:
            await stack.enter_async_context(far)
        await far.connected()
        found = await on.settled("first", *queued)
        record_property("lost", dict(found["codes"]))
        assert found["states"] == {"unknown": 4}
        assert found["codes"]["record-lost"] == len(queued)
        # what only reads is repeated, and a call that is alive tells what became of it
        assert (await on.settled("read-0", "call-long"))["states"] == {"done": 2}
        await far.said(
            "redis may have gone back in time while another host's worker served: what it had queued and changes "
            "something is settled as unknown"
        )
        await on.done("younger")
        hang_up(asterisk)
        await on.met(on.is_idle)
        assert on.written("first", *queued, "call-long", "younger") == [1] * 6
        assert on.written("read-0") == [2]


async def test_a_client_hears_of_what_a_fail_over_lost_and_may_ask_again(
    sentinels: Sentinels, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "NEXT_LOOK_S", 0.2)
    url = sentinels.url
    next_one = worker(url, asterisk, "two", lease_s=5.0)
    async with scene(url, asterisk) as on, worker(url, asterisk, "one", lease_s=5.0) as one, Bus(url) as bus:
        pbx = bus.server(on.desk.keys.server)
        await one.connected()
        await fall_behind(sentinels)
        asterisk.faults.hold_response("Setvar")
        waiting = asyncio.create_task(pbx.request("Setvar", action_id="change", Variable="x", Value="1"))
        await eventually(lambda: on.written("change") == [1])
        await one.kill()
        await asyncio.to_thread(sentinels.fail_over)
        with pytest.raises(ActionUnknown) as lost:
            await asyncio.wait_for(waiting, DEADLINE_S)
        assert lost.value.code == "entry-lost"
        async with next_one:
            with pytest.raises(ActionUnknown) as known:
                await asyncio.wait_for(pbx.request("Setvar", action_id="change", Variable="x", Value="1"), DEADLINE_S)
            assert known.value.code == "record-lost"
            await on.met(on.is_idle)
            assert on.written("change") == [1]


async def test_a_call_that_ended_in_the_time_that_was_lost(sentinels: Sentinels, asterisk: SimulatedAsterisk) -> None:
    url = sentinels.url
    async with scene(url, asterisk) as on, worker(url, asterisk, "one") as one:
        await one.connected()
        await on.done("call-long-0", "call-long-1")
        for action_id in ("call-long-0", "call-long-1"):
            await on.desk.reaches(action_id, call="up")
        await fall_behind(sentinels)
        hang_up(asterisk)
        await on.desk.reaches("call-long-0", call="ended")
        await asyncio.to_thread(sentinels.fail_over)
        await on.met(lambda: has_call(on, "call-long-0", "ended"))
        (told,) = await on.desk.events("BusCallEnded")
        assert told.action_ids == ["call-long-0"]
        assert (await on.desk.record("call-long-1"))["call"] == "up"
        hang_up(asterisk)
        await on.met(lambda: has_call(on, "call-long-1", "ended"))
        await on.met(on.is_idle)


async def test_a_call_that_failed_in_the_time_that_was_lost(sentinels: Sentinels) -> None:
    """What became of it Redis has forgotten, and it takes both of its legs for alive."""
    url = sentinels.url
    async with (
        SimulatedAsterisk(users=USERS, seed=11, ring_s=600) as asterisk,
        scene(url, asterisk) as on,
        worker(url, asterisk, "one") as one,
    ):
        await one.connected()
        await on.desk.originate("call", "congestion")
        await on.met(lambda: has_legs(on, 2))
        await fall_behind(sentinels)
        hang_up(asterisk)
        await on.met(lambda: has_call(on, "call", "ended"))
        assert (await on.settled("call"))["states"] == {"failed": 1}
        await asyncio.to_thread(sentinels.fail_over)
        assert (await on.settled("call"))["states"] == {"unknown": 1}
        await on.met(lambda: has_call(on, "call", "ended"))
        await on.met(on.is_idle)
        assert on.written("call") == [1]


async def has_legs(on: Scene, count: int) -> bool:
    return bool(await on.desk.redis.hlen(on.desk.keys.legs) == count)


async def has_call(on: Scene, action_id: str, state: str) -> bool:
    return (await on.desk.record(action_id)).get("call") == state


# -- FLUSHALL in mid-load

LOAD = [f"{kind}-{number}" for number in range(100) for kind in ("change", "read", "call")]
FLUSHES = 4
PRODUCERS = 30
PATIENCE_S = 0.4
"""How long a producer waits for a final state before it repeats its action."""


async def test_nothing_is_written_twice_by_producers_that_repeat_after_flushall(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, record_property: Note
) -> None:
    url = own_redis.url
    async with scene(url, asterisk) as on, worker(url, asterisk, "one", rate_calls=60.0) as one:
        await one.connected()
        seen: dict[str, str] = {}
        producing = asyncio.gather(*(produce(on, LOAD[first::PRODUCERS], seen) for first in range(PRODUCERS)))
        for number in range(1, FLUSHES + 1):
            await eventually(lambda: len(seen) >= len(LOAD) * number / (FLUSHES + 2), DEADLINE_S)  # noqa: B023
            await on.desk.redis.flushall()
        await asyncio.wait_for(producing, 2 * DEADLINE_S)
        record_property("states", dict(Counter(seen.values())))
        assert on.twice() == []
        # a producer that repeats has what it did not see the end of as `unknown`, or done
        assert set(seen.values()) <= {"done", "unknown: record-lost"}
        # of what is unknown some may not have reached Asterisk: a fenced worker cuts its sessions off
        done = [action_id for action_id, state in seen.items() if state == "done"]
        assert min(on.written(*done)) == 1
        await on.done("after")
        await on.met(on.is_idle)


async def produce(on: Scene, action_ids: list[str], seen: dict[str, str]) -> None:
    """Put one after the other on the queue, each until it has a final state."""
    for action_id in action_ids:
        await insist(on, action_id, seen)


async def insist(on: Scene, action_id: str, seen: dict[str, str]) -> None:
    while action_id not in seen:
        await on.queue(action_id)
        with contextlib.suppress(TimeoutError):
            record = await eventually(lambda: on._final(action_id), PATIENCE_S)
            code = record.get("error_code")
            seen[action_id] = f"{record['state']}: {code}" if code else record["state"]
