"""The actions that the worker executes itself, on real servers and against the simulated Asterisk."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broker.codec import BusEvent, State
from broker.keys import ACTIONS, GROUP, URGENT
from tests.workers.worker_process import USERS, Desk, eventually, make_settings, running_worker
from workers import follows as follows_module
from workers import own_actions as module
from workers.simulated import SimulatedAsterisk

CALL = "amibus-pbx1-c1"
"""The Uniqueid of call c1's first leg."""


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


@contextlib.asynccontextmanager
async def served(redis_url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[Desk]:
    async with running_worker(make_settings(redis_url, asterisk)), Desk(redis_url) as desk:
        yield desk


async def up(desk: Desk, action_id: str = "c1") -> None:
    """Place a call that stays."""
    await desk.originate(action_id, Data="600")
    await desk.reaches(action_id, call="up", state="done")


def hang_up(asterisk: SimulatedAsterisk, uniqueid: str = CALL) -> None:
    [leg] = [leg for leg in asterisk.switch.legs if leg.uniqueid == uniqueid]
    leg.call.hang_up(leg, 16)


async def test_a_call_is_followed(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await up(desk)
        await desk.add("BusFollow", "f1", Bus_Target=CALL, Bus_Timeout="60", Bus_Tag="t", lane=URGENT)
        result = await desk.result("f1")
        assert (result.state, result.tag, result.action) == (State.DONE, "t", "BusFollow")
        assert result.response is not None
        assert result.response["Message"] == "Following"
        assert {leg["Uniqueid"] for leg in result.events} == {CALL, f"{CALL};2"}
        assert result.events[0]["ChannelStateDesc"] == "Up"
        [until] = (await desk.redis.hgetall(desk.keys.follows)).values()
        assert result.response["Until"] == until.decode()
        assert not any(each.action.lower() == "busfollow" for each in asterisk.written)
        await eventually(lambda: _counts_one(desk))
        async with desk.listening(desk.keys.call(CALL)) as ear:
            hang_up(asterisk)
            heard = [message for _, message in await ear.until(lambda heard: _named(heard, "BusFollowEnded"))]
        events = [message for message in heard if isinstance(message, BusEvent)]
        assert [event.name for event in events if event.name in ("Hangup", "BusFollowEnded")] == [
            "Hangup", "Hangup", "BusFollowEnded",
        ]  # fmt: skip
        assert all(event.calls == [CALL] for event in events)
        assert [event.action_ids for event in events[:-1]] == [["c1"]] * (len(events) - 1)
        await eventually(lambda: _is_gone(desk))


async def _counts_one(desk: Desk) -> bool:
    return (await desk.heartbeat()).get("follows") == "1"


def _named(heard: Sequence[tuple[str, object]], name: str) -> bool:
    return any(isinstance(message, BusEvent) and message.name == name for _, message in heard)


async def _is_gone(desk: Desk) -> bool:
    return not await desk.redis.exists(desk.keys.follows)


@pytest.mark.parametrize(
    ("action", "fields", "said"),
    [
        ("BusFollow", {}, "needs a Bus-Target"),
        ("BusFollow", {"Bus_Target": ""}, "Bus-Target"),
        ("BusFollow", {"Bus_Target": "two words"}, "Bus-Target"),
        ("BusFollow", {"Bus_Target": "x" * 150}, "Bus-Target"),
        ("BusFollow", {"Bus_Target": "u1", "Channel": "PJSIP/1"}, "Channel"),
        ("BusFollow", {"Bus_Target": "u1", "Bus_Timeout": "3601"}, "Bus-Timeout"),
        ("BusNonsense", {"Bus_Target": "u1"}, "not an action of this version"),
    ],
)
async def test_what_is_malformed(
    redis_url: str, asterisk: SimulatedAsterisk, action: str, fields: dict[str, str], said: str
) -> None:
    async with served(redis_url, asterisk) as desk:
        await desk.add(action, "f1", **fields)
        record = await desk.settled("f1")
        assert (record["state"], record["error_code"]) == ("rejected", "malformed")
        assert said in record["error"]


async def test_a_channel_that_there_is_not(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await desk.add("busfollow", "f1", Bus_Target="1700000000.1")
        record = await desk.settled("f1")
        assert (record["state"], record["error_code"], record["error"]) == (
            "failed", "asterisk-error", "No such channel",
        )  # fmt: skip
        assert await _is_gone(desk)


async def test_one_too_many(redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follows_module, "MAX_FOLLOWS", 1)
    async with served(redis_url, asterisk) as desk:
        await up(desk, "c1")
        await desk.add("BusFollow", "f1", Bus_Target=CALL)
        assert (await desk.settled("f1"))["state"] == "done"
        await desk.add("BusFollow", "f2", Bus_Target=f"{CALL};2")
        record = await desk.settled("f2")
        assert (record["state"], record["error_code"]) == ("rejected", "forbidden")


async def test_while_asterisk_is_away(
    redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AWAY_S", 0.1)
    async with served(redis_url, asterisk) as desk:
        await asterisk.stop()
        await eventually(lambda: _is(desk, "asterisk-away"))
        await desk.add("BusFollow", "f1", Bus_Target=CALL)
        record = await desk.settled("f1")
        assert (record["state"], record["error_code"]) == ("failed", "not-executed")
        assert await _is_gone(desk)
        await asterisk.start()


async def _is(desk: Desk, state: str) -> bool:
    return (await desk.heartbeat()).get("state") == state


async def test_a_second_entry_with_its_action_id_is_a_duplicate(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await up(desk)
        await desk.add("BusFollow", "f1", Bus_Target=CALL)
        first = await desk.result("f1")
        async with desk.listening(desk.keys.action("f1")) as ear:
            await desk.add("BusFollow", "f1", Bus_Target=CALL)
            [again] = await ear.results()
        assert again == first
        await eventually(desk.backlog_is_empty)


async def test_what_a_lost_worker_had_begun_is_done_again(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await up(desk)
    async with Desk(redis_url) as desk:
        entry = await desk.add("BusFollow", "f1", Bus_Target=CALL)
        await desk.redis.xreadgroup(GROUP, "lost", {desk.keys.actions: ">"})
        await desk.redis.hset(
            desk.keys.action("f1"),
            mapping={"state": "sending", "entry": entry, "lane": "actions", "epoch": "1", "sending_at": "1.0"},
        )
    async with served(redis_url, asterisk) as desk:
        assert (await desk.settled("f1"))["state"] == "done"
        await eventually(desk.backlog_is_empty)
        assert await desk.redis.hkeys(desk.keys.follows) == [CALL.encode()]


async def test_the_next_worker_follows_on(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await up(desk, "c1")
        await up(desk, "c2")
        for number in (1, 2):
            await desk.add("BusFollow", f"f{number}", Bus_Target=f"amibus-pbx1-c{number}")
            assert (await desk.settled(f"f{number}"))["state"] == "done"
        await desk.redis.hset(desk.keys.follows, "late", "1.0")
        await desk.redis.hset(desk.keys.follows, "no number", "x")
    hang_up(asterisk, "amibus-pbx1-c2")
    async with served(redis_url, asterisk) as desk:
        # who is over, or past the time limit, is told at once
        await eventually(lambda: _ended(desk, 2))
        told = {event.headers["Uniqueid"]: event.headers["reason"] for event in await desk.events("BusFollowEnded")}
        assert told.keys() == {"amibus-pbx1-c2", "late"}
        assert told["amibus-pbx1-c2"] == "ended-unseen"
        hang_up(asterisk)
        await eventually(lambda: _ended(desk, 3))
        hangups = [event for event in await desk.events("Hangup") if event.calls]
        assert {event.headers["Uniqueid"] for event in hangups} == {CALL, f"{CALL};2"}


async def _ended(desk: Desk, count: int) -> bool:
    return len(await desk.events("BusFollowEnded")) == count


async def test_many_at_once_ask_asterisk_a_few_times(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await up(desk)
        before = _asked(asterisk)
        async with desk.redis.pipeline(transaction=True) as at_once:
            for number in range(100):
                fields = {"Action": "BusFollow", "ActionID": f"f{number}", "Bus-Target": CALL}
                at_once.xadd(desk.keys.lane(ACTIONS), dict[Any, Any](fields))
            await at_once.execute()
        for number in range(100):
            assert (await desk.settled(f"f{number}"))["state"] == "done"
        assert _asked(asterisk) - before < 50


def _asked(asterisk: SimulatedAsterisk) -> int:
    return sum(each.action == "CoreShowChannels" for each in asterisk.written)
