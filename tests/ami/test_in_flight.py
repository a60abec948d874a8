import pytest

from broker.ami import Exchange, InFlight, Message, spec_of
from tests.ami.wire import BANNER, block, received

LIST_ID = "x"


def asked(in_flight: InFlight, action: str, action_id: str = LIST_ID) -> Exchange:
    return in_flight.register(action_id, spec_of(action))


def answered(in_flight: InFlight, *blocks: bytes) -> list[Exchange | None]:
    """Give the session's bytes to it; for each message, what it belonged to."""
    return [in_flight.add(message) for message in received(blocks)]


def success(*more: str, action_id: str = LIST_ID) -> bytes:
    return block("Response: Success", f"ActionID: {action_id}", *more)


def error(message: str, action_id: str = LIST_ID) -> bytes:
    return block("Response: Error", f"ActionID: {action_id}", f"Message: {message}")


def start(message: str = "List will follow", *, value: str = "start", action_id: str = LIST_ID) -> bytes:
    return success(f"EventList: {value}", f"Message: {message}", action_id=action_id)


def item(name: str, *more: str, action_id: str = LIST_ID) -> bytes:
    return block(f"Event: {name}", f"ActionID: {action_id}", *more)


def end(name: str, *more: str, action_id: str = LIST_ID) -> bytes:
    return item(name, "EventList: Complete", "ListItems: 1", *more, action_id=action_id)


def names(exchange: Exchange) -> list[str]:
    return [event.name for event in exchange.answer.events]


# -- one response


def test_a_single_response() -> None:
    in_flight = InFlight()
    ping = asked(in_flight, "Ping")
    assert in_flight.head is ping
    assert len(in_flight) == 1
    assert not ping.started
    assert answered(in_flight, success("Ping: Pong")) == [ping]
    assert ping.done
    assert not ping.started
    assert ping.failure is None
    assert ping.answer.response is not None
    assert ping.answer.response.headers["Ping"] == "Pong"
    assert in_flight.head is None
    assert len(in_flight) == 0


def test_an_error() -> None:
    in_flight = InFlight()
    hangup = asked(in_flight, "Hangup")
    answered(in_flight, error("No such channel"))
    assert hangup.done
    assert hangup.failure == "No such channel"


def test_an_error_without_a_text() -> None:
    in_flight = InFlight()
    hangup = asked(in_flight, "Hangup")
    answered(in_flight, block("Response: Error", "ActionID: x"))
    assert hangup.failure == "Asterisk gave no reason"


def test_no_answer_is_no_failure_yet() -> None:
    assert asked(InFlight(), "Ping").failure is None


@pytest.mark.parametrize(
    "data",
    [
        block("Response: Success", "ActionID: x", "Message: Command output follows", "Output: a", "Output:  b"),
        b"Response: Follows\r\nPrivilege: Command\r\nActionID: x\r\na\n b\n--END COMMAND--\r\n\r\n",
    ],
    ids=["14 and later", "13 and before"],
)
def test_a_command(data: bytes) -> None:
    in_flight = InFlight()
    command = asked(in_flight, "Command")
    answered(in_flight, data)
    assert command.done
    assert command.answer.output == ["a", " b"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ["", " No such command 'x' (type 'core show help x')", "more"],
            "No such command 'x' (type 'core show help x')",
        ),
        ([""], "Command output follows"),
    ],
)
def test_a_command_that_fails_says_why_in_its_output(lines: list[str], reason: str) -> None:
    in_flight = InFlight()
    command = asked(in_flight, "Command")
    output = [f"Output: {line}" for line in lines]
    answered(in_flight, block("Response: Error", "ActionID: x", "Message: Command output follows", *output))
    assert command.failure == reason
    assert command.answer.output == lines


def test_logoff_says_goodbye() -> None:
    in_flight = InFlight()
    logoff = asked(in_flight, "Logoff")
    answered(in_flight, block("Response: Goodbye", "ActionID: x", "Message: Thanks for all the fish."))
    assert logoff.done
    assert logoff.failure is None


def test_an_asynchronous_originate_is_done_with_its_response() -> None:
    in_flight = InFlight()
    originate = asked(in_flight, "Originate")
    outcome = block("Event: OriginateResponse", "Privilege: call,all", "ActionID: x", "Response: Success")
    assert answered(in_flight, success("Message: Originate successfully queued"), outcome) == [originate, None]
    assert originate.done
    assert originate.answer.events == []


# -- lists


@pytest.mark.parametrize(
    ("action", "item_name", "terminator"),
    [
        ("CoreShowChannels", "CoreShowChannel", "CoreShowChannelsComplete"),
        ("QueueStatus", "QueueParams", "QueueStatusComplete"),
        ("DBGet", "DBGetResponse", "DBGetComplete"),
        ("IAXregistry", "RegistryEntry", "RegistrationsComplete"),
        ("SIPpeers", "PeerEntry", "PeerlistComplete"),  # not in the catalog: Asterisk 16 to 20
        ("Hangup", "ChannelHungup", "ChannelsHungupListComplete"),  # of a regular expression
    ],
)
def test_a_list(action: str, item_name: str, terminator: str) -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, action)
    [first] = answered(in_flight, start())
    assert first is exchange
    assert exchange.started
    assert not exchange.done
    answered(in_flight, item(item_name, "A: 1"), item(item_name, "A: 2"))
    assert not exchange.done
    assert answered(in_flight, end(terminator)) == [exchange]
    assert exchange.done
    assert names(exchange) == [item_name, item_name, terminator]
    assert [event.headers.get("A") for event in exchange.answer.events] == ["1", "2", None]
    assert exchange.failure is None


def test_faxsessions_start_with_a_capital() -> None:
    in_flight = InFlight()
    fax = asked(in_flight, "FAXSessions")
    answered(in_flight, start(value="Start"))
    assert fax.started
    answered(in_flight, end("FAXSessionsComplete", "Total: 0"))
    assert fax.done


def test_the_number_of_items_in_the_terminator_decides_nothing() -> None:
    in_flight = InFlight()
    status = asked(in_flight, "VoicemailUserStatus")
    answered(in_flight, start(), item("VoicemailUserDetail"), item("VoicemailUserDetail"))
    assert not status.done
    answered(in_flight, end("VoicemailUserDetailComplete"))
    assert status.done


@pytest.mark.parametrize("action", ["ConfbridgeList", "PJSIPShowEndpoints", "PJSIPShowEndpoint", "ParkedCalls"])
def test_an_error_instead_of_an_empty_list(action: str) -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, action)
    answered(in_flight, error("No active conferences."))
    assert exchange.done
    assert exchange.failure == "No active conferences."


def test_a_plain_success_instead_of_a_list() -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, "VoicemailUsersList")
    answered(in_flight, success("Message: There are no voicemail users currently defined."))
    assert exchange.done
    assert exchange.failure is None
    assert exchange.answer.events == []


def test_an_error_after_the_start_without_a_terminator() -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, "CoreShowChannelMap")
    answered(in_flight, start("Channel map will follow"), item("CoreShowChannelMap"), error("Could not build map"))
    assert exchange.done
    assert exchange.failure == "Could not build map"
    assert names(exchange) == ["CoreShowChannelMap"]
    assert len(exchange.answer.extra) == 1
    assert in_flight.head is None


def test_an_error_in_mid_list_with_a_terminator() -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, "PJSIPShowEndpoint")
    answered(in_flight, start("Following are Events"), item("EndpointDetail"), error("Unable to format endpoint 1\n"))
    assert not exchange.done
    answered(in_flight, item("AorDetail"), end("EndpointDetailComplete"))
    assert exchange.done
    assert exchange.failure == "Unable to format endpoint 1"
    assert names(exchange) == ["EndpointDetail", "AorDetail", "EndpointDetailComplete"]


def test_items_without_action_id_belong_to_the_list_at_the_head() -> None:
    in_flight = InFlight()
    peers, ping = asked(in_flight, "IAXpeers"), asked(in_flight, "Ping", "y")
    entry = block("Event: PeerEntry", "Channeltype: IAX", "ObjectName: a")
    owners = answered(in_flight, start("Peer status list will follow"), entry, entry, end("PeerlistComplete"))
    assert owners == [peers] * 4
    assert names(peers) == ["PeerEntry", "PeerEntry", "PeerlistComplete"]
    assert answered(in_flight, success("Ping: Pong", action_id="y")) == [ping]


def test_an_event_without_action_id_belongs_to_no_list_that_has_not_begun() -> None:
    in_flight = InFlight()
    asked(in_flight, "IAXpeers")
    assert answered(in_flight, block("Event: PeerEntry", "ObjectName: a")) == [None]


def test_an_event_before_the_response_belongs_to_nothing() -> None:
    in_flight = InFlight()
    first, later = asked(in_flight, "QueueStatus"), asked(in_flight, "QueueSummary", "y")
    assert answered(in_flight, end("QueueStatusComplete"), item("QueueSummary", action_id="y")) == [None, None]
    assert not first.done
    assert not later.answer.events


def test_status_items_have_a_privilege() -> None:
    in_flight = InFlight()
    status = asked(in_flight, "Status")
    answered(in_flight, start(), item("Status", "Privilege: Call"), end("StatusComplete", "Items: 1"))
    assert status.done
    assert names(status) == ["Status", "StatusComplete"]


def test_queued_twins_of_list_items_do_not_belong_to_the_list() -> None:
    in_flight = InFlight()
    states = asked(in_flight, "DeviceStateList")
    answered(in_flight, start())
    queued = block("Event: DeviceStateChange", "Privilege: call,all", "Device: a", "State: INUSE")
    assert answered(in_flight, queued) == [None]
    forged = block("Event: UserEvent", "Privilege: user,all", "ActionID: x", "EventList: Complete")
    assert answered(in_flight, forged) == [None]
    answered(in_flight, item("DeviceStateChange", "Device: b"), end("DeviceStateListComplete"))
    assert [event.headers.get("Device") for event in states.answer.events] == ["b", None]


# -- other shapes


@pytest.mark.parametrize("action", ["FAXStats", "FAXSession"])
def test_a_response_and_one_event(action: str) -> None:
    in_flight = InFlight()
    fax = asked(in_flight, action)
    answered(in_flight, success("Message: Event will follow"))
    assert fax.started
    assert answered(in_flight, item(action)) == [fax]
    assert fax.done
    assert names(fax) == [action]


def test_an_error_instead_of_the_event() -> None:
    in_flight = InFlight()
    fax = asked(in_flight, "FAXSession")
    answered(in_flight, error("Session not found"))
    assert fax.done


@pytest.mark.parametrize(
    ("second", "failure"),
    [(success("Message: Message sent"), None), (error("Could not find Sender"), "Could not find Sender")],
)
def test_two_responses(second: bytes, failure: str | None) -> None:
    in_flight = InFlight()
    jabber = asked(in_flight, "JabberSend")
    answered(in_flight, success("Message: Attempting to send Jabber Message"))
    assert jabber.started
    answered(in_flight, second)
    assert jabber.done
    assert jabber.failure == failure
    assert len(jabber.answer.extra) == 1


def test_two_responses_of_which_the_first_is_an_error() -> None:
    in_flight = InFlight()
    jabber = asked(in_flight, "JabberSend")
    answered(in_flight, error("Attributes missing"))
    assert jabber.done


def test_further_errors_of_moduleload_are_nobodys() -> None:
    in_flight = InFlight()
    load, ping = asked(in_flight, "ModuleLoad"), asked(in_flight, "Ping", "y")
    errors = [error("Incomplete ModuleLoad action."), error("Need module name"), error("Unknown module")]
    assert answered(in_flight, *errors) == [load, None, None]
    assert load.failure == "Incomplete ModuleLoad action."
    assert answered(in_flight, success("Ping: Pong", action_id="y")) == [ping]


def test_raw_text() -> None:
    in_flight = InFlight()
    stats = asked(in_flight, "IAXnetstats")
    assert answered(in_flight, b"IAX2/1  12  0\nIAX2/2   8  1\n\r\n") == [stats]
    assert stats.done
    assert stats.answer.response is None
    assert stats.answer.output == ["IAX2/1  12  0", "IAX2/2   8  1"]


def test_raw_text_that_nobody_asked_for() -> None:
    in_flight = InFlight()
    ping = asked(in_flight, "Ping")
    assert answered(in_flight, b"some text\r\n\r\n") == [None]
    assert not ping.done


def test_raw_text_refused() -> None:
    in_flight = InFlight()
    stats = asked(in_flight, "IAXnetstats")
    answered(in_flight, error("Permission denied"))
    assert stats.failure == "Permission denied"


@pytest.mark.parametrize("action", ["VoicemailMove", "voicemailremove", "VoicemailForward", "PJSIPRegister"])
def test_a_success_that_is_a_failure(action: str) -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, action)
    answered(in_flight, success("Message: Message move failed\n"))
    assert exchange.failure == "Message move failed"
    in_flight = InFlight()
    exchange = asked(in_flight, action)
    answered(in_flight, success("Message: Message move successful\n"))
    assert exchange.failure is None


def test_failed_in_a_text_is_no_failure_elsewhere() -> None:
    in_flight = InFlight()
    exchange = asked(in_flight, "UserEvent")
    answered(in_flight, success("Message: failed"))
    assert exchange.failure is None


# -- whose is it


def test_late_and_foreign_messages_are_nobodys() -> None:
    in_flight = InFlight()
    asked(in_flight, "Ping")
    answered(in_flight, success())
    status = asked(in_flight, "QueueStatus", "y")
    late = [success(), item("QueueParams"), end("QueueStatusComplete"), success(action_id="foreign")]
    assert answered(in_flight, *late) == [None] * 4
    assert not status.done
    assert status.answer.response is None


def test_pipelined_actions_are_answered_in_order() -> None:
    in_flight = InFlight()
    exchanges = [asked(in_flight, "Ping", f"p{at}") for at in range(5)]
    assert answered(in_flight, *(success(action_id=f"p{at}") for at in range(5))) == exchanges
    assert in_flight.take_overtaken() == []


def test_an_error_without_action_id_is_the_heads() -> None:
    in_flight = InFlight()
    first, second = asked(in_flight, "Ping", "a"), asked(in_flight, "Ping", "b")
    assert answered(in_flight, block("Response: Error", "Message: Missing action in request")) == [first]
    assert first.done
    assert not second.done


def test_a_response_without_action_id_is_not_a_second_one_of_a_list() -> None:
    in_flight = InFlight()
    status = asked(in_flight, "QueueStatus")
    assert answered(in_flight, start(), block("Response: Error", "Message: what")) == [status, None]


def test_a_later_answer_ends_what_waits_for_more() -> None:
    in_flight = InFlight()
    jabber, stats, ping = (
        asked(in_flight, "JabberSend", "j"), asked(in_flight, "IAXnetstats", "i"), asked(in_flight, "Ping", "p")
    )  # fmt: skip
    answered(in_flight, success("Message: Attempting to send", action_id="j"))
    assert answered(in_flight, success(action_id="p")) == [ping]
    assert in_flight.take_overtaken() == [jabber, stats]
    assert in_flight.take_overtaken() == []
    assert jabber.done
    assert stats.done
    # No response at all tells nothing (IAXnetstats gives none); a JabberSend without its result is no success.
    assert stats.overtaken
    assert stats.failure is None
    assert jabber.failure == "Asterisk answered a later action without having answered this one to the end"
    assert ping.failure is None


def test_an_abandoned_exchange_keeps_its_place() -> None:
    in_flight = InFlight()
    peers, ping = asked(in_flight, "IAXpeers"), asked(in_flight, "Ping", "y")
    in_flight.abandon(peers)
    entry = block("Event: PeerEntry", "ObjectName: a")
    assert answered(in_flight, start(), entry, end("PeerlistComplete")) == [None] * 3
    assert in_flight.head is ping
    assert answered(in_flight, success(action_id="y")) == [ping]
    assert in_flight.take_overtaken() == []


def test_an_abandoned_exchange_is_not_reported_as_overtaken() -> None:
    in_flight = InFlight()
    slow, ping = asked(in_flight, "Command"), asked(in_flight, "Ping", "y")
    in_flight.abandon(slow)
    assert answered(in_flight, success(action_id="y")) == [ping]
    assert in_flight.take_overtaken() == []


def test_the_same_action_id_again_is_another_exchange() -> None:
    in_flight = InFlight()
    first, second = asked(in_flight, "Ping"), asked(in_flight, "Ping")
    assert answered(in_flight, success("Ping: 1"), success("Ping: 2")) == [first, second]


def test_clear_returns_what_is_still_waited_for() -> None:
    in_flight = InFlight()
    done, abandoned, begun, waiting = (asked(in_flight, "QueueStatus", name) for name in "abcd")
    answered(in_flight, error("No", action_id="a"), start(action_id="c"))
    in_flight.abandon(abandoned)
    assert done.done
    assert in_flight.clear() == [begun, waiting]
    assert len(in_flight) == 0
    assert in_flight.clear() == []


def test_a_whole_session_in_any_cut() -> None:
    blocks = (
        start(), item("CoreShowChannel"), block("Event: Newchannel", "Privilege: call,all"),
        end("CoreShowChannelsComplete"), success(action_id="y"), block("Event: Hangup", "Privilege: call,all"),
    )  # fmt: skip
    data = b"".join(blocks)

    def run(messages: list[Message]) -> list[tuple[bool, list[str]]]:
        in_flight = InFlight()
        exchanges = [asked(in_flight, "CoreShowChannels"), asked(in_flight, "Ping", "y")]
        for message in messages:
            in_flight.add(message)
        return [(exchange.done, names(exchange)) for exchange in exchanges]

    expected = [(True, ["CoreShowChannel", "CoreShowChannelsComplete"]), (True, [])]
    for at in range(len(data)):
        assert run(received([data[:at], data[at:]], BANNER)) == expected


def test_repr() -> None:
    assert repr(asked(InFlight(), "Ping")) == "<Exchange 'Ping' action_id='x' done=False>"
