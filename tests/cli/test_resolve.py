"""`amibus resolve`: an operator's word, written and told; and what is refused."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.codec import Result, State, decode_message
from broker.scripts import Script
from tests.cli.commands import Outcome, amibus
from tests.cli.conftest import LOST, Station
from tests.cli.doubtful import originate, setvar
from tests.cli.test_completion import completed, until_completed
from tests.desk import DONE, Desk
from workers import revision as module
from workers.cli.failures import Failure
from workers.cli.output import Output
from workers.cli.resolve import MAX_WHY, UNTRIMMED, Word, resolve_by
from workers.config import Settings
from workers.outcome import answered_outcome
from workers.records import MAX_LINE_TEXT

WHY = "the CDR has it, answered at 09:14"
TEXT = f"resolved by an operator: {WHY}"


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    desk = Desk(redis_url)
    await desk.open()
    yield desk
    await desk.close()


def resolve(url: str, *arguments: str, why: str = WHY) -> Outcome:
    return amibus("resolve", "pbx1", *arguments, "--why", why, settings={"AMIBUS_REDIS": url})


async def test_done(desk: Desk, redis_url: str) -> None:
    await originate(desk, "c1")
    await desk.listen()
    seconds, _ = await desk.redis.time()
    outcome = resolve(redis_url, "c1", "done")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    first, *_, last = outcome.stdout.splitlines()
    assert first.startswith("done  Originate  c1  ")
    assert first.endswith("  revised")
    assert TEXT in outcome.stdout
    assert last.startswith("It was unknown (timeout: no answer within 30 s); ")
    record = await desk.record("c1")
    assert (record["state"], record["response"], record["message"].decode()) == (b"done", b"Success", TEXT)
    assert not record.keys() & {"error", "error_code"}
    assert seconds <= float(record["settled_at"]) < seconds + 60, "Redis' own time"
    result = decode_message(record["result"])
    assert isinstance(result, Result)
    assert (result.state, result.revised, result.error_code, result.tag) == (State.DONE, True, None, "order 7")
    assert result.response is not None
    assert (result.response["Response"], result.response.get_all("Message")) == ("Success", [TEXT])
    assert await desk.heard() == [("action:c1", result), ("reply:me", result)]
    line = (await desk.lines(desk.keys.results))[-1]
    assert (line["action_id"], line["state"], line["revised"], line["error_code"], line["message"]) == (
        "c1", "done", "1", "", TEXT,
    )  # fmt: skip
    assert "nothing is unknown" in amibus("unknown", "pbx1", "--redis", redis_url).stdout


async def test_done_where_asterisk_never_answered(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    assert resolve(redis_url, "s1", "done").returncode == 0
    record = await desk.record("s1")
    assert "response" not in record, "Asterisk has not said that it is a success"
    assert record["message"].decode() == TEXT
    result = decode_message(record["result"])
    assert isinstance(result, Result)
    assert result.response is not None
    assert result.response.to_map() == {"Message": TEXT}


@pytest.mark.parametrize(
    ("action_id", "more", "code"),
    [
        ("c1", (), "originate-failed"),
        ("s1", (), "asterisk-error"),
        ("s1", ("--code", "not-executed"), "not-executed"),
    ],
)
async def test_failed(desk: Desk, redis_url: str, action_id: str, more: tuple[str, ...], code: str) -> None:
    await originate(desk, "c1")
    await setvar(desk, "s1")
    outcome = resolve(redis_url, action_id, "failed", *more)
    assert outcome.returncode == 0, outcome.stderr
    assert f"{code}: {TEXT}" in outcome.stdout
    record = await desk.record(action_id)
    assert (record["state"], record["error_code"], record["error"]) == (b"failed", code.encode(), TEXT.encode())
    line = (await desk.lines(desk.keys.results))[-1]
    assert (line["state"], line["error_code"], line["message"], line["revised"]) == ("failed", code, TEXT, "1")


async def test_json_is_the_corrected_result(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    outcome = resolve(redis_url, "s1", "failed", "--json")
    result = json.loads(outcome.stdout)
    assert (result["state"], result["revised"]) == ("failed", True)
    assert result["error"] == {"code": "asterisk-error", "message": TEXT}


async def test_the_record_lives_as_long_as_it_would_have_and_nothing_is_trimmed(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    await desk.redis.pexpire(desk.keys.action("s1"), 86_400_000)
    await setvar(desk, "s2")
    await desk.redis.pexpire(desk.keys.action("s2"), 1_000_000)
    pipeline = desk.redis.pipeline(transaction=False)
    for _ in range(12_000):
        pipeline.xadd(desk.keys.results, {"state": "done"})
    await pipeline.execute()
    assert resolve(redis_url, "s1", "done").returncode == 0
    assert resolve(redis_url, "s2", "done").returncode == 0
    assert await desk.ttl_ms("s1") > 86_000_000
    assert await desk.ttl_ms("s2") > 3_500_000
    assert await desk.redis.xlen(desk.keys.results) == 12_004


async def test_a_second_word_is_refused(desk: Desk, redis_url: str) -> None:
    await setvar(desk, "s1")
    assert resolve(redis_url, "s1", "done").returncode == 0
    before = await desk.snapshot()
    outcome = resolve(redis_url, "s1", "failed")
    assert outcome.returncode == 1
    assert outcome.stderr == "amibus: s1 is done, corrected already: only what is unknown can be corrected\n"
    assert await desk.snapshot() == before


@pytest.mark.parametrize(
    ("fate", "sentence"),
    [
        ("done", "s1 is done, settled for good: only what is unknown can be corrected"),
        (
            "sending",
            "s1 is still under way (sending): no worker is alive, and the next one finds out what became of it",
        ),
        ("sent", "s1 is still under way (sent): the worker w1 has it, and settles it"),
        ("expired", "s1 was unknown, and its record has expired: it cannot be corrected any more"),
        ("never", "there is no record of s1 on pbx1: it waits on the queue, has expired, or never was"),
        ("foreign", "something of another type has the place of the record of s1"),
    ],
)
async def test_what_cannot_be_corrected(desk: Desk, redis_url: str, fate: str, sentence: str) -> None:
    key = desk.keys.action("s1")
    match fate:
        case "done":
            await setvar(desk, "s1", DONE)
        case "sending":
            await setvar(desk, "s1", None)
        case "sent":
            await setvar(desk, "s1", None)
            await desk.redis.hset(key, "state", "sent")
            await desk.redis.hset(desk.keys.worker, "worker", "w1")
        case "expired":
            await setvar(desk, "s1")
            await desk.redis.delete(key)
        case "foreign":
            await desk.redis.rpush(key, "x")
    before = await desk.snapshot()
    outcome = resolve(redis_url, "s1", "done")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, "", f"amibus: {sentence}\n")
    assert await desk.snapshot() == before


@pytest.mark.parametrize(
    ("arguments", "why", "part"),
    [
        (("s1", "done"), " ", "how you know"),
        (("s1", "done"), "two\nlines", "one line"),
        (("s1", "done"), "x" * 401, "400 at most"),
        (("s1", "done", "--code", "not-executed"), WHY, "--code is for failed"),
        (("s1", "failed", "--code", "timeout"), WHY, "--code"),
        (("s1", "unknown"), WHY, "'unknown' is not one of 'done', 'failed'"),
        (("s 1", "done"), WHY, "is not 1 to 64 characters"),
        (("s1",), WHY, "Missing argument"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], why: str, part: str) -> None:
    outcome = resolve("redis://127.0.0.1:1/0", *arguments, why=why)
    assert outcome.returncode == 2
    assert part in outcome.stderr


def test_the_reason_is_required() -> None:
    outcome = amibus("resolve", "pbx1", "s1", "done")
    assert outcome.returncode == 2
    assert "--why" in outcome.stderr


def test_the_longest_reason_fits_into_results() -> None:
    assert len(TEXT) - len(WHY) + MAX_WHY <= MAX_LINE_TEXT


def test_no_redis_is_one_sentence() -> None:
    outcome = resolve("redis://127.0.0.1:1/0", "s1", "done")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("amibus: Redis at redis://127.0.0.1:1/0 cannot be reached")
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("gone", [False, True])
async def test_the_first_truth_counts(
    desk: Desk, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: bool
) -> None:
    class Late(Script):
        """The worker's truth comes when the operator's is on its way."""

        async def __call__(self, *args: Any) -> Any:
            if gone:
                await desk.redis.delete(desk.keys.action("c1"))
            else:
                assert await desk.revise(answered_outcome(), "c1") == "revised"
            return await super().__call__(*args)

    monkeypatch.setattr(module, "Script", Late)
    await originate(desk, "c1")
    word = Word(action_id="c1", state=State.FAILED, code=None, why=WHY)
    settings = Settings(redis=redis_url, server="pbx1", results_length=UNTRIMMED)
    with pytest.raises(Failure) as caught:
        await resolve_by(settings, word, Output())
    state = "gone: its record has expired" if gone else "done"
    assert str(caught.value) == f"somebody was quicker: c1 is {state} by now, and nothing was changed"
    assert caught.value.exit_code == 1
    assert capsys.readouterr().out == ""
    assert (await desk.record("c1")).get("state") == (None if gone else b"done")
    assert len(await desk.lines(desk.keys.results)) == (1 if gone else 2)


def test_beside_a_worker(station: Station) -> None:
    """From the action that Asterisk never answers to the caller who asks again."""
    setvar = ("send", "pbx1", "Setvar", "Variable=x", "Value=1", "--action-id", LOST)
    assert station.amibus(*setvar, "--answer-timeout", "0.3").returncode == 3
    listed = station.amibus("unknown", "pbx1")
    assert f"\t{LOST}\tSetvar\t" in listed.stdout
    until_completed(LOST, "amibus", "resolve", "pbx1", "lo", station=station)
    outcome = station.amibus("resolve", "pbx1", LOST, "done", "--why", "dialplan show globals has it")
    assert outcome.returncode == 0, outcome.stderr
    again = station.amibus(*setvar)
    assert again.returncode == 0
    assert "revised" in again.stdout
    assert "resolved by an operator: dialplan show globals has it" in again.stdout
    assert station.amibus("unknown", "pbx1").stdout.startswith("nothing is unknown on pbx1")
    assert completed("amibus", "resolve", "pbx1", "lo", settings=station.settings) == []
