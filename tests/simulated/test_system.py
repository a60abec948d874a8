"""Settings, the database, the queue, the console."""

import pytest

from tests.simulated.raw import RawClient, names, parse, value
from workers.simulated import SimulatedAsterisk


async def test_it_calls_itself_simulated(client: RawClient) -> None:
    (settings,) = await client.ask("Action: CoreSettings")
    assert value(settings, "AsteriskVersion") == "22.10.1 (simulated by amibus)"
    assert value(settings, "SystemName") == "simulated"
    (version,) = await client.ask("Action: Command", "Command: core show version")
    assert version[2:] == [
        ("Message", "Command output follows"),
        ("Output", "Asterisk 22.10.1 (simulated by amibus)"),
    ]


async def test_core_status_counts_calls(asterisk: SimulatedAsterisk, client: RawClient, listener: RawClient) -> None:
    client.send("Action: Originate", "Channel: Local/1@default", "Async: 1", "Application: Wait", "Data: 30")
    await listener.events_until("OriginateResponse")
    (status,) = await client.ask("Action: CoreStatus")
    assert (value(status, "CoreCurrentCalls"), value(status, "CoreProcessedCalls")) == ("1", "1")
    (shown,) = await client.ask("Action: Command", "Command: Core  Show Channels")
    assert shown[-3:] == [
        ("Output", "2 active channels"),
        ("Output", "1 active call"),
        ("Output", "1 call processed"),
    ]
    assert "Wait(30)" in shown[4][1]


@pytest.mark.parametrize(
    ("command", "message", "output"),
    [
        (
            "foo bar",
            "Command output follows",
            "No such command 'foo bar' (type 'core show help foo bar' for other possible commands)",
        ),
        ("module load x", "Command blacklisted", None),
        ("", "No command provided", None),
    ],
)
async def test_commands_that_fail(client: RawClient, command: str, message: str, output: str | None) -> None:
    (answer,) = await client.ask("Action: Command", f"Command: {command}")
    assert answer[0] == ("Response", "Error")
    assert value(answer, "Message") == message
    assert value(answer, "Output") == output


async def test_uptime(client: RawClient) -> None:
    (answer,) = await client.ask("Action: Command", "Command: core show uptime")
    assert [name for name, _ in answer] == ["Response", "ActionID", "Message", "Output", "Output"]


async def test_list_commands(client: RawClient) -> None:
    (answer,) = await client.ask("Action: ListCommands")
    assert ("Ping", "Keepalive command.  (Priv: <none>)") in answer
    assert ("Originate", "Originate a call.  (Priv: originate,all)") in answer


async def test_database(client: RawClient) -> None:
    (answer,) = await client.ask("Action: DBPut", "Family: f", "Key: k", "Val: v")
    assert value(answer, "Message") == "Updated database successfully"
    start, item, complete = await client.ask("Action: DBGet", "Family: f", "Key: k")
    assert value(start, "EventList") == "start"
    assert item == [("Event", "DBGetResponse"), ("Family", "f"), ("Key", "k"), ("Val", "v"), ("ActionID", "ask")]
    assert complete[0] == ("Event", "DBGetComplete")
    (answer,) = await client.ask("Action: DBDel", "Family: f", "Key: k")
    assert value(answer, "Message") == "Key deleted successfully"
    (answer,) = await client.ask("Action: DBDel", "Family: f", "Key: k")
    assert value(answer, "Message") == "Database entry could not be deleted"
    (answer,) = await client.ask("Action: DBGet", "Family: f", "Key: k")
    assert value(answer, "Message") == "Database entry not found"


@pytest.mark.parametrize("action", ["DBPut", "DBGet", "DBDel"])
async def test_database_keys_are_needed(client: RawClient, action: str) -> None:
    for lines, missing in (((), "family"), (("Family: f",), "key")):
        (answer,) = await client.ask(f"Action: {action}", *lines)
        assert (value(answer, "Message") or "").startswith(f"No {missing} specified")


async def test_queue(client: RawClient) -> None:
    messages = await client.ask("Action: QueueStatus")
    assert names(messages) == ["Success", "QueueParams", "QueueMember", "QueueMember", "QueueStatusComplete"]
    assert messages[1][-1] == ("ActionID", "ask")
    assert len(await client.ask("Action: QueueStatus", "Queue: nix")) == 2
    _, summary, _ = await client.ask("Action: QueueSummary", "Queue: support")
    assert summary[:4] == [
        ("Event", "QueueSummary"),
        ("Queue", "support"),
        ("LoggedIn", "2"),
        ("Available", "2"),
    ]


async def test_states_and_mailboxes(client: RawClient) -> None:
    (answer,) = await client.ask("Action: ExtensionState", "Exten: 100", "Context: default")
    assert answer[2:] == [
        ("Message", "Extension Status"),
        ("Exten", "100"),
        ("Context", "default"),
        ("Hint", "Local/100@default"),
        ("Status", "0"),
        ("StatusText", "Idle"),
    ]
    (answer,) = await client.ask("Action: MailboxCount", "Mailbox: 100@default")
    assert answer[3:] == [
        ("Mailbox", "100@default"),
        ("UrgMessages", "0"),
        ("NewMessages", "0"),
        ("OldMessages", "0"),
    ]
    (answer,) = await client.ask("Action: MailboxStatus")
    assert value(answer, "Message") == "Mailbox not specified"
    (answer,) = await client.ask("Action: ExtensionState")
    assert value(answer, "Message") == "Extension not specified"


async def test_an_action_without_action_id_is_answered_without(client: RawClient) -> None:
    client.send("Action: QueueSummary")
    messages = parse(await client.until(r"QueueSummaryComplete\r\n.*?\r\n\r\n"))
    assert all(value(message, "ActionID") is None for message in messages)
