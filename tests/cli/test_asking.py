"""The commands that ask Asterisk for channels, queues and the like, or do something to a call. (What Asterisk itself
makes of each is tried in `tests/live/telephony`.)"""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from click import UsageError

from tests.cli.commands import Outcome, Running, amibus, until
from tests.cli.conftest import Station
from workers.cli.asking import person, plain, split_place


def lines(outcome: Outcome) -> list[list[str]]:
    assert outcome.returncode == 0, outcome.stderr
    return [line.split("\t") for line in outcome.stdout.splitlines()]


def objects(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


@pytest.fixture
def call(station: Station) -> str:
    """The Uniqueid of a call that lasts longer than the tests."""
    asked = ("Channel=Local/100@default", "Application=Wait", "Data=600")
    outcome = station.amibus("send", "pbx1", "Originate", *asked, "--json")
    [result] = objects(outcome)
    uniqueid = f"amibus-pbx1-{result['action_id']}"
    until(lambda: uniqueid in station.amibus("channels", "pbx1").stdout, "the call is alive")
    return uniqueid


def test_channels_are_shown_as_a_table_and_as_json(station: Station, call: str) -> None:
    columns, *rows = lines(station.amibus("channels", "pbx1"))
    assert columns == ["channel", "state", "for", "caller", "connected to", "at", "application", "Uniqueid"]
    [row] = [row for row in rows if row[-1] == call]
    assert row[0].startswith("Local/100@default-")
    assert row[1] == "Up"
    [shown] = [each for each in objects(station.amibus("channels", "pbx1", "--json")) if each["uniqueid"] == call]
    assert (shown["name"], shown["state"]) == (row[0], "Up")
    assert "headers" not in shown


def test_a_call_is_hung_up(station: Station, call: str) -> None:
    outcome = station.amibus("hangup", "pbx1", call, "--cause", "17")
    assert (outcome.returncode, outcome.stdout) == (0, f"hung up  {call}\n")
    until(lambda: call not in station.amibus("channels", "pbx1").stdout, "it is gone")
    outcome = station.amibus("hangup", "pbx1", call)
    assert outcome.returncode == 1
    assert "No such channel" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_call_is_redirected(station: Station, call: str) -> None:
    [said] = objects(station.amibus("redirect", "pbx1", call, "200@elsewhere", "--json"))
    assert said == {"redirected": call, "exten": "200", "context": "elsewhere", "other": None}
    [shown] = [each for each in objects(station.amibus("channels", "pbx1", "--json")) if each["uniqueid"] == call]
    assert (shown["exten"], shown["context"]) == ("200", "elsewhere")


def test_all_queues_and_one_of_them(station: Station) -> None:
    columns, row = lines(station.amibus("queues", "pbx1"))
    assert columns[:5] == ["queue", "waiting", "longest", "free", "members"]
    assert row[:5] == ["support", "0", "", "2", "2"]
    shown = station.amibus("queues", "pbx1", "support")
    assert shown.returncode == 0
    assert "Anna\tLocal/101@default\tNOT_INUSE" in shown.stdout
    [queue] = objects(station.amibus("queues", "pbx1", "--json"))
    assert [member["name"] for member in queue["members"]] == ["Anna", "Ben"]


def test_a_queue_that_is_not_there(station: Station) -> None:
    outcome = station.amibus("queues", "pbx1", "nobody")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, "", "amibus: pbx1 has no queue 'nobody'\n")


def test_a_mailbox(station: Station) -> None:
    assert lines(station.amibus("mailbox", "pbx1", "100@sales")) == [["100@sales  0 urgent  0 new  0 old"]]
    [shown] = objects(station.amibus("mailbox", "pbx1", "100", "--json"))
    assert shown == {"name": "100", "context": "default", "urgent": 0, "new": 0, "old": 0}


@pytest.mark.parametrize("command", [("conferences", "pbx1"), ("record", "pbx1", "c", "f")])
def test_what_this_asterisk_lacks_is_said_in_a_sentence(station: Station, command: tuple[str, ...]) -> None:
    outcome = station.amibus(*command)
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("amibus: ")
    assert outcome.stderr.count("\n") == 1


def test_no_answer_in_time_is_exit_code_3(station: Station) -> None:
    outcome = amibus("channels", "nobody", "--wait", "2", settings=station.settings)
    assert outcome.returncode == 3
    assert "no result of" in outcome.stderr


def test_what_nobody_waits_for_any_more_is_not_executed_late(station: Station) -> None:
    began = time.time()
    outcome = amibus("hangup", "nobody", "c", "--wait", "2", settings=station.settings)
    assert "if it has not been sent by now, it never is" in outcome.stderr
    with redis.Redis.from_url(station.url, decode_responses=True) as client:
        [(_, fields)] = client.xrange("ami:{nobody}:actions:urgent")
    assert began < float(fields["Bus-Deadline"].lstrip("+")) + began < began + 2


@pytest.fixture
def silent_redis() -> Iterator[str]:
    """The address of one that accepts connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://:secret@127.0.0.1:{listening.getsockname()[1]}"


def test_a_redis_that_says_nothing_is_not_waited_for_any_longer(silent_redis: str) -> None:
    began = time.monotonic()
    outcome = amibus("channels", "pbx1", "--wait", "1.5", settings={"AMIBUS_REDIS": silent_redis})
    assert outcome.returncode == 1
    assert "did not answer within 1.5 s (the address is AMIBUS_REDIS, or --redis)" in outcome.stderr
    assert "secret" not in outcome.stderr
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "command", [("channels", "pbx1"), ("send", "pbx1", "Ping"), ("status",), ("unknown", "pbx1"), ("tail", "pbx1")]
)
def test_a_redis_that_says_nothing_is_told(silent_redis: str, command: tuple[str, ...]) -> None:
    with Running(*command, settings={"AMIBUS_REDIS": silent_redis}) as waiting:
        until(lambda: bool(waiting.errors), "it is told", waiting)
        assert "does not answer; still trying" in waiting.errors[0]


def test_a_queue_that_nobody_serves_is_told(station: Station) -> None:
    outcome = amibus("channels", "nobody", "--wait", "8", settings=station.settings)
    assert "no worker serves nobody now" in outcome.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("channels",),
        ("hangup", "pbx1"),
        ("hangup", "pbx1", "c", "--cause", "128"),
        ("redirect", "pbx1", "c", "@x"),
        ("redirect", "pbx1", "c", "100", "--other-to", "200"),
        ("record", "pbx1", "c"),
        ("record", "pbx1", "c", "f", "--stop"),
        ("record", "pbx1", "c", "f", "--id", "x"),
        ("mailbox", "pbx1", "100@"),
        ("mailbox", "no/name", "100"),
    ],
)
def test_wrong_use_is_exit_code_2(station: Station, wrong: tuple[str, ...]) -> None:
    outcome = station.amibus(*wrong)
    assert outcome.returncode == 2
    assert "Usage: amibus" in outcome.stderr


def test_a_name_that_cannot_be_a_channel_never_gets_onto_the_queue(station: Station) -> None:
    outcome = station.amibus("hangup", "pbx1", "/.*/")
    assert outcome.returncode == 1
    assert "regular expression" in outcome.stderr


def test_places_of_the_dialplan() -> None:
    assert split_place("100") == ("100", "default")
    assert split_place("a@b@sales") == ("a@b", "sales")
    for wrong in ("@x", "100@", "@"):
        with pytest.raises(UsageError):
            split_place(wrong)


def test_callers_are_written_as_people_do() -> None:
    assert [person("Anna", "100"), person("", "100"), person("Anna", ""), person("", "")] == [
        "Anna <100>", "100", "Anna", "",
    ]  # fmt: skip


def test_json_has_all_fields_but_the_headers() -> None:

    assert plain((1, "x", None)) == [1, "x", None]
