"""The action behind each typed call, header by header; and what is refused before anything is queued."""

import inspect
from collections.abc import Awaitable, Callable

import pytest

from broker import ActionFailed, Recording, Refused, ResultTimeout, Server, State
from broker.ami import Headers
from broker.entry import Request
from broker.errors import ErrorCode
from broker.telephony import Conference, Options, TypedCalls, parking
from tests.bus_side import FakeWorker

Pairs = list[tuple[str, str]]
Asked = Callable[[Server], Awaitable[object]]

WAIT: Options = {"timeout": 60.0}
PLACED = {"Channel": "PJSIP/100", "Exten": "200", "Context": "default", "Priority": "1"}
RECORDING = Recording("PJSIP/1-1", "a.wav", "0x7f")


def pairs(action: str, **headers: str) -> tuple[str, dict[str, str]]:
    return action, headers


ACTIONS: list[tuple[Asked, tuple[str, dict[str, str]]]] = [
    (lambda pbx: pbx.originate("PJSIP/100", "200"), pairs("Originate", **PLACED)),
    (
        lambda pbx: pbx.originate("PJSIP/100", "200", "in", "start", account="a", ring_s=2.5, early_media=True),
        pairs(
            "Originate", Channel="PJSIP/100", Exten="200", Context="in", Priority="start", Account="a", Timeout="2500",
            EarlyMedia="true",
        ),
    ),
    (
        lambda pbx: pbx.originate("PJSIP/100", application="Playback", data="a&b", codecs=["ulaw", "alaw"]),
        pairs("Originate", Channel="PJSIP/100", Application="Playback", Data="a&b", Codecs="ulaw,alaw"),
    ),
    (
        lambda pbx: pbx.originate("PJSIP/100", "200", channel_id="c", other_channel_id="o", caller_number="4711"),
        pairs("Originate", **PLACED, CallerID="<4711>", ChannelId="c", OtherChannelId="o"),
    ),
    (
        lambda pbx: pbx.originate("PJSIP/100", "200", variables={"a": "1,2"}, caller_name='A "B"'),
        pairs("Originate", **PLACED, CallerID=r'"A \"B\"" <>', Variable=r"a=1\,2"),
    ),
    (lambda pbx: pbx.hangup("PJSIP/1-1", **WAIT), pairs("Hangup", Channel="PJSIP/1-1")),
    (lambda pbx: pbx.hangup("PJSIP/1-1", 0, **WAIT), pairs("Hangup", Channel="PJSIP/1-1", Cause="0")),
    (lambda pbx: pbx.setvar("A", " b", **WAIT), pairs("Setvar", Variable="A", Value=" b")),
    (lambda pbx: pbx.setvar("A", 1, "c", **WAIT), pairs("Setvar", Variable="A", Value="1", Channel="c")),
    (lambda pbx: pbx.getvar("A", "c", **WAIT), pairs("Getvar", Variable="A", Channel="c")),
    (
        lambda pbx: pbx.redirect("c", "200", **WAIT),
        pairs("Redirect", Channel="c", Exten="200", Context="default", Priority="1"),
    ),
    (
        lambda pbx: pbx.redirect("c", "200", "in", 2, other="d", **WAIT),
        pairs("Redirect", Channel="c", Exten="200", Context="in", Priority="2", ExtraChannel="d"),
    ),
    (
        lambda pbx: pbx.redirect("c", "200", "in", 2, other="d", other_exten="300", **WAIT),
        pairs(
            "Redirect", Channel="c", Exten="200", Context="in", Priority="2", ExtraChannel="d", ExtraExten="300",
            ExtraContext="in", ExtraPriority="1",
        ),
    ),
    (
        lambda pbx: pbx.redirect(
            "c", "200", other="d", other_exten="300", other_context="out", other_priority="x", **WAIT
        ),
        pairs(
            "Redirect", Channel="c", Exten="200", Context="default", Priority="1", ExtraChannel="d", ExtraExten="300",
            ExtraContext="out", ExtraPriority="x",
        ),
    ),
    (lambda pbx: pbx.transfer("c", "2", **WAIT), pairs("BlindTransfer", Channel="c", Exten="2", Context="default")),
    (
        lambda pbx: pbx.retrieve("c", exten="2", **WAIT),
        pairs("Redirect", Channel="c", Exten="2", Context="default", Priority="1"),
    ),
    (lambda pbx: pbx.parked_calls(**WAIT), pairs("ParkedCalls")),
    (lambda pbx: pbx.parked_calls("lot", **WAIT), pairs("ParkedCalls", ParkingLot="lot")),
    (lambda pbx: pbx.conference("6").members(**WAIT), pairs("ConfbridgeList", Conference="6")),
    (lambda pbx: pbx.conference("6").kick("c", **WAIT), pairs("ConfbridgeKick", Conference="6", Channel="c")),
    (lambda pbx: pbx.conference("6").kick_all(**WAIT), pairs("ConfbridgeKick", Conference="6", Channel="all")),
    (lambda pbx: pbx.conference("6").mute("c", **WAIT), pairs("ConfbridgeMute", Conference="6", Channel="c")),
    (lambda pbx: pbx.conference("6").unmute("c", **WAIT), pairs("ConfbridgeUnmute", Conference="6", Channel="c")),
    (lambda pbx: pbx.conference("6").lock(**WAIT), pairs("ConfbridgeLock", Conference="6")),
    (lambda pbx: pbx.conference("6").unlock(**WAIT), pairs("ConfbridgeUnlock", Conference="6")),
    (lambda pbx: pbx.conference("6").record(**WAIT), pairs("ConfbridgeStartRecord", Conference="6")),
    (
        lambda pbx: pbx.conference("6").record("a.wav", **WAIT),
        pairs("ConfbridgeStartRecord", Conference="6", RecordFile="a.wav"),
    ),
    (lambda pbx: pbx.conference("6").stop_recording(**WAIT), pairs("ConfbridgeStopRecord", Conference="6")),
    (
        lambda pbx: pbx.record("c", "a.wav", **WAIT),
        pairs("MixMonitor", Channel="c", File="a.wav", Options="i(AMIBUS_RECORDING)"),
    ),
    (
        lambda pbx: pbx.record("c", "a.wav", append=True, only_while_bridged=True, **WAIT),
        pairs("MixMonitor", Channel="c", File="a.wav", Options="abi(AMIBUS_RECORDING)"),
    ),
    (lambda pbx: pbx.stop_recording("c", **WAIT), pairs("StopMixMonitor", Channel="c")),
    (
        lambda pbx: pbx.stop_recording("c", RECORDING, **WAIT),
        pairs("StopMixMonitor", Channel="c", MixMonitorID="0x7f"),
    ),
    (lambda pbx: pbx.stop_recording("c", "0x8", **WAIT), pairs("StopMixMonitor", Channel="c", MixMonitorID="0x8")),
    (lambda pbx: pbx.mute_recording("c", **WAIT), pairs("MixMonitorMute", Channel="c", Direction="both", State="1")),
    (
        lambda pbx: pbx.mute_recording("c", False, side="heard", **WAIT),
        pairs("MixMonitorMute", Channel="c", Direction="write", State="0"),
    ),
    (
        lambda pbx: pbx.mute_recording("c", side="spoken", **WAIT),
        pairs("MixMonitorMute", Channel="c", Direction="read", State="1"),
    ),
    (lambda pbx: pbx.monitor("c", "a", **WAIT), pairs("Monitor", Channel="c", File="a", Format="wav", Mix="true")),
    (
        lambda pbx: pbx.monitor("c", "a", "gsm", mix=False, **WAIT),
        pairs("Monitor", Channel="c", File="a", Format="gsm"),
    ),
    (lambda pbx: pbx.stop_monitor("c", **WAIT), pairs("StopMonitor", Channel="c")),
    (lambda pbx: pbx.mailbox("1", "x", **WAIT), pairs("MailboxCount", Mailbox="1@x")),
    (lambda pbx: pbx.extension_state("1", "x", **WAIT), pairs("ExtensionState", Exten="1", Context="x")),
    (lambda pbx: pbx.device_state("PJSIP/1", **WAIT), pairs("Getvar", Variable="DEVICE_STATE(PJSIP/1)")),
    (lambda pbx: pbx.presence_state("CustomPresence:1", **WAIT), pairs("PresenceState", Provider="CustomPresence:1")),
    (lambda pbx: pbx.command("core show channels", **WAIT), pairs("Command", Command="core show channels")),
    (lambda pbx: pbx.queues("q", **WAIT), pairs("QueueStatus", Queue="q")),
    (
        lambda pbx: pbx.add_queue_member("q", "PJSIP/1", **WAIT),
        pairs("QueueAdd", Queue="q", Interface="PJSIP/1", Penalty="0", Paused="false"),
    ),
    (
        lambda pbx: pbx.add_queue_member(
            "q", "PJSIP/1", name="Ann", penalty=2, paused=True, state_interface="hint:1@in", **WAIT
        ),
        pairs(
            "QueueAdd", Queue="q", Interface="PJSIP/1", MemberName="Ann", Penalty="2", Paused="true",
            StateInterface="hint:1@in",
        ),
    ),
    (lambda pbx: pbx.remove_queue_member("q", "P/1", **WAIT), pairs("QueueRemove", Queue="q", Interface="P/1")),
    (lambda pbx: pbx.pause_queue_member("P/1", **WAIT), pairs("QueuePause", Interface="P/1", Paused="true")),
    (
        lambda pbx: pbx.pause_queue_member("P/1", "q", paused=False, reason="back", **WAIT),
        pairs("QueuePause", Interface="P/1", Paused="false", Queue="q", Reason="back"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "wanted"), ACTIONS, ids=[f"{name}-{at}" for at, (_, (name, _)) in enumerate(ACTIONS)]
)
async def test_what_is_put_on_the_queue(
    pbx: Server, worker: FakeWorker, asked: Asked, wanted: tuple[str, dict[str, str]]
) -> None:
    call = await asked(pbx)
    if wanted[0] == "Originate":
        await call.result(timeout=60)  # type: ignore[attr-defined]
    [request] = worker.taken
    assert request.refusal is None
    assert (request.action, dict(request.pairs)) == wanted
    assert len(request.pairs) == len(wanted[1])


async def test_the_options_of_a_request_are_taken(pbx: Server, worker: FakeWorker) -> None:
    options: Options = {
        "action_id": "h1",
        "urgent": True,
        "producer": "crm",
        "deadline": "+5",
        "tag": "t",
        "timeout": 10,
        "answer_timeout": 2.5,
    }
    await pbx.hangup("c", **options)
    [request] = worker.taken
    assert (request.action_id, request.lane, request.producer, request.tag) == ("h1", "urgent", "crm", "t")
    assert request.timeout_s == 2.5
    assert request.deadline == pytest.approx(request.queued_at + 5)


REFUSED: list[tuple[Asked, str]] = [
    (lambda pbx: pbx.originate("PJSIP/100"), "either to an extension or to an application"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", application="Wait"), "either to an extension or to an application"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", data="x"), "data is for an application"),
    (lambda pbx: pbx.originate("PJSIP/100", application="Wait", early_media=True), "early_media is for an extension"),
    (lambda pbx: pbx.originate("", "200"), "channel '' is empty"),
    (lambda pbx: pbx.originate("PJSIP/100 ", "200"), "begins or ends with a blank"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", ring_s=0), "ring_s 0 is not a number of seconds above 0"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", ring_s=float("nan")), "ring_s nan is not"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", caller_number="<1>"), "caller_number '<1>' holds a bracket"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", variables={"a=b": 1}), "the variable 'a=b' holds ="),
    (lambda pbx: pbx.originate("PJSIP/100", "200", variables={"": 1}), "variable name '' is empty"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", variables={"a": "x" * 1100}), "Asterisk takes 1022 a line"),
    (lambda pbx: pbx.originate("PJSIP/100", "200", variables={"a": "1\r\nAction: x"}), "holds CR, LF or NUL"),
    (lambda pbx: pbx.hangup("/.*/"), "is a regular expression"),
    (lambda pbx: pbx.hangup("\t/.*/"), "is a regular expression"),
    (lambda pbx: pbx.hangup("c", 128), "cause 128 is not between 0 and 127"),
    (lambda pbx: pbx.hangup("c", -1), "cause -1 is not"),
    (lambda pbx: pbx.setvar("A", "b", ""), "channel '' is empty"),
    (lambda pbx: pbx.redirect("c", ""), "exten '' is empty"),
    (lambda pbx: pbx.redirect("c", "1", other_exten="2"), "other_exten is for another channel"),
    (lambda pbx: pbx.redirect("c", "1", other="d", other_context="x"), "other_context and other_priority belong"),
    (lambda pbx: pbx.redirect("c", "1", other="d", other_priority=2), "other_context and other_priority belong"),
    (lambda pbx: pbx.retrieve("c"), "either by another channel or to an extension"),
    (lambda pbx: pbx.retrieve("c", "d", exten="1"), "either by another channel or to an extension"),
    (lambda pbx: pbx.park("c", stay_s=-1), "stay_s -1 is not"),
    (lambda pbx: pbx.park("c", ""), "lot '' is empty"),
    (lambda pbx: pbx.record("c", "a.wav,b,rm x"), "holds a comma"),
    (lambda pbx: pbx.record("c", ""), "file '' is empty"),
    (lambda pbx: pbx.conference("6").record("a,b"), "holds a comma"),
    (lambda pbx: pbx.conference("6").kick("/x/"), "is a regular expression"),
    (lambda pbx: pbx.add_queue_member("q", "i", penalty=-1), "penalty -1 is below 0"),
    (lambda pbx: pbx.command(""), "line '' is empty"),
    (lambda pbx: pbx.device_state(""), "device '' is empty"),
]


@pytest.mark.parametrize(("asked", "why"), REFUSED, ids=[why for _, why in REFUSED])
async def test_what_cannot_be_is_refused_before_it_is_queued(
    pbx: Server, worker: FakeWorker, asked: Asked, why: str
) -> None:
    with pytest.raises(Refused) as refused:
        await asked(pbx)
    assert why in str(refused.value)
    await pbx.request("Ping", timeout=60)
    assert [request.action for request in worker.taken] == ["Ping"]


async def test_a_conference_needs_a_name(pbx: Server) -> None:
    with pytest.raises(Refused, match="conference '' is empty"):
        pbx.conference("")
    assert repr(pbx.conference("600")) == "<Conference 600>"


async def test_codes_of_refusals(pbx: Server) -> None:
    for asked, code in (
        (lambda: pbx.hangup("/x/"), ErrorCode.FORBIDDEN),
        (lambda: pbx.record("c", "a,b"), ErrorCode.FORBIDDEN),
        (lambda: pbx.hangup(""), ErrorCode.MALFORMED),
        (lambda: pbx.originate("P/1", "2", variables={"a": "x" * 1100}), ErrorCode.LINE_TOO_LONG),
    ):
        with pytest.raises(Refused) as refused:
            await asked()
        assert refused.value.code is code


# What takes more than one action


def _named(worker: FakeWorker, **names: str) -> None:
    """Let Getvar CHANNEL and UNIQUEID answer for these channels, and fail for others."""

    async def getvar(worker: FakeWorker, request: Request) -> None:
        asked = dict(request.pairs)
        if asked["Channel"] not in names:
            await worker.settle(request, State.FAILED, code="asterisk-error", message="No such channel")
            return
        value = names[asked["Channel"]] if asked["Variable"] == "CHANNEL" else f"id-of-{asked['Channel']}"
        await worker.settle(request, response=Headers([("Response", "Success"), ("Value", value)]))

    worker.on("Getvar", getvar)


def _written(worker: FakeWorker) -> list[tuple[str, Pairs]]:
    return [(request.action, request.pairs) for request in worker.taken]


async def test_channels_are_bridged_by_their_whole_names(pbx: Server, worker: FakeWorker) -> None:
    _named(worker, one="Local/1-1", two="Local/2-1")
    await pbx.bridge("one", "two", tone=True, action_id="b1", timeout=60)
    assert _written(worker) == [
        ("Getvar", [("Variable", "CHANNEL"), ("Channel", "one")]),
        ("Getvar", [("Variable", "CHANNEL"), ("Channel", "two")]),
        ("Bridge", [("Channel1", "Local/1-1"), ("Channel2", "Local/2-1"), ("Tone", "Both")]),
    ]
    assert [request.action_id == "b1" for request in worker.taken] == [False, False, True]
    with pytest.raises(ActionFailed, match="No such channel"):
        await pbx.bridge("one", "tw", **WAIT)
    assert worker.taken[-1].action == "Getvar"


async def test_held_and_retrieved(pbx: Server, worker: FakeWorker) -> None:
    _named(worker, c="Local/1-1", agent="Local/2-1", **{"id-of-c": "Local/1-1"})
    held = await pbx.hold_at("c", "music", "holding", action_id="h1", timeout=60)
    assert held == "id-of-c"
    await pbx.retrieve(held, by="agent", **WAIT)
    assert _written(worker)[1] == (
        "Redirect",
        [("Channel", "id-of-c"), ("Exten", "music"), ("Context", "holding"), ("Priority", "1")],
    )
    assert worker.taken[1].action_id == "h1"
    assert _written(worker)[-1] == ("Bridge", [("Channel1", "Local/2-1"), ("Channel2", "Local/1-1")])


def _lots(worker: FakeWorker, *looks: list[Headers]) -> None:
    """What ParkedCalls lists, one look after the other; the last one again and again."""
    left = list(looks)

    async def parked(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, events=left.pop(0) if len(left) > 1 else left[0])

    worker.on("ParkedCalls", parked)


def _parked(channel: str, uniqueid: str, space: str) -> Headers:
    return Headers(
        [
            ("Event", "ParkedCall"), ("ParkeeChannel", channel), ("ParkeeUniqueid", uniqueid), ("ParkingSpace", space),
            ("Parkinglot", "default"), ("ParkingTimeout", ""),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("by", ["PJSIP/1-1", "u.1"])
async def test_parked_is_when_it_is_in_the_lot(pbx: Server, worker: FakeWorker, by: str) -> None:
    other, ours = _parked("PJSIP/2-1", "u.2", "701"), _parked("PJSIP/1-1", "u.1", "702")
    _lots(worker, [other], [other], [other, ours])
    parked = await pbx.park(
        by, "lot", space="702", stay_s=30, announce_to="PJSIP/3-1", back_to="PJSIP/4-1", action_id="p1", timeout=60
    )
    assert (parked.space, parked.channel, parked.timeout_s) == ("702", "PJSIP/1-1", None)
    first, *looks = _written(worker)
    assert first == (
        "Park",
        [
            ("Channel", by), ("Parkinglot", "lot"), ("ParkingSpace", "702"), ("Timeout", "30000"),
            ("AnnounceChannel", "PJSIP/3-1"), ("TimeoutChannel", "PJSIP/4-1"),
        ],
    )  # fmt: skip
    assert looks == [("ParkedCalls", [("ParkingLot", "lot")])] * 3
    assert [request.action_id == "p1" for request in worker.taken] == [True, False, False, False]


async def test_never_seen_in_the_lot(pbx: Server, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_WITHIN_S", 0.2)
    _lots(worker, [])
    with pytest.raises(ResultTimeout, match="no result of p1 within"):
        await pbx.park("c", action_id="p1", timeout=60)


async def test_what_is_done_to_the_channel_of_a_call(pbx: Server, worker: FakeWorker) -> None:
    call = await pbx.originate("PJSIP/100", "200", action_id="c1")
    assert call.channel_id == "amibus-pbx1-c1"
    await call.result(timeout=60)
    _named(worker, **{call.channel_id: "PJSIP/100-1", "agent": "PJSIP/2-1"})
    _lots(worker, [_parked("PJSIP/100-1", call.channel_id, "701")])
    await call.hangup(17, **WAIT)
    await call.redirect("1", "x", 2, other="d", other_exten="3", other_context="y", other_priority=4, **WAIT)
    await call.hold_at("music", **WAIT)
    await call.retrieve("agent", **WAIT)
    await call.retrieve(exten="5", context="z", priority=6, **WAIT)
    await call.park("lot", space="701", stay_s=1, announce_to="a", back_to="b", **WAIT)
    await call.record("a.wav", append=True, **WAIT)
    await call.record("a.wav", only_while_bridged=True, **WAIT)
    await call.stop_recording("0x1", **WAIT)
    await call.setvar("A", "1", **WAIT)
    await call.getvar("CHANNEL", **WAIT)
    about_us = [(name, value) for request in worker.taken for name, value in request.pairs if value == call.channel_id]
    assert len(about_us) == 11
    recorded = [dict(request.pairs)["Options"] for request in worker.taken if request.action == "MixMonitor"]
    assert recorded == ["ai(AMIBUS_RECORDING)", "bi(AMIBUS_RECORDING)"]
    assert {request.action for request in worker.taken} == {
        "Originate", "Hangup", "Redirect", "Getvar", "Bridge", "Park", "ParkedCalls", "MixMonitor", "StopMixMonitor",
        "Setvar",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ChannelId", "channelid"])
async def test_the_channel_of_a_call_with_an_id_of_its_own(pbx: Server, name: str) -> None:
    call = await pbx.submit("Originate", headers={name: "mine"}, Channel="PJSIP/100", Application="Wait")
    assert call.channel_id == "mine"


@pytest.mark.parametrize(("value", "found"), [("1", True), ("0", False), ("", None)])
async def test_whether_there_is_an_extension(pbx: Server, worker: FakeWorker, value: str, found: bool | None) -> None:
    asked = "DIALPLAN_EXISTS(in,200,start)"

    async def getvar(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, response=Headers([("Response", "Success"), ("Value", value)]))

    worker.on("Getvar", getvar)
    assert await pbx.has_extension("200", "in", "start", channel="c", timeout=60) is found
    assert await pbx.has_extension("2,0", timeout=60) is None
    assert _written(worker) == [("Getvar", [("Variable", asked), ("Channel", "c")])]


def _typed_calls() -> list[tuple[type, str]]:
    own = {"request", "submit"}
    return [
        (kind, name)
        for kind in (TypedCalls, Conference)
        for name, call in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_") and name not in own
    ]


@pytest.mark.parametrize(("kind", "name"), _typed_calls())
async def test_a_misspelt_option_is_no_header(pbx: Server, worker: FakeWorker, kind: type, name: str) -> None:
    call = getattr(pbx if kind is TypedCalls else pbx.conference("600"), name)
    needed = [
        each.name
        for each in inspect.signature(call).parameters.values()
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    ]
    given = dict.fromkeys(needed, "1") | ({"exten": "1"} if name in ("originate", "retrieve") else {})
    with pytest.raises(TypeError, match="timout"):
        await call(**given, timout=1)
    assert worker.taken == []
