"""The captures are what their names say. Parsed by hand: the AMI code, tested with them, cannot vouch for them."""

import pytest

from tests.lab.capture import CALL_ID, CAPTURES, NAMES, capture_path, read_capture
from tests.lab.suites import SUITES

MAX_BYTES = 60_000
both = pytest.mark.parametrize("series", list(SUITES))

Block = dict[str, list[str]]


def blocks(received: bytes) -> list[Block]:
    """The messages after the banner, as header -> values."""
    text = received.decode().split("\r\n", 1)[1]
    return [_headers(block) for block in text.split("\r\n\r\n") if block.strip()]


def _headers(block: str) -> Block:
    headers: Block = {}
    for line in block.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name, []).append(value.removeprefix(" "))
    return headers


def having(messages: list[Block], **wanted: str) -> list[Block]:
    """Those messages that have every one of these headers."""
    return [block for block in messages if all(value in block.get(name, []) for name, value in wanted.items())]


@both
@pytest.mark.parametrize("name", NAMES)
def test_each_begins_with_its_banner_and_a_login(series: str, name: str) -> None:
    received = read_capture(series, name)
    assert received.startswith(SUITES[series].ami_banner.encode() + b"\r\nResponse: Success\r\n")
    assert received.endswith(b"\r\n\r\n")
    assert capture_path(series, name).stat().st_size < MAX_BYTES


def test_no_capture_is_left_over() -> None:
    known = {capture_path(series, name) for series in SUITES for name in NAMES}
    assert set(CAPTURES.iterdir()) == known


@both
def test_actions_have_every_shape_of_answer(series: str) -> None:
    messages = blocks(read_capture(series, "actions"))
    assert len(having(messages, Event="CoreShowChannel")) == 4
    assert having(messages, Event="CoreShowChannelsComplete", ListItems="4")
    assert having(messages, Event="QueueEntry", Queue="sales", Uniqueid="capture-queued;2")
    assert having(messages, Event="QueueStatusComplete", EventList="Complete")
    assert having(messages, Response="Success", Variable="LAB", Value="amibus")
    (version,) = (block for block in having(messages, Response="Success") if "Output" in block)
    assert version["Output"][0].startswith(f"Asterisk {series}.")
    assert having(messages, Response="Error", Message="Command output follows")
    assert having(messages, Response="Error", ActionID="ConfbridgeList")
    assert having(messages, Response="Error", ActionID="NoSuchAction")
    assert having(messages, Response="Goodbye", ActionID="Logoff")


@both
@pytest.mark.parametrize("name", ["call", "call-all"])
def test_a_call_is_seen_from_its_first_channel_to_its_last_hangup(series: str, name: str) -> None:
    messages = blocks(read_capture(series, name))
    assert having(messages, Event="FullyBooted")
    assert having(messages, Event="OriginateResponse", ActionID="Originate", Reason="4", Uniqueid=CALL_ID)
    for leg in (CALL_ID, f"{CALL_ID};2"):
        (born,) = having(messages, Event="Newchannel", Uniqueid=leg, Linkedid=CALL_ID)
        (gone,) = having(messages, Event="Hangup", Uniqueid=leg, Linkedid=CALL_ID)
        assert messages.index(born) < messages.index(gone)
    assert having(messages, Event="DialEnd", DestUniqueid=CALL_ID, DialStatus="ANSWER")


@both
def test_only_the_session_that_reads_every_class_sees_the_dialplan(series: str) -> None:
    everything = blocks(read_capture(series, "call-all"))
    assert having(everything, Event="Newexten")
    assert having(everything, Event="VarSet", Variable="a", Value="1")
    production = blocks(read_capture(series, "call"))
    assert not having(production, Event="Newexten") + having(production, Event="VarSet")
