"""What the typed calls make of the answers of a real Asterisk 22 and 16."""

import dataclasses
from dataclasses import replace

import pytest

import broker
from broker import NoSuchAction, Server
from broker.ami import Headers
from broker.entry import Request
from tests.bus_side import FakeWorker
from tests.telephony.replay import answer, asked

NAME = 'Jürgen "the <x>" \\ Groß'


@pytest.fixture(autouse=True)
def replaying(worker: FakeWorker, series: str) -> None:
    for action, exchange in asked(series).items():
        answer(worker, action, exchange)


async def test_channels(pbx: Server) -> None:
    channels = {channel.uniqueid: channel for channel in await pbx.channels(timeout=60)}
    assert set(channels) > {"queued", "queued;2", "meeting-1", "meeting-2", "parked;2", "talking", "talking;2"}
    queued = channels["queued;2"]
    assert queued.name.startswith("Local/301@default-")
    assert (queued.linkedid, queued.state, queued.application, queued.data) == ("queued", "Up", "Queue", "sales")
    assert (queued.context, queued.exten, queued.priority) == ("default", "301", 2)
    assert (queued.caller_number, queued.caller_name, queued.connected_number) == ("5551000", NAME, "5551000")
    assert (queued.account, queued.language, queued.bridge_id) == ("", "en", "")
    assert queued.duration_s is not None
    assert 0 <= queued.duration_s < 60
    assert channels["meeting-1;2"].bridge_id == channels["meeting-2;2"].bridge_id != ""
    assert queued.headers["Channel"] == queued.name


async def test_parked_calls(pbx: Server) -> None:
    [parked] = await pbx.parked_calls(timeout=60)
    assert (parked.lot, parked.space, parked.uniqueid, parked.timeout_s) == ("default", "701", "parked;2", 45)
    assert (parked.caller_number, parked.caller_name) == ("5551000", NAME)
    assert parked.channel.startswith("Local/park@default-")
    assert (parked.parker, parked.duration_s) == ("Local/park@default", 0)


async def test_conferences(pbx: Server) -> None:
    [room] = await pbx.conferences(timeout=60)
    assert (room.name, room.parties, room.marked, room.is_locked, room.is_muted) == ("601", 2, 0, True, False)
    members = {member.uniqueid: member for member in await pbx.conference("601").members(timeout=60)}
    assert set(members) == {"meeting-1;2", "meeting-2;2"}
    assert {uniqueid: member.is_muted for uniqueid, member in members.items()} == {
        "meeting-1;2": True,
        "meeting-2;2": False,
    }
    member = members["meeting-1;2"]
    assert (member.caller_name, member.is_admin, member.is_marked, member.is_talking) == (NAME, False, False, False)
    assert (member.is_waiting, member.since_s) == (False, 0)


async def test_queues(pbx: Server) -> None:
    support, sales = sorted(await pbx.queues(timeout=60), key=lambda queue: queue.name, reverse=True)
    assert (support.name, sales.name) == ("support", "sales")
    assert (support.strategy, support.calls, support.callers) == ("ringall", 0, ())
    [member] = support.members
    assert (member.name, member.interface, member.state_interface) == (
        "Lab Agent", "Local/101@default/n", "Custom:agent",
    )  # fmt: skip
    assert (member.membership, member.penalty, member.calls_taken) == ("static", 0, 0)
    assert (member.is_paused, member.pause_reason, member.state, member.last_call_at) == (
        True,
        "lunch",
        "UNKNOWN",
        None,
    )
    assert not member.is_free
    assert replace(member, is_paused=False).is_free, "Asterisk offers calls to a device that it does not know"
    assert not replace(member, is_paused=False, state="INUSE").is_free
    assert (sales.strategy, sales.calls, sales.members) == ("leastrecent", 1, ())
    assert (sales.hold_time_s, sales.talk_time_s, sales.completed, sales.abandoned) == (0, 0, 0, 0)
    assert (sales.max_callers, sales.weight, sales.service_level_s, sales.service_level_percent) == (0, 0, 0, 0.0)
    [caller] = sales.callers
    assert (caller.position, caller.uniqueid, caller.caller_number) == (1, "queued;2", "5551000")
    assert (caller.caller_name, caller.queue, caller.priority) == (NAME, "sales", 0)
    assert 0 <= caller.wait_s < 60


async def test_peers(pbx: Server) -> None:
    [peer] = await pbx.iax_peers(timeout=60)
    assert (peer.name, peer.address, peer.port, peer.status) == ("labpeer", "127.0.0.1", 9, "Unmonitored")
    assert (peer.is_dynamic, peer.is_trunk, peer.is_encrypted) == (False, False, False)
    endpoints = {endpoint.name: endpoint for endpoint in await pbx.pjsip_endpoints(timeout=60)}
    assert set(endpoints) == {"labphone", "labtrunk", "labdesk"}
    trunk = endpoints["labtrunk"]
    assert (trunk.aors, trunk.contacts) == (("labtrunk",), ("labtrunk/sip:labtrunk@127.0.0.1:9",))
    assert (trunk.device_state, trunk.active_channels, trunk.transport) == ("Not in use", 0, "")
    assert endpoints["labphone"].contacts == ()
    [contact] = await pbx.pjsip_contacts(timeout=60)
    assert contact.uri.startswith("sip:labdesk@127.0.0.1:")
    assert (contact.endpoint, contact.user_agent, contact.status) == ("labdesk", "amibus-lab", "NonQualified")
    assert contact.expires_at is not None
    assert contact.expires_at > 1_700_000_000
    assert contact.roundtrip_us is None


async def test_mailboxes(pbx: Server) -> None:
    mailbox = await pbx.mailbox("1000", timeout=60)
    assert (mailbox.name, mailbox.context) == ("1000", "default")
    assert (mailbox.urgent, mailbox.new, mailbox.old, mailbox.is_waiting) == (0, 0, 0, False)
    users = {user.name: user for user in await pbx.mailboxes(timeout=60)}
    assert set(users) == {"1000", "1001"}
    user = users["1000"]
    assert (user.context, user.owner, user.email, user.new, user.old) == ("default", "Lab User", "", 0, 0)
    assert user.max_messages == 100


async def test_states(pbx: Server) -> None:
    extension = await pbx.extension_state("100", timeout=60)
    assert extension is not None
    assert (extension.exten, extension.context, extension.status) == ("100", "default", 9)
    assert (extension.status_text, extension.hint) == ("InUse&Ringing", "Custom:100,CustomPresence:100")
    assert (extension.is_in_use, extension.is_ringing, extension.is_busy, extension.is_idle) == (
        True, True, False, False,
    )  # fmt: skip
    extensions = {each.exten: each for each in await pbx.extension_states(timeout=60)}
    assert set(extensions) == {"100", "101"}
    assert extensions["100"] == extension
    assert extensions["101"].is_idle
    assert (await pbx.device_state("Custom:100", timeout=60)).state == "RINGINUSE"
    devices = {each.device: each.state for each in await pbx.device_states(timeout=60)}
    assert (devices["Custom:100"], devices["confbridge:601"]) == ("RINGINUSE", "INUSE")
    presence = await pbx.presence_state("CustomPresence:100", timeout=60)
    assert (presence.state, presence.subtype, presence.message) == ("away", "lunch", "back at two")
    assert await pbx.presence_states(timeout=60) == [presence]


async def test_a_command(pbx: Server) -> None:
    lines = await pbx.command("core show channels", timeout=60)
    assert lines[0].split() == ["Channel", "Location", "State", "Application(Data)"]
    assert lines[0].startswith("Channel      "), "the table keeps its alignment"
    assert any(line.endswith("active channels") for line in lines)


async def test_recording(pbx: Server, series: str) -> None:
    recording = await pbx.record("talking;2", "lab.wav", timeout=60)
    assert (recording.channel, recording.file) == ("talking;2", "lab.wav")
    assert recording.id.startswith("0x")
    if series == "16":
        await pbx.monitor("talking;2", "lab", timeout=60)
    else:
        with pytest.raises(NoSuchAction, match=r"res_monitor\.so of Asterisk up to 20"):
            await pbx.monitor("talking;2", "lab", timeout=60)


@pytest.mark.parametrize(("urgent", "new", "waiting"), [("0", "0", False), ("1", "0", True), ("0", "2", True)])
async def test_a_message_waits(pbx: Server, worker: FakeWorker, urgent: str, new: str, waiting: bool) -> None:
    async def count(worker: FakeWorker, request: Request) -> None:
        counts = [("UrgMessages", urgent), ("NewMessages", new), ("OldMessages", "3")]
        await worker.settle(request, response=Headers([("Response", "Success"), *counts]))

    worker.on("MailboxCount", count)
    mailbox = await pbx.mailbox("1000", timeout=60)
    assert (mailbox.urgent, mailbox.new, mailbox.old) == (int(urgent), int(new), 3)
    assert mailbox.is_waiting is waiting


@pytest.mark.parametrize("status", ["-1", "-2", ""])
async def test_an_extension_without_a_hint_has_no_state(pbx: Server, worker: FakeWorker, status: str) -> None:
    async def no_hint(worker: FakeWorker, request: Request) -> None:
        headers = [("Exten", "4711"), ("Hint", ""), ("Status", status), ("StatusText", "Unknown")]
        await worker.settle(request, response=Headers([("Response", "Success"), *headers]))

    worker.on("ExtensionState", no_hint)
    assert await pbx.extension_state("4711", timeout=60) is None


def test_what_comes_back_cannot_be_changed() -> None:
    values = [getattr(broker, name) for name in broker.__all__]
    kinds = [kind for kind in values if isinstance(kind, type) and kind.__module__.startswith("broker.telephony")]
    assert len(kinds) == 17
    for kind in kinds:
        if kind is not broker.Conference:
            assert dataclasses.is_dataclass(kind)
            assert hasattr(kind, "__slots__")
            assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
