"""What must never reach Asterisk: a tap between the worker and Asterisk shows every byte that was written."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.live.calls import answered, is_idle
from tests.live.harness import Site, eventually
from tests.live.producer import Message, Producer, new_id
from tests.live.tap import Tap

Tapped = tuple[Producer, Tap]

FORBIDDEN = {
    "stop": ("Command", "Command", "core stop now"),
    "two-commands": ("Command", "Command", "core show version", "Command", "core stop now"),
    "system": ("Originate", "Channel", "Local/102@default", "Application", "System", "Data", "touch /tmp/x"),
    "trysystem": ("Originate", "Channel", "Local/102@default", "Application", " TRYSYSTEM", "Data", "touch /tmp/x"),
    "shell-in-data": ("Originate", "Channel", "Local/102@default", "Application", "Set", "Data", "x=${SHELL(ls)}"),
    "shell-in-variable": (
        "Originate", "Channel", "Local/102@default", "Application", "Wait", "Data", "1", "Variable", "SHELL(ls)=1",
    ),
    "getvar": ("Getvar", "Variable", "SHELL(ls)"),
    "setvar": ("Setvar", "Variable", "FILE(/tmp/x)", "Value", "1"),
    "every-call": ("Hangup", "Channel", "/.*/"),
    "every-call-blank": ("Hangup", "Channel", " \t/.*/"),
    "module": ("ModuleLoad", "Module", "app_echo.so", "LoadType", "unload"),
    "write-config": ("UpdateConfig", "SrcFilename", "manager.conf", "DstFilename", "manager.conf"),
    "read-config": ("GetConfig", "Filename", "manager.conf"),
    "login": ("Login", "Username", "amibus", "Secret", "guess"),
    "logoff": ("Logoff",),
    "challenge": ("Challenge", "AuthType", "MD5"),
    "events": ("Events", "EventMask", "off"),
    "filter": ("Filter", "Operation", "Add", "Filter", "Event: Newchannel"),
    "wait": ("WaitEvent", "Timeout", "-1"),
}  # fmt: skip

MALFORMED = {
    "crlf-in-value": ("bad-header", "Variable", "x", "Value", "1\r\nAction: Logoff\r\n\r\n"),
    "lf-in-value": ("bad-header", "Variable", "x", "Value", "1\nActionID: other"),
    "nul-in-value": ("bad-header", "Variable", "x", "Value", "1\0"),
    "crlf-in-name": ("bad-header", "X: 1\r\nAction", "1"),
    "blank-in-name": ("bad-header", "Var iable", "1"),
    "empty-name": ("bad-header", "", "1"),
    "two-actions": ("malformed", "Action", "Logoff", "Variable", "x"),
    "unknown-bus-field": ("unknown-bus-field", "Bus-Dedline", "+30"),
    "bad-deadline": ("malformed", "Bus-Deadline", "soon"),
    "too-many-headers": ("too-many-headers", *("Variable", "x=1") * 127),
}  # fmt: skip


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tap(site: Site) -> AsyncIterator[Tap]:
    """A worker for `tapped`, shared by this file's tests."""
    async with site.tapped("tapped") as (_, _, tap):
        yield tap


@pytest_asyncio.fixture
async def tapped(site: Site, tap: Tap) -> AsyncIterator[Tapped]:
    """A producer, and what its worker writes to Asterisk."""
    async with Producer(site.redis.url, "tapped") as producer:
        yield producer, tap


async def rejected(tapped: Tapped, action: str, *fields: str | bytes) -> Message:
    """Put it on the queue; the result, which must be a refusal of something that never reached Asterisk."""
    producer, tap = tapped
    before = tap.written.count(b"\r\nActionID: ")
    action_id = new_id("refused")
    async with producer.watch(action_id) as watch:
        entry = await producer.add("Action", action, "ActionID", action_id, *fields)
        result = await watch.result()
    assert (result["state"], result["entry"], result["sending_at"]) == ("rejected", entry, None)
    assert (await producer.record(action_id))["state"] == "rejected"
    dead = await producer.dead(entry)
    assert (dead["reason_code"], dead["reason"]) == (result["error"]["code"], result["error"]["message"])
    # what follows it on both kinds of session does reach Asterisk, so that it would have been seen
    following = [await producer.ask(*each) for each in (("Ping",), ("UserEvent", "UserEvent", "X"))]
    written = [tap.actions(each["action_id"]) for each in following]
    assert [len(blocks) for blocks in written] == [1, 1]
    assert tap.actions(action_id) == []
    assert action_id.encode() not in tap.written
    # only those two and the keep-alive of idle sessions were written since
    own = [block for block in tap.written.split(b"\r\n\r\n") if b"\r\nActionID: 0-" in block]
    assert tap.written.count(b"\r\nActionID: ") - before - len(following) <= len(own)
    return result


@pytest.mark.parametrize("action", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_dangerous_actions_are_forbidden(tapped: Tapped, action: tuple[str, ...]) -> None:
    result = await rejected(tapped, *action)
    assert result["error"]["code"] == "forbidden"


@pytest.mark.parametrize("action", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_actions_are_refused(tapped: Tapped, action: tuple[str, ...]) -> None:
    code, *fields = action
    result = await rejected(tapped, "Getvar", *fields)
    assert result["error"]["code"] == code
    _, tap = tapped
    assert b"Action: Logoff" not in tap.written


async def test_a_secret_is_masked_wherever_a_refusal_is_kept(tapped: Tapped, site: Site) -> None:
    result = await rejected(tapped, "Login", "Username", "amibus", "Secret", "hush-hush")
    producer, _ = tapped
    assert (await producer.record(result["action_id"]))["request"]["Secret"] == "***"
    assert (await producer.dead(result["entry"]))["Secret"] == "***"


async def test_the_longest_line_passes_and_one_byte_more_does_not(tapped: Tapped) -> None:
    producer, tap = tapped
    longest = "ü" * 507 + "x"
    assert len(f"Value: {longest}".encode()) == 1022
    setting = await producer.ask("Setvar", "Variable", "LONGEST", "Value", longest)
    assert setting["state"] == "done"
    (written,) = tap.actions(setting["action_id"])
    assert max(len(line) for line in written.split(b"\r\n")) == 1022
    getting = await producer.ask("Getvar", "Variable", "LONGEST")
    assert getting["response"]["Value"] == longest
    result = await rejected(tapped, "Setvar", "Variable", "LONGEST", "Value", longest + "x")
    assert result["error"]["code"] == "line-too-long"
    assert (await producer.ask("Getvar", "Variable", "LONGEST"))["response"]["Value"] == longest


async def test_as_many_headers_as_asterisk_takes(tapped: Tapped) -> None:
    producer, tap = tapped
    fields = ("Channel", "Local/102@default", "Application", "Wait", "Data", "1")
    # Action, ActionID, three more here, ChannelId and Async of the worker's own
    variables = [field for number in range(121) for field in ("Variable", f"v{number}={number}")]
    result = await producer.ask("Originate", *fields, *variables)
    assert result["state"] == "done", result
    (written,) = tap.actions(result["action_id"])
    assert len(written.strip(b"\r\n").split(b"\r\n")) == 128


async def test_what_is_written_of_an_action(tapped: Tapped) -> None:
    producer, tap = tapped
    fields = ("Channel", "Local/102@default", "Application", "Wait", "Data", "1", "Async", "false")
    result = await producer.ask("Originate", *fields, "Bus-Producer", "crm", "Bus-Tag", "t", "Bus-X-Note", "n")
    action_id = result["action_id"]
    (written,) = tap.actions(action_id)
    assert written.split(b"\r\n") == [
        b"Action: Originate",
        f"ActionID: {action_id}".encode(),
        b"Channel: Local/102@default",
        b"Application: Wait",
        b"Data: 1",
        f"ChannelId: amibus-tapped-{action_id}".encode(),
        b"Async: true",
    ]


async def test_an_action_past_its_deadline_expires(tapped: Tapped) -> None:
    producer, tap = tapped
    result = await producer.ask("Setvar", "Variable", "LATE", "Value", "1", "Bus-Deadline", "1700000000")
    assert (result["state"], result["error"]["code"], result["sending_at"]) == ("expired", "expired", None)
    assert tap.actions(result["action_id"]) == []
    assert (await producer.record(result["action_id"]))["state"] == "expired"


async def test_a_deadline_passes_while_the_action_waits_for_its_turn(site: Site) -> None:
    # a hundred seconds between calls: the second one's deadline comes first
    async with site.tapped("slow", rate_calls="0.01") as (producer, _, tap):
        fields = ("Channel", "Local/102@default", "Application", "Wait", "Data", "1")
        assert (await producer.ask("Originate", *fields))["state"] == "done"
        late_id = new_id("late")
        async with producer.watch(late_id) as watch:
            await producer.add("Action", "Originate", "ActionID", late_id, *fields, "Bus-Deadline", "+0.5")
            result = await watch.result()
        assert (result["state"], result["error"]["code"]) == ("expired", "expired")
        assert result["settled_at"] - result["queued_at"] >= 0.5
        assert tap.actions(late_id) == []
        await eventually(lambda: is_idle(producer), "the first one is over, and nothing is left")


async def test_a_user_without_the_right_is_denied(site: Site) -> None:
    user = {"ami_username": "limited", "ami_secret": site.asterisk.users["limited"]}
    async with site.serving("limited", **user) as (limited, _):
        for action in (("Command", "Command", "core show version"), ("Setvar", "Variable", "DENIED", "Value", "1")):
            result = await limited.ask(*action)
            assert (result["state"], result["error"]["code"]) == ("failed", "permission-denied")
            assert result["response"]["Message"] == "Permission denied"
        # what it may do it does
        assert (await limited.ask("CoreShowChannels"))["state"] == "done"


async def test_a_setting_allows_by_name(site: Site) -> None:
    async with site.serving("allowing", allow="Command,function:SHELL") as (allowing, _):
        result = await allowing.ask("Command", "Command", "dialplan reload")
        assert result["state"] == "done"
        # let through, but Asterisk has a guard of its own (live_dangerously = no)
        refused = await allowing.ask("Getvar", "Variable", "SHELL(echo amibus)")
        assert refused["response"].get("Value") != "amibus"
        result = await allowing.ask("GetConfig", "Filename", "manager.conf")
        assert (result["state"], result["error"]["code"]) == ("rejected", "forbidden")


async def test_the_refused_ones_did_nothing_to_live_calls(tapped: Tapped) -> None:
    producer, _ = tapped
    async with answered(producer) as call:
        await rejected(tapped, "Hangup", "Channel", "/^Local/")
        assert await call.left(producer) == call.legs
        alive = await producer.ask("CoreShowChannels")
        assert call.legs <= {event.get("Uniqueid") for event in alive["events"]}
