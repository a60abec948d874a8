"""The same path with the project's own client, asyncio and blocking."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker import ActionExpired, ActionFailed, ActionRejected, Bus, ResultTimeout, Server, State
from broker.sync import Bus as BlockingBus
from tests.live.harness import Site, Worker, eventually
from tests.live.observer import observing
from tests.live.producer import new_id

ANSWERING = "Local/101@default"
TIMEOUT_S = 60.0


@pytest_asyncio.fixture
async def pbx1(site: Site, worker: Worker) -> AsyncIterator[Server]:
    """The server of the shared worker."""
    async with Bus(site.redis.url, producer="live") as bus:
        yield bus.server(worker.server)


async def test_requests(pbx1: Server, site: Site) -> None:
    assert (await pbx1.request("Ping", timeout=TIMEOUT_S)).response is not None
    channels = await pbx1.request("CoreShowChannels", timeout=TIMEOUT_S)
    assert channels.events[-1].get("Event") == "CoreShowChannelsComplete"
    version = await pbx1.request("Command", Command="core show version", timeout=TIMEOUT_S)
    assert version.output[0].startswith(f"Asterisk {site.asterisk.version}")
    assert (await pbx1.status())["state"] == "connected"


async def test_a_call_and_its_events(pbx1: Server) -> None:
    headers = {"Channel": "Local/100@default", "Application": "Wait", "Data": "1", "Variable": ["a=1", "b=2"]}
    call = await pbx1.submit("Originate", headers=headers)
    async with asyncio.timeout(TIMEOUT_S):
        events = [event async for event in call.events()]
    # the response of the dialling and the hangups come by different threads of Asterisk
    assert [event.name for event in events if event.name != "OriginateResponse"][-1] == "Hangup"
    assert [event.name for event in events].count("OriginateResponse") == 1
    legs = {event.headers["Uniqueid"] for event in events if event.name == "Newchannel"}
    assert legs == {event.headers["Uniqueid"] for event in events if event.name == "Hangup"}
    assert legs == {f"amibus-pbx1-{call.action_id}", f"amibus-pbx1-{call.action_id};2"}
    assert (await call.result(timeout=TIMEOUT_S)).events[0]["Reason"] == "4"
    record = await call.action_record()
    assert record is not None
    assert (record.state, record.call, record.get("producer")) == (State.DONE, "ended", "live")


async def test_calls_at_once(pbx1: Server) -> None:
    async def one() -> tuple[str, list[str]]:
        call = await pbx1.submit("Originate", Channel="Local/102@default", Application="Wait", Data="1")
        events = [event async for event in call.events()]
        assert all(event.action_ids == [call.action_id] for event in events)
        return call.action_id, [event.headers["Uniqueid"] for event in events if event.name == "Hangup"]

    async with asyncio.timeout(TIMEOUT_S):
        calls = await asyncio.gather(*(one() for _ in range(10)))
    for action_id, hung_up in calls:
        assert sorted(hung_up) == [f"amibus-pbx1-{action_id}", f"amibus-pbx1-{action_id};2"]


async def test_each_way_to_fail_has_its_exception(pbx1: Server) -> None:
    with pytest.raises(ActionFailed) as failed:
        await pbx1.request("Originate", Channel="Local/busy@default", Application="Wait", Data="1", timeout=TIMEOUT_S)
    assert failed.value.result.error_code == "originate-failed"
    with pytest.raises(ActionRejected) as rejected:
        await pbx1.request("Command", Command="core stop now", timeout=TIMEOUT_S)
    assert rejected.value.result.error_code == "forbidden"
    with pytest.raises(ActionExpired):
        await pbx1.request("Ping", deadline=1_700_000_000.0, timeout=TIMEOUT_S)
    with pytest.raises(ResultTimeout) as late:
        await pbx1.request("Originate", Channel="Local/1@ring", Application="Wait", Data="0", timeout=0.3)
    # the caller's patience has ended, the action goes on
    await eventually(lambda: _hung_up(pbx1, late.value.action_id), "it is hung up")


async def _hung_up(pbx1: Server, action_id: str) -> bool:
    record = await pbx1.action_record(action_id)
    return record is not None and record.call == "ended"


async def test_a_repeated_request_is_answered_and_not_repeated(pbx1: Server, site: Site) -> None:
    action_id = new_id("twice")
    async with observing(site.asterisk) as observer:
        results = [
            await pbx1.request(
                "Originate",
                Channel="Local/102@default",
                Application="Wait",
                Data="1",
                action_id=action_id,
                timeout=TIMEOUT_S,
            )
            for _ in range(2)
        ]
        last = await pbx1.request(
            "Originate", Channel="Local/102@default", Application="Wait", Data="1", timeout=TIMEOUT_S
        )
        await observer.until("Hangup", Uniqueid=f"amibus-pbx1-{last.action_id}")
        assert len(observer.named("Newchannel", Uniqueid=f"amibus-pbx1-{action_id}")) == 1
    assert results[0] == results[1]


async def test_events_from_the_stream(pbx1: Server, site: Site) -> None:
    foreign = new_id("foreign")
    async with asyncio.timeout(TIMEOUT_S), observing(site.asterisk) as observer:
        stream = pbx1.events("Hangup", since="0")
        await observer.originate(foreign, "Channel: Local/102@default", "Application: Wait", "Data: 1")
        async for event in stream:
            assert event.name == "Hangup"
            if event.headers["Uniqueid"] == foreign:
                break
        await stream.aclose()
    assert event.action_ids == []


def test_the_blocking_client(site: Site, worker: Worker) -> None:
    with BlockingBus(site.redis.url) as bus:
        pbx1 = bus.server(worker.server)
        call = pbx1.submit("Originate", Channel=ANSWERING, Application="Wait", Data="300")
        result = call.result(timeout=TIMEOUT_S)
        assert result.events[0]["Uniqueid"] == f"amibus-pbx1-{call.action_id}"
        hangup = pbx1.request("Hangup", Channel=result.events[0]["Uniqueid"], urgent=True, timeout=TIMEOUT_S)
        assert hangup.is_done
        names = [event.name for event in call.events()]
    assert names[-1] == "Hangup"
    assert names.count("Newchannel") == names.count("Hangup") == 2
