"""Action files from the directory to Asterisk and back, on real servers and a simulated Asterisk."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker import client as client_module
from broker.errors import BusUnavailable, ItemsGone, SettingsError
from tests.action_files.bench import answer, names, put, run, spooling, states
from tests.servers import RedisServer
from tests.workers.worker_process import USERS, Desk, eventually, make_settings, running_worker, soon
from workers.action_files import desk as desk_module
from workers.action_files.drop_box import DropBox, Outcome
from workers.action_files.names import Taken
from workers.action_files.order import read_orders
from workers.action_files.service import NoDirectory
from workers.simulated import SimulatedAsterisk, queues

ONE_KIND = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
OWN_REDIS = pytest.mark.parametrize("own_redis", ["redis"], indirect=True)
SETVAR = "Action: Setvar; Variable: x; Value: 1"


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


@pytest.fixture
async def worker(redis_url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[None]:
    async with running_worker(make_settings(redis_url, asterisk, lease_s=5.0)):
        yield


def written(asterisk: SimulatedAsterisk, name: str = "Setvar") -> list[str | None]:
    """The ActionIDs of what came to Asterisk."""
    return [each.action_id for each in asterisk.written if each.action == name]


# -- answers


@pytest.mark.usefixtures("worker")
async def test_an_action_and_its_answer(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    async with spooling(tmp_path, redis_url), Desk(redis_url) as desk:
        put(tmp_path, "call", "# for the CRM", "Action: Setvar; Variable: x; Value: 1; Bus-Producer: crm; Bus-Tag: t")
        text = await answer(tmp_path, "call")
        assert text.startswith("Response: Success\n")
        assert text.endswith("\nBus-State: done\n\n")
        await eventually(lambda: names(tmp_path) == {"call.out"})
        [action_id] = written(asterisk)
        assert f"\nBus-ActionID: {action_id}\n" in text
        record = await desk.record(str(action_id))
        assert (record["producer"], record["tag"]) == ("crm", "t")
        put(tmp_path, "ping", "Action: Ping")
        await answer(tmp_path, "ping")
        [action_id] = written(asterisk, "Ping")
        record = await desk.record(str(action_id))
        assert (record["producer"], record["tag"]) == ("spool", "ping.action#1")


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_all_that_asterisk_says(tmp_path: Path, redis_url: str) -> None:
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "command", "Action: Command; Command: core show version")
        put(tmp_path, "list", "Action: QueueStatus")
        put(tmp_path, "call", "Action: Originate; Channel: Local/100@default; Application: Wait; Data: 0")
        assert "\nOutput: Asterisk 22.10.1 (simulated by amibus)\n" in await answer(tmp_path, "command")
        queues = await answer(tmp_path, "list")
        assert queues.startswith("Response: Success\n")
        assert queues.count("\n\nEvent: QueueMember\n") == 2
        assert "\n\nEvent: QueueStatusComplete\n" in queues
        call = await answer(tmp_path, "call")
        assert "\n\nEvent: OriginateResponse\n" in call
        assert states(call) == ["done"]


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_very_large_list(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 20_000
    monkeypatch.setattr(queues, "MEMBERS", [(f"agent {number}", f"Local/{number}@default") for number in range(many)])
    async with spooling(tmp_path, redis_url), Desk(redis_url) as desk:
        put(tmp_path, "queues", "Action: QueueStatus", SETVAR)
        text = await answer(tmp_path, "queues")
        assert text.count("\n\nEvent: QueueMember\n") == many
        assert states(text) == ["done", "done"]
        # It is one whose items came in chunks.
        assert await desk.redis.exists(*await desk.redis.keys("*:items")) == 1


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_very_large_list_that_is_read_too_late(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_late(*_: object) -> None:
        raise ItemsGone("the 7 items of a1 are not kept any more")

    monkeypatch.setattr(client_module, "with_items", too_late)
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "list", "Action: QueueStatus")
        text = await answer(tmp_path, "list")
        assert states(text) == ["unknown"]
        assert "\nBus-Error-Code: items-gone\nBus-Error: the 7 items of a1 are not kept any more\n" in text


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_several_in_their_order(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    actions = [f"Action: {'Getvar' if n % 2 else 'Setvar'}; ActionID: a{n}; Variable: x; Value: {n}" for n in range(6)]
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "many", *actions)
        text = await answer(tmp_path, "many")
    assert [each.action_id for each in asterisk.written if str(each.action_id)[0] == "a"] == [f"a{n}" for n in range(6)]
    assert states(text) == ["done"] * 6
    # Each Getvar, which goes another way to Asterisk, sees what the Setvar before it has set.
    assert [line for line in text.splitlines() if line.startswith("Value: ")] == ["Value: 0", "Value: 2", "Value: 4"]


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_every_other_fate(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.lose_response("lost")
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "failed", "Action: Hangup; Channel: PJSIP/nobody")
        put(tmp_path, "unknown", f"{SETVAR}; ActionID: lost; Bus-Timeout: 0.5")
        put(tmp_path, "mixed", "Action: GetConfig", SETVAR, "Action: Hangup; Channel: PJSIP/nobody")
        put(tmp_path, "forbidden", "Action: Command; Command: module unload chan_sip.so", "Action: GetConfig")
        assert states(failed := await answer(tmp_path, "failed")) == ["failed"]
        assert failed.startswith("Response: Error\n")
        assert "\nMessage: No such channel\n" in failed
        unknown = await answer(tmp_path, "unknown")
        assert states(unknown) == ["unknown"]
        assert "\nBus-Error-Code: timeout\n" in unknown
        assert states(await answer(tmp_path, "mixed")) == ["rejected", "done", "failed"]
        # Nothing of it was executed: then it is an error, and the file is kept.
        forbidden = await answer(tmp_path, "forbidden", "error")
        assert states(forbidden) == ["rejected", "rejected"]
        assert forbidden.count("\nBus-Error-Code: forbidden\n") == 2
        await eventually((tmp_path / "forbidden.refused").exists)
        await eventually(lambda: not [name for name in names(tmp_path) if name.endswith((".taken", ".draft"))])
        assert "forbidden.out" not in names(tmp_path)


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_of_a_file_with_a_mistake_nothing_is_executed(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "bad", SETVAR, "Action: Ping; no header")
        (tmp_path / "latin.action").write_bytes("Action: UserEvent\nUserEvent: Grüße\n".encode("latin-1"))
        assert (await answer(tmp_path, "bad", "error")).splitlines() == [
            "Bus-State: rejected",
            "Bus-Error-Code: malformed",
            "Bus-Error: line 6: not a header of the form Name: value",
            "",
        ]
        assert "Bus-Error: line 2: not UTF-8" in await answer(tmp_path, "latin", "error")
        # It is mended, and asks again.
        await eventually((tmp_path / "bad.refused").exists)
        put(tmp_path, "bad", SETVAR)
        assert states(await answer(tmp_path, "bad")) == ["done"]
        assert {"bad.error", "bad.refused"}.isdisjoint(names(tmp_path))
    assert len(written(asterisk)) == 1
    assert not written(asterisk, "UserEvent")


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_file_that_cannot_be_read(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(box: DropBox, taken: Taken) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(DropBox, "read", refuse)  # the tests may run as root, to whom nothing is forbidden
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "secret", SETVAR)
        assert "Bus-Error: the file cannot be read: Permission denied" in await answer(tmp_path, "secret", "error")


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_the_rest_of_the_directory_is_left_alone(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "notes.txt").write_text(SETVAR)
    (tmp_path / ".hidden.action").write_text(SETVAR)
    (tmp_path / "dir.action").mkdir()
    put(tmp_path / "dir.action", "inner", SETVAR)
    (tmp_path / "link.action").symlink_to("notes.txt")
    before = names(tmp_path)
    async with spooling(tmp_path, redis_url):
        put(tmp_path, "call", SETVAR)
        await answer(tmp_path, "call")
        await eventually(lambda: names(tmp_path) == before | {"call.out"})
    assert names(tmp_path / "dir.action") == {"inner.action"}


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_second_file_of_a_name_waits_for_the_first(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    asterisk.switch.ring_s = 0.5
    async with spooling(tmp_path, redis_url), Desk(redis_url) as desk:
        put(tmp_path, "call", "Action: Originate; Channel: Local/100@default; Application: Wait; Data: 0")
        await eventually(lambda: written(asterisk, "Originate"))
        put(tmp_path, "call", SETVAR)
        await eventually(lambda: names(tmp_path) == {"call.out"} and "Setvar" in (tmp_path / "call.out").read_text())
        first, second = await desk.lines(desk.keys.results)
    assert (first["action"], second["action"]) == ("Originate", "Setvar")
    assert float(first["settled_at"]) <= float(second["queued_at"]) + 0.001  # which is in whole milliseconds


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_the_urgent_lane(tmp_path: Path, redis_url: str) -> None:
    async with spooling(tmp_path, redis_url), Desk(redis_url) as desk:
        put(tmp_path, "a", f"{SETVAR}; Bus-Lane: urgent; ActionID: a1")
        await answer(tmp_path, "a")
        assert (await desk.record("a1"))["lane"] == "urgent"


# -- deadlines


@ONE_KIND
async def test_what_nobody_takes_up_in_time_expires(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with spooling(tmp_path, redis_url) as task, Desk(redis_url) as desk:
        put(tmp_path, "late", f"{SETVAR}; Bus-Deadline: +1")
        await eventually(lambda: task.done() or [name for name in names(tmp_path) if name.endswith(".taken")])
        before = await redis_time(desk)
        await eventually(lambda: is_past(desk, before + 2))
        async with running_worker(make_settings(redis_url, asterisk)):
            assert states(await answer(tmp_path, "late")) == ["expired"]
    assert not written(asterisk)


async def test_a_deadline_is_that_of_the_taking(redis_url: str) -> None:
    taken = Taken("x", 1000, "a" * 10)
    orders = read_orders(b"Action: Ping\n\nAction: Ping\nBus-Deadline: +1.5\n\nAction: Ping\nBus-Deadline: 7")
    assert [desk_module.deadline_of(order, taken) for order in orders] == ["2800", "1001.500000", "7"]


async def redis_time(desk: Desk) -> float:
    seconds, microseconds = await desk.redis.time()
    return float(seconds) + float(microseconds) / 1e6


async def is_past(desk: Desk, moment: float) -> bool:
    return await redis_time(desk) > moment


# -- starts and stops


@pytest.mark.usefixtures("worker")
async def test_once(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    for number in range(20):
        put(tmp_path, f"a{number}", SETVAR)
    put(tmp_path, "bad", "nonsense")
    tally = await soon(run(tmp_path, redis_url, once=True))
    assert (tally.files, dict(tally.states), tally.left) == (21, {"done": 20, "refused": 1}, 0)
    assert names(tmp_path) == {*(f"a{number}.out" for number in range(20)), "bad.error", "bad.refused"}
    assert len(set(written(asterisk))) == len(written(asterisk)) == 20
    tally = await soon(run(tmp_path, redis_url, once=True))
    assert tally.files == 0


@ONE_KIND
async def test_a_stop_leaves_what_is_not_answered_to_the_next_start(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    with capture_logs() as logs:
        async with spooling(tmp_path, redis_url, drain_s=0.1) as task:  # no worker: no answer
            put(tmp_path, "call", SETVAR, SETVAR)
            await eventually(lambda: any(name.endswith(".taken") for name in names(tmp_path)))
    assert task.result().left == 1
    assert "no worker serves this server now: what is taken waits for one" in [line["event"] for line in logs]
    async with running_worker(make_settings(redis_url, asterisk)), spooling(tmp_path, redis_url):
        assert states(await answer(tmp_path, "call")) == ["done", "done"]
    assert len(set(written(asterisk))) == len(written(asterisk)) == 2


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_stop_lets_the_answers_come(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    asterisk.switch.ring_s = 0.5
    async with spooling(tmp_path, redis_url, drain_s=30.0) as task:
        put(tmp_path, "call", "Action: Originate; Channel: Local/100@default; Application: Wait; Data: 0")
        await eventually(lambda: written(asterisk, "Originate"))
    assert task.result().left == 0
    assert names(tmp_path) == {"call.out"}


@ONE_KIND
async def test_two_are_not_at_work_in_one_directory(tmp_path: Path, redis_url: str) -> None:
    async with spooling(tmp_path, redis_url) as task:
        await eventually(lambda: task.done() or [*tmp_path.iterdir()])
        with pytest.raises(SettingsError, match="another amibus spool"):
            await run(tmp_path, redis_url)


@ONE_KIND
async def test_the_directory_goes(tmp_path: Path, redis_url: str) -> None:
    box = tmp_path / "box"
    box.mkdir()
    task = asyncio.create_task(run(box, redis_url, stopping=asyncio.Event()))
    await eventually(lambda: task.done() or [*box.iterdir()])
    shutil.rmtree(box)
    with pytest.raises(NoDirectory, match=r"was removed|No such file"):  # in the middle of the start
        await soon(task)


@ONE_KIND
@pytest.mark.parametrize("once", [False, True])
async def test_a_disk_that_fails_is_said(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    def fail(box: DropBox) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(DropBox, "_sync", fail)
    put(tmp_path, "call", SETVAR)
    with pytest.raises(NoDirectory, match="Input/output error"):
        await soon(run(tmp_path, redis_url, once=once, stopping=asyncio.Event()))


@ONE_KIND
async def test_a_stop_in_the_middle_of_taking_leaves_none_uncounted(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_meanwhile(box: DropBox, files: list[Taken]) -> list[Outcome]:
        outcomes = take(box, files)
        loop.call_soon_threadsafe(stopping.set)
        return outcomes

    loop, stopping, take = asyncio.get_running_loop(), asyncio.Event(), DropBox.take
    monkeypatch.setattr(DropBox, "take", stop_meanwhile)
    for number in range(desk_module.MAX_BATCH + 5):
        put(tmp_path, f"a{number}", SETVAR)
    tally = await soon(run(tmp_path, redis_url, once=True, stopping=stopping, drain_s=0.1))
    assert (tally.files, tally.left) == (0, desk_module.MAX_BATCH + 5)


# -- what is resumed


def leave(directory: Path, stem: str, taken_at: float, text: str) -> Taken:
    """As an earlier run would."""
    taken = Taken.now(stem, taken_at)
    (directory / taken.name).write_text(text.replace("; ", "\n"))
    return taken


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_what_was_executed_is_not_executed_again(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with Desk(redis_url) as desk:
        taken = leave(tmp_path, "call", await redis_time(desk), SETVAR)
        await desk.add("Setvar", taken.action_id(1), Variable="x", Value="1", Bus_Deadline="+30")
        await desk.settled(taken.action_id(1))
        async with spooling(tmp_path, redis_url):
            assert states(await answer(tmp_path, "call")) == ["done"]
    assert written(asterisk) == [taken.action_id(1)]


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_what_is_resumed_too_late_is_not_executed(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with Desk(redis_url) as desk:
        now = await redis_time(desk)
        leave(tmp_path, "minutes", now - 1900, SETVAR)
        leave(tmp_path, "reading", now - 1900, "Action: Ping")
        leave(tmp_path, "hours", now - 3700, SETVAR)
        async with spooling(tmp_path, redis_url):
            # Had it been executed, its record would be there: it was not.
            assert states(await answer(tmp_path, "minutes")) == ["expired"]
            # Of these nobody knows: their records may have been there, and gone.
            for name in ("reading", "hours"):
                text = await answer(tmp_path, name)
                assert states(text) == ["unknown"]
                assert "\nBus-Error-Code: record-lost\n" in text
    assert not written(asterisk)
    assert not written(asterisk, "Ping")


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_record_that_is_still_there_after_hours_is_believed(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with Desk(redis_url) as desk:
        taken = leave(tmp_path, "hours", await redis_time(desk) - 3700, SETVAR)
        await desk.add("Setvar", taken.action_id(1), Variable="x", Value="1")
        await desk.settled(taken.action_id(1))
        async with spooling(tmp_path, redis_url):
            assert states(await answer(tmp_path, "hours")) == ["done"]
    assert len(written(asterisk)) == 1


# -- bad days


@OWN_REDIS
async def test_redis_goes_away_and_comes_back(
    tmp_path: Path, own_redis: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    async with running_worker(make_settings(own_redis.url, asterisk, lease_s=5.0)):
        with capture_logs() as logs:
            async with spooling(tmp_path, own_redis.url):
                put(tmp_path, "before", SETVAR)
                await answer(tmp_path, "before")
                own_redis.kill()
                put(tmp_path, "during", SETVAR)
                await eventually(lambda: "redis is away" in [line["event"] for line in logs])
                await asyncio.to_thread(own_redis.start)
                assert states(await answer(tmp_path, "during")) == ["done"]
    assert len(set(written(asterisk))) == len(written(asterisk)) == 2


@OWN_REDIS
async def test_redis_is_not_there_at_the_start(tmp_path: Path, own_redis: RedisServer) -> None:
    own_redis.kill()
    with pytest.raises(BusUnavailable):
        await soon(run(tmp_path, own_redis.url))


@ONE_KIND
@pytest.mark.usefixtures("worker")
async def test_a_full_disk_is_waited_for(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "AGAIN_S", 0.01)
    write, flush = DropBox.add_to_answer, DropBox.flush_answer
    fails = {"write": 3, "flush": 2}

    def full(kind: str) -> None:
        if fails[kind]:
            fails[kind] -= 1
            raise OSError(28, "No space left on device")

    def add_to_answer(box: DropBox, taken: Taken, lines: object, at: int) -> int:
        place = write(box, taken, lines, at)  # type: ignore[arg-type]
        full("write")
        return place

    def flush_answer(box: DropBox, taken: Taken) -> None:
        full("flush")
        flush(box, taken)

    monkeypatch.setattr(DropBox, "add_to_answer", add_to_answer)
    monkeypatch.setattr(DropBox, "flush_answer", flush_answer)
    with capture_logs() as logs:
        async with spooling(tmp_path, redis_url):
            put(tmp_path, "call", SETVAR, SETVAR)
            assert states(await answer(tmp_path, "call")) == ["done", "done"]
    assert fails == {"write": 0, "flush": 0}
    assert [line["error"] for line in logs if line["log_level"] == "error"] == ["No space left on device"] * 2
    assert len(written(asterisk)) == 2


# -- many


@pytest.mark.timeout(300)
async def test_ten_thousand_at_once(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    for number in range(10_000):
        (tmp_path / f"a{number}.action").write_text(f"Action: Getvar\nVariable: v{number}\n")
    descriptors = 0
    async with running_worker(make_settings(redis_url, asterisk, lease_s=5.0)), Desk(redis_url) as desk:
        working = asyncio.create_task(run(tmp_path, redis_url, once=True))
        while not working.done():
            descriptors = max(descriptors, open_descriptors())
            assert await desk.backlog() <= desk_module.MAX_UNDER_WAY
            assert sum(name.endswith(".taken") for name in names(tmp_path)) <= desk_module.MAX_UNDER_WAY
            await asyncio.wait([working], timeout=0.2)
        tally = working.result()
    assert (tally.files, dict(tally.states)) == (10_000, {"done": 10_000})
    assert names(tmp_path) == {f"a{number}.out" for number in range(10_000)}
    ours = [action_id for action_id in written(asterisk, "Getvar") if str(action_id).startswith("spool-")]
    assert len(set(ours)) == len(ours) == 10_000
    assert descriptors < 100


def open_descriptors() -> int:
    """Of this process, which is worker, Asterisk and spool in one."""
    return len([*Path("/proc/self/fd").iterdir()])
