"""Actions that ask or set something, on a real Asterisk, put on the queue by plain Redis commands."""

from tests.live.calls import answered
from tests.live.harness import Site, eventually
from tests.live.producer import Message, Producer, new_id

RECORD = {"state", "action", "lane", "entry", "fingerprint", "epoch", "worker", "request", "queued_at", "sending_at"}


async def test_ping_and_all_that_is_kept_of_it(pbx: Producer) -> None:
    action_id = new_id("ping")
    async with pbx.watch(action_id) as watch, pbx.subscribed("reply:me") as reply:
        envelope = ("Bus-Producer", "crm-web", "Bus-Tag", "my tag", "Bus-Reply", "me", "Bus-X-Note", "ours")
        entry = await pbx.add("Action", "Ping", "ActionID", action_id, *envelope)
        result = await watch.result()
        assert await reply.result() == result
    assert (result["state"], result["response"]["Ping"], result["error"]) == ("done", "Pong", None)
    assert (result["entry"], result["producer"], result["tag"]) == (entry, "crm-web", "my tag")
    assert result["queued_at"] <= result["sending_at"] <= result["settled_at"]
    record = await pbx.record(action_id)
    assert record["result"] == result
    assert set(record) > RECORD
    assert (record["state"], record["response"], record["request"]) == ("done", "Success", {"Action": "Ping"})
    line = await pbx.line(entry)
    assert (line["action_id"], line["state"], line["producer"]) == (action_id, "done", "crm-web")
    assert [message["type"] for message in watch.messages] == ["result"]


async def test_nothing_is_left_on_the_queue(pbx: Producer) -> None:
    for urgent in (False, True):
        assert (await pbx.ask("Ping", urgent=urgent))["state"] == "done"
    assert (await pbx.queued(), await pbx.pending()) == (0, 0)


async def test_an_action_without_an_id_gets_that_of_its_entry(pbx: Producer) -> None:
    async with pbx.subscribed("reply:anonymous") as reply:
        entry = await pbx.add("Action", "Ping", "Bus-Reply", "anonymous", urgent=True)
        result = await reply.result()
    assert (result["action_id"], result["entry"]) == (f"u.{entry}", entry)
    assert result["response"]["ActionID"] == f"u.{entry}"


async def test_channels_of_a_live_call(pbx: Producer, site: Site) -> None:
    async with answered(pbx) as call:
        result = await eventually(lambda: _shown_in_application(pbx, call.channel_id), "it is in its application")
        assert result is not None
        legs = {event["Uniqueid"]: event for event in result["events"][:-1]}
        assert call.legs == {call.channel_id, f"{call.channel_id};2"}
        assert call.legs <= set(legs)
        assert legs[call.channel_id]["Application"] == "Wait"
        assert {event["Event"] for event in result["events"][:-1]} == {"CoreShowChannel"}
        assert result["events"][-1]["Event"] == "CoreShowChannelsComplete"
        assert result["response"]["EventList"] == "start"
        assert call.channel_id in await site.asterisk.cli("core show channels concise")
    # `answered` has had it hung up
    await eventually(lambda: _shows_none(pbx, call.legs), "its channels are gone")


async def _shown_in_application(pbx: Producer, uniqueid: str) -> Message | None:
    """The list of channels once it shows this one in an application, which is a moment after the answer."""
    result = await pbx.ask("CoreShowChannels")
    found = [event for event in result["events"][:-1] if event["Uniqueid"] == uniqueid and event["Application"]]
    return result if found else None


async def _shows_none(pbx: Producer, legs: set[str]) -> bool:
    result = await pbx.ask("CoreShowChannels")
    return legs.isdisjoint(event.get("Uniqueid") for event in result["events"])


async def test_a_list_says_that_more_is_to_come(pbx: Producer) -> None:
    action_id = new_id("queues")
    async with pbx.watch(action_id) as watch:
        await pbx.add("Action", "QueueStatus", "ActionID", action_id)
        result = await watch.result()
    assert [message["type"] for message in watch.messages] == ["response", "result"]
    assert watch.messages[0]["headers"] == result["response"]
    queues = {event["Queue"] for event in result["events"] if event["Event"] == "QueueParams"}
    members = [event for event in result["events"] if event["Event"] == "QueueMember"]
    assert queues >= {"support", "sales"}
    assert [(member["Queue"], member["Name"]) for member in members] == [("support", "Lab Agent")]
    assert result["events"][-1]["Event"] == "QueueStatusComplete"
    assert all(event["ActionID"] == action_id for event in result["events"])


async def test_the_output_of_a_command(pbx: Producer, site: Site) -> None:
    result = await pbx.ask("Command", "Command", "core show version")
    assert result["state"] == "done"
    assert result["output"][0].startswith(f"Asterisk {site.asterisk.version}")
    assert "\n".join(result["output"]).strip() == (await site.asterisk.cli("core show version")).strip()


async def test_a_table_keeps_its_alignment(pbx: Producer, site: Site) -> None:
    result = await pbx.ask("Command", "Command", "core show channeltypes")
    seen = await site.asterisk.cli("core show channeltypes")
    assert result["output"] == seen.rstrip("\n").splitlines()
    assert len(result["output"]) > 5


async def test_a_variable_is_set_and_read(pbx: Producer) -> None:
    name, value = f"LIVE_{new_id('x')[-6:]}", "Grüße, „Welt“ "
    setting = await pbx.ask("Setvar", "Variable", name, "Value", value)
    assert (setting["state"], setting["response"]["Message"]) == ("done", "Variable Set")
    getting = await pbx.ask("Getvar", "Variable", name)
    assert (getting["response"]["Variable"], getting["response"]["Value"]) == (name, value)


async def test_a_variable_of_a_live_call_by_its_uniqueid(pbx: Producer) -> None:
    async with answered(pbx) as call:
        set_it = await pbx.ask("Setvar", "Channel", call.channel_id, "Variable", "COLOUR", "Value", "green")
        assert set_it["state"] == "done"
        result = await pbx.ask("Getvar", "Channel", call.channel_id, "Variable", "COLOUR")
        assert result["response"]["Value"] == "green"


async def test_what_asterisk_refuses_has_failed(pbx: Producer) -> None:
    result = await pbx.ask("Redirect", "Channel", "Local/nobody", "Context", "default", "Exten", "100", "Priority", "1")
    assert (result["state"], result["error"]["code"]) == ("failed", "asterisk-error")
    assert result["response"]["Response"] == "Error"
    assert result["error"]["message"] == result["response"]["Message"]
    record = await pbx.record(result["action_id"])
    assert (record["state"], record["error_code"], record["error"]) == (
        "failed", "asterisk-error", result["error"]["message"],
    )  # fmt: skip


async def test_an_action_that_asterisk_does_not_have_has_failed(pbx: Producer) -> None:
    result = await pbx.ask("NoSuchAction", "Header", "1")
    assert (result["state"], result["error"]["code"]) == ("failed", "asterisk-error")
    assert result["error"]["message"].startswith("Invalid/unknown command: NoSuchAction")


async def test_the_heartbeat_tells_of_the_asterisk(pbx: Producer, site: Site) -> None:
    beat = await pbx.heartbeat()
    assert beat["state"] == "connected"
    assert beat["asterisk"].startswith(site.asterisk.version)
    servers = await pbx.redis.zrange("ami:servers", 0, -1)
    assert b"pbx1" in servers
