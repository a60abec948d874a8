"""The scripts and the model of the contract, by the same random steps, on servers of both kinds; and what is broken on
purpose is found.

The short profile is the same in each run. The long one is random: it looks for what the short one does not reach, and
goes through the broken scripts that only many examples find.

    AMIBUS_MODEL_EXAMPLES=5000 pytest tests/model                      # so many examples for each kind of server
    AMIBUS_MODEL_EXAMPLES=5000 pytest tests/model --hypothesis-seed=7  # the same ones again
"""

import os
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.broken import BROKEN, Broken
from tests.model.machine import ScriptsMachine
from tests.model.real import Real
from tests.model.snapshot import Disagreement
from tests.servers import KINDS, RedisServer, need

SHORT: Final = 40
"""Examples for each kind of server."""

EXAMPLES: Final = int(os.environ.get("AMIBUS_MODEL_EXAMPLES", "0"))
"""Of the long profile; 0: the short one."""

BROKEN_EXAMPLES: Final = 600
RARE_EXAMPLES: Final = 3_000
"""Within which a broken script must have been found."""

STEPS: Final = 40

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 600)


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One of its own: its memory is limited, and nothing of it needs to be kept."""
    need(request.param)
    server = RedisServer(request.param, "--appendonly", "no")
    server.start()
    yield server
    server.stop()


def run(real: Real, examples: int, *, shrinks: bool = True) -> None:
    """So many examples. Raises what the first disagreement was, after looking for a smaller one."""
    phases = [Phase.generate, Phase.shrink] if shrinks else [Phase.generate]
    profile = settings(
        max_examples=examples, stateful_step_count=STEPS, derandomize=not EXAMPLES, database=None, deadline=None,
        phases=phases, report_multiple_bugs=False, suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    machine: Any = lambda: ScriptsMachine(real)  # noqa: E731
    try:
        run_state_machine_as_test(machine, settings=profile)
    finally:
        real.close()


def test_the_scripts_keep_the_contract(server: RedisServer) -> None:
    run(Real(server.url), EXAMPLES or SHORT)


def _name(broken: Broken) -> str:
    return broken.why.replace(" ", "-")


@pytest.mark.parametrize("server", KINDS[:1], indirect=True)
@pytest.mark.parametrize("broken", [broken for broken in BROKEN if EXAMPLES or not broken.is_rare], ids=_name)
def test_broken_scripts_are_caught(server: RedisServer, broken: Broken) -> None:
    real = Real(server.url, {broken.script: broken.text()})
    with pytest.raises(Disagreement):
        run(real, RARE_EXAMPLES if broken.is_rare else BROKEN_EXAMPLES, shrinks=False)
