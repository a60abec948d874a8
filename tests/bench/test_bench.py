"""The benchmark itself: that it runs, counts right and judges. How fast anything is, is not asserted here."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.bench.__main__ import main, measure, what_is_missing
from tests.bench.capture import LAST, flood
from tests.bench.comparison import Comparison
from tests.bench.events import Panoramisk
from tests.bench.options import Options
from tests.lab import available
from tests.servers import KINDS, need

TINY = ["--events", "300", "--pings", "120", "--rounds", "1"]


def need_asterisk() -> None:
    """Skip where Asterisk cannot be had; under CI that is a failure."""
    reason = available("22")
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def test_a_flood_has_as_many_events_as_asked_for() -> None:
    assert flood(5_000).count(b"Event: ") == 5_000
    assert flood(5_000).endswith(LAST)


def test_the_calls_of_a_flood_are_others_in_each_repetition() -> None:
    started = [block for block in flood(5_000).split(b"\r\n\r\n") if block.startswith(b"Event: Newchannel")]
    uniqueids = [line for block in started for line in block.split(b"\r\n") if line.startswith(b"Uniqueid: ")]
    assert len(uniqueids) == len(set(uniqueids)) > 200


def test_a_ratio_is_that_of_the_medians() -> None:
    comparison = Comparison("events", "events/s", "", "")
    for ours, theirs in ((10.0, 100.0), (80.0, 50.0), (75.0, 100.0)):
        comparison.add(ours=ours, theirs=theirs)
    assert comparison.ratio == 0.75
    assert comparison.ratios == [0.1, 1.6, 0.75]
    assert comparison.passes(0.75)
    assert not comparison.passes(0.76)


def test_of_a_time_less_is_better() -> None:
    comparison = Comparison("one ping", "ms", "", "", less_is_better=True)
    comparison.add(ours=2.0, theirs=1.0)
    assert comparison.ratio == 0.5


def test_what_is_not_judged_passes() -> None:
    comparison = Comparison("one ping", "ms", "", "", judged=False)
    comparison.add(ours=1.0, theirs=1_000.0)
    assert comparison.passes(0.7)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_event_is_counted_on_both_sides(kind: str) -> None:
    need(kind)
    (events,) = await measure(Options(events=300, rounds=2, redis=kind), only="events")
    assert len(events.rounds) == 2
    assert all(ours > 0 and theirs > 0 for ours, theirs in events.rounds)


async def test_a_round_in_which_panoramisk_loses_its_connection_is_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with Panoramisk(Options()) as theirs:
        theirs.feeder.send(signal.SIGKILL)
        await theirs.feeder.process.wait()
        assert await theirs.parsed(300) > 0
        assert "lost its connection: its round is repeated" in capsys.readouterr().err
        feeder = theirs.feeder
        assert feeder.process.returncode is None
        assert await theirs.parsed(300) > 0
        # panoramisk may lose its connection by itself, but not that of a feeder that is gone
        assert feeder.process.returncode is None or theirs.feeder is not feeder


@pytest.mark.live
@pytest.mark.parametrize("kind", KINDS)
async def test_every_ping_is_counted_on_both_sides(kind: str) -> None:
    need(kind)
    need_asterisk()
    comparisons = await measure(Options(pings=120, rounds=1, redis=kind), only="pings")
    assert [each.name for each in comparisons] == ["pings drained", "pings requested", "one ping"]
    assert all(len(each.rounds) == 1 for each in comparisons)


@pytest.mark.parametrize(("floor", "code"), [("0", 0), ("1000", 1)])
def test_the_exit_code_says_whether_the_floor_was_reached(
    floor: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    need("redis")
    assert main([*TINY, "--only", "events", "--floor", floor, "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["floor"] == float(floor)
    assert report["comparisons"][0]["rounds"][0]["ours"] > 0


def test_the_figures_are_shown_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    need("redis")
    assert main([*TINY, "--only", "events", "--floor", "0", "--loop", "uvloop"]) == 0
    shown = capsys.readouterr().out
    assert "panoramisk" in shown
    assert "events/s" in shown


def test_a_profile_of_the_worker_is_written(tmp_path: Path) -> None:
    need("redis")
    assert main([*TINY, "--only", "events", "--floor", "0", "--profile", str(tmp_path)]) == 0
    assert (tmp_path / "events.prof").stat().st_size > 0


def test_without_a_redis_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    missing = what_is_missing(Options())
    assert missing is not None
    assert "redis-server" in missing
