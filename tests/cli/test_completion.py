"""`amibus completion`: scripts that shells take, and what they complete."""

import shutil
import subprocess

import pytest

from tests.cli.commands import COMMAND, ROOT, amibus, environment, until
from tests.cli.conftest import Station


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell: str) -> None:
    outcome = amibus("completion", shell)
    assert outcome.returncode == 0, outcome.stderr
    assert "_AMIBUS_COMPLETE" in outcome.stdout
    assert f"# To install: amibus completion {shell}" in outcome.stdout
    if shutil.which(shell):
        checked = subprocess.run(
            [shell, "-n"], input=outcome.stdout, capture_output=True, text=True, timeout=60, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")


def test_zsh_finds_its_first_line() -> None:
    assert amibus("completion", "zsh").stdout.startswith("#compdef amibus\n")


def completed(*words: str, settings: dict[str, str] | None = None) -> list[str]:
    """What bash would offer for the last of these words."""
    asked = {"_AMIBUS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    outcome = subprocess.run(
        COMMAND,
        env=environment({**(settings or {}), **asked}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.stderr == ""
    return [line.partition(",")[2] for line in outcome.stdout.split()]


def test_commands_actions_and_events() -> None:
    assert completed("amibus", "st") == ["status"]
    assert completed("amibus", "un") == ["unknown"]
    assert completed("amibus", "res") == ["resolve"]
    assert completed("amibus", "resolve", "pbx1", "c1", "f") == ["failed"]
    assert "--until-drained" in completed("amibus", "worker", "--unt")
    assert completed("amibus", "send", "pbx1", "queuest") == ["QueueStatus"]
    assert completed("amibus", "tail", "pbx1", "Newch") == ["Newchannel"]
    assert "--follow" in completed("amibus", "send", "--fo")


def until_completed(wanted: str, *words: str, station: Station) -> None:
    """Press TAB until this alone is offered: on a busy machine Redis does not always answer at once."""
    until(lambda: completed(*words, settings=station.settings) == [wanted], f"{wanted} is offered")


def test_server_names(station: Station) -> None:
    until_completed("pbx1", "amibus", "status", "pb", station=station)


def test_no_redis_means_no_names_and_no_noise() -> None:
    assert completed("amibus", "status", "pb", settings={"AMIBUS_REDIS": "redis://127.0.0.1:1/0"}) == []
