"""What a user sees of errors, whatever they are."""

import errno

import pytest

from broker.errors import AmibusError, BusUnavailable, SettingsError
from tests.cli.commands import amibus
from workers.cli.failures import Failure, failure_of


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (SettingsError("set it right"), "set it right", 78),
        (AmibusError("did not work"), "did not work", 1),
        (OSError(errno.ENOSPC, "No space left"), "the output cannot be written: No space left", 1),
        (Failure("nobody knows", 3), "nobody knows", 3),
        (BusUnavailable("Redis is away"), "Redis is away (the address is AMIBUS_REDIS, or --redis)", 1),
        (ExceptionGroup("g", [ExceptionGroup("g", [SettingsError("deep inside")])]), "deep inside", 78),
        (ExceptionGroup("g", [BusUnavailable("away"), SettingsError("the reason")]), "the reason", 78),
    ],
)
def test_known_errors(error: Exception, sentence: str, code: int) -> None:
    failure = failure_of(error)
    assert (str(failure), failure.exit_code) == (sentence, code)


def test_a_bug_is_called_one() -> None:
    failure = failure_of(ExceptionGroup("g", [KeyError("x")]))
    assert failure.exit_code == 70
    assert "unexpected KeyError: 'x'; this is a bug" in str(failure)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ZeroDivisionError("boom"), 70)])
def test_the_group_turns_errors_into_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workers.cli import cli, main

    monkeypatch.delenv("AMIBUS_TRACEBACK", raising=False)
    monkeypatch.setattr(cli.commands["status"], "callback", _raises(error))
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def _raises(error: BaseException) -> object:
    def callback(**_: object) -> None:
        raise error

    return callback


def test_version_and_help() -> None:
    assert amibus("--version").stdout.startswith("amibus ")
    help_text = amibus("--help").stdout
    for command in ("completion", "demo", "resolve", "send", "simulate", "status", "tail", "unknown", "worker"):
        assert f"\n  {command}" in help_text
        own = amibus(command, "--help")
        assert own.returncode == 0
        assert "Examples:" in own.stdout
