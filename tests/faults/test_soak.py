"""The soak in short: nothing of a worker grows or stays, and a leak would be seen."""

import pytest

from tests.faults.soak import Figures, Mark, Soak
from tests.faults.soak_mix import CYCLE, STRIDE, actions
from tests.servers import need

SHORT = 8_000
GENEROUS = 0.35
"""A worker that has just begun still grows: by the first mark of a short run it has seen little."""


@pytest.mark.timeout(300)
async def test_a_short_soak() -> None:
    need("redis")
    told: list[str] = []
    figures = await Soak(SHORT, flat=GENEROUS).run(told.append)
    assert not figures.faults, "\n".join(figures.lines())
    assert sum(figures.states.values()) == SHORT
    assert figures.lengths["actions"] == figures.lengths["pending"] == figures.lengths["legs"] == 0
    assert len(told) > 10


def test_the_mix_has_every_part_in_its_share() -> None:
    kinds = [tuple(fields[: fields.index("ActionID")]) for _, fields in actions(10_000)]
    assert len({*kinds}) == len({tuple(fields) for fields in CYCLE})
    assert all(STRIDE % factor or len(CYCLE) % factor for factor in range(2, STRIDE + 1))
    ids = [action_id for action_id, _ in actions(10_000)]
    assert len(ids) - len({*ids}) == 200


def test_growth_is_told() -> None:
    figures = Figures(10, [Mark(1, 1.0, 50.0, 20, 0), Mark(10, 2.0, 60.0, 20, 0)])
    assert figures.growth() == pytest.approx(0.2)
    assert "5 actions/s; memory +20.0% since the first mark" in figures.lines()
