"""`amibus send`: what is shown of each fate, and the exit codes."""

import json

import pytest

from tests.cli.commands import amibus
from tests.cli.conftest import LOST, Station

CALL = ("Originate", "Application=Wait", "Data=2")


def test_done(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "Ping", "--action-id", "ping-1", "--tag", "t", "--producer", "tests")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("done  Ping  ping-1")
    assert "Ping: Pong" in outcome.stdout
    assert outcome.stderr == ""


def test_a_list_is_a_table_that_a_pipe_can_cut(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "QueueStatus")
    lines = outcome.stdout.splitlines()
    at = lines.index("2 QueueMember")
    columns = lines[at + 1].split("\t")
    assert [dict(zip(columns, line.split("\t"), strict=True))["Name"] for line in lines[at + 2 : at + 4]] == [
        "Anna",
        "Ben",
    ]
    assert "\x1b" not in outcome.stdout


def test_lines_of_a_command(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "Command", "Command=core show version")
    assert outcome.returncode == 0
    assert outcome.stdout.splitlines()[1] == "Asterisk 22.10.1 (simulated by amibus)"


def test_failed(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", *CALL, "Channel=Local/busy@default")
    assert outcome.returncode == 1
    assert outcome.stdout.startswith("failed  Originate")
    assert "originate-failed: " in outcome.stdout


def test_rejected_by_the_worker(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "Originate", "Channel=Local/100@default", "Application=System", "Data=x")
    assert outcome.returncode == 1
    assert outcome.stdout.startswith("rejected")
    assert "forbidden: " in outcome.stdout


def test_refused_before_it_is_queued(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "Ping", "Foo=a\r\nAction: Logoff")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "amibus: the value of Foo holds CR, LF or NUL\n"


def test_unknown_when_asterisk_never_answers(station: Station) -> None:
    lost = ("Setvar", "Variable=x", "Value=1", "--action-id", LOST, "--answer-timeout", "1")
    outcome = station.amibus("send", "pbx1", *lost)
    assert outcome.returncode == 3
    assert outcome.stdout.startswith(f"unknown  Setvar  {LOST}")
    assert "timeout: " in outcome.stdout


def test_nobody_answers_in_time(station: Station) -> None:
    outcome = station.amibus("send", "nobody", "Ping", "--wait", "8", "--action-id", "waits-1")
    assert (outcome.returncode, outcome.stdout) == (3, "")
    assert "no worker serves nobody now; waits-1 waits on its queue" in outcome.stderr
    assert "amibus: no result of waits-1 within 8 s; the action goes on" in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "pbx1"),
        ("send", "p{x", "Ping"),
        ("send", "pbx1", "Ping", "NoSeparator"),
        ("send", "pbx1", "Ping", "=value"),
        ("send", "pbx1", "Ping", "--wait", "0"),
        ("send", "pbx1", "Ping", "--follow", "--no-wait"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...]) -> None:
    outcome = amibus(*arguments)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "Error: " in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_follow_shows_the_call_to_its_last_hangup(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", *CALL, "Channel: Local/100@default", "--action-id", "f-1", "--follow")
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("Newchannel  Channel=Local/100@default")
    assert lines[-1].startswith("Hangup  Channel=Local/100@default")
    assert sum(line.startswith("Hangup  ") for line in lines) == 2
    assert any(line.startswith("done  Originate  f-1") for line in lines)


def test_json_of_a_followed_call_keeps_repeated_headers(station: Station) -> None:
    variables = ("Channel=Local/100@default", "Variable=a=1", "Variable=b=2")
    outcome = station.amibus("send", "pbx1", *CALL, *variables, "--follow", "--json")
    assert outcome.returncode == 0
    messages = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [each["state"] for each in messages if each["type"] == "result"] == ["done"]
    events = [each for each in messages if each["type"] == "event"]
    set_to = {each["headers"]["Variable"]: each["headers"]["Value"] for each in events if each["name"] == "VarSet"}
    assert set_to == {"a": "1", "b": "2"}
    assert events[-1]["name"] == "Hangup"


def test_no_wait_tells_the_action_id(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "Ping", "--no-wait", "--json", "--urgent")
    assert outcome.returncode == 0
    queued = json.loads(outcome.stdout)
    assert queued["type"] == "queued"
    again = station.amibus("send", "pbx1", "Ping", "--json", "--action-id", queued["action_id"])
    assert json.loads(again.stdout)["entry"] == queued["entry"], "a duplicate is answered by the first result"


def test_a_deadline_in_the_past_expires(station: Station) -> None:
    outcome = station.amibus("send", "pbx1", "Ping", "--deadline", "1500000000")
    assert outcome.returncode == 1
    assert outcome.stdout.startswith("expired")


def test_a_bare_deadline_is_seconds_from_now(station: Station) -> None:
    assert station.amibus("send", "pbx1", "Ping", "--deadline", "30").returncode == 0


def test_redis_away_is_one_sentence_without_the_password() -> None:
    outcome = amibus("send", "pbx1", "Ping", settings={"AMIBUS_REDIS": "redis://bob:topsecret@127.0.0.1:1/0"})
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("amibus: Redis at redis://bob:***@127.0.0.1:1/0 cannot be reached")
    assert "AMIBUS_REDIS" in outcome.stderr
    assert "topsecret" not in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_password_is_no_flag() -> None:
    outcome = amibus("send", "pbx1", "Ping", "--redis", "redis://bob:topsecret@127.0.0.1:1/0")
    assert (outcome.returncode, outcome.stdout) == (78, "")
    assert outcome.stderr.startswith("amibus: --redis holds a password")
    assert "topsecret" not in outcome.stderr


def test_the_workers_secret_file_is_none_of_a_producers_business(station: Station) -> None:
    settings = {**station.settings, "AMIBUS_AMI_SECRET_FILE": "/nonexistent"}
    assert amibus("send", "pbx1", "Ping", settings=settings).returncode == 0
