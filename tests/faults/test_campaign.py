"""A short campaign from a fixed seed, so that every run of the tests kills some workers; the long ones are run by hand
or by night: `python -m tests.faults --minutes 30`."""

import json
import os
import shutil

import pytest

from tests.faults.__main__ import main, show
from tests.faults.campaign import Campaign, Options, Tally
from tests.faults.mishaps import MISHAPS, ONLY_IN, WEIGHTS, barred_here, usual
from tests.faults.redis_side import LAYOUTS
from tests.servers import KINDS, need

SHORT_MINUTES = 0.25

SEED = 2083
"""It begins with a round of kill points alone, and on replicated servers with one that fails over."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_short_campaign_keeps_every_promise(kind: str) -> None:
    need(kind)
    tally = await Campaign(Options(seed=SEED, kinds=(kind,), minutes=SHORT_MINUTES, worlds=2)).run()
    assert [str(violation) for failure in tally.failures for violation in failure.violations] == []
    assert tally.rounds >= 2
    assert tally.kills >= 10
    assert sum(tally.points.values()) >= 5
    assert tally.befell["fail-overs"] >= 1


@pytest.mark.timeout(300)
def test_a_broken_worker_is_found_and_its_seed_named(capsys: pytest.CaptureFixture[str]) -> None:
    need("redis")
    # One that any round finds out: what a kill at random costs is a matter of luck.
    variant = "result-not-published"
    code = main(["--redis", "redis", "--variant", variant, "--only", "kill", "--seed", "1", "--rounds", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    for failure in report["failures"]:
        shutil.rmtree(failure["directory"])
    assert code == 1
    assert any("not said" in text for failure in report["failures"] for text in failure["violations"])
    assert report["failures"][0]["seed"]


@pytest.mark.timeout(300)
async def test_one_round_is_played_again_from_its_seed() -> None:
    need("redis")
    tallies = [await Campaign(Options(kinds=("redis",), only=["ami-reset"], replay=77)).run() for _ in range(2)]
    assert [tally.rounds for tally in tallies] == [1, 1]
    assert tallies[0].mishaps == tallies[1].mishaps != {}


def test_every_fault_has_its_turn() -> None:
    assert {name for layout in LAYOUTS for name in usual(layout)} | set(barred_here()) == set(MISHAPS)
    assert "clock-step" not in barred_here() or not os.environ.get("CI"), "it is a matter of installing libfaketime"
    assert set(WEIGHTS) | set(ONLY_IN) <= set(MISHAPS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "earthquake"], "argument --only: earthquake is none of"),
        (["--only", ","], "argument --only: no fault is named"),
        (["--kill", "nonsense"], "argument --kill: 'nonsense' is not POINT:N"),
        (["--kill", ":1"], "argument --kill: ':1' is not POINT:N"),
        (["--kill", "lease.py:renew:88@woken:0"], "is not POINT:N"),
        (["--minutes", "-1"], "argument --minutes: -1 is not more than 0"),
        (["--minutes", "nan"], "argument --minutes: nan is not more than 0"),
        (["--rounds", "-1"], "argument --rounds: -1 is less than 0"),
        (["--actions", "-1"], "argument --actions: -1 is less than 0"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("options", "seed"), [(Options(seed=7), 7), (Options(seed=7, replay=77), 77)])
def test_the_report_begins_with_the_seed_that_was_played(
    capsys: pytest.CaptureFixture[str], options: Options, seed: int
) -> None:
    show(options, Tally())
    out = capsys.readouterr().out
    assert out.startswith(f"seed {seed}: 0 rounds")
    assert out.endswith("verdict: nothing was tried\n")
    assert options.played_seed == seed
