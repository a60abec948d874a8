"""`amibus unknown`: what is shown, and what is not any more."""

import json
import os
import pty
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.codec import State
from broker.keys import Keys
from tests.cli.commands import COMMAND, ROOT, Outcome, amibus, environment
from tests.cli.doubtful import NO_ANSWER, originate, setvar
from tests.desk import DONE, SETTLED_AT, Desk
from workers.cli import doubts as module
from workers.cli.doubts import read_doubts
from workers.cli.overview import connected
from workers.outcome import Outcome as Fate
from workers.outcome import answered_outcome


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    desk = Desk(redis_url)
    await desk.open()
    yield desk
    await desk.close()


def unknown(url: str, *arguments: str) -> Outcome:
    return amibus("unknown", "pbx1", *arguments, settings={"AMIBUS_REDIS": url, "TZ": "UTC"})


def shown(url: str, *arguments: str) -> list[dict[str, Any]]:
    outcome = unknown(url, "--json", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


async def test_the_newest_is_the_last_line(desk: Desk, redis_url: str) -> None:
    await originate(desk, "c1")
    await setvar(desk, "s1", DONE)
    await setvar(desk, "s2")
    outcome = unknown(redis_url)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    columns, *rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    assert columns == ["settled", "ActionID", "action", "producer", "code", "why", "record"]
    assert rows == [
        ["2100-01-01 00:00:07+00:00", "c1", "Originate", "", "timeout", "no answer within 30 s", "lives, 60 min left"],
        ["2100-01-01 00:00:07+00:00", "s2", "Setvar", "crm", "timeout", "no answer within 30 s", "lives, 60 min left"],
    ]


async def test_json_has_what_the_record_tells(desk: Desk, redis_url: str) -> None:
    await originate(desk, "c1")
    entry = (await desk.record("c1"))["entry"].decode()
    [doubt] = shown(redis_url)
    assert 3500 < doubt.pop("record_ttl_s") <= 3600
    assert doubt.pop("queued_at") <= doubt.pop("sending_at")
    assert doubt == {
        "server": "pbx1", "action_id": "c1", "entry": entry, "action": "Originate", "producer": "", "tag": "order 7",
        "state": "unknown", "error": {"code": "timeout", "message": "no answer within 30 s"}, "call": "",
        "settled_at": SETTLED_AT, "record_lives": True,
    }  # fmt: skip


async def test_what_was_corrected_is_not_shown(desk: Desk, redis_url: str) -> None:
    await originate(desk, "c1")
    await setvar(desk, "s1")
    await desk.revise(answered_outcome(), "c1")
    assert [doubt["action_id"] for doubt in shown(redis_url)] == ["s1"]
    await desk.redis.delete(desk.keys.action("c1"))
    assert [doubt["action_id"] for doubt in shown(redis_url)] == ["s1"], "the line in `results` is enough"


async def test_a_correction_whose_line_is_not_there_yet_counts(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    await desk.redis.hset(desk.keys.action("s1"), "state", "done")
    assert shown(redis_url) == []


async def test_an_expired_record_and_a_live_call(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    await desk.redis.delete(desk.keys.action("s1"))
    await originate(desk, "c1")
    await desk.redis.hset(desk.keys.action("c1"), "call", "up")
    await desk.redis.persist(desk.keys.action("c1"))
    assert [(each["action_id"], each["record_lives"], each["record_ttl_s"]) for each in shown(redis_url)] == [
        ("s1", False, None), ("c1", True, None),
    ]  # fmt: skip
    lines = unknown(redis_url).stdout.splitlines()
    assert [line.split("\t")[-1] for line in lines[1:]] == ["expired", "lives, call up"]


async def test_a_record_of_another_entry_is_not_taken_for_its_own(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    await desk.redis.hset(desk.keys.action("s1"), mapping={"entry": "1-1", "state": "done", "error": "another's"})
    [doubt] = shown(redis_url)
    assert (doubt["record_lives"], doubt["error"]["message"]) == (False, "no answer within 30 s")


async def test_the_whole_reason_is_the_records(desk: Desk, redis_url: str) -> None:
    why = "x" * 600
    await setvar(desk, "s1", Fate(State.UNKNOWN, code=NO_ANSWER.code, message=why))
    assert len((await desk.lines(desk.keys.results))[0]["message"]) == 512
    assert shown(redis_url)[0]["error"]["message"] == why


async def test_nothing_is_unknown(desk: Desk, redis_url: str) -> None:
    outcome = unknown(redis_url)
    assert (outcome.returncode, outcome.stdout) == (0, "nothing is unknown on pbx1 (nothing was settled)\n")
    await setvar(desk, "s1", DONE)
    outcome = unknown(redis_url)
    assert outcome.returncode == 0
    assert outcome.stdout == (
        "nothing is unknown on pbx1 (of what was settled since 2100-01-01 00:00:07+00:00)\n"
    )  # fmt: skip
    assert shown(redis_url) == []


async def test_since(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    await setvar(desk, "s2")
    _, (second, _) = await desk.redis.execute_command("XRANGE", desk.keys.results, "-", "+")
    assert [doubt["action_id"] for doubt in shown(redis_url, "--since", second.decode())] == ["s2"]
    assert len(shown(redis_url, "--since", "-10m")) == 2
    assert len(shown(redis_url, "--since", "0")) == 2
    for wrong in ("$", "yesterday"):
        outcome = unknown(redis_url, "--since", wrong)
        assert outcome.returncode == 2
        assert f"{wrong!a} is no stream id, 0, or a time such as -10m" in outcome.stderr


async def test_results_and_records_are_read_in_pages(
    desk: Desk, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(module, "MAX_RECORDS", 2)
    for number in range(5):
        await setvar(desk, f"s{number}")
    await desk.revise(DONE, "s1")
    async with connected(redis_url) as pipeline:
        doubts = await read_doubts(pipeline, Keys("pbx1"))
    assert [doubt["action_id"] for doubt in doubts.found] == ["s0", "s2", "s3", "s4"]
    assert float(doubts.since) == SETTLED_AT


async def test_a_table_for_people(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    text = on_a_terminal("unknown", "pbx1", "--redis", redis_url)
    assert "ActionID" in text
    assert "s1" in text
    assert "\t" not in text


def on_a_terminal(*arguments: str) -> str:
    """What a command shows to a person."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment({"COLUMNS": "160"}), cwd=ROOT, stdout=theirs
    ) as shell:
        os.close(theirs)
        text = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            text += data
        assert shell.wait(30) == 0
    os.close(ours)
    return text.decode()


def test_no_redis_is_one_sentence() -> None:
    outcome = unknown("redis://127.0.0.1:1/0")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("amibus: Redis at redis://127.0.0.1:1/0 cannot be reached")
