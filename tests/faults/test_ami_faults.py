"""What befalls AMI: sessions cut and silent, logins refused, answers late, lost and out of order, restarts in calls.

What must hold in each: `unknown` is exactly what changes something, was written, and was not answered; nothing that
changes something is written twice; the other sessions go on; all else is done.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.ami import Action, Exchange, spec_of
from broker.codec import FINAL_STATES
from broker.keys import URGENT
from tests.faults.cutter import Cutter, How
from tests.faults.proxy import Proxy
from tests.workers.worker_process import (
    BUSY_S,
    DEADLINE_S,
    SECRET,
    USERS,
    Desk,
    eventually,
    make_settings,
    running_worker,
    soon,
)  # fmt: skip
from workers import connection, sessions
from workers.connection import Asked, Connection, ConnectionLost
from workers.simulated import SimulatedAsterisk, User

ROOT = Path(__file__).parents[2]
OWN_NETWORK = ("unshare", "--map-root-user", "--net")
CHANGES = ("Setvar", "Originate", "UserEvent")
IDS = [f"v{number}" for number in range(12)]
Note = Callable[[str, object], None]
"""`record_property`: what was seen, for the report."""

ONE_KIND = pytest.mark.parametrize("redis_server", ["redis"], indirect=True)
"""For what takes long: the session to Asterisk is tested, and one kind of server will do."""


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=11) as simulated:
        yield simulated


@contextlib.asynccontextmanager
async def served_by_way_of(
    redis_url: str, asterisk: SimulatedAsterisk, port: int, **settings: Any
) -> AsyncIterator[Desk]:
    """A desk whose worker reaches Asterisk at that port."""
    made = make_settings(redis_url, asterisk, **({"ami": f"127.0.0.1:{port}", "name": "one"} | settings))
    async with running_worker(made), Desk(redis_url) as desk:
        yield desk


async def setvar(desk: Desk, *action_ids: str, **headers: Any) -> None:
    for action_id in action_ids:
        await desk.add("Setvar", action_id, Variable="x", Value=action_id, **headers)


async def states(desk: Desk, *action_ids: str, deadline_s: float = DEADLINE_S) -> dict[str, str]:
    """The final states, once all have one."""
    end = time.monotonic() + deadline_s
    return {each: (await desk.settled(each, end - time.monotonic()))["state"] for each in action_ids}


async def works(desk: Desk, prefix: str) -> None:
    """Every session does its part."""
    await setvar(desk, f"{prefix}-write")
    await desk.add("Ping", f"{prefix}-read")
    await desk.add("Ping", f"{prefix}-urgent", lane=URGENT)
    await desk.originate(f"{prefix}-call")
    told = await states(desk, *[f"{prefix}-{kind}" for kind in ("write", "read", "urgent", "call")])
    assert set(told.values()) == {"done"}, told
    await desk.reaches(f"{prefix}-call", call="ended")


async def nothing_twice_nothing_left(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    twice = Counter(each.action_id for each in asterisk.written if each.action in CHANGES)
    assert not [action_id for action_id, count in twice.items() if count > 1]
    await eventually(desk.backlog_is_empty)
    assert await desk.pending() == 0
    for line in await desk.lines(desk.keys.results):
        assert line["state"] in FINAL_STATES
    settled = Counter(line["action_id"] for line in await desk.lines(desk.keys.results))
    assert set(settled.values()) <= {1}, settled


# -- a cut at every byte


@pytest.mark.parametrize("how", [How.CLOSE, How.RESET])
async def test_a_session_that_is_cut_after_any_byte(asterisk: SimulatedAsterisk, how: How) -> None:
    """Before its end the login fails; before the answer's end the action is in doubt; after it the answer counts."""
    asterisk.login_delay_s = 0

    async def live(cutter: Cutter) -> str:
        # The same challenge and the same uptime each time, so that each session is as long as the other.
        asterisk.random.seed(1)
        try:
            session = await Connection.open("write", "127.0.0.1", cutter.port, "amibus", SECRET)
        except (ConnectionLost, OSError):
            return "no login"
        try:
            asked = Asked(Action("Setvar", [("Variable", "x"), ("Value", "1")], "a1"), spec_of("Setvar"), DEADLINE_S)
            exchange = await soon(session.request(asked))
            return "answered" if isinstance(exchange, Exchange) else ""
        except ConnectionLost as lost:
            return "in doubt" if lost.written else "not written"
        finally:
            session.abort("the test is over")

    async with Cutter(asterisk.port) as whole:
        assert await live(whole) == "answered"
        said = whole.said[0]
    login = said.index(b"\r\n\r\n", said.index(b"Authentication accepted")) + 4
    # What came together is read together: a cut right behind the login may show before anything is written.
    for at in range(1, len(said) + 1):
        async with Cutter(asterisk.port) as cutter:
            cutter.cut(after_bytes=at, how=how)
            got = await live(cutter)
        wanted = {"no login"} if at < login else {"in doubt"} if login < at < len(said) else {"answered"}
        if at == login:
            wanted = {"in doubt", "not written", "no login"}
        elif how is How.RESET:
            wanted |= {"in doubt", "not written", "no login"}  # a reset may overtake what was said before
        assert got in wanted, (at, said[:at][-30:])


POSITIONS = {
    "banner": b"Asterisk Call Man",
    "banner's CR": b"Manager/11.0.0\r",
    "challenge": b"\r\nChallenge: ",
    "challenge's end": b"login-challenge\r\nChallenge",
    "login response": b"Authentication acc",
    "login response's CR": b"Authentication accepted\r",
    "login response's last CR": b"Authentication accepted\r\n\r",
    "FullyBooted": b"Event: FullyBo",
    "FullyBooted's end": b"Status: Fully Booted\r\n\r\n",
    "event": b"Event: VarSet\r\nPriv",
    "event's CR": b"Event: VarSet\r",
    "response's beginning": b"Response: Success\r\nActionID: v3",
    "response": b"ActionID: v3\r\nMess",
    "response's CR": b"ActionID: v3\r\nMessage: Variable Set\r",
    "response's last CR": b"ActionID: v3\r\nMessage: Variable Set\r\n\r",
    "response's end": b"ActionID: v3\r\nMessage: Variable Set\r\n\r\n",
    "list": b"ActionID: list\r\nEventList: start",
    "list's end": b"Event: CoreShowChannelsComplete\r\nActionID: list\r\n",
}


@pytest.mark.parametrize("where", POSITIONS)
async def test_a_cut_at_each_kind_of_place(
    redis_url: str, asterisk: SimulatedAsterisk, where: str, record_property: Note
) -> None:
    async with (
        Cutter(asterisk.port) as cutter,
        served_by_way_of(redis_url, asterisk, cutter.port) as desk,
    ):
        incision = cutter.cut(POSITIONS[where])
        if not where.startswith(("event", "response", "list")):
            await asterisk.drop_connections()  # so that there are logins
        await setvar(desk, *IDS)
        await desk.add("CoreShowChannels", "list")
        told = await states(desk, *IDS, "list")
        await eventually(lambda: incision.done == 1)  # an event comes by another session than the answers
        began = time.monotonic()
        await works(desk, "after")
        record_property("whole_again_s", round(time.monotonic() - began, 2))
        in_doubt = {"v3"} if where.startswith("response") and where != "response's end" else set()
        assert {each for each, state in told.items() if state == "unknown"} == in_doubt
        assert {state for each, state in told.items() if each not in in_doubt} == {"done"}
        assert [each.action_id for each in asterisk.written if each.action_id in IDS] == IDS
        await nothing_twice_nothing_left(desk, asterisk)


async def test_a_reset_in_mid_list_is_asked_again(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with (
        Cutter(asterisk.port) as cutter,
        served_by_way_of(redis_url, asterisk, cutter.port) as desk,
    ):
        await desk.originate("call", Data="60")
        await desk.reaches("call", call="up")
        cutter.cut(b"Event: CoreShowChannel\r\nActionID: list\r\n", how=How.RESET)
        await desk.add("CoreShowChannels", "list")
        result = await desk.result("list")
        assert (result.state, len(result.events)) == ("done", 3)
        assert asterisk.write_counts()["list"] == 2
        assert (await desk.record("call"))["call"] == "up"


async def test_a_list_that_is_asked_again_keeps_its_place(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with (
        Cutter(asterisk.port) as cutter,
        served_by_way_of(redis_url, asterisk, cutter.port) as desk,
    ):
        cutter.cut(b"Event: CoreShowChannelsComplete\r\nActionID: list\r\n", how=How.HOLE)
        await desk.add("CoreShowChannels", "list")
        await desk.reaches("list", state="sent")
        await asterisk.stop()
        await cutter.end_sessions()
        await eventually(lambda: is_in_state(desk, "asterisk-away"))
        await desk.add("Ping", "later")
        await asterisk.start()
        assert await states(desk, "list", "later") == {"list": "done", "later": "done"}
    assert [each.action_id for each in asterisk.written if each.action_id in ("list", "later")] == [
        "list", "list", "later",
    ]  # fmt: skip


@ONE_KIND
async def test_a_list_that_was_cut_is_in_doubt_where_its_deadline_passes_while_asterisk_is_away(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with (
        Cutter(asterisk.port) as cutter,
        served_by_way_of(redis_url, asterisk, cutter.port) as desk,
    ):
        cutter.cut(b"Event: CoreShowChannelsComplete\r\nActionID: list\r\n", how=How.HOLE)
        await desk.add("CoreShowChannels", "list", Bus_Deadline="+5")
        await desk.reaches("list", state="sent")
        await asterisk.stop()
        await cutter.end_sessions()
        record = await desk.settled("list")
        assert (record["state"], record["error_code"]) == ("unknown", "connection-lost")
        await asterisk.start()
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)
    assert asterisk.write_counts()["list"] == 1


# -- logins


@pytest.mark.parametrize("after", [b"", b"Asterisk Call Manager/11.0.0\r\n", b"Challenge: "])
async def test_an_asterisk_that_falls_silent_in_the_login(
    redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    """No banner, no answer to the challenge, no answer to the login."""
    monkeypatch.setattr(connection, "LOGIN_TIMEOUT_S", 0.5)
    async with (
        Cutter(asterisk.port) as cutter,
        served_by_way_of(redis_url, asterisk, cutter.port) as desk,
    ):
        if after:
            cutter.cut(after, how=How.HOLE, times=3)
        else:
            asterisk.faults.silent = True
        with capture_logs() as logs:
            await asterisk.drop_connections()
            await setvar(desk, *IDS)
            await eventually(lambda: [line for line in logs if line["event"] == "asterisk is away"])
            if not after:
                asterisk.faults.silent = False
            assert set((await states(desk, *IDS)).values()) == {"done"}
        assert [each.action_id for each in asterisk.written if each.action_id in IDS] == IDS
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)


@ONE_KIND
@pytest.mark.parametrize("user", ["amibus", "amibus-events"])
async def test_a_secret_that_is_changed_while_it_runs(
    redis_url: str, asterisk: SimulatedAsterisk, user: str, record_property: Note
) -> None:
    """The next login is refused: it is tried once a minute, whatever is queued, and all goes on when it is right."""
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        right = asterisk.users[user]
        asterisk.users[user] = User("another secret")
        with capture_logs() as logs:
            await asterisk.drop_connections("events" if user == "amibus-events" else "actions")
            await eventually(lambda: any(not login.accepted for login in asterisk.logins))
            await setvar(desk, *IDS)
            await desk.add("Ping", "ping")
            began = time.monotonic()
            await eventually(lambda: time.monotonic() - began > 4)
            await eventually(lambda: [line for line in logs if line["event"] == "login refused"])
        refused = [login for login in asterisk.logins if not login.accepted]
        record_property("refused_in_4_s", len(refused))
        assert len(refused) == 1
        complaints = [line for line in logs if line["event"] == "login refused"]
        assert len(complaints) == 1
        assert complaints[0]["retry_s"] == sessions.REFUSED_RETRY_S == 60
        assert not [each for each in asterisk.written if each.action_id in IDS]
        state = "asterisk-away" if user == "amibus-events" else "connected"
        await eventually(lambda: is_in_state(desk, state))
    # The minute is over, as for a worker that was started anew.
    asterisk.users[user] = right
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        assert set((await states(desk, *IDS, "ping")).values()) == {"done"}
        await nothing_twice_nothing_left(desk, asterisk)


async def test_a_secret_that_is_right_again_is_found_out(
    redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "REFUSED_RETRY_S", 0.5)
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        right, asterisk.users["amibus"] = asterisk.users["amibus"], User("another secret")
        await asterisk.drop_connections()
        await setvar(desk, *IDS)
        await eventually(lambda: sum(not login.accepted for login in asterisk.logins) >= 2)
        asterisk.users["amibus"] = right
        assert set((await states(desk, *IDS)).values()) == {"done"}
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)


async def test_an_asterisk_that_shuts_down_and_comes_back(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        await setvar(desk, "before")
        await desk.settled("before")
        asterisk.faults.shutting_down = True
        await setvar(desk, *IDS)
        await desk.originate("call")
        for each in (*IDS, "call"):
            record = await desk.settled(each)
            assert (record["state"], record["error_code"]) == ("failed", "not-executed"), record
        assert not [each for each in asterisk.written if each.action_id in (*IDS, "call")]
        restart = asyncio.create_task(asterisk.restart(down_s=0.3))
        await eventually(lambda: is_in_state(desk, "asterisk-away"))
        asterisk.faults.shutting_down = False
        await restart
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)


async def is_in_state(desk: Desk, state: str) -> bool:
    return (await desk.heartbeat()).get("state") == state


# -- answers


async def test_answers_that_are_lost_late_or_out_of_order(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    """Of what changes something, only what has no answer is unknown; what reads is asked again."""
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        faults = asterisk.faults
        faults.lose_response("v2")
        faults.delay_response("v4", seconds=1.2)  # too late: it is waited for less long
        faults.delay_response("v6", seconds=0.4)  # in time
        pings = [f"p{number}" for number in range(40)]
        faults.lose_response("p7")
        faults.misorder("p11")
        faults.delay_response("p13", seconds=0.3)
        async with desk.redis.pipeline(transaction=False) as pipeline:
            for each in pings:
                pipeline.xadd(desk.keys.actions, {"Action": "Ping", "ActionID": each, "Bus-Timeout": "60"})
            await pipeline.execute()
        for each in IDS:
            await setvar(desk, each, Bus_Timeout="0.8" if each in ("v2", "v4") else "60")
        told = await states(desk, *IDS, *pings)
        assert {each for each, state in told.items() if state == "unknown"} == {"v2", "v4"}
        assert {state for each, state in told.items() if each not in ("v2", "v4")} == {"done"}
        assert {(await desk.record(each))["error_code"] for each in ("v2", "v4")} == {"timeout"}
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)


async def test_a_read_whose_answer_is_always_overtaken_is_not_asked_for_ever(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        asterisk.faults.lose_response("lost", times=0)
        await desk.add("Ping", "lost", Bus_Timeout="60")
        for number in range(200):
            await desk.add("Ping", f"p{number}")
            await desk.settled(f"p{number}")  # else all may be answered before it is asked for the second time
            if (await desk.record("lost")).get("state") in FINAL_STATES:
                break
        assert (await desk.settled("lost"))["state"] == "unknown"
        assert asterisk.write_counts()["lost"] == 4


@ONE_KIND
async def test_a_slow_action_is_not_taken_for_a_dead_session(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    """Longer than an idle session is left in peace, on each of the sessions; the others go on meanwhile."""
    slow_s = connection.PING_AFTER_S + connection.PING_TIMEOUT_S + 3
    assert slow_s == 8
    async with served_by_way_of(redis_url, asterisk, asterisk.port, allow=("Command",)) as desk:
        before = {session.number for session in asterisk.sessions}
        for each in ("slow-command", "slow-list"):
            asterisk.faults.delay_response(each, seconds=slow_s)
        began = time.monotonic()
        await desk.add("Command", "slow-command", Command="core show version", Bus_Timeout="60")
        await desk.add("CoreShowChannels", "slow-list", Bus_Timeout="60")
        await eventually(lambda: asterisk.writes("slow-command") and asterisk.writes("slow-list"))
        await desk.add("Ping", "urgent", lane=URGENT)
        assert (await desk.settled("urgent"))["state"] == "done"
        for each in ("slow-command", "slow-list"):
            assert (await desk.record(each))["state"] not in FINAL_STATES
        assert (await states(desk, "slow-command", "slow-list")) == {"slow-command": "done", "slow-list": "done"}
        assert time.monotonic() - began > slow_s
        assert {session.number for session in asterisk.sessions} == before, "no session was given up"
        assert asterisk.write_counts()["slow-command"] == asterisk.write_counts()["slow-list"] == 1


# -- half-open connections


@ONE_KIND
async def test_a_black_hole_is_found_and_survived(
    redis_url: str, asterisk: SimulatedAsterisk, record_property: Note
) -> None:
    async with (
        Proxy(asterisk.port) as proxy,
        served_by_way_of(redis_url, asterisk, proxy.port) as desk,
    ):
        await setvar(desk, "before")
        await desk.settled("before")
        proxy.black_hole()
        began = time.monotonic()
        await setvar(desk, "v0", Bus_Timeout="6")
        await setvar(desk, *IDS[1:])
        await eventually(lambda: is_in_state(desk, "asterisk-away"))
        found_s = time.monotonic() - began
        record_property("found_after_s", round(found_s, 2))
        assert found_s < 10 + BUSY_S
        assert (await states(desk, "v0")) == {"v0": "unknown"}
        assert not [each for each in asterisk.written if each.action_id in IDS[1:]]
        await proxy.heal()
        cured = time.monotonic()
        await eventually(lambda: is_in_state(desk, "connected"))
        record_property("back_after_s", round(time.monotonic() - cured, 2))
        assert set((await states(desk, *IDS[1:])).values()) == {"done"}
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)


@ONE_KIND
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_black_hole_in_one_direction(redis_url: str, asterisk: SimulatedAsterisk, way: str) -> None:
    async with (
        Proxy(asterisk.port) as proxy,
        served_by_way_of(redis_url, asterisk, proxy.port) as desk,
    ):
        proxy.black_hole(up=way == "up", down=way == "down")
        began = time.monotonic()
        await eventually(lambda: is_in_state(desk, "asterisk-away"))
        assert time.monotonic() - began < 10 + BUSY_S
        await setvar(desk, *IDS)
        await proxy.heal()
        assert set((await states(desk, *IDS)).values()) == {"done"}
        await nothing_twice_nothing_left(desk, asterisk)


def may_make_networks() -> bool:
    return not subprocess.run([*OWN_NETWORK, "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(not may_make_networks(), reason="may not make a network; its parts are tested without one")
async def test_a_network_that_is_severed_while_an_action_is_on_its_way() -> None:
    """Written into the void, or being slowly worked on: in both cases there is nobody to wait for any more."""
    process = await asyncio.create_subprocess_exec(
        *OWN_NETWORK, sys.executable, "-m", "tests.faults.severed", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    told, _ = await soon(process.communicate(), 50)
    found = [json.loads(line) for line in told.splitlines()]
    assert [each["fate"] for each in found] == ["ConnectionLost"] * 2, found
    assert all(each["found_after_s"] < 10 + BUSY_S for each in found), found


async def test_an_asterisk_that_does_not_read_is_not_taken_for_a_severed_network(asterisk: SimulatedAsterisk) -> None:
    """More is written to it than its kernel takes: that kernel is there all the same."""
    session = await Connection.open("read", "127.0.0.1", asterisk.port, "amibus", SECRET)
    probes = [(socket.SO_KEEPALIVE, socket.SOL_SOCKET), (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP)]
    assert session._transport is not None
    sock = session._transport.get_extra_info("socket")
    assert all(sock.getsockopt(level, option) for option, level in probes)
    asterisk.faults.freeze()
    long = [("X", "x" * 900)] * 20
    many = [Asked(Action("Ping", long, f"a{number}"), spec_of("Ping"), 2 * DEADLINE_S) for number in range(400)]
    answers = session.request_all(many)
    began = time.monotonic()
    await eventually(lambda: time.monotonic() - began > connection.SEVERED_S + 2)
    assert not session.lost.done()
    asterisk.faults.resume()
    answered = [what async for told in answers for _, what in told]
    assert len(answered) == len(many)
    assert all(isinstance(what, Exchange) for what in answered)
    session.abort("the test is over")


# -- a restart of Asterisk


async def test_a_restart_with_calls_up(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    calls = [f"c{number}" for number in range(3)]
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        for each in calls:
            await desk.originate(each, Data="600")
            await desk.reaches(each, state="done", call="up")
        await desk.originate("rings", "noanswer", Timeout="60000")
        await desk.reaches("rings", state="sent", call="dialing")
        asterisk.faults.lose_response("v0")
        await setvar(desk, "v0")
        await eventually(lambda: asterisk.writes("v0"))
        async with desk.listening(desk.keys.action("c0")) as ear:
            restart = asyncio.create_task(asterisk.restart(down_s=0.4))
            await setvar(desk, *IDS[1:])
            await desk.add("Ping", "ping")
            await restart
            told = await states(desk, *IDS, "ping", "rings")
            assert {each for each, state in told.items() if state == "unknown"} == {"v0", "rings"}
            for each in (*calls, "rings"):
                await desk.reaches(each, call="ended")
            await ear.until(lambda heard: any(getattr(each, "name", "") == "BusCallEnded" for _, each in heard))
        await eventually(lambda: has_told(desk))
        ended = {each.headers["action_id"] for each in await desk.events("BusCallEnded")}
        assert ended == {*calls, "rings"}
        gap = (await desk.events("BusGap"))[-1]
        assert gap.headers["reason"] == "connection-lost"
        assert float(gap.headers["since"]) < float(gap.headers["until"])
        assert not await desk.redis.exists(desk.keys.legs)
        await works(desk, "after")
        await nothing_twice_nothing_left(desk, asterisk)


async def has_told(desk: Desk) -> bool:
    return len(await desk.events("BusGap")) == 2 and len(await desk.events("BusCallEnded")) == 4


async def test_a_snapshot_after_a_gap_names_the_channels_alive(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with served_by_way_of(redis_url, asterisk, asterisk.port) as desk:
        await desk.originate("c1", Data="600")
        await desk.reaches("c1", state="done", call="up")
        await asterisk.drop_connections("events")
        await eventually(lambda: snapshots(desk, 2))
        told = (await desk.events("BusSnapshot"))[-1]
        assert sorted(told.headers.get_all("Uniqueid")) == sorted(leg.uniqueid for leg in asterisk.switch.legs)
        names = [each.name for each in await desk.events("BusGap", "BusSnapshot", "BusCallEnded")]
        assert names == ["BusGap", "BusSnapshot"] * 2
        assert (await desk.record("c1"))["call"] == "up"


async def snapshots(desk: Desk, count: int) -> bool:
    return len(await desk.events("BusSnapshot")) == count
