"""Records that somebody filled with garbage: they cost their own actions their fate at most, and the worker nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.codec import FINAL_STATES, BadMessage, pack
from broker.entry import decode_entry
from broker.keys import ACTIONS, GROUP
from broker.record import decode_record, request_headers
from tests.workers.worker_process import USERS, Desk, eventually, make_settings, running_worker
from workers.job import Job, make_job
from workers.simulated import SimulatedAsterisk

ENTRY = "5-1"
FIELDS = (
    "state", "epoch", "sending_at", "worker", "lane", "entry", "fingerprint", "action", "producer", "reply", "tag",
    "traceparent", "queued_at", "request", "result", "call", "answered_at", "cause", "channel", "uniqueid",
)  # fmt: skip
TEXTS = (b"", b"\xff\xfe", b"garbage", b"nan", b"inf", b"-1", b"9" * 400, b"9" * 19 + b"-" + b"9" * 20, b"5", b"5-",
         b"1e300", b"+7", b"007", b"\x00", "\u2028".encode())  # fmt: skip
VALUES = (b"\x07", b"\xc0", b"\x91\x07", b"\x91\x91\x07", b"\xc4\x01x")
SHAPES = (
    *[b"\x81\xa9ChannelId" + value for value in VALUES],
    b"\xc1", b"\x91" * 2000, b"\x80\x80", b"\x07", b"\x90", b"\x81\x07\x07", b"\x81\x90\x07", b"\x81\xc4\x01\xff\x07",
)  # fmt: skip
"""msgpack of all kinds but that of a request or a result."""

GARBAGE = [
    *[{field: text} for field in FIELDS for text in TEXTS],
    *[{field: shape} for field in ("request", "result") for shape in SHAPES],
    *[dict.fromkeys(FIELDS[1:], text) for text in TEXTS],
    *[{"call": b"ended", "cause": text} for text in TEXTS],
]
ASKED = {
    "Setvar": {"Action": "Setvar", "Variable": "x", "Value": "1"},
    "Originate": {"Action": "Originate", "Channel": "Local/100@default", "Application": "Wait", "Data": "0"},
    "Ping": {"Action": "Ping"},
}


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


def record(state: str, action: str, entry: str) -> dict[str, Any]:
    """That of an action that a lost worker had begun."""
    return {
        "state": state, "epoch": "7", "sending_at": "1700000000.000000", "worker": "lost one", "lane": ACTIONS,
        "entry": entry, "action": action, "request": pack(ASKED[action]),
    }  # fmt: skip


async def spoil(desk: Desk, state: str, action: str) -> None:
    """Actions that were begun when their worker was lost, each with garbage of another kind in its record; of half of
    them Redis has forgotten the entry, too."""
    await desk.redis.xgroup_create(desk.keys.actions, GROUP, id="0", mkstream=True)
    async with desk.redis.pipeline(transaction=False) as filling:
        for number, garbage in enumerate(GARBAGE, 1):
            pending, entry = f"pending{number}", f"{number}-1"
            filling.xadd(desk.keys.actions, {**ASKED[action], "ActionID": pending, "Bus-Deadline": "+600"}, id=entry)
            filling.hset(desk.keys.action(pending), mapping=record(state, action, entry) | garbage)
            filling.hset(desk.keys.action(f"gone{number}"), mapping=record(state, action, f"{number}-2") | garbage)
            filling.hset(desk.keys.legs, f"leg{number}", f"gone{number}")
        filling.xadd(desk.keys.actions, {**ASKED[action], "ActionID": "list"}, id="999999-1")
        filling.rpush(desk.keys.action("list"), "garbage")
        filling.hset(desk.keys.action("").encode() + b"\xff", mapping=record(state, action, "5-5"))
        filling.hset(desk.keys.legs, mapping={b"\xff": "list", "leg": b"\xff", "": "", "more": "list"})
        filling.set(desk.keys.epoch, "7")
        await filling.execute()
    await desk.redis.xreadgroup(GROUP, "lost", {desk.keys.actions: ">"})


async def states(desk: Desk, kind: str) -> dict[str, bytes | None]:
    """The states of the spoilt actions of a kind, by their ActionIDs."""
    async with desk.redis.pipeline(transaction=False) as asking:
        for number in range(1, len(GARBAGE) + 1):
            asking.hget(desk.keys.action(f"{kind}{number}"), "state")
        return {f"{kind}{number}": state for number, state in enumerate(await asking.execute(), 1)}


@pytest.mark.parametrize("action", ASKED)
@pytest.mark.parametrize("state", ["sending", "sent"])
async def test_a_worker_serves_whatever_the_records_hold(
    redis_url: str, asterisk: SimulatedAsterisk, state: str, action: str
) -> None:
    async with Desk(redis_url) as desk:
        await spoil(desk, state, action)
        with capture_logs() as logs:
            async with running_worker(make_settings(redis_url, asterisk, name="second")) as worker:
                await desk.add("Setvar", "good", Variable="x", Value="1")
                await eventually(lambda: worker.done() or is_final(desk, "good"))
                await eventually(lambda: worker.done() or is_searched(desk))
                await eventually(lambda: worker.done() or desk.backlog_is_empty())
                assert not worker.done()
                assert await desk.pending() == 0
        gone = await states(desk, "gone")
        left = [GARBAGE[number] for number, state in enumerate(gone.values()) if state != b"unknown"]
    readable = ("state", "lane", "entry")
    assert all(garbage.keys() & {*readable} for garbage in left), "all of which it is known what to settle"
    lines = [line for line in logs if line["event"] == "records of what was begun cannot be read"]
    assert len(lines) == 1
    # Also those whose entry was pending: it was taken for another one with their ActionID.
    assert lines[0]["records"] == 2 * sum("state" not in garbage for garbage in left) + 1


@pytest.mark.parametrize("garbage", [text for text in TEXTS if text])
async def test_a_worker_serves_whatever_is_said_of_the_last_holder(
    redis_url: str, asterisk: SimulatedAsterisk, garbage: bytes
) -> None:
    async with Desk(redis_url) as desk:
        await desk.redis.hset(desk.keys.holder, mapping=dict.fromkeys(("redis", "doubts", "searched"), garbage))
        async with running_worker(make_settings(redis_url, asterisk)):
            await desk.add("Setvar", "good", Variable="x", Value="1")
            assert (await desk.settled("good"))["state"] == "done"


async def is_final(desk: Desk, action_id: str) -> bool:
    return (await desk.redis.hget(desk.keys.action(action_id), "state") or b"").decode() in FINAL_STATES


async def is_searched(desk: Desk) -> bool:
    return bool(await desk.redis.hexists(desk.keys.holder, "searched"))


# -- what is read of a record


@pytest.fixture
def job() -> Job:
    return make_job(decode_entry(ACTIONS, ENTRY, [b"Action", b"Setvar", b"ActionID", b"a1"]), "pbx1")


def test_a_mark_is_read(job: Job) -> None:
    job.was_marked(b"7", b"1700000000.500000", b"w1")
    assert (job.epoch, job.sending_at, job.marked_by) == (7, 1700000000.5, "w1")


@pytest.mark.parametrize("garbage", [None, *[text for text in TEXTS if text != b"5"]])
def test_of_a_mark_that_is_spoilt_nothing_is_taken(job: Job, garbage: bytes | None) -> None:
    for epoch, sending_at in ((garbage, b"1700000000.500000"), (b"7", garbage)):
        job.was_marked(epoch, sending_at, garbage)
        assert (job.epoch, job.sending_at) == (None, None)


@pytest.mark.parametrize("packed", SHAPES)
def test_what_is_no_request_is_a_bad_message(packed: bytes) -> None:
    with pytest.raises(BadMessage):
        request_headers(packed)
    with pytest.raises(BadMessage):
        decode_record("pbx1", "a1", [b"state", b"sending", b"request", packed])
