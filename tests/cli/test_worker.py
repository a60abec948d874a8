"""`amibus worker`: its settings, and what ends it at the start."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.cli.commands import Running, amibus, connected
from tests.servers import RedisServer


def config(*arguments: str, **settings: str) -> dict[str, tuple[str, str]]:
    outcome = amibus("worker", "--print-config", *arguments, settings=settings)
    assert outcome.returncode == 0, outcome.stderr
    rows = [line.split("\t") for line in outcome.stdout.splitlines()[1:]]
    return {name: (value, origin) for name, value, origin in rows}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A settings file."""
    path = tmp_path / "pbx1.toml"
    path.write_text(
        'server = "from-file"\nrate = 1\nrate_calls = 2\nrate_reads = 3\nallow = ["Command", "GetConfig"]\n'
    )
    return str(path)


def test_its_help_tells_each_exit_code() -> None:
    codes = amibus("worker", "--help").stdout.partition("Exit codes:")[2]
    assert re.findall(r"^ +([0-9]+) ", codes, re.MULTILINE) == ["0", "1", "2", "70", "78"]


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: str) -> None:
    shown = config("--config", file, "--rate", "10", AMIBUS_RATE="5", AMIBUS_RATE_CALLS="6")
    assert shown["rate"] == ("10.0", "flag --rate")
    assert shown["rate_calls"] == ("6.0", "environment AMIBUS_RATE_CALLS")
    assert shown["rate_reads"] == ("3.0", f"file {file}")
    assert shown["rate_changes"] == ("0.0", "default")
    assert shown["allow"] == ("Command,GetConfig", f"file {file}")


def test_the_file_may_be_named_by_the_environment(file: str) -> None:
    assert config(AMIBUS_CONFIG=file)["server"] == ("from-file", f"file {file}")


def test_switches_and_lists_as_flags() -> None:
    shown = config("--no-event-channels", "--allow", "Command,GetConfig", "--allow", "Originate:System")
    assert shown["event_channels"] == ("False", "flag --event-channels")
    assert shown["allow"][0] == "Command,GetConfig,Originate:System"


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2\n")
    settings = {"AMIBUS_REDIS": "redis://bob:topsecret@127.0.0.1/0"}
    outcome = amibus("worker", "--print-config", "--ami-secret-file", str(path), settings=settings)
    assert outcome.returncode == 0
    assert "hunter2" not in outcome.stdout + outcome.stderr
    assert "topsecret" not in outcome.stdout + outcome.stderr
    assert "ami_secret\t(hidden)\tami_secret_file" in outcome.stdout


def test_the_passwords_of_sentinels_are_never_shown() -> None:
    url = "redis+sentinel://bob:topsecret@127.0.0.1:1,127.0.0.1:2/amibus/0?sentinel_password=topsecret2"
    shown = config(AMIBUS_REDIS=url)["redis"][0]
    assert shown == "redis+sentinel://bob:(hidden)@127.0.0.1:1,127.0.0.1:2/amibus/0?sentinel_password=(hidden)"


def test_a_secret_is_no_flag() -> None:
    outcome = amibus("worker", "--ami-secret", "hunter2")
    assert outcome.returncode == 2
    assert "hunter2" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        ((), {}, "amibus: no server is named: give --server"),
        (("--rate", "many"), {}, "amibus: --rate: 'many' is not a float"),
        ((), {"AMIBUS_AMI": "nowhere"}, "amibus: ami is 'nowhere': give host:port"),
        (("--config", "/nonexistent.toml"), {}, "amibus: settings file /nonexistent.toml: No such file"),
        (("--server", "p b x"), {}, "amibus: server name 'p b x' is not"),
        (
            ("--server", "pbx1", "--ami-secret-file", "/nonexistent"),
            {},
            "amibus: ami_secret_file /nonexistent: No such",
        ),
    ],
)
def test_settings_that_cannot_work(arguments: tuple[str, ...], settings: dict[str, str], sentence: str) -> None:
    outcome = amibus("worker", *arguments, settings=settings)
    assert outcome.returncode == 78
    assert outcome.stderr.startswith(sentence)
    assert outcome.stderr.count("\n") == 1


def test_a_wrong_secret_is_one_sentence(redis_url: str, simulated: str) -> None:
    settings = {
        "AMIBUS_REDIS": redis_url,
        "AMIBUS_AMI": simulated,
        "AMIBUS_AMI_SECRET": "wr0ng",
        "AMIBUS_SERVER": "pbx1",
    }
    outcome = amibus("worker", settings=settings)
    assert outcome.returncode == 78
    sentence = outcome.stderr.splitlines()[-1]
    assert sentence.startswith(f"amibus: Asterisk at {simulated} refused the login of ")
    assert re.search(r"AMIBUS_AMI_(EVENTS_)?SECRET\b", sentence), "it says which setting"
    assert "Traceback" not in outcome.stderr
    assert "wr0ng" not in outcome.stderr


def test_an_evicting_redis_is_refused(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    outcome = amibus("worker", "--redis", own_redis.url, "--server", "pbx1")
    assert outcome.returncode == 78
    assert outcome.stderr.splitlines()[-1].startswith("amibus: Redis' maxmemory-policy is allkeys-lru")
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(redis_url: str, simulated: str, number: signal.Signals) -> None:
    settings = {"AMIBUS_REDIS": redis_url, "AMIBUS_AMI": simulated, "AMIBUS_AMI_SECRET": "amibus"}
    with Running("worker", "--server", "pbx1", settings=settings) as worker:
        connected(redis_url, "pbx1", worker)
        worker.process.send_signal(number)
        assert worker.wait() == 0
        assert "Traceback" not in worker.stderr
    outcome = amibus("status", "pbx1", "--json", settings=settings)
    assert outcome.returncode == 1
    assert json.loads(outcome.stdout)["lease"] is None, "it was given back"


def test_until_drained_it_ends_by_itself(redis_url: str, simulated: str) -> None:
    settings = {
        "AMIBUS_REDIS": redis_url,
        "AMIBUS_AMI": simulated,
        "AMIBUS_AMI_SECRET": "amibus",
        "AMIBUS_SERVER": "pbx1",
    }
    for number in range(3):
        amibus("send", "pbx1", "Ping", "--no-wait", "--action-id", f"ping-{number}", settings=settings)
    outcome = amibus("worker", "--until-drained", settings=settings)
    assert outcome.returncode == 0, outcome.stderr
    assert "drained: all that was queued is settled" in outcome.stderr + outcome.stdout
    status = json.loads(amibus("status", "pbx1", "--json", settings=settings).stdout)
    assert [(each["action_id"], each["state"]) for each in reversed(status["results"])] == [
        (f"ping-{number}", "done") for number in range(3)
    ]
    assert status["lease"] is None, "it was given back"
