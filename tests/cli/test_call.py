"""`amibus call`: what is told while a call goes on, and how the command ends."""

import json

import pytest

from broker import CallOutcome, Disposition
from tests.cli.commands import amibus
from tests.cli.conftest import LOST, Station
from workers.cli.call import why_it_failed


def test_a_call_is_told_from_the_dialling_to_the_hangup(station: Station) -> None:
    outcome = station.amibus("call", "pbx1", "Local/100@default", "--application", "Wait", "--data", "0.2")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    first, *_, last = outcome.stdout.splitlines()
    assert "dialling    Local/100@default for Wait" in first
    assert "answered" in outcome.stdout
    assert "hung up" in last


def test_json_is_one_object_a_step(station: Station) -> None:
    asked = ("--application", "Wait", "--data", "0.2", "--variable", "a=1,2", "--action-id", "cli-call")
    outcome = station.amibus("call", "pbx1", "Local/100@default", *asked, "--json")
    said = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [each["event"] for each in said if each["event"] in ("dialling", "answered", "hung up")] == [
        "dialling", "answered", "hung up",
    ]  # fmt: skip
    assert said[0]["action_id"] == "cli-call"
    assert said[-1]["after_s"] >= said[0]["after_s"]


@pytest.mark.parametrize(("exten", "said"), [("busy", "busy"), ("congestion", "congestion")])
def test_a_call_that_is_not_answered_is_exit_code_1(station: Station, exten: str, said: str) -> None:
    outcome = station.amibus("call", "pbx1", f"Local/{exten}@default", "100@default")
    assert outcome.returncode == 1
    assert said in outcome.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (CallOutcome(Disposition.BUSY, 5, 17, "User busy", "the call failed: busy"), "User busy (17)"),
        (CallOutcome(Disposition.NO_ANSWER, 3, 0, "Unknown", "the call failed: rang, no answer"), "rang, no answer"),
        (CallOutcome(Disposition.FAILED, message="Extension does not exist."), "Extension does not exist."),
        (CallOutcome(Disposition.FAILED), "nobody saw why"),
    ],
)
def test_why_a_call_failed(outcome: CallOutcome, why: str) -> None:
    assert why_it_failed(outcome) == why


def test_whoever_ends_the_watching_learns_how_to_end_the_call(station: Station) -> None:
    asked = ("Local/100@default", "--application", "Wait", "--data", "600", "--action-id", "watched")
    with station.running("call", "pbx1", *asked) as watching:
        watching.line("answered")
        watching.interrupt()
        assert watching.wait() == 130
    assert watching.stderr.endswith("the call goes on; to end it: amibus hangup pbx1 amibus-pbx1-watched\n")
    assert station.amibus("hangup", "pbx1", "amibus-pbx1-watched").returncode == 0


def test_a_call_of_which_nobody_knows_is_exit_code_3(station: Station) -> None:
    asked = ("Local/100@default", "100", "--action-id", LOST, "--ring", "0.1", "--wait", "2")
    outcome = station.amibus("call", "pbx1", *asked)
    assert outcome.returncode == 3
    assert outcome.stderr.startswith("amibus: ")


def test_a_call_that_nobody_takes_up(station: Station) -> None:
    asked = ("Local/100@default", "100", "--ring", "0.1", "--wait", "8")
    outcome = amibus("call", "nobody", *asked, settings=station.settings)
    assert outcome.returncode == 3
    assert "no worker serves nobody now" in outcome.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("Local/100@default",),
        ("Local/100@default", "100", "--application", "Wait"),
        ("Local/100@default", "100", "--variable", "x"),
        ("Local/100@default", "100", "--ring", "0"),
    ],
)
def test_wrong_use_is_exit_code_2(station: Station, wrong: tuple[str, ...]) -> None:
    assert station.amibus("call", "pbx1", *wrong).returncode == 2


def test_what_may_not_be_is_said(station: Station) -> None:
    outcome = station.amibus("call", "pbx1", "Local/100@default", "--application", "System", "--data", "x")
    assert outcome.returncode == 1
    assert "allow=Originate:System" in outcome.stderr
