"""`python -m tests.faults.figures`: the fault matrix, row by row, with the figures that its tests note. Ends 1 if a row
fails, 2 if none was run. Further arguments go to pytest: `-k failover`, `-n 2`."""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROWS = ("tests/faults", "tests/live/test_takeover.py", "tests/workers/test_failover.py")
"""The tests of the matrix. Campaign and soak have commands of their own."""


@dataclass(frozen=True)
class Row:
    """One test."""

    module: str
    name: str
    verdict: str
    figures: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; the exit code."""
    usage = "%(prog)s [-h] [ARGUMENT OF PYTEST ...]"
    parser = argparse.ArgumentParser("python -m tests.faults.figures", usage, __doc__, allow_abbrev=False)
    _, passed_on = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(prefix="amibus-figures-") as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *ROWS, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        code = subprocess.run([*command, *passed_on], check=False).returncode
        rows = read(report.read_text()) if report.exists() else []
    if not rows:
        print("no test was run: see what pytest says", file=sys.stderr)
        return 2
    show(rows, Console())
    return 0 if code == 0 else 1


def read(report: str) -> list[Row]:
    """The rows of a JUnit report."""
    return [_row(case) for case in ET.fromstring(report).iter("testcase")]


def _row(case: ET.Element) -> Row:
    found = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "ok")
    figures = [f"{each.get('name')} {each.get('value')}" for each in case.iter("property")]
    return Row(case.get("classname", "").rpartition(".")[2], case.get("name", ""), found, ", ".join(figures))


def show(rows: Sequence[Row], console: Console) -> None:
    """Those with figures and those that failed, each; of the others how many there are."""
    table = Table(title="the fault matrix")
    for heading in ("tests", "fault", "", "figures"):
        table.add_column(heading, overflow="fold")  # a name that is cut finds no test
    for row in rows:
        if row.figures or row.verdict != "ok":
            table.add_row(row.module, escape(row.name.removeprefix("test_")), row.verdict, escape(row.figures))
    console.print(table)
    passed = sum(row.verdict == "ok" for row in rows)
    console.print(f"{passed} of {len(rows)} kept what is promised", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
