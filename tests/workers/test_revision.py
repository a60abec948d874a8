"""The truth that comes late: which records it corrects, what is written and who hears of it; on real servers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from broker.ami import Headers
from broker.codec import Result, State, decode_message, pack, result_map
from broker.errors import ErrorCode
from tests.desk import DONE, Desk
from workers.outcome import Outcome, answered_outcome, ended_outcome, originate_outcome
from workers.revision import Revision

UNKNOWN = Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message="no answer within 30 s")
ORIGINATE = ("Action", "Originate", "ActionID", "a1", "Channel", "Local/1@x", "Application", "Echo", "Bus-Reply", "me",
             "Bus-Producer", "crm", "Bus-Tag", "order 7")  # fmt: skip


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    desk = Desk(redis_url)
    await desk.open()
    yield desk
    await desk.close()


@pytest.fixture
def revision(desk: Desk) -> Revision:
    return Revision(desk.redis, desk.settings, desk.publish)


async def unknown(desk: Desk) -> None:
    """An Originate that Asterisk queued, and of which no more was heard."""
    job = await desk.job(*ORIGINATE)
    await desk.mark(job)
    await desk.sent(job)
    response = Headers([("Response", "Success"), ("Message", "Originate successfully queued")])
    await desk.settle(job, Outcome(State.UNKNOWN, response, code=UNKNOWN.code, message=UNKNOWN.message))


async def result(desk: Desk) -> Result:
    message = decode_message((await desk.record())["result"])
    assert isinstance(message, Result)
    return message


async def test_a_late_success(desk: Desk, revision: Revision) -> None:
    await unknown(desk)
    before = await result(desk)
    event = Headers([("Event", "OriginateResponse"), ("Response", "Success"), ("Reason", "4"),
                     ("Channel", "Local/1@x-1;1"), ("Uniqueid", "u1")])  # fmt: skip
    await desk.listen()
    assert await revision.revise("a1", originate_outcome(event), 9.5)
    record = await desk.record()
    assert not record.keys() & {"error", "error_code"}
    assert (record["state"], record["settled_at"], record["reason"], record["uniqueid"]) == (
        b"done", b"9.500000", b"4", b"u1",
    )  # fmt: skip
    assert (record["response"], record["message"]) == (b"Success", b"Originate successfully queued")
    told = await result(desk)
    assert told.revised
    assert (told.error_code, told.error_message, told.settled_at) == (None, None, 9.5)
    kept = ("entry", "action", "producer", "tag", "response", "queued_at", "sending_at")
    assert [getattr(told, name) for name in kept] == [getattr(before, name) for name in kept]
    assert told.events == [event]
    assert await desk.heard() == [("action:a1", told), ("reply:me", told)]
    first, second = await desk.lines(desk.keys.results)
    assert (first["state"], first["revised"]) == ("unknown", "0")
    assert (second["state"], second["revised"], second["error_code"], second["message"]) == ("done", "1", "", "")
    assert second["settled_at"] == "9.500000"
    kept_fields = ("action_id", "entry", "action", "producer", "queued_at")
    assert [second[name] for name in kept_fields] == [first[name] for name in kept_fields]


async def test_a_late_failure_says_why(desk: Desk, revision: Revision) -> None:
    await unknown(desk)
    assert await revision.revise("a1", ended_outcome("17"), 9.0)
    record = await desk.record()
    assert (record["state"], record["error_code"]) == (b"failed", b"originate-failed")
    assert record["error"].endswith(b"cause 17")
    told = await result(desk)
    assert (told.error_code, told.error_message) == ("originate-failed", record["error"].decode())
    line = (await desk.lines(desk.keys.results))[-1]
    assert (line["error_code"], line["message"], line["revised"]) == ("originate-failed", told.error_message, "1")


async def test_of_two_truths_at_once_one_wins(desk: Desk, revision: Revision) -> None:
    await unknown(desk)
    await desk.listen()
    won = await asyncio.gather(
        revision.revise("a1", answered_outcome(), 9.0), revision.revise("a1", ended_outcome("17"), 9.0)
    )
    assert sorted(won) == [False, True]
    assert len(await desk.lines(desk.keys.results)) == 2
    assert len(await desk.heard()) == 2
    assert (await desk.record())["state"] == (b"done" if won[0] else b"failed")


async def test_a_second_truth_changes_nothing(desk: Desk, revision: Revision) -> None:
    await unknown(desk)
    await revision.revise("a1", answered_outcome(), 9.0)
    before = await desk.snapshot()
    assert not await revision.revise("a1", ended_outcome("17"), 10.0)
    assert await desk.snapshot() == before


async def test_what_is_not_unknown_is_left_alone(desk: Desk, revision: Revision) -> None:
    assert not await revision.revise("a1", DONE, 9.0)
    assert await desk.record() == {}, "a record that has expired is not made anew"
    job = await desk.job()
    await desk.mark(job)
    assert not await revision.revise("a1", DONE, 9.0)
    await desk.settle(job)
    before = await desk.snapshot()
    assert not await revision.revise("a1", ended_outcome("17"), 9.0)
    assert await desk.snapshot() == before


async def test_a_record_without_its_message_is_corrected_from_its_fields(desk: Desk, revision: Revision) -> None:
    await unknown(desk)
    await desk.redis.hdel(desk.keys.action("a1"), "result")
    assert await revision.revise("a1", answered_outcome(), 9.0)
    told = await result(desk)
    assert (told.state, told.revised, told.producer, told.tag) == (State.DONE, True, "crm", "order 7")
    assert told.error_code is None


@pytest.mark.parametrize(
    "foreign", ["state of another version", "result of another version", "result that nobody can tell", "another type"]
)
async def test_a_record_that_is_not_ours_stops_nobody(desk: Desk, revision: Revision, foreign: str) -> None:
    await unknown(desk)
    key = desk.keys.action("a1")
    if foreign == "state of another version":
        await desk.redis.hset(key, "state", "dreaming")
        await desk.redis.hdel(key, "result")
    elif foreign == "result of another version":
        await desk.redis.hset(key, "result", b"\xc1")
    elif foreign == "result that nobody can tell":
        told = result_map(await result(desk)) | {"items": 1, "chunks": 1, "latin1": ["Name", 7]}
        await desk.redis.hset(key, "result", pack(told))
    else:
        await desk.redis.delete(key)
        await desk.redis.rpush(key, "x")
    before = await desk.snapshot()
    with capture_logs() as logs:
        assert not await revision.revise("a1", DONE, 9.0)
    assert [line["event"] for line in logs] == ["the truth came late, and its record cannot be read"]
    assert await desk.snapshot() == before


async def test_a_refusal_of_redis_is_not_hidden(desk: Desk, revision: Revision) -> None:
    await unknown(desk)
    await desk.redis.execute_command("ACL", "SETUSER", "default", "-hgetall")
    try:
        with pytest.raises(ResponseError, match="permission"):
            await revision.revise("a1", DONE, 9.0)
    finally:
        await desk.redis.execute_command("ACL", "SETUSER", "default", "+hgetall")
