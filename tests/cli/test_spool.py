"""`amibus spool`: exit codes, settings, signals, and the script of the README."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import ROOT, amibus, environment, until
from tests.cli.conftest import LOST, Station

QUICK = ("--settle", "0.2", "--look", "0.5")


def put(directory: Path, name: str, text: str) -> None:
    (directory / f".{name}").write_text(text)
    (directory / f".{name}").rename(directory / f"{name}.action")


def test_once_all_is_done(station: Station, tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"ping-{number}", "Action: Ping\n")
    outcome = station.amibus("spool", str(tmp_path), "--once", *QUICK)
    assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr
    lines = [json.loads(line) for line in outcome.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["starting", "answered", "answered", "answered", "finished"]
    assert {line["file"] for line in lines[1:4]} == {"ping-0", "ping-1", "ping-2"}
    assert (lines[-1]["files"], lines[-1]["done"], lines[-1]["left"]) == (3, 3, 0)
    assert "\nPing: Pong\n" in (tmp_path / "ping-0.out").read_text()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Action: Hangup\nChannel: PJSIP/nobody\n", 1),
        ("Action: GetConfig\nFilename: manager.conf\n", 1),
        ("nonsense", 1),
        (f"Action: Setvar\nActionID: {LOST}-spool\nBus-Deadline: 1\n", 1),
        (f"Action: Setvar\nActionID: {LOST}\nVariable: x\nValue: 1\nBus-Timeout: 0.5\n", 3),
    ],
    ids=["failed", "rejected", "refused", "expired", "unknown"],
)
def test_once_something_is_not_done(station: Station, tmp_path: Path, text: str, code: int) -> None:
    put(tmp_path, "fine", "Action: Ping\n")
    put(tmp_path, "bad", text)
    outcome = station.amibus("spool", str(tmp_path), "--once", *QUICK)
    assert outcome.returncode == code, outcome.stderr
    assert (tmp_path / "fine.out").exists()


def test_once_with_nothing_to_do(station: Station, tmp_path: Path) -> None:
    (tmp_path / "other.txt").touch()
    assert station.amibus("spool", str(tmp_path), "--once").returncode == 0


def test_it_goes_on_until_it_is_told_to_stop(station: Station, tmp_path: Path) -> None:
    with station.running("spool", str(tmp_path), *QUICK) as running:
        for name in ("first", "second"):
            put(tmp_path, name, "Action: Ping\n")
            until((tmp_path / f"{name}.out").exists, f"{name}.out", running)
        other = station.amibus("spool", str(tmp_path))
        assert other.returncode == 78
        assert other.stderr == f"amibus: another amibus spool is at work in {tmp_path}\n"
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
    assert '"event": "stopped"' in running.stderr


def test_a_second_signal_ends_it_at_once(station: Station, tmp_path: Path) -> None:
    with station.running("spool", "--server", "nobody", str(tmp_path), *QUICK) as running:
        put(tmp_path, "call", "Action: Ping\n")
        until(lambda: bool([*tmp_path.glob("call.*.taken")]), "taken", running)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping: waiting for answers" in running.stderr, "waiting", running)
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 1
    assert [*tmp_path.glob("call.*.taken")]


def test_no_answer_in_time(station: Station, tmp_path: Path) -> None:
    put(tmp_path, "call", "Action: Ping\n")
    with station.running("spool", "--server", "nobody", str(tmp_path), "--once", "--drain-s", "0.1", *QUICK) as running:
        until(lambda: bool([*tmp_path.glob("call.*.taken")]), "taken", running)
        running.interrupt()
        assert running.wait() == 3
    assert "no worker serves this server now" in running.stderr


def test_settings_from_a_file(station: Station, tmp_path: Path) -> None:
    config = tmp_path / "amibus.toml"
    config.write_text(f'redis = "{station.url}"\nserver = "pbx1"\nami_secret_file = "/of/the/worker"\n')
    put(tmp_path, "ping", "Action: Ping\n")
    assert amibus("spool", "--config", str(config), str(tmp_path), "--once", *QUICK).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("missing",), 78, "amibus: missing is not a directory\n"),
        (("--server", "p{x", "."), 78, "amibus: server name 'p{x' is not 1 to 32 characters"),
        (("--settle", "0", "."), 2, "Usage: "),
        ((), 2, "Usage: "),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    settings = {"AMIBUS_SERVER": "pbx1", "AMIBUS_REDIS": "redis://127.0.0.1:1/0"}
    outcome = amibus("spool", *arguments, settings=settings)
    assert (outcome.returncode, outcome.stdout) == (code, "")
    assert outcome.stderr.startswith(sentence)


def test_no_server_is_named(tmp_path: Path) -> None:
    outcome = amibus("spool", str(tmp_path))
    assert outcome.returncode == 78
    assert outcome.stderr.startswith("amibus: no server is named")


def test_redis_is_away(tmp_path: Path) -> None:
    outcome = amibus("spool", "--server", "pbx1", "--redis", "redis://127.0.0.1:1/0", str(tmp_path))
    assert outcome.returncode == 1
    assert "cannot be reached" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_the_script_of_the_readme(station: Station, tmp_path: Path) -> None:
    [script] = re.findall(r"```sh\n(# An action file.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with station.running("spool", str(tmp_path)) as running:
        until(lambda: '"starting"' in running.stderr, "started", running)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment(station.settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Response: Success\n")
    assert "\nEvent: OriginateResponse\n" in done.stdout
    assert done.stdout.endswith("\nBus-State: done\n\n")
