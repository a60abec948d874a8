"""Log lines: for people or machines, on the standard error output, and never a secret or a control character."""

import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from workers.logs import configure

SECRET = "hush-hush"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_where_nobody_looks_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().warning("redis is away", waiting="events", failures=3)
    [line] = lines(capsys)
    read = json.loads(line)
    assert (read["event"], read["level"], read["waiting"], read["failures"]) == (
        "redis is away",
        "warning",
        "events",
        3,
    )
    assert read["timestamp"].endswith("Z")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_lines_for_people_have_colours_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    configure("console")
    structlog.get_logger().warning("redis is away", waiting="events")
    [line] = lines(capsys)
    assert ("\x1b[" in line) == is_terminal


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("name", ["secret", "ami_secret", "Password", "oldpassword", "NewPassword"])
def test_secrets_are_masked_by_name(capsys: pytest.CaptureFixture[str], log_format: str, name: str) -> None:
    configure(log_format)
    structlog.get_logger().info("login", **{name: SECRET, "user": "amibus"})
    [line] = lines(capsys)
    assert SECRET not in line
    assert "***" in line
    assert "amibus" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_an_entry_brought_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure(log_format)
    structlog.get_logger().info(
        "settled", action="Ping\x1b]0;mine\x07\nfake line\r\u2028x", other="caf\u00e9", lone="\udcff"
    )
    [line] = lines(capsys)
    assert "\x1b]0" not in line
    assert "\\x1b]0;mine\\x07\\nfake line\\r\\u2028x" in line.replace("\\\\", "\\")
    assert "\udcff" not in line


def test_an_exception_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    try:
        raise ValueError("x")
    except ValueError:
        structlog.get_logger().exception("failed")
    [line] = lines(capsys)
    assert json.loads(line)["exception"].splitlines()[-1] == "ValueError: x"


def test_the_level_leaves_lesser_lines_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "warning")
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.error("c")
    assert [json.loads(line)["event"] for line in lines(capsys)] == ["c"]
