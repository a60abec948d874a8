"""`amibus demo`: the show, the lines to try (each is tried), and the end."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import redis

from tests.cli.commands import ROOT, Running, amibus, environment, until
from tests.servers import need

LAST_LINE = "Ctrl-C ends everything"


@pytest.fixture(autouse=True)
def _valkey() -> None:
    need("valkey")


def test_the_show_on_a_pipe() -> None:
    outcome = amibus("demo", "--once", "--calls", "2")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    assert "\x1b" not in outcome.stdout
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("embedded Valkey on redis://127.0.0.1:")
    assert lines[1].startswith("SIMULATED Asterisk (no telephone exchange) on ")
    table = [line.split("\t") for line in lines if "\t" in line]
    states = [(row[0].rpartition("-")[0], row[2], row[3]) for row in table[1:]]
    assert states == [
        ("ping", "done", ""),
        ("channels", "done", ""),
        ("forbidden", "rejected", ""),
        ("call1", "done", "ended"),
        ("call2", "failed", "ended"),
    ]
    for step in ("queued", "sending", "sent", "Newchannel", "Hangup", "ended"):
        assert any("call1-" in line and step in line for line in lines), step


def test_every_line_to_try_works_until_ctrl_c() -> None:
    if shutil.which("redis-cli") is None:
        reason = "no redis-cli on the PATH (Debian: apt-get install redis-tools)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with Running("demo", "--calls", "0") as demo:
        demo.line(LAST_LINE)
        lines = [line.strip() for line in demo.lines if line.startswith("  ")]
        port = int(demo.lines[0].rpartition(":")[2].partition("/")[0])
        with redis.Redis(port=port, decode_responses=True) as client:
            _try_redis_lines([line for line in lines if line.startswith("redis-cli ")], client)
        _try_amibus_lines([line for line in lines if line.startswith(("export ", "amibus "))])
        _try_python_lines(demo.lines)
        demo.interrupt()
        assert demo.wait() == 0
        assert demo.stderr == ""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the embedded Valkey is gone"


def _try_redis_lines(lines: list[str], client: "redis.Redis") -> None:
    assert len(lines) == 7
    ping, record, originate, call, subscribe, *others = lines
    shell(ping)
    until(lambda: client.hget("ami:{demo}:action:hello-1", "state") == "done", "the Ping's result")
    assert "done" in shell(record)
    shell(originate)
    until(lambda: client.hget("ami:{demo}:action:call-1", "call") == "up", "the call")
    assert shell(call) == "up\n"
    with subprocess.Popen(subscribe, shell=True, stdout=subprocess.PIPE, start_new_session=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"subscribe\n"
        listener.kill()
    for line in others:
        assert shell(line).strip()


def _try_amibus_lines(lines: list[str]) -> None:
    export, *commands = lines
    name, _, value = export.removeprefix("export ").partition("=")
    assert len(commands) == 4
    for command in commands[:3]:
        outcome = amibus(*command.split()[1:], settings={name: value.strip("'")})
        assert outcome.returncode == 0, (command, outcome.stderr)
    outcome = amibus(*commands[3].split()[1:], "--count", "2", settings={name: value.strip("'")})
    assert "Newchannel" in outcome.stdout


def _try_python_lines(lines: list[str]) -> None:
    at = next(index for index, line in enumerate(lines) if line.startswith("with Python"))
    end = next(index for index, line in enumerate(lines) if index > at and not line.strip())
    program = "".join([line[2:] for line in lines[at + 1 : end]])
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1].startswith("Hangup Local/100@default")


def shell(line: str) -> str:
    """What a line prints."""
    # A record holds msgpack beside its texts.
    done = subprocess.run(line, shell=True, capture_output=True, timeout=60, check=True)
    return done.stdout.decode(errors="replace")


def test_a_real_asterisk_with_a_wrong_secret(simulated: str) -> None:
    outcome = amibus("demo", "--once", "--ami", simulated, settings={"AMIBUS_AMI_SECRET": "wr0ng"})
    assert outcome.returncode == 78
    assert "SIMULATED" not in outcome.stdout
    assert outcome.stderr.startswith(f"amibus: Asterisk at {simulated} refused the login of ")
    assert outcome.stderr.count("\n") == 1


def test_a_real_asterisk_and_redis(simulated: str, redis_url: str) -> None:
    settings = {"AMIBUS_AMI_SECRET": "amibus", "AMIBUS_REDIS": "redis://127.0.0.1:1/0", "AMIBUS_AMI": "127.0.0.1:1"}
    flags = ("--ami", simulated, "--redis", redis_url, "--calls", "1", "--exten", "busy", "--server", "real")
    outcome = amibus("demo", "--once", *flags, settings=settings)
    assert outcome.returncode == 0, outcome.stderr
    assert "embedded" not in outcome.stdout
    assert "Channel=Local/busy@default" in outcome.stdout
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists("ami:{real}:lease"), "the worker gave its lease back"
