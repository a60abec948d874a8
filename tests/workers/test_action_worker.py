"""The life of an action, from XADD to its final state, on real servers and against the simulated Asterisk."""

import asyncio
import contextlib
import hashlib
import signal
import time
from collections.abc import AsyncIterator

import msgpack
import pytest
from structlog.testing import capture_logs

from broker.ami import Headers
from broker.codec import BusEvent, BusResponse, Result, State, decode_message
from broker.keys import ACTIONS, URGENT
from broker.scripts import source
from tests.bus_side import Proxy
from tests.servers import RedisServer
from tests.workers.worker_process import (
    EVENTS_SECRET,
    SECRET,
    USERS,
    Desk,
    Pair,
    eventually,
    make_settings,
    pick_up,
    running_worker,
)
from workers.lease import Lease
from workers.rates import Rates
from workers.schedule import CALLS, Schedule
from workers.simulated import ALL_CLASSES, SimulatedAsterisk, User


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


@pytest.fixture
async def desk(redis_url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[Desk]:
    """With a worker that serves it."""
    async with running_worker(make_settings(redis_url, asterisk)), Desk(redis_url) as opened:
        yield opened


@contextlib.asynccontextmanager
async def served(redis_url: str, asterisk: SimulatedAsterisk, **settings: object) -> AsyncIterator[Desk]:
    """A desk whose worker has other settings."""
    async with running_worker(make_settings(redis_url, asterisk, **settings)), Desk(redis_url) as opened:
        yield opened


async def is_idle(desk: Desk) -> bool:
    return await desk.backlog() == 0 and await desk.pending() == 0


# -- answers


async def test_a_ping(desk: Desk) -> None:
    entry = await desk.add("Ping", "a1", Bus_Producer="crm-web", Bus_Tag="order 7")
    result = await desk.result("a1")
    assert result.state is State.DONE
    assert result.response is not None
    assert result.response["Ping"] == "Pong"
    assert (result.entry, result.producer, result.tag, result.error_code) == (entry, "crm-web", "order 7", None)
    record = await desk.record("a1")
    assert float(record["queued_at"]) <= float(record["sending_at"]) <= float(record["settled_at"])
    assert (record["response"], record["lane"], record["entry"]) == ("Success", ACTIONS, entry)
    line = (await desk.lines(desk.keys.results))[0]
    assert (line["action_id"], line["state"], line["error_code"], line["revised"]) == ("a1", "done", "", "0")
    await eventually(lambda: is_idle(desk))
    assert 0 < await desk.redis.ttl(desk.keys.action("a1")) <= 60


async def test_a_list_is_whole(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.switch.talk_s = 30
    await desk.originate("call", Data="600")
    await desk.reaches("call", call="up")
    async with desk.listening(desk.keys.action("a1")) as ear:
        await desk.add("CoreShowChannels", "a1")
        await ear.results()
    kinds = [type(message) for _, message in ear.heard]
    assert kinds == [BusResponse, Result]
    result = await desk.result("a1")
    assert [headers["Event"] for headers in result.events] == ["CoreShowChannel"] * 2 + ["CoreShowChannelsComplete"]


async def test_a_command(desk: Desk) -> None:
    await desk.add("Command", "a1", Command="core show version")
    assert (await desk.result("a1")).output == ["Asterisk 22.10.1 (simulated by amibus)"]


async def test_a_failure_is_told_with_asterisks_words(desk: Desk) -> None:
    await desk.add("Hangup", "a1", Channel="PJSIP/nobody-1")
    record = await desk.settled("a1")
    assert (record["state"], record["error_code"], record["error"]) == ("failed", "asterisk-error", "No such channel")
    assert record["response"] == "Error"


async def test_what_asterisk_does_not_permit(redis_url: str) -> None:
    users: dict[str, User | str] = {
        "amibus": User(SECRET, write=ALL_CLASSES - {"originate"}),
        "amibus-events": EVENTS_SECRET,
    }
    async with SimulatedAsterisk(users=users) as asterisk, served(redis_url, asterisk) as desk:
        await desk.originate("a1")
        record = await desk.settled("a1")
        assert (record["state"], record["error_code"]) == ("failed", "permission-denied")
        assert await desk.redis.hlen(desk.keys.legs) == 0
        assert "call" not in record


async def test_an_asterisk_that_shuts_down_has_not_executed_it(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.answer_error("a1")
    await desk.add("Setvar", "a1", Variable="x", Value="1")
    record = await desk.settled("a1")
    assert (record["state"], record["error_code"]) == ("failed", "not-executed")


async def test_an_entry_without_an_action_id_gets_its_own_id(desk: Desk) -> None:
    entry = await desk.add("Ping")
    urgent = await desk.add("Ping", lane=URGENT)
    assert (await desk.settled(entry))["state"] == "done"
    assert (await desk.settled(f"u.{urgent}"))["lane"] == URGENT


async def test_a_reply_channel_hears_the_result(desk: Desk) -> None:
    async with desk.listening(desk.keys.reply("me"), desk.keys.action("a1")) as ear:
        await desk.add("Ping", "a1", Bus_Reply="me")
        results = await ear.results(2)
    assert {channel for channel, _ in ear.heard} == {desk.keys.reply("me"), desk.keys.action("a1")}
    assert results[0] == results[1] == await desk.result("a1")


async def test_values_that_are_not_utf8_reach_asterisk_as_they_are(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    await desk.add_fields(("Action", "Setvar"), ("ActionID", "a1"), ("Variable", "x"), ("Value", b"caf\xe9"))
    assert (await desk.settled("a1"))["state"] == "done"
    assert ("Value", "caf\udce9") in asterisk.writes("a1")[0].headers
    shown = await desk.redis.hget(desk.keys.action("a1"), "request")
    assert isinstance(shown, bytes)
    assert msgpack.unpackb(shown)["Value"] == "café"


# -- calls


async def test_a_call_is_followed_to_its_end(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    async with desk.listening(desk.keys.action("c1")) as ear:
        await desk.originate("c1", Data="600", Variable="a=1")
        await desk.reaches("c1", call="up", state="done")
        assert await desk.redis.hgetall(desk.keys.legs) != {}
        assert await desk.redis.ttl(desk.keys.action("c1")) == -1  # kept for as long as the call lives
        asterisk.calls[0].hang_up(asterisk.switch.legs[0], 16)
        record = await desk.reaches("c1", call="ended")
        await ear.until(
            lambda heard: sum(isinstance(each, BusEvent) and each.name == "Hangup" for _, each in heard) == 2
        )
    assert (record["reason"], record["uniqueid"]) == ("4", "amibus-pbx1-c1")
    assert record["channel"].startswith("Local/100@default-")
    assert float(record["sent_at"]) <= float(record["answered_at"]) <= float(record["ended_at"])
    assert "cause" in record
    assert 3000 < await desk.redis.ttl(desk.keys.action("c1")) <= 3600
    assert await desk.redis.hgetall(desk.keys.legs) == {}
    kinds = [each.name if isinstance(each, BusEvent) else type(each).__name__ for _, each in ear.heard]
    assert kinds.index("BusResponse") < kinds.index("OriginateResponse") < kinds.index("Result")
    assert kinds[-1] == "Hangup"
    events = [each for _, each in ear.heard if isinstance(each, BusEvent)]
    assert all(event.action_ids == ["c1"] for event in events)
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    result = await desk.result("c1")
    assert [headers["Event"] for headers in result.events] == ["OriginateResponse"]


@pytest.mark.parametrize(
    ("exten", "reason", "words"),
    [("busy", "5", "busy"), ("congestion", "8", "congestion"), ("noanswer", "3", "no answer")],
)
async def test_a_call_that_fails(desk: Desk, exten: str, reason: str, words: str) -> None:
    await desk.originate("c1", exten, Timeout="100")
    record = await desk.settled("c1")
    assert (record["state"], record["error_code"], record["reason"]) == ("failed", "originate-failed", reason)
    assert words in record["error"]
    assert (await desk.reaches("c1", call="ended"))["call"] == "ended"
    assert await desk.redis.hgetall(desk.keys.legs) == {}


async def test_an_originate_is_always_asynchronous_and_joined_to_its_call(
    desk: Desk, asterisk: SimulatedAsterisk
) -> None:
    await desk.originate("c1", Async="false")
    await desk.originate("c2", ChannelId="of-the-producer")
    assert (await desk.settled("c1"))["state"] == (await desk.settled("c2"))["state"] == "done"
    first, second = (Headers(asterisk.writes(action_id)[0].headers) for action_id in ("c1", "c2"))
    assert first.get_all("Async") == second.get_all("Async") == ["true"]
    assert first.get_all("ChannelId") == ["amibus-pbx1-c1"]
    assert second.get_all("ChannelId") == ["of-the-producer"]


async def test_a_channel_id_that_is_alive_is_refused(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    await desk.originate("c1", Data="600", ChannelId="same")
    await desk.reaches("c1", call="up")
    await desk.originate("c2", ChannelId="same")
    record = await desk.settled("c2")
    assert (record["state"], record["error_code"]) == ("rejected", "duplicate-channel-id")
    assert not asterisk.writes("c2")


async def test_a_phone_that_rings_holds_nobody_up(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    await desk.originate("c1", "noanswer", Timeout="600000")
    await desk.reaches("c1", call="dialing", state="sent")
    await desk.originate("c2")
    await desk.add("Setvar", "a1", Variable="x", Value="1")
    assert (await desk.settled("c2"))["state"] == "done"
    assert (await desk.settled("a1"))["state"] == "done"
    assert (await desk.record("c1"))["state"] == "sent"


async def test_what_the_producer_said_of_its_action_is_found_everywhere(desk: Desk) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with capture_logs() as logs:
        await desk.add("Bogus", "r1", Variable="x\ny", Bus_Producer="crm", Bus_Tag="t", Bus_Traceparent=trace)
        await desk.add("Ping", "p1", Bus_Producer="crm", Bus_Tag="t", Bus_Traceparent=trace)
        await desk.add("Ping", "p2")
        records = {action_id: await desk.settled(action_id) for action_id in ("r1", "p1", "p2")}
        await eventually(lambda: [line for line in logs if line.get("action_id") == "r1"])
    lines = {line["action_id"]: line for line in await desk.lines(desk.keys.results)}
    for action_id in ("r1", "p1"):
        assert (records[action_id]["tag"], records[action_id]["traceparent"]) == ("t", trace)
        assert (lines[action_id]["tag"], lines[action_id]["producer"]) == ("t", "crm")
        result = decode_message(await desk.redis.hget(desk.keys.action(action_id), "result"))
        assert isinstance(result, Result)
        assert (result.tag, result.traceparent) == ("t", trace)
    assert [line["traceparent"] for line in logs if line.get("action_id") == "r1"] == [trace]
    assert "tag" not in lines["p2"]
    assert not {"tag", "traceparent"} & set(records["p2"])


# -- what reaches Asterisk


async def test_headers_reach_asterisk_in_order_and_the_buss_own_do_not(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    more: list[Pair] = [("Variable", "a=1"), ("Variable", "b=2"), ("Bus-X-Note", "mine"), ("Variable", "a=3")]
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await desk.add(
        "Originate", "c1", *more, Channel="Local/100@default", Application="Wait", Data="0",
        Bus_Producer="crm", Bus_Deadline="+30", Bus_Timeout="20", Bus_Reply="me", Bus_Tag="t", Bus_Traceparent=trace,
    )  # fmt: skip
    assert (await desk.settled("c1"))["traceparent"] == trace
    written = asterisk.writes("c1")[0].headers
    assert written[:2] == [("Action", "Originate"), ("ActionID", "c1")]
    assert [value for name, value in written if name == "Variable"] == ["a=1", "b=2", "a=3"]
    assert not [name for name, _ in written if name.lower().startswith("bus-")]


FORBIDDEN = {
    "Login": {"Username": "x", "Secret": "hidden-x"},
    "Logoff": {},
    "Challenge": {"AuthType": "MD5"},
    "Events": {"EventMask": "on"},
    "Filter": {"Operation": "Add", "Filter": "x"},
    "WaitEvent": {"Timeout": "-1"},
    "wAiTeVeNt": {},
    "Command": {"Command": "core stop now"},
    "GetConfig": {"Filename": "manager.conf"},
    "UpdateConfig": {"SrcFilename": "a", "DstFilename": "a"},
    "ModuleLoad": {"LoadType": "load", "Module": "x"},
    "Setvar": {"Variable": "SHELL(id)", "Value": "1"},
    "Originate": {"Channel": "Local/1@x", "Application": "System", "Data": "id"},
    "Hangup": {"Channel": "/.*/"},
}


async def test_what_the_policy_refuses_never_reaches_asterisk(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    for n, (action, headers) in enumerate(FORBIDDEN.items()):
        await desk.add(action, f"a{n}", **headers)
    for n in range(len(FORBIDDEN)):
        record = await desk.settled(f"a{n}")
        assert (record["state"], record["error_code"]) == ("rejected", "forbidden")
        assert record["error"]
        assert not asterisk.writes(f"a{n}")
    assert len(await desk.lines(desk.keys.dead)) == len(FORBIDDEN)


async def test_the_policy_lets_through_what_a_setting_names(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk, allow=("Command", "Login", "WaitEvent")) as desk:
        await desk.add("Command", "a1", Command="core stop now")
        await desk.add("Login", "a2")
        await desk.add("WaitEvent", "a3")
        assert (await desk.settled("a1"))["error_code"] == "asterisk-error"  # the simulated console knows it not
        assert (await desk.settled("a2"))["error_code"] == "forbidden"
        assert (await desk.settled("a3"))["error_code"] == "forbidden"


HOSTILE: dict[str, tuple[list[Pair], str]] = {
    "ten thousand fields": (
        [("Action", "Ping"), ("ActionID", "evil"), *[(f"H{n}", "x") for n in range(10_000)]],
        "too-many-headers",
    ),
    "a megabyte": ([("Action", "Ping"), ("ActionID", "evil"), ("X", "y" * 1_000_000)], "line-too-long"),
    "a long name": ([("Action", "Ping"), ("ActionID", "evil"), ("N" * 2000, "y")], "line-too-long"),
    "NUL": ([("Action", "Ping"), ("ActionID", "evil"), ("X", b"a\0b")], "bad-header"),
    "an action within": (
        [("Action", "Ping"), ("ActionID", "evil"), ("X", "y\r\n\r\nAction: Originate\r\nActionID: worse")],
        "bad-header",
    ),
    "a line end": ([("Action", "Ping"), ("ActionID", "evil"), ("X", "y\nAction: Originate")], "bad-header"),
    "a line end in a name": ([("Action", "Ping"), ("ActionID", "evil"), ("X\r\nAction", "Logoff")], "bad-header"),
    "a line end in the action": ([("Action", "Ping\r\nAction: Logoff"), ("ActionID", "evil")], "malformed"),
    "a name of other bytes": ([("Action", "Ping"), ("ActionID", "evil"), (b"\xff\xfe", "y")], "bad-header"),
    "an action of other bytes": ([("Action", b"\xff\xfe"), ("ActionID", "evil")], "malformed"),
    "no name": ([("Action", "Ping"), ("ActionID", "evil"), ("", "y")], "bad-header"),
    "a colon in a name": ([("Action", "Ping"), ("ActionID", "evil"), ("X: y", "z")], "bad-header"),
    "no action": ([("ActionID", "evil"), ("Channel", "x")], "malformed"),
    "an empty action": ([("Action", ""), ("ActionID", "evil")], "malformed"),
    "two actions": ([("Action", "Ping"), ("ACTION", "Logoff"), ("ActionID", "evil")], "malformed"),
    "an unknown field of the bus": (
        [("Action", "Ping"), ("ActionID", "evil"), ("Bus-Prodcuer", "x")],
        "unknown-bus-field",
    ),
    "a field of the bus twice": (
        [("Action", "Ping"), ("ActionID", "evil"), ("Bus-Tag", "x"), ("bus-tag", "y")],
        "malformed",
    ),
    "a target of an action of Asterisk": ([("Action", "Ping"), ("ActionID", "evil"), ("Bus-Target", "x")], "malformed"),
    "a wrong deadline": ([("Action", "Ping"), ("ActionID", "evil"), ("Bus-Deadline", "tomorrow")], "malformed"),
    "a far deadline": ([("Action", "Ping"), ("ActionID", "evil"), ("Bus-Deadline", "+999999")], "malformed"),
    "a wrong timeout": ([("Action", "Ping"), ("ActionID", "evil"), ("Bus-Timeout", "-1")], "malformed"),
    "a wrong call timeout": (
        [("Action", "Originate"), ("ActionID", "evil"), ("Channel", "Local/1@x"), ("Timeout", "1e3")],
        "bad-header",
    ),
    "a long channel id": (
        [("Action", "Originate"), ("ActionID", "evil"), ("Channel", "Local/1@x"), ("ChannelId", "x" * 200)],
        "bad-header",
    ),
}


async def test_hostile_entries_are_refused_and_stop_nothing(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    for n, (fields, _) in enumerate(HOSTILE.values()):
        await desk.add_fields(*[(name, f"evil{n}") if name == "ActionID" else (name, value) for name, value in fields])
    await desk.add("Ping", "good")
    assert (await desk.settled("good"))["state"] == "done"
    for n, (name, (_, code)) in enumerate(HOSTILE.items()):
        record = await desk.settled(f"evil{n}")
        assert (name, record["state"], record["error_code"]) == (name, "rejected", code)
        assert record["error"]
        assert len(record["error"]) < 300
    await eventually(lambda: is_idle(desk))
    assert {each.action_id for each in asterisk.written if each.action_id in ("good", "worse")} == {"good"}
    assert not [each for each in asterisk.written if "evil" in each.text]
    dead = await desk.lines(desk.keys.dead)
    assert {line["action_id"]: line["reason_code"] for line in dead} == {
        f"evil{n}": code for n, (_, code) in enumerate(HOSTILE.values())
    }
    assert all(line["reason"] and line["entry"] for line in dead)
    assert sum(len(name) + len(value) for line in dead for name, value in line.items()) < 300_000


@pytest.mark.parametrize("action_id", ["x" * 65, "has blank", "1795467933212-0", "u.5-0", b"\xff", "a\r\nb"])
async def test_an_unusable_action_id_is_refused_under_the_entrys_own(
    desk: Desk, asterisk: SimulatedAsterisk, action_id: str | bytes
) -> None:
    entry = await desk.add_fields(("Action", "Setvar"), ("ActionID", action_id), ("Variable", "x"), ("Value", "1"))
    record = await desk.settled(entry)
    assert (record["state"], record["error_code"]) == ("rejected", "bad-action-id")
    assert not [each for each in asterisk.written if each.action == "Setvar"]


async def test_secrets_are_masked_wherever_they_could_show(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    with capture_logs() as logs:
        await desk.add("PJSIPQualify", "a1", Endpoint="x", Secret="hush-1")
        await desk.add("UserEvent", "a2", UserEvent="Login", Password="hush-2", Note="open")
        await desk.add("Originate", "a3", ("Variable", "db_password=hush-3,a=1"), Channel="Local/100@default",
                       Application="Wait", Data="0")  # fmt: skip
        await desk.add("Ping", "a4", Secret="hush-4", Bus_Unknown="x")
        await desk.add("Command", "a5", Command="core stop now", MD5Secret="hush-5")
        for n in range(1, 6):
            await desk.settled(f"a{n}")
        await eventually(lambda: desk.events("UserEvent"))
        await desk.reaches("a3", call="ended")
    assert ("Secret", "hush-1") in asterisk.writes("a1")[0].headers  # to Asterisk it goes as it is
    kept: list[object] = [logs]
    kept += [await desk.redis.hgetall(desk.keys.action(f"a{n}")) for n in range(1, 6)]
    kept += [await desk.redis.xrange(stream) for stream in (desk.keys.dead, desk.keys.results)]
    assert "hush" not in repr(kept)
    told = (await desk.events("UserEvent"))[0].headers
    assert (told["Password"], told["Note"]) == ("***", "open")
    dead = {line["action_id"]: line for line in await desk.lines(desk.keys.dead)}
    assert dead["a4"]["Secret"] == dead["a5"]["MD5Secret"] == "***"


# -- duplicates


async def test_a_duplicate_of_a_settled_action_is_answered_and_not_sent(
    desk: Desk, asterisk: SimulatedAsterisk
) -> None:
    await desk.add("Setvar", "a1", Variable="x", Value="1")
    first = await desk.result("a1")
    async with desk.listening(desk.keys.reply("me"), desk.keys.action("a1")) as ear:
        # The fields of the bus, their order and the case of names do not make it another.
        await desk.add_fields(
            ("action", "Setvar"), ("Bus-Reply", "me"), ("VALUE", "1"), ("variable", "x"), ("ActionID", "a1")
        )
        assert await ear.results(2) == [first, first]
    await eventually(lambda: is_idle(desk))
    assert asterisk.write_counts()["a1"] == 1
    assert len(await desk.lines(desk.keys.results)) == 1
    await eventually(lambda: counted(desk, "duplicates", 1))


async def counted(desk: Desk, name: str, value: int) -> bool:
    return (await desk.heartbeat()).get(name) == str(value)


async def test_a_duplicate_of_an_action_under_way_is_answered_with_it(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.hold_response("a1")
    async with desk.listening(desk.keys.action("a1")) as ear:
        await desk.add("Setvar", "a1", Variable="x", Value="1")
        await desk.reaches("a1", state="sending")
        await desk.add("Setvar", "a1", lane=URGENT, Variable="x", Value="1")
        await eventually(lambda: counted(desk, "duplicates", 1))
        asterisk.faults.resume()
        await ear.results(1)
    await eventually(lambda: is_idle(desk))
    assert asterisk.write_counts()["a1"] == 1


async def test_another_action_under_a_known_action_id_is_refused(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    await desk.add("Setvar", "a1", Variable="x", Value="1")
    before = await desk.settled("a1")
    async with desk.listening(desk.keys.reply("me")) as ear:
        entry = await desk.add("Setvar", "a1", Variable="x", Value="2", Bus_Reply="me")
        (result,) = await ear.results()
    assert (result.state, result.error_code, result.entry) == (State.REJECTED, "action-id-reused", entry)
    assert await desk.record("a1") == before
    assert asterisk.write_counts()["a1"] == 1
    assert [line["reason_code"] for line in await desk.lines(desk.keys.dead)] == ["action-id-reused"]


async def test_a_refused_entry_leaves_the_record_of_its_action_id_alone(desk: Desk) -> None:
    await desk.add("Ping", "a1")
    before = await desk.settled("a1")
    async with desk.listening(desk.keys.action("a1")) as ear:
        await desk.add("Ping", "a1", Bus_Nonsense="x")
        (result,) = await ear.results()
    assert (result.state, result.error_code) == (State.REJECTED, "unknown-bus-field")
    assert await desk.record("a1") == before


# -- deadlines


async def test_a_deadline_that_has_passed(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    await desk.add("Setvar", "a1", Variable="x", Value="1", Bus_Deadline=f"{time.time() - 1:.3f}")
    record = await desk.settled("a1")
    assert (record["state"], record["error_code"]) == ("expired", "expired")
    assert "sending_at" not in record
    assert not asterisk.writes("a1")


async def test_a_deadline_that_passes_while_asterisk_is_away(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    await asterisk.stop()
    await desk.add("Setvar", "a1", Variable="x", Value="1", Bus_Deadline="+0.5")
    await desk.add("Ping", "a2", Bus_Deadline="+0.5")
    assert (await desk.settled("a1"))["state"] == "expired"
    assert (await desk.settled("a2"))["state"] == "expired"
    await asterisk.start()
    await desk.add("Ping", "a3")
    assert (await desk.settled("a3"))["state"] == "done"
    assert not asterisk.writes("a1")
    assert not asterisk.writes("a2")


async def test_entries_of_one_action_id_whose_deadlines_pass_together(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    await asterisk.stop()
    async with running_worker(make_settings(redis_url, asterisk), connected=False), Desk(redis_url) as desk:
        for value in ("1", "1", "2"):
            await desk.add("Setvar", "a1", Variable="x", Value=value, Bus_Deadline="+0.3")
        await eventually(lambda: is_idle(desk))
        lines = [(line["state"], line["error_code"]) for line in await desk.lines(desk.keys.results)]
    assert sorted(lines) == [("expired", "expired"), ("rejected", "action-id-reused")]
    await asterisk.start()


async def test_a_deadline_that_passes_while_redis_takes_its_time(
    redis_server: RedisServer, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with Proxy(redis_server.port) as proxy, served(proxy.url, asterisk), Desk(redis_url) as desk:
        # Redis must know the script, or it is the reply "no such script" that is held, and nothing is marked.
        await desk.redis.script_load(source("mark_sending").decode())
        mark = hashlib.sha1(source("mark_sending"), usedforsecurity=False).hexdigest()
        proxy.held = mark.encode()
        await desk.add("Setvar", "a1", Variable="x", Value="1", Bus_Deadline="+3")
        await desk.reaches("a1", state="sending")
        queued_at = float((await desk.record("a1"))["queued_at"])
        await eventually(lambda: time.time() > queued_at + 3.1)
        proxy.held = None
        proxy.release()
        assert (await desk.settled("a1"))["state"] == "expired"
        assert not asterisk.writes("a1")


async def test_a_deadline_that_passes_while_it_waits_for_its_rate(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk, rate_calls=0.01) as desk:
        await desk.originate("c1")
        await desk.originate("c2", Bus_Deadline="+0.4")
        assert (await desk.settled("c2"))["state"] == "expired"
        assert (await desk.settled("c1"))["state"] == "done"
        assert not asterisk.writes("c2")


# -- order and rates


async def test_an_urgent_entry_overtakes_what_waits(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk, rate_calls=0.1, read_ahead=50) as desk:
        for n in range(200):
            await desk.originate(f"c{n}")
        await desk.settled("c0")
        await desk.add("Setvar", "now", lane=URGENT, Variable="x", Value="1")
        assert (await desk.settled("now"))["state"] == "done"
        assert sum(asterisk.write_counts()[f"c{n}"] for n in range(200)) < 10


async def test_first_in_first_out(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    for n in range(60):
        await desk.add("Setvar", f"s{n}", Variable="x", Value=n)
        await desk.add("Getvar", f"g{n}", Variable="x")
    await desk.settled("s59")
    await desk.settled("g59")
    for kind in "sg":
        written = [each.action_id for each in asterisk.written if each.action_id and each.action_id[0] == kind]
        assert written == [f"{kind}{n}" for n in range(60)]


async def test_nobody_overtakes_who_waits_until_the_lease_is_certain(
    desk: Desk, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[str] = []
    renewed = False

    def is_valid(_lease: Lease) -> bool:
        """As after a pause: the first entry's task asks too early, and any other just in time."""
        task = asyncio.current_task()
        name = "" if task is None else task.get_name()
        if not waiting and name[:1].isdigit():  # it has the entry's id for a name
            waiting.append(name)
        return renewed or name not in waiting

    monkeypatch.setattr(Lease, "is_valid", property(is_valid))
    await desk.add("Ping", "a1")
    await eventually(lambda: waiting)
    await desk.add("Ping", "a2")
    await eventually(lambda: desk.record("a2"))  # it was marked, and goes on at once if nothing holds it
    renewed = True
    for action_id in ("a1", "a2"):
        await desk.settled(action_id)
    assert [action_id for action_id in asterisk.write_counts() if action_id.startswith("a")] == ["a1", "a2"]


async def test_nothing_is_read_while_the_lease_may_be_anothers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    may_be_ours = False
    monkeypatch.setattr(Lease, "is_valid", property(lambda _lease: may_be_ours))
    await desk.add("Ping", "a1")

    async def is_queued() -> bool:
        return (await desk.heartbeat()).get("queued") == "1"

    await eventually(is_queued)  # the doorbell has rung long since
    assert await desk.pending() == 0, "it is left to whoever has the lease"
    may_be_ours = True
    assert (await desk.settled("a1"))["state"] == "done"


async def test_calls_keep_to_their_rate(
    redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = watch_calls_go(monkeypatch)
    async with served(redis_url, asterisk, rate_calls=20.0) as desk:
        for n in range(35):
            await desk.originate(f"c{n}")
        await desk.settled("c34")
        came = sorted(each.at for each in asterisk.written if each.action == "Originate")
        assert len(came) == len(granted) == 35
        # None came before it was let go. How long each then was on its way is the machine's affair, not the rate's.
        assert all(arrival >= start for arrival, start in zip(came, granted, strict=True))
        # A second's worth at once, then one every 50 ms, whatever stretch of time one looks at.
        for earlier in range(35):
            for later in range(earlier, 35):
                assert later - earlier <= 20 + 20 * (granted[later] - granted[earlier])


def watch_calls_go(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each call is let go, by the monotonic clock."""
    granted: list[float] = []
    take = Rates.take

    def watched(rates: Rates, cost: str, now: float) -> None:
        if cost == CALLS:
            granted.append(now)
        take(rates, cost, now)

    monkeypatch.setattr(Rates, "take", watched)
    return granted


async def test_calls_that_wait_for_their_rate_hold_up_nothing_else(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk, rate_calls=0.01) as desk:
        for n in range(35):
            await desk.originate(f"c{n}")
        for n in range(35):
            await desk.add("Setvar", f"s{n}", Variable="x", Value="1")
            await desk.add("Getvar", f"g{n}", Variable="x")
        await desk.settled("c0")
        for n in range(35):
            assert (await desk.settled(f"s{n}"))["state"] == "done"
            assert (await desk.settled(f"g{n}"))["state"] == "done"
        assert sum(each.action == "Originate" for each in asterisk.written) == 1


async def test_a_queue_longer_than_what_is_held_drains_as_room_comes(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with served(redis_url, asterisk, read_ahead=5) as desk:
        # One doorbell's wait for each five of them would take a minute.
        for n in range(300):
            await desk.add("Ping", f"p{n}")
        await desk.settled("p299", 45)
        await eventually(lambda: has_pending(desk, 0))


async def test_a_long_queue_is_read_as_far_as_there_is_room_and_no_further(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with served(redis_url, asterisk, rate_calls=0.1, read_ahead=5) as desk:
        for n in range(30):
            await desk.originate(f"c{n}", "busy")
        await desk.settled("c0")
        await eventually(lambda: has_pending(desk, 5))
        before = await commands(desk)
        started = time.monotonic()
        await desk.add("Ping", "a1", lane=URGENT)
        await desk.settled("a1")
        await desk.add("Ping", "a2", lane=URGENT)
        await desk.settled("a2")
        await eventually(lambda: time.monotonic() - started > 0.5)
        # A doorbell that is rung by what there is no room for would turn the reader into a busy loop.
        assert await commands(desk) - before < 60


async def has_pending(desk: Desk, count: int) -> bool:
    return await desk.pending() == count


async def commands(desk: Desk) -> int:
    """How often entries were asked for."""
    stats = await desk.redis.info("commandstats")
    return sum(stats[f"cmdstat_{name}"]["calls"] for name in ("xread", "xreadgroup") if f"cmdstat_{name}" in stats)


# -- lost answers


async def test_a_lost_response_is_unknown_and_only_that_session_is_replaced(
    desk: Desk, asterisk: SimulatedAsterisk
) -> None:
    before = {session.number for session in asterisk.sessions}
    asterisk.faults.lose_response("a1")
    await desk.add("Setvar", "a1", Variable="x", Value="1", Bus_Timeout="0.4")
    await eventually(lambda: asterisk.writes("a1"))
    await desk.add("Ping", "a2")
    await desk.add("Setvar", "a3", Variable="x", Value="3")
    assert (await desk.settled("a2"))["state"] == "done"
    record = await desk.settled("a1")
    assert (record["state"], record["error_code"]) == ("unknown", "timeout")
    assert record["error"] == "no answer within 0.4 s"
    assert (await desk.settled("a3"))["state"] == "done"
    assert asterisk.write_counts()["a1"] == 1
    await eventually(lambda: len(asterisk.sessions) == 4)
    assert len({session.number for session in asterisk.sessions} - before) == 1


@pytest.mark.parametrize("moment", ["before", "amid", "unread"])
async def test_a_change_whose_connection_dropped_is_unknown(
    desk: Desk, asterisk: SimulatedAsterisk, moment: str
) -> None:
    asterisk.faults.drop_connection("a1", when=moment)
    await desk.add("Setvar", "a1", Variable="x", Value="1")
    record = await desk.settled("a1")
    assert (record["state"], record["error_code"]) == ("unknown", "connection-lost")
    await desk.add("Setvar", "a2", Variable="x", Value="2")
    assert (await desk.settled("a2"))["state"] == "done"
    assert asterisk.write_counts()["a1"] <= 1


async def test_a_change_whose_connection_dropped_after_the_answer_is_done(
    desk: Desk, asterisk: SimulatedAsterisk
) -> None:
    asterisk.faults.drop_connection("a1", when="after")
    await desk.add("Setvar", "a1", Variable="x", Value="1")
    assert (await desk.settled("a1"))["state"] == "done"
    assert asterisk.write_counts()["a1"] == 1


@pytest.mark.parametrize("moment", ["before", "amid", "unread"])
async def test_a_read_whose_connection_dropped_is_repeated(
    desk: Desk, asterisk: SimulatedAsterisk, moment: str
) -> None:
    asterisk.faults.drop_connection("a1", when=moment, times=2)
    await desk.add("CoreShowChannels", "a1")
    assert (await desk.settled("a1"))["state"] == "done"
    assert asterisk.write_counts()["a1"] == (1 if moment == "unread" else 3)


async def test_a_read_is_not_repeated_for_ever(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.drop_connection("a1", times=0)
    await desk.add("CoreShowChannels", "a1")
    assert (await desk.settled("a1"))["error_code"] == "connection-lost"
    assert asterisk.write_counts()["a1"] == 4


async def test_a_function_is_not_read_twice(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.drop_connection("a1")
    await desk.add("Getvar", "a1", Variable="CALLERID(num)")
    assert (await desk.settled("a1"))["error_code"] == "connection-lost"
    assert asterisk.write_counts()["a1"] == 1


async def test_a_call_whose_outcome_never_comes_is_unknown(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served(redis_url, asterisk) as desk:
        await desk.originate("c1", "noanswer", Timeout="600000", Bus_Timeout="2")
        record = await desk.settled("c1")
        assert (record["state"], record["error_code"]) == ("unknown", "timeout")
        # The call is alive all the same, and is followed to its end.
        assert record["call"] == "dialing"
        assert await desk.redis.hexists(desk.keys.legs, "amibus-pbx1-c1")
        await desk.add("Hangup", "h1", Channel=record["channel"])
        await desk.reaches("c1", call="ended")


async def test_a_call_whose_outcome_is_here_is_not_unknown_because_redis_is_slow(
    own_redis: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    asterisk.switch.ring_s = 25.0
    async with served(own_redis.url, asterisk) as desk:
        await desk.originate("c1", "ring", Data="60", Bus_Timeout="3")
        await desk.reaches("c1", state="sent", call="dialing")
        sent_at = time.monotonic()
        own_redis.send(signal.SIGSTOP)
        try:
            pick_up(asterisk)
            await eventually(lambda: time.monotonic() > sent_at + 3.5)
        finally:
            own_redis.send(signal.SIGCONT)
        assert (await desk.settled("c1"))["state"] == "done"


async def test_a_restart_of_asterisk_in_mid_call(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.lose_response("s1")
    await desk.originate("c1", "noanswer", Timeout="600000")
    await desk.reaches("c1", state="sent", call="dialing")
    await desk.add("Setvar", "s1", Variable="x", Value="1")
    await eventually(lambda: asterisk.writes("s1"))
    restart = asyncio.create_task(asterisk.restart(down_s=0.3))
    assert (await desk.settled("s1"))["error_code"] == "connection-lost"
    await desk.add("Setvar", "s2", Variable="x", Value="2")
    await restart
    assert (await desk.settled("s2"))["state"] == "done"
    record = await desk.settled("c1")
    assert record["state"] == "unknown"
    assert (await desk.reaches("c1", call="ended"))["call"] == "ended"
    assert asterisk.write_counts()["c1"] == asterisk.write_counts()["s1"] == 1


# -- Redis


async def refusals(desk: Desk, at_least: int) -> bool:
    """Whether Redis has refused so many writes for want of replicas."""
    errors = await desk.redis.info("errorstats")
    return bool(errors.get("errorstat_NOREPLICAS", {}).get("count", 0) >= at_least)


async def test_a_redis_that_takes_no_writes_for_a_while_loses_nothing(
    own_redis: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    async with served(own_redis.url, asterisk) as desk:
        asterisk.faults.hold_response("a1")
        await desk.add("Setvar", "a1", Variable="x", Value="1")
        await eventually(lambda: asterisk.writes("a1"))
        with capture_logs() as logs:
            await desk.redis.config_set("min-replicas-to-write", 1)  # every write is refused with NOREPLICAS
            asterisk.faults.resume()
            await eventually(lambda: refusals(desk, 12))  # the heartbeat's and, soon, those of settling
            assert (await desk.record("a1"))["state"] == "sending"
            await desk.redis.config_set("min-replicas-to-write", 0)
            assert (await desk.settled("a1"))["state"] == "done"
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["redis is away"]
        await desk.add("Ping", "a2")
        assert (await desk.settled("a2"))["state"] == "done"
    assert asterisk.write_counts()["a1"] == 1


# -- entries that share a turn


async def test_each_of_those_that_share_a_turn_has_a_fate_of_its_own(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    await asterisk.stop()
    async with running_worker(make_settings(redis_url, asterisk), connected=False), Desk(redis_url) as desk:
        await desk.add("Ping", "a1")
        await desk.add("Ping", "a2", Bus_Deadline="+0.3")
        await desk.add("QueueStatus", "a3")
        await desk.add("Ping", "a1")  # the same again
        await desk.add("CoreStatus", "a1")  # something else under its name
        await desk.add("Ping", "a4", Bus_Timeout="0.4")
        await desk.add("Ping", "a5")
        asterisk.faults.lose_response("a4")
        asterisk.faults.lose_response("a5")
        assert (await desk.settled("a2"))["state"] == "expired"
        await asterisk.start()
        states = {name: (await desk.settled(name))["state"] for name in ("a1", "a2", "a3", "a4", "a5")}
        assert states == {"a1": "done", "a2": "expired", "a3": "done", "a4": "unknown", "a5": "done"}
        await eventually(lambda: is_idle(desk))
        assert len(await desk.lines(desk.keys.dead)) == 1
    counts = asterisk.write_counts()
    assert {name: counts.get(name, 0) for name in states} == {"a1": 1, "a2": 0, "a3": 1, "a4": 1, "a5": 2}


async def test_those_that_are_left_of_a_shared_turn_stay_before_who_came_later(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    await asterisk.stop()
    async with running_worker(make_settings(redis_url, asterisk), connected=False), Desk(redis_url) as desk:
        await desk.add("Ping", "a1", Bus_Deadline="+4")
        await desk.add("Ping", "a2")
        await eventually(lambda: is_pending(desk, 2))
        await desk.add("Ping", "a3")
        await eventually(lambda: is_pending(desk, 3))
        assert (await desk.settled("a1"))["state"] == "expired"
        await asterisk.start()
        for action_id in ("a2", "a3"):
            await desk.settled(action_id)
    written = [action_id for action_id in asterisk.write_counts() if action_id.startswith("a")]
    assert written == ["a2", "a3"]


async def is_pending(desk: Desk, entries: int) -> bool:
    return await desk.pending() == entries


async def test_where_a_deadline_ends_a_shared_turn_the_others_keep_their_place(
    redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[Schedule] = []
    monkeypatch.setattr(
        Schedule, "_watch_deadlines", lambda each: waits.append(each)
    )  # the deadlines are looked at when we say
    async with running_worker(make_settings(redis_url, asterisk)), Desk(redis_url) as desk:
        await desk.add("Ping", "late", Bus_Deadline="1")  # at the head of the queue until it is looked at
        await eventually(lambda: waits and waits[0].waiting == 1)
        async with desk.redis.pipeline(transaction=True) as together:
            together.xadd(desk.keys.actions, {"Action": "Ping", "ActionID": "short", "Bus-Deadline": "+0.02"})
            together.xadd(desk.keys.actions, {"Action": "Ping", "ActionID": "first"})
            await together.execute()
        await eventually(lambda: waits[0].waiting == 2)
        passed = time.monotonic() + 0.1
        await desk.add("Ping", "second")
        await eventually(lambda: waits[0].waiting == 3)
        await eventually(lambda: time.monotonic() > passed)
        waits[0]._expire()
        states = {name: (await desk.settled(name))["state"] for name in ("late", "short", "first", "second")}
        assert states == {"late": "expired", "short": "expired", "first": "done", "second": "done"}
        assert [each for each in asterisk.write_counts() if each in states] == ["first", "second"]


async def test_of_two_that_expire_together_under_one_action_id_the_second_is_refused(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    await asterisk.stop()
    async with running_worker(make_settings(redis_url, asterisk), connected=False), Desk(redis_url) as desk:
        first = await desk.add("Hangup", "a1", Channel="SIP/one", Bus_Deadline="+4")
        second = await desk.add("Hangup", "a1", Channel="SIP/two", Bus_Deadline="+4")
        await eventually(lambda: is_pending(desk, 2))
        await eventually(lambda: is_pending(desk, 0))
        lines = {line["entry"]: line for line in await desk.lines(desk.keys.results)}
        assert lines[first]["state"] == "expired"
        assert (lines[second]["state"], lines[second]["error_code"]) == ("rejected", "action-id-reused")
        assert (await desk.record("a1"))["entry"] == first
        assert len(lines) == 2
    await asterisk.start()
