"""Workers are killed, paused, stopped and replaced while calls are placed: each call once, and each with its own
fate."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker.codec import FINAL_STATES
from tests.lab.session import logged_in
from tests.live.calls import answered, is_idle, is_settled_and_over, placed
from tests.live.campaign import HUNG_UP, Campaign, broken_numbers, tally
from tests.live.crew import crew, other_host
from tests.live.harness import Site, Worker, eventually
from tests.live.observer import observing, recording
from tests.live.producer import Producer, new_id

KILLS = int(os.environ.get("AMIBUS_CAMPAIGN_KILLS", "8"))
"""Kills in a campaign; with each come some five calls. Set more for a longer one."""

SEED = os.environ.get("AMIBUS_CAMPAIGN_SEED", "")
"""Repeats a campaign's choices, though not its moments."""

HANG_UP_PERIOD_S = 0.7
SETTLED_DEADLINE_S = 180.0
Note = Callable[[str, object], None]
"""`record_property`: what was seen, for the report."""


@asynccontextmanager
async def hanging_up(site: Site, campaign: Campaign) -> AsyncIterator[None]:
    """Somebody outside the bus ends the calls of that kind."""
    async with logged_in(site.asterisk, "observer") as session:

        async def hang_up() -> None:
            while True:
                for call in [call for call in campaign.calls if call.kind == HUNG_UP]:
                    await session.action("Hangup", f"Channel: {call.channel_id}")
                await asyncio.sleep(HANG_UP_PERIOD_S)

        task = asyncio.create_task(hang_up())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(600 + 20 * KILLS)
async def test_a_campaign_with_workers_that_die(site: Site, record_property: Note) -> None:
    seed = SEED or str(random.randrange(10**6))
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with (
        recording(site.asterisk) as observer,
        Producer(site.redis.url, new_id("campaign")[:20]) as producer,
        crew(site, producer, rng) as workers,
    ):
        campaign = Campaign(producer, rng)
        async with hanging_up(site, campaign):
            while workers.befell["killed"] < KILLS:
                added = await campaign.queue(rng.randint(3, 7))
                await _moment(rng, producer, rng.choice(added).action_id)
                await workers.suffer()
                if rng.random() < 0.8:
                    await workers.until_served()
            await workers.until_served()
            began = time.monotonic()
            await eventually(lambda: _is_over(producer, campaign), f"all is over (seed {seed})",
                             deadline_s=SETTLED_DEADLINE_S)  # fmt: skip
            record_property("settled_after_s", round(time.monotonic() - began, 1))
        fates = await campaign.fates(await observer.end())
        record_property("seed", seed)
        record_property("calls", tally(fates))
        record_property("befell", dict(workers.befell))
        print(f"{len(fates)} calls: {tally(fates)}; {dict(workers.befell)}")
        problems = [problem for fate in fates for problem in fate.problems()]
        assert not problems, f"seed {seed}: {len(problems)} problems, such as {problems[:3]}"
        assert not broken_numbers(await producer.events())
        assert not workers.said(lambda line: line["event"].startswith("the worker ended by an error"))


async def _moment(rng: random.Random, producer: Producer, action_id: str) -> None:
    """When the worker is killed: as soon as Redis says this of a call, or after some time."""
    state = rng.choice(["", "", "sending", "sent"])
    if not state:
        await asyncio.sleep(rng.uniform(0.0, 0.8))
        return
    end = time.monotonic() + 3.0
    while (await producer.record(action_id)).get("state", "queued") in ("queued", "sending" if state == "sent" else ""):
        if time.monotonic() > end:
            return
        await asyncio.sleep(0)


async def _is_over(producer: Producer, campaign: Campaign) -> bool:
    """Every call has its fate, nothing waits, and no leg is left."""
    if not await is_idle(producer):
        return False
    records = [await producer.record(call.action_id) for call in campaign.calls]
    return all(record.get("state") in FINAL_STATES and record.get("call") in (None, "ended") for record in records)


# -- a standby on another host

TAKEOVER_DEADLINE_S = 60.0
"""Generous: what is seen is told by `record_property`."""

LONG_LEASE_S = 120.0
"""Whoever serves well before its end did not wait for it."""

HELD_LEASE_S = "6"
"""Nobody loses it because the machine is busy, and it can be waited for."""

RINGING = ("Application", "Wait", "Data", "300")


@asynccontextmanager
async def standing_by(site: Site, producer: Producer, **settings: str) -> AsyncIterator[Worker]:
    """A worker of another host that waits for the lease."""
    worker = other_host(site, producer.server, **settings)
    try:
        worker.start()
        await eventually(lambda: _stands_by(worker), "it stands by")
        yield worker
    finally:
        await worker.close()


async def _stands_by(worker: Worker) -> bool:
    worker.check()
    return any(line["event"].startswith("standing by") for line in worker.log)


async def _done_after_s(producer: Producer, began: float) -> float:
    """Put an action on the queue, and how many seconds after `began` it was done."""
    assert (await producer.ask("Setvar", "Variable", "TAKEOVER", "Value", "1"))["state"] == "done"
    return round(time.monotonic() - began, 2)


async def test_a_standby_serves_soon_after_a_crash(site: Site, record_property: Note) -> None:
    async with (
        site.serving(new_id("crash")[:20], lease_s=HELD_LEASE_S) as (producer, worker),
        standing_by(site, producer, lease_s=HELD_LEASE_S) as standby,
        answered(producer) as call,
    ):
        await worker.stop(signal.SIGKILL)
        took_s = await _done_after_s(producer, time.monotonic())
        record_property("first_action_after_s", took_s)
        print(f"first action {took_s:.2f} s after the crash, of a lease of {HELD_LEASE_S} s")
        assert took_s < TAKEOVER_DEADLINE_S
        await standby.until("connected", producer)
        assert (await producer.heartbeat())["epoch"] == "2"
        assert (await producer.record(call.action_id))["call"] == "up"


async def test_a_standby_serves_at_once_after_a_stop(site: Site, record_property: Note) -> None:
    lease = {"lease_s": str(LONG_LEASE_S)}
    async with (
        observing(site.asterisk) as observer,
        site.serving(new_id("stop")[:20], rate_calls="2", **lease) as (producer, worker),
        standing_by(site, producer, **lease) as standby,
        placed(producer, *RINGING, channel="Local/1@ring") as call,
    ):
        await call.watch.event("Newstate", ChannelStateDesc="Ringing")
        waiting = [new_id("waiting") for _ in range(5)]
        for action_id in waiting:
            await producer.add(
                "Action", "Originate", "ActionID", action_id, "Channel", "Local/102@default", *RINGING[:2]
            )
        asked = time.monotonic()
        assert await worker.stop(signal.SIGTERM) == 0
        ended = time.monotonic()
        assert (await producer.record(call.action_id))["state"] == "done", "what is in flight is settled"
        took_s = await _done_after_s(producer, ended)
        record_property("first_action_after_s", took_s)
        print(f"drained in {ended - asked:.2f} s, first action {took_s:.2f} s after that")
        assert took_s < LONG_LEASE_S / 2
        await standby.until("connected", producer)
        await producer.ask("Hangup", "Channel", call.channel_id)
        for action_id in waiting:
            await eventually(lambda: is_settled_and_over(producer, action_id), "what waited is over")  # noqa: B023
            channel_id = call.id_of(producer, action_id)
            await observer.until("Hangup", Uniqueid=channel_id)
            assert len(observer.named("Newchannel", Uniqueid=channel_id)) == 1
        states = [(await producer.record(action_id))["state"] for action_id in waiting]
        assert states == ["done"] * len(waiting)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(site: Site, second: signal.Signals, record_property: Note) -> None:
    async with (
        observing(site.asterisk) as observer,
        site.serving(new_id("twice")[:20], lease_s=HELD_LEASE_S) as (producer, worker),
        standing_by(site, producer, lease_s=HELD_LEASE_S) as standby,
        placed(producer, *RINGING, channel="Local/30@ring") as call,
    ):
        await call.watch.event("Newstate", ChannelStateDesc="Ringing")
        worker.send(signal.SIGTERM)
        await worker.until("draining", producer)
        began = time.monotonic()
        assert await worker.stop(second) == 1
        record_property("ended_after_s", round(time.monotonic() - began, 2))
        assert time.monotonic() - began < 25.0, "it did not wait for the call, which rings on"
        await standby.until("connected", producer)
        assert (await producer.record(call.action_id))["state"] not in FINAL_STATES
        await observer.answer(call.channel_id)
        result = await call.watch.result()
        assert result["state"] == "done", "the standby waits for the outcome of the call that rings"
        assert (await producer.record(call.action_id))["epoch"] == "1"
