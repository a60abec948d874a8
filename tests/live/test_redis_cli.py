"""With nothing but redis-cli: an Originate is queued, its call followed to the last Hangup, its record read."""

import asyncio
import os
import re
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.live.harness import Site, Worker

DEADLINE_S = 60.0
SUBSCRIBED = rb"3\) \(integer\) 1"


def redis_cli() -> str:
    """The program; without it the test is skipped, and fails under CI."""
    program = shutil.which("redis-cli")
    if program is None:
        reason = "no redis-cli on the PATH (Debian: apt-get install redis-tools)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


async def run(site: Site, *arguments: str) -> str:
    """What redis-cli prints to a person (`--no-raw`: as on a terminal)."""
    process = await asyncio.create_subprocess_exec(
        redis_cli(), "-p", str(site.redis.port), "--no-raw", *arguments, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        out, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    return out.decode()


@asynccontextmanager
async def subscribed(site: Site, command: str, channel: str) -> AsyncIterator[Process]:
    """A redis-cli that prints what comes on a channel."""
    process = await asyncio.create_subprocess_exec(
        redis_cli(), "-p", str(site.redis.port), "--no-raw", command, channel, stdout=PIPE
    )
    try:
        await lines_until(process, SUBSCRIBED)
        yield process
    finally:
        process.terminate()
        await process.wait()


async def lines_until(process: Process, wanted: bytes, times: int = 1) -> bytes:
    """Read until that many lines match; all that was read."""
    assert process.stdout is not None
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        while times:
            line = await process.stdout.readline()
            assert line, f"redis-cli ended: {seen!r}"
            seen += line
            times -= bool(re.search(wanted, line))
    return seen


def hash_of(printed: str) -> dict[str, str]:
    """What HGETALL shows to a person, `1) "field"` and `2) "value"` by turns."""
    texts = re.findall(r'^ *\d+\) "(.*)"$', printed, re.MULTILINE)
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def test_a_call_by_redis_cli_alone(site: Site, worker: Worker) -> None:
    record = "ami:{pbx1}:action:a1"
    # the same ActionID again would be a duplicate
    await run(site, "DEL", record)
    async with subscribed(site, "SUBSCRIBE", record) as followed:
        action = "Action Originate ActionID a1 Channel Local/100@default Application Wait Data 1"
        entry = await run(site, "XADD", "ami:{pbx1}:actions", "*", *action.split())
        # as redis-cli shows msgpack: two legs, two hangups, the names of the headers legible
        seen = await lines_until(followed, rb"\\xa5event.*\\xa4name\\xa6Hangup", times=2)
        if rb"\xa4type\xa6result" not in seen:
            seen += await lines_until(followed, rb"\\xa4type\\xa6result")
    assert seen.count(rb"\xa4name\xaaNewchannel") == 2
    assert rb"\xa8ActionID\xa2a1" in seen
    assert rb"\xa4type\xa6result" in seen
    fields = hash_of(await run(site, "HGETALL", record))
    assert (fields["state"], fields["call"], fields["response"]) == ("done", "ended", "Success")
    assert f'"{fields["entry"]}"' == entry.strip()
    assert fields["uniqueid"] == "amibus-pbx1-a1"
    assert fields["channel"].startswith("Local/100@default-")
    assert float(fields["queued_at"]) <= float(fields["answered_at"]) <= float(fields["ended_at"])
    illegible = {name for name, value in fields.items() if "\\x" in value}
    assert illegible <= {"request", "result"}


@pytest.mark.parametrize("lane", ["actions", "actions:urgent"])
async def test_a_pattern_shows_every_event(site: Site, worker: Worker, lane: str) -> None:
    async with subscribed(site, "PSUBSCRIBE", "ami:{pbx1}:event:*") as followed:
        action = "Action UserEvent UserEvent FromRedisCli Text Hello"
        await run(site, "XADD", f"ami:{{pbx1}}:{lane}", "*", *action.split())
        await lines_until(followed, rb"FromRedisCli")
    assert "FromRedisCli" in await run(site, "XREVRANGE", "ami:{pbx1}:events", "+", "-", "COUNT", "50")
