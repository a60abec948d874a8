"""What the README shows is what there is: its commands, its Python example, its tables. (Its redis-cli lines and the
programs in other languages are run in tests/deploy.)"""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import fields
from inspect import isfunction
from pathlib import Path
from typing import Any, cast

import pytest

from broker import Bus
from broker.codec import State
from broker.errors import ErrorCode
from broker.telephony import ChannelControl, Conference, TypedCalls
from tests.bus_side import until
from tests.deploy.guarded import Stage, running_stage
from workers.config import Settings, shown_value

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Valkey with `deploy/`'s users, the true worker, and a simulated Asterisk."""
    with running_stage("valkey") as stage:
        yield stage


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


async def test_the_python_example_runs_as_it_stands(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    main = cast("Callable[[str], Awaitable[None]]", _python()["main"])
    await main(stage.server.url_of("admin"))
    said = capsys.readouterr().out
    assert "0 items" in said or "1 items" in said
    assert "Hangup Local/100@default" in said
    assert "\nanswered Local/100@default" in said
    assert " ended: " in said
    assert "asterisk-error" in said
    assert said.rstrip().endswith(("FullyBooted", "BusConnected"))


def _python() -> dict[str, Any]:
    """What the Python examples define, one after the other."""
    names: dict[str, Any] = {}
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), names)
    return names


async def test_a_call_is_watched_as_it_stands(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    watch = cast("Callable[[str, str], Awaitable[None]]", _python()["watch"])
    url = stage.server.url_of("admin")
    async with Bus(url) as bus:
        call = await bus.server("pbx1").originate("Local/100@default", application="Wait", data="600")
        await call.answered(timeout=60)
        watching = asyncio.ensure_future(watch(url, call.uniqueid))
        said = ""

        def answered() -> bool:
            nonlocal said
            said += capsys.readouterr().out
            return "\nanswered\n" in said or watching.done()

        await until(answered)
        await call.hangup(timeout=60)
        await watching
    assert said.startswith("['Local/100@default")
    assert "\nanswered\n" in said


def test_the_commands_of_the_quick_start_run(stage: Stage) -> None:
    [block] = [block for block in blocks("sh") if "amibus send pbx1" in block]
    env = {**os.environ, "AMIBUS_REDIS": stage.server.url_of("admin")}
    ran = 0
    for line in block.splitlines():
        words = shlex.split(line)
        if "tail" in words:
            words += ["--since", "0", "--count", "1"]  # else it would never end
        assert words.pop(0) == "amibus"
        done = subprocess.run(
            [sys.executable, "-m", "workers.cli", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert done.stdout.strip(), line
        ran += 1
    assert ran == 4


def test_the_two_commands_are_whole() -> None:
    commands = re.findall(r"<!-- (\w+) command -->\n```sh\n(.*?)\n```", README)
    assert [name for name, _ in commands] == ["demo", "test"]
    for name, command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install "), name
    assert commands[0][1].endswith(".venv/bin/amibus demo")
    assert ".venv/bin/pytest" in commands[1][1]


def test_the_settings_table_is_that_of_the_code() -> None:
    for each in fields(Settings):
        default = shown_value(each.name, each.default)
        shown = f"`{default}`" if default else ""
        assert f"| `{each.name}` | {each.metadata['help']} | {shown} |" in README


def test_every_typed_call_is_in_the_table() -> None:
    section = README.partition("\n## Typed calls\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)(?:\(name\))?`", section))
    for kind in (TypedCalls, ChannelControl, Conference):
        calls = {name for each in kind.__mro__ for name, value in vars(each).items() if isfunction(value)}
        assert {name for name in calls if not name.startswith("_")} - listed <= {"request", "submit"}, kind


def test_every_state_and_error_code_is_explained() -> None:
    for state in State:
        assert f"| `{state}` |" in README, state
    for code in ErrorCode:
        assert f"`{code}`" in README, code


def test_every_link_into_the_tree_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 8
    for link in links:
        assert (ROOT / link).exists(), link
