"""The `amibus` commands for calls, on each Asterisk: what they say, and what has really come of it."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from broker import Server
from tests.cli.commands import Outcome, amibus
from tests.live.harness import Site, eventually
from tests.live.producer import new_id
from tests.live.telephony.calls import TIMEOUT_S, calling, live, talking, until_gone, until_in
from tests.live.telephony.test_conferences import meeting
from tests.live.telephony.test_recording import recorded, until_it_grows, until_recorded_to

Run = Callable[..., Coroutine[Any, Any, Outcome]]


@pytest.fixture
def run(site: Site, trusted: Server) -> Run:
    """Runs a command on the server whose worker may do everything."""

    async def run(command: str, *arguments: str) -> Outcome:
        settings = {"AMIBUS_REDIS": site.redis.url}
        return await asyncio.to_thread(amibus, command, trusted.name, *arguments, settings=settings)

    return run


def rows(outcome: Outcome) -> list[list[str]]:
    assert outcome.returncode == 0, outcome.stderr
    return [line.split("\t") for line in outcome.stdout.splitlines()[1:]]


def objects(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


async def test_channels(trusted: Server, run: Run) -> None:
    async with calling(trusted) as call:
        channel = (await live(trusted))[call.channel_id]
        [row] = [row for row in rows(await run("channels")) if row[-1] == call.channel_id]
        assert (row[0], row[1], row[6]) == (channel.name, "Up", "Wait")
        [shown] = [each for each in objects(await run("channels", "--json")) if each["uniqueid"] == call.channel_id]
        assert (shown["name"], shown["data"]) == (channel.name, "300")


async def test_call_answered_bridged_and_hung_up(trusted: Server, run: Run) -> None:
    action_id = new_id("call")
    watching = asyncio.create_task(run("call", "Local/101@default", "110", "--action-id", action_id, "--json"))
    try:
        uniqueid = f"amibus-{trusted.name}-{action_id}"

        async def is_bridged() -> bool:
            channel = (await live(trusted)).get(uniqueid)
            return channel is not None and bool(channel.bridge_id)

        await eventually(is_bridged, "the call is bridged")
    finally:
        await trusted.hangup(uniqueid, 16, timeout=TIMEOUT_S)
    said = objects(await watching)
    assert [each["event"] for each in said if each["event"] != "ringing"] == [
        "dialling", "answered", "bridged", "hung up",
    ]  # fmt: skip
    assert said[-1]["cause"] is not None


@pytest.mark.parametrize(("channel", "said"), [("Local/busy@default", "busy"), ("Local/nowhere@nowhere", "failed")])
async def test_call_that_is_not_answered(run: Run, channel: str, said: str) -> None:
    outcome = await run("call", channel, "101")
    assert outcome.returncode == 1
    assert outcome.stdout.splitlines()[-1].split()[2] == said


async def test_hangup(trusted: Server, run: Run) -> None:
    async with calling(trusted) as call:
        assert (await run("hangup", call.channel_id)).returncode == 0
        await until_gone(trusted, call.channel_id)
        gone = await run("hangup", call.channel_id)
        assert (gone.returncode, "No such channel" in gone.stderr) == (1, True)


async def test_redirect_of_both_legs_into_a_conference(trusted: Server, run: Run) -> None:
    async with talking(trusted) as pair:
        outcome = await run("redirect", pair.caller.uniqueid, "607", "--other", pair.called.uniqueid)
        assert outcome.returncode == 0, outcome.stderr
        for uniqueid in (pair.caller.uniqueid, pair.called.uniqueid):
            await until_in(trusted, uniqueid, "ConfBridge", "607")


@pytest.mark.parametrize("wrong", [("nosuch",), ("607@nowhere",), ("607", "--priority", "nosuch")])
async def test_a_call_is_not_lost_to_a_mistyped_number(trusted: Server, run: Run, wrong: tuple[str, ...]) -> None:
    async with calling(trusted) as call:
        outcome = await run("redirect", call.channel_id, *wrong)
        assert (outcome.returncode, "the dialplan has no" in outcome.stderr) == (1, True)
        outcome = await run(
            "redirect", call.channel_id, "607", "--other", f"{call.channel_id};2", "--other-to", "nosuch"
        )
        assert outcome.returncode == 1
        assert (await live(trusted))[call.channel_id].application == "Wait"
        assert (await run("redirect", "nobody", "607")).stderr.startswith("amibus: Redirect")


async def test_conferences(trusted: Server, run: Run) -> None:
    async with meeting(trusted, "608") as (_, one, two):
        assert ["608", "2", "0", "", ""] in rows(await run("conferences"))
        members = rows(await run("conferences", "608"))
        assert {row[-1] for row in members} == {one.channel_id, two.channel_id}
        assert {each["uniqueid"] for each in objects(await run("conferences", "608", "--json"))} == {
            one.channel_id,
            two.channel_id,
        }


async def test_queues(trusted: Server, run: Run) -> None:
    assert {row[0] for row in rows(await run("queues"))} == {"support", "sales"}
    interface = f"Local/{new_id('agent')}@nowhere"
    await trusted.add_queue_member("sales", interface, name="Cli Agent", paused=True, timeout=TIMEOUT_S)
    try:
        shown = (await run("queues", "sales")).stdout
        assert f"Cli Agent\t{interface}\t" in shown
        assert "\tpaused\t" in shown
    finally:
        await trusted.remove_queue_member("sales", interface, timeout=TIMEOUT_S)


async def test_mailbox(run: Run) -> None:
    [shown] = objects(await run("mailbox", "1001", "--json"))
    assert shown == {"name": "1001", "context": "default", "urgent": 0, "new": 0, "old": 0}
    assert (await run("mailbox", "1001")).stdout == "1001@default  0 urgent  0 new  0 old\n"


async def test_record_and_stop(trusted: Server, run: Run, site: Site) -> None:
    name = f"{new_id('cli')}.wav"
    async with talking(trusted, "111") as pair:
        [begun] = objects(await run("record", pair.caller.uniqueid, name, "--json"))
        assert (begun["channel"], begun["file"]) == (pair.caller.uniqueid, name)
        await until_it_grows(recorded(site, name))
        stopped = await run("record", pair.caller.uniqueid, "--stop", "--id", begun["id"])
        assert (stopped.returncode, stopped.stdout) == (0, f"stopped  {pair.caller.uniqueid}\n")
        await until_recorded_to(site, pair.caller.name)
        again = await run("record", pair.caller.uniqueid, "--stop")
        assert again.returncode == 1
        assert again.stderr.startswith("amibus: StopMixMonitor")
