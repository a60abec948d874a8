"""Calls that another AMI session placed, followed over the bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker import ActionFailed, ActionRejected, BusEvent, Disposition, FollowedCall, Server
from broker.sync import Bus as BlockingBus
from tests.live.frail import named
from tests.live.harness import Site, eventually
from tests.live.observer import Observer, observing
from tests.live.producer import Message, Producer, new_id
from tests.live.telephony.calls import TIMEOUT_S, live, until_gone, until_in

UP = ("Application: Wait", "Data: 300")


@asynccontextmanager
async def foreign(site: Site, channel: str, *more: str) -> AsyncIterator[tuple[Observer, str]]:
    """A call that the bus knows nothing of, and its Uniqueid; hung up at the end."""
    uniqueid = new_id("foreign")
    async with observing(site.asterisk, "observer") as observer:
        await observer.originate(uniqueid, f"Channel: {channel}", *(more or UP))
        await observer.until("Newchannel", Uniqueid=uniqueid)
        try:
            yield observer, uniqueid
        finally:
            await observer.session.action("Hangup", f"Channel: {uniqueid}")


async def until_up(pbx: Server, uniqueid: str) -> None:
    """Wait until the channel has answered."""

    async def look() -> bool:
        channel = (await live(pbx)).get(uniqueid)
        return channel is not None and channel.state == "Up"

    await eventually(look, f"{uniqueid} is up")


async def until_told(site: Site, pbx: Server, uniqueid: str) -> None:
    """Wait until the bus has published how the dialling went: whoever follows from then on does not hear of it."""

    async def look() -> bool:
        events = named(await producer.events(), "OriginateResponse")
        return uniqueid in [event["headers"]["Uniqueid"] for event in events]

    async with Producer(site.redis.url, pbx.name) as producer:
        await eventually(look, f"it is told how the dialling of {uniqueid} went")


async def all_of(call: FollowedCall) -> list[BusEvent]:
    """Its events, to its end."""
    return [event async for event in call.events()]


async def test_from_the_middle_to_the_end(pbx: Server, site: Site) -> None:
    async with foreign(site, "Local/101@default") as (_, uniqueid):
        await until_up(pbx, uniqueid)
        await until_told(site, pbx, uniqueid)
        call = await pbx.follow(uniqueid, timeout=TIMEOUT_S)
        assert {leg.uniqueid for leg in call.legs} == {uniqueid, f"{uniqueid};2"}
        assert call.channel == (await live(pbx))[uniqueid].name
        assert (await call.answered(TIMEOUT_S)).disposition is Disposition.ANSWERED
        listening = asyncio.create_task(all_of(call))
        await call.redirect("200", timeout=TIMEOUT_S)
        await until_in(pbx, uniqueid, "MusicOnHold")
        await call.hangup(21, timeout=TIMEOUT_S)
        outcome = await call.ended(TIMEOUT_S)
        async with asyncio.timeout(TIMEOUT_S):
            events = await listening
    assert (outcome.disposition, outcome.cause, outcome.reason) == (Disposition.ANSWERED, 21, None)
    assert [event.name for event in events].count("Hangup") == 2
    assert "MusicOnHoldStart" in [event.name for event in events]
    assert (events[-1].name, events[-1].headers["reason"]) == ("BusFollowEnded", "hung-up")
    assert all(event.calls == [uniqueid] and event.action_ids == [] for event in events)
    assert not any(leg.is_alive for leg in call.legs)


async def test_it_rings_and_is_answered_or_not(pbx: Server, site: Site) -> None:
    async with foreign(site, "Local/1@ring") as (_, uniqueid):
        call = await pbx.follow(uniqueid, timeout=TIMEOUT_S)
        assert (await call.answered(TIMEOUT_S)).is_answered
        call.close()
    async with foreign(site, "Local/30@ring", *UP, "Timeout: 5000") as (_, uniqueid):
        call = await pbx.follow(uniqueid, timeout=TIMEOUT_S)
        outcome = await call.answered(TIMEOUT_S)
        assert outcome.disposition in (Disposition.NO_ANSWER, Disposition.FAILED)
        assert (await call.ended(TIMEOUT_S)).cause in (0, 19)
        assert await call.bridged(TIMEOUT_S) is None


async def test_two_that_cross(pbx: Server, site: Site) -> None:
    async with foreign(site, "Local/110@default") as (_, one), foreign(site, "Local/110@default") as (_, other):
        calls = [await pbx.follow(uniqueid, timeout=TIMEOUT_S) for uniqueid in (one, other)]
        listening = [asyncio.create_task(all_of(call)) for call in calls]
        for call in calls:
            assert await call.bridged(TIMEOUT_S) is not None
        dialled = [
            next(leg.uniqueid for leg in call.legs if leg.bridge_id and not leg.uniqueid.startswith(call.uniqueid))
            for call in calls
        ]
        await pbx.bridge(*dialled, timeout=TIMEOUT_S)
        for call in calls:
            await until_gone(pbx, call.uniqueid)
        await pbx.hangup(dialled[0], timeout=TIMEOUT_S)
        await asyncio.gather(*(call.ended(TIMEOUT_S) for call in calls))
        async with asyncio.timeout(TIMEOUT_S):
            heard = await asyncio.gather(*listening)
    legs = [{leg.uniqueid for leg in call.legs} for call in calls]
    assert not legs[0] & legs[1]
    for call, events, own in zip(calls, heard, legs, strict=True):
        assert {event.headers["Uniqueid"] for event in events if event.name == "Hangup"} == own
        assert all(call.uniqueid in event.calls for event in events)


async def test_a_call_that_there_is_not(pbx: Server) -> None:
    with pytest.raises(ActionFailed, match="No such channel") as failed:
        await pbx.follow("1700000000.1", timeout=TIMEOUT_S)
    assert failed.value.code == "asterisk-error"


async def test_a_uniqueid_that_cannot_be(pbx: Server) -> None:
    with pytest.raises(ActionRejected, match="Bus-Target"):
        await pbx.follow("not one", timeout=TIMEOUT_S)


async def test_by_plain_redis(pbx: Server, site: Site) -> None:
    async with (
        foreign(site, "Local/101@default") as (_, uniqueid),
        Producer(site.redis.url, pbx.name) as producer,
        producer.subscribed(f"call:{uniqueid}") as channel,
    ):
        await until_up(pbx, uniqueid)
        result = await producer.ask("BusFollow", "Bus-Target", uniqueid, "Bus-Timeout", "60", urgent=True)
        assert (result["state"], result["response"]["Message"]) == ("done", "Following")
        assert {leg["Uniqueid"] for leg in result["events"]} == {uniqueid, f"{uniqueid};2"}
        assert uniqueid in await producer.follows()
        await producer.ask("Hangup", "Channel", uniqueid)
        for leg in (uniqueid, f"{uniqueid};2"):
            assert (await channel.event("Hangup", Uniqueid=leg))["calls"] == [uniqueid]
        await channel.event("BusFollowEnded", Uniqueid=uniqueid, reason="hung-up")

        async def struck_out() -> bool:
            return uniqueid not in await producer.follows()

        await eventually(struck_out, "the follow is struck out")


async def test_the_time_limit(pbx: Server, site: Site) -> None:
    async with (
        foreign(site, "Local/101@default") as (observer, uniqueid),
        Producer(site.redis.url, pbx.name) as producer,
        producer.subscribed(f"call:{uniqueid}") as channel,
    ):
        await producer.ask("BusFollow", "Bus-Target", uniqueid, "Bus-Timeout", "0.2")
        await channel.event("BusFollowEnded", Uniqueid=uniqueid, reason="time-limit")
        await producer.ask("Hangup", "Channel", uniqueid)
        await observer.until("Hangup", Uniqueid=uniqueid)

        async def hangups() -> list[Message]:
            events = named(await producer.events(), "Hangup")
            return [event for event in events if event["headers"]["Uniqueid"] == uniqueid]

        # it is on the stream, and was not on the channel
        [hangup] = await eventually(hangups, "its Hangup is on the stream")
        assert hangup.get("calls", []) == []
        await channel.drain(producer)
        assert "Hangup" not in channel.names


async def test_it_survives_the_worker(site: Site) -> None:
    server = "successor"
    async with foreign(site, "Local/101@default") as (observer, uniqueid):
        async with site.serving(server) as (producer, _):
            result = await producer.ask("BusFollow", "Bus-Target", uniqueid)
            assert result["state"] == "done"
        async with (
            site.serving(server) as (producer, _),
            producer.subscribed(f"call:{uniqueid}") as channel,
        ):
            assert await producer.follows() == [uniqueid]
            await observer.session.action("Hangup", f"Channel: {uniqueid}")
            for leg in (uniqueid, f"{uniqueid};2"):
                await channel.event("Hangup", Uniqueid=leg)
            await channel.event("BusFollowEnded", Uniqueid=uniqueid, reason="hung-up")


async def test_it_ended_while_nobody_watched(site: Site) -> None:
    server = "latecomer"
    async with foreign(site, "Local/101@default") as (observer, uniqueid):
        async with site.serving(server) as (producer, _):
            assert (await producer.ask("BusFollow", "Bus-Target", uniqueid))["state"] == "done"
        await observer.session.action("Hangup", f"Channel: {uniqueid}")
        await observer.until("Hangup", Uniqueid=f"{uniqueid};2")
        async with (
            Producer(site.redis.url, server) as producer,
            producer.subscribed(f"call:{uniqueid}") as channel,
            site.serving(server),
        ):
            await channel.event("BusFollowEnded", Uniqueid=uniqueid, reason="ended-unseen")


async def test_the_blocking_client_follows_too(pbx: Server, site: Site) -> None:
    async with foreign(site, "Local/101@default") as (_, uniqueid):
        await until_up(pbx, uniqueid)

        def follow() -> list[object]:
            with BlockingBus(site.redis.url) as bus:
                call = bus.server(pbx.name).follow(uniqueid, timeout=TIMEOUT_S)
                answered = call.answered(TIMEOUT_S).is_answered
                call.hangup(timeout=TIMEOUT_S)
                names = [event.name for event in call.events()]
                return [answered, names.count("Hangup"), call.ended(TIMEOUT_S).is_answered, call.bridged()]

        assert await asyncio.to_thread(follow) == [True, 2, True, None]
