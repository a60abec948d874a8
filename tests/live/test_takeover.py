"""Workers are killed, paused and replaced while calls are placed: each call once, and each with its own fate."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker.codec import FINAL_STATES
from tests.lab.session import logged_in
from tests.live.campaign import HUNG_UP, Campaign, broken_numbers, tally
from tests.live.crew import crew
from tests.live.harness import Site, eventually
from tests.live.observer import recording
from tests.live.producer import Producer, new_id

KILLS = int(os.environ.get("AMIBUS_CAMPAIGN_KILLS", "8"))
"""Kills in a campaign; with each come some five calls. Set more for a longer one."""

SEED = os.environ.get("AMIBUS_CAMPAIGN_SEED", "")
"""Repeats a campaign's choices, though not its moments."""

HANG_UP_PERIOD_S = 0.7
SETTLED_DEADLINE_S = 90.0
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
    if (await producer.legs(), await producer.queued(), await producer.pending()) != ({}, 0, 0):
        return False
    records = [await producer.record(call.action_id) for call in campaign.calls]
    return all(record.get("state") in FINAL_STATES and record.get("call") in (None, "ended") for record in records)
