"""The table of the fault matrix."""

import pytest
from rich.console import Console

from tests.faults.figures import Row, main, read, show

REPORT = """<testsuites><testsuite>
<testcase classname="tests.faults.test_redis_faults" name="test_a[redis]"><properties>
<property name="working_again_s" value="0.1"/></properties></testcase>
<testcase classname="tests.faults.test_redis_faults" name="test_b"><failure message="x">why</failure></testcase>
<testcase classname="tests.faults.test_history" name="test_c"/>
</testsuite></testsuites>"""


def test_a_report_is_read_and_shown() -> None:
    rows = read(REPORT)
    assert rows == [
        Row("test_redis_faults", "test_a[redis]", "ok", "working_again_s 0.1"),
        Row("test_redis_faults", "test_b", "failure", ""),
        Row("test_history", "test_c", "ok", ""),
    ]
    console = Console(record=True, width=120)
    show(rows, console)
    text = console.export_text()
    assert "a[redis]" in text
    assert "working_again_s 0.1" in text
    assert "failure" in text
    assert "test_c" not in text
    assert "2 of 3 kept what is promised" in text


def test_its_help_is_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out, _ = capfd.readouterr()
    assert "python -m tests.faults.figures" in out
    assert "--junitxml" not in out
    assert "kept what is promised" not in out


@pytest.mark.parametrize("arguments", [["--nonsense"], ["-k", "no_row_has_this_name"]])
def test_wrong_use_shows_no_table(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert "no test was run" in err
    assert "kept what is promised" not in out
