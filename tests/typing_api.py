"""How the API is used, for mypy to check. It is never executed."""

from typing import assert_type

from broker import (
    ActionError,
    ActionExpired,
    ActionFailed,
    Bridge,
    Bus,
    BusEvent,
    BusResponse,
    BusUnavailable,
    Call,
    CallOutcome,
    Channel,
    ConferenceMember,
    Disposition,
    ExtensionState,
    FollowedCall,
    Leg,
    ParkedCall,
    QueueMember,
    Record,
    Recording,
    Result,
    ResultTimeout,
    Server,
    State,
)
from broker.ami import Headers
from broker.sync import Bus as SyncBus
from broker.sync import Call as SyncCall


async def requests() -> None:
    async with Bus("redis://127.0.0.1:6379/0", prefix="ami", producer="crm-web") as bus:
        pbx = bus.server("pbx1")
        assert_type(pbx, Server)
        result = await pbx.request("CoreShowChannels")
        assert_type(result, Result)
        assert_type(result.events[0]["Channel"], str)
        assert_type(result.response, Headers | None)
        await pbx.request("QueueAdd", Queue="support", Interface="PJSIP/100", Penalty=3, Paused=False)
        await pbx.request("Hangup", urgent=True, timeout=5, Channel="PJSIP/100-00000001")
        await pbx.request("Ping", headers={"X-Own": "1"}, deadline="+10", answer_timeout=2.5, tag="t")
        await pbx.request("Ping", headers=[("Variable", "a=1"), ("Variable", "b=2")], producer="other")
        try:
            await pbx.request("Ping", action_id="ping-1", timeout=1)
        except ActionFailed as error:
            assert_type(error.result, Result)
        except ActionExpired as error:
            assert_type(error.action_id, str)
        except ActionError as error:
            assert_type(error.result.state, State)
        except ResultTimeout as error:
            assert_type(error.timeout_s, float)
        except BusUnavailable as error:
            assert_type(error.code, str)
        failed = await pbx.request("Ping", raise_on_failure=False)
        if not failed.is_done:
            failed.raise_for_state()
        assert_type(await pbx.status(), dict[str, str])
        assert_type(await bus.servers(), dict[str, float])
        assert_type(await bus.time(), float)


async def calls(pbx: Server) -> None:
    call = await pbx.submit(
        "Originate", Channel="Local/100@default", Application="Wait", Data="5", Variable=["a=1", "b=2"]
    )
    assert_type(call, Call)
    async for event in call.events():
        assert_type(event, BusEvent)
        assert_type(event.headers.get("Channel"), str | None)
    result = await call.result(timeout=60)
    assert_type(result.state, State)
    assert_type(call.response, BusResponse | None)
    assert_type(await call.action_record(), Record | None)
    async with await pbx.submit("Originate", Channel="PJSIP/100", Application="Echo") as another:
        another.close()


async def outcomes(pbx: Server) -> None:
    call = await pbx.originate("PJSIP/100", "200")
    outcome = await call.answered(timeout=20)
    assert_type(outcome, CallOutcome)
    assert_type(outcome.disposition is Disposition.BUSY, bool)
    assert_type(await call.bridged(), Bridge | None)
    assert_type((await call.ended(5)).cause, int | None)
    assert_type(call.legs, tuple[Leg, ...])
    assert_type(call.channel, str)
    async with await pbx.follow("1700000000.1", timeout=5) as followed:
        assert_type(followed, FollowedCall)
        assert_type(await followed.answered(), CallOutcome)
        await followed.hangup()
        async for event in followed.events():
            assert_type(event.calls, list[str])


async def typed_calls(pbx: Server) -> None:
    call = await pbx.originate(
        "PJSIP/100", "200", "internal", variables={"a": "1,2", "b": 3}, ring_s=20, deadline="+10"
    )
    assert_type(call, Call)
    await call.redirect("600", other="PJSIP/200-00000001", other_exten="601", timeout=5)
    assert_type(await call.record("a.wav"), Recording)
    assert_type(await pbx.channels(timeout=5), list[Channel])
    assert_type((await pbx.channels())[0].duration_s, int | None)
    assert_type(await pbx.hold_at(call.channel_id, "music"), str)
    assert_type(await pbx.has_extension("200", "internal"), bool | None)
    assert_type((await pbx.park(call.channel_id, stay_s=30)).space, str)
    assert_type([member.is_muted for member in await pbx.conference("600").members()], list[bool])
    assert_type(await pbx.extension_state("100"), ExtensionState | None)
    assert_type((await pbx.mailbox("1000", tag="t")).is_waiting, bool)
    assert_type(await pbx.command("core show uptime"), list[str])
    for queue in await pbx.queues("support", urgent=True):
        assert_type(queue.members, tuple[QueueMember, ...])
    await pbx.hangup(call.channel_id, 17, urgent=True, producer="crm", answer_timeout=2.5, traceparent=None)
    await pbx.hangup(call.channel_id, timeut=5)  # type: ignore[call-arg]
    await pbx.hangup(5)  # type: ignore[arg-type]


async def events(pbx: Server) -> None:
    async for event in pbx.events("Newchannel", "Hangup", since="$"):
        assert_type(event.id, str | None)
    async for event in pbx.events():
        assert_type(event.action_ids, list[str])


def blocking() -> None:
    with SyncBus("redis://127.0.0.1:6379/0") as bus:
        pbx = bus.server("pbx1")
        assert_type(pbx.request("CoreShowChannels", timeout=5), Result)
        with pbx.submit("Originate", Channel="PJSIP/100", Application="Echo", Variable=["a=1"]) as call:
            for event in call.events():
                assert_type(event, BusEvent)
            assert_type(call.result(timeout=60, raise_on_failure=False), Result)
            assert_type(call.answered(timeout=5), CallOutcome)
            assert_type(call.ended().cause, int | None)
        with pbx.follow("1700000000.1") as followed:
            assert_type(followed.bridged(5), Bridge | None)
        for event in pbx.events("Hangup", since="0"):
            assert_type(event.seq, int)
        assert_type(pbx.action_record("a1"), Record | None)
        assert_type(pbx.status(), dict[str, str])
        assert_type(pbx.originate("PJSIP/100", "200", ring_s=20, deadline="+10"), SyncCall)
        assert_type(pbx.channels(timeout=5), list[Channel])
        assert_type(pbx.extension_state("100", context="internal"), ExtensionState | None)
        assert_type(pbx.conference("600").members(timeout=5), list[ConferenceMember])
        assert_type(call.park(stay_s=5), ParkedCall)
        call.hangup(17, urgent=True)
        pbx.hangup("PJSIP/100-00000001", timeut=5)  # type: ignore[call-arg]
        pbx.hangup(5)  # type: ignore[arg-type]
        pbx.request("Ping", timeout="soon")  # type: ignore[arg-type]
        assert_type(bus.servers(), dict[str, float])
