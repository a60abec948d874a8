"""`amibus tail`: which events are shown, from where on, and how it ends."""

import datetime
import json
import subprocess

import pytest

from tests.cli.commands import COMMAND, DEADLINE_S, ROOT, amibus, environment
from tests.cli.conftest import Station


@pytest.fixture(scope="module", autouse=True)
def call(station: Station) -> str:
    """A call that has ended: its ActionID."""
    arguments = ("Originate", "Channel=Local/100@default", "Application=Wait", "Data=0", "--follow")
    assert station.amibus("send", "pbx1", *arguments, "--action-id", "tailed-1").returncode == 0
    return "tailed-1"


def events(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_by_name_in_any_case_and_gaps_always(station: Station) -> None:
    outcome = station.amibus("tail", "pbx1", "newCHANNEL", "--since", "0", "--count", "3", "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert [each["name"] for each in events(outcome.stdout)] == ["BusGap", "Newchannel", "Newchannel"]


def test_plain_lines_begin_with_the_time(station: Station, call: str) -> None:
    outcome = station.amibus("tail", "pbx1", "Hangup", "--action-id", call, "--since", "-1h", "--count", "3")
    line = outcome.stdout.splitlines()[-1]
    time, name, channel, *_ = line.split("  ")
    assert abs(datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(time)).total_seconds() < 600
    assert (name, channel.partition("@")[0]) == ("Hangup", "Channel=Local/100")
    assert line.endswith(f"[{call}]")
    assert "\x1b" not in outcome.stdout


def test_since_an_id_goes_on_after_it(station: Station) -> None:
    first, second = events(station.amibus("tail", "pbx1", "--since", "0", "--count", "2", "--json").stdout)
    [next_one] = events(station.amibus("tail", "pbx1", "--since", str(first["id"]), "--count", "1", "--json").stdout)
    assert next_one == second


def test_what_comes_after_the_start(station: Station) -> None:
    with station.running("tail", "pbx1", "UserEvent", "--since", "0") as tail:
        tail.line("BusGap")  # the beginning of the stream: it reads
        station.amibus("send", "pbx1", "UserEvent", "UserEvent=hello", "Who=world")
        assert "UserEvent=hello" in tail.line("UserEvent")
        tail.interrupt()
        assert tail.wait() == 0
        assert tail.stderr == ""


def test_a_closed_pipe_ends_it_quietly(station: Station) -> None:
    process = subprocess.Popen(
        [*COMMAND, "tail", "pbx1", "--since", "0"],
        env=environment(station.settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()  # as `| head -1` does; it is noticed at the next line
        station.amibus("send", "pbx1", "UserEvent", "UserEvent=more")
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("since", ["yesterday", "-10", "1-", "-5w"])
def test_a_since_that_is_none(since: str) -> None:
    outcome = amibus("tail", "pbx1", f"--since={since}")
    assert outcome.returncode == 2
    assert "stream id" in outcome.stderr


def test_redis_away() -> None:
    outcome = amibus("tail", "pbx1", "--redis", "redis://127.0.0.1:1")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("amibus: Redis at redis://127.0.0.1:1 cannot be reached")
