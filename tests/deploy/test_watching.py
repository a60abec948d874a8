"""The README's `redis-cli` lines, each run against the true worker by a user who may only read (or only produce)."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import redis

from broker.codec import FINAL_STATES
from tests.deploy.guarded import KEYS, ROOT, Stage, need, password, process, wait_until

README: Final = ROOT / "README.md"
WATCHING: Final = "Watching with redis-cli"
PRODUCING: Final = "Producing and receiving without our client"
EMPTY_WHEN_IDLE: Final = ("XPENDING ami:{pbx1}:actions workers - + 10", "XRANGE ami:{pbx1}:actions")
"""With nothing on its way there is nothing to show; all other lines must show something."""

_numbers = itertools.count()


def lines(section: str) -> list[str]:
    """The `redis-cli` lines of a section, without the comments behind them."""
    _, _, text = README.read_text().partition(f"\n## {section}\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", text.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    found = [line for block in blocks for line in block.splitlines() if line.startswith("redis-cli ")]
    return [re.sub(r"\s+#.*", "", line) for line in found]


def is_endless(line: str) -> bool:
    return "SUBSCRIBE" in line.split()[1]


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> dict[str, str]:
    """An environment in which `redis-cli` is who it should be, and an error is an exit code."""
    program = shutil.which("redis-cli")
    need(program, "no redis-cli on this machine (Debian: apt-get install redis-tools)")
    wrapper = tmp_path / "redis-cli"
    wrapper.write_text(f'#!/bin/sh\nexec {program} -e -p {stage.server.port} --user "$BUS_USER" "$@"\n')
    wrapper.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def user(name: str) -> dict[str, str]:
    return {"BUS_USER": name, "REDISCLI_AUTH": password(name)}


@pytest.fixture(scope="module")
def busy(stage: Stage) -> Stage:
    """The bus after a night's work: a call that is over, one that is alive, and a refused entry."""
    add(stage, "call-42", "Wait", "0.1")
    add(stage, "call-43", "Wait", "600")
    with stage.server.client("amibus-producer") as producer:
        producer.execute_command("XADD", KEYS.actions, "*", "Action", "Command", "Command", "core stop now")
    with stage.monitor as monitor:
        wait_until("the call is over", lambda: monitor.hget(KEYS.action("call-42"), "call") == "ended")
        wait_until("a call is alive", lambda: monitor.hgetall(KEYS.legs))
        wait_until("one is refused", lambda: monitor.xlen(KEYS.dead))
    return stage


def add(stage: Stage, action_id: str, application: str, data: str) -> None:
    with stage.server.client("amibus-producer") as producer:
        producer.execute_command(
            "XADD", KEYS.actions, "*", "Action", "Originate", "ActionID", action_id,
            "Channel", "Local/100@default", "Application", application, "Data", data,
        )  # fmt: skip


def test_the_readme_has_its_lines() -> None:
    need(lines(WATCHING), "README.md does not have its sections yet")
    assert len(lines(WATCHING)) >= 15
    assert len(lines(PRODUCING)) >= 2


@pytest.mark.parametrize("line", [line for line in lines(WATCHING) if not is_endless(line) and "BLOCK" not in line])
def test_shows_something(busy: Stage, shell: dict[str, str], line: str) -> None:
    with process(["bash", "-c", line], shell | user("amibus-monitor"), stdout=subprocess.PIPE) as running:
        said, _ = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert said.strip() or any(words in line for words in EMPTY_WHEN_IDLE)


@pytest.mark.parametrize("line", [line for line in lines(WATCHING) if is_endless(line)])
def test_listens(busy: Stage, shell: dict[str, str], line: str) -> None:
    # `exec`, so that it is redis-cli itself that is ended.
    with process(["bash", "-c", f"exec {line}"], shell | user("amibus-monitor"), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() in ("subscribe", "psubscribe")
        channel, count = running.stdout.readline().strip(), running.stdout.readline().strip()
        assert (channel.startswith("ami:{pbx1}:"), count) == (True, "1")
        # The same again: a duplicate, whose result is published once more. And a new call, for its events.
        add(busy, "call-42", "Wait", "0.1")
        add(busy, f"another-{next(_numbers)}", "Wait", "0.1")
        assert running.stdout.readline().strip() in ("message", "pmessage")


@pytest.mark.parametrize("line", [line for line in lines(WATCHING) if "BLOCK" in line])
def test_waits_for_the_next_event(busy: Stage, shell: dict[str, str], line: str) -> None:
    with process(["bash", "-c", line], shell | user("amibus-monitor"), stdout=subprocess.PIPE) as running:
        with busy.server.client() as admin:
            # It may have ended already: a call of another test still had something to say.
            wait_until("it waits", lambda: running.poll() is not None or waits(admin, "amibus-monitor"))
        add(busy, f"another-{next(_numbers)}", "Wait", "0.1")
        said, _ = running.communicate(timeout=60)
    assert (running.returncode, said.splitlines()[0]) == (0, KEYS.events)


def waits(admin: "redis.Redis", name: str) -> bool:
    """Whether a client of this user is blocked in XREAD."""
    return any(each["user"] == name and each["cmd"] == "xread" and "b" in each["flags"] for each in admin.client_list())


@pytest.mark.parametrize("section", [PRODUCING])
def test_produces_by_hand(stage: Stage, shell: dict[str, str], section: str) -> None:
    need(lines(section), "README.md does not have this section yet")
    add_line, ask_line = lines(section)[:2]
    environment = {**os.environ, **shell, **user("amibus-producer")}

    def run(line: str) -> list[str]:
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert re.fullmatch(r"\d+-\d+", run(add_line)[0])
    wait_until("its record is final", lambda: run(ask_line)[:1] and run(ask_line)[0] in FINAL_STATES)
    assert run(ask_line) == ["done", "Success"]
