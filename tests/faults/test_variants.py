"""Each deliberately broken worker is caught, in a short scene that the sound one passes."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
import pytest_asyncio

from broker import scripts
from tests.faults.breaking import rewrite, rewrite_script
from tests.faults.history import check
from tests.faults.mishaps import barred_here
from tests.faults.scenes import CAUGHT, ENOUGH, GOOD_DAY, IN_VAIN, SCENES, Scene, play
from tests.faults.variants import VARIANTS
from tests.faults.world import World
from tests.servers import KINDS, need

pytestmark = pytest.mark.asyncio(loop_scope="module")

KIND_OF = {name: KINDS[number % len(KINDS)] for number, name in enumerate(CAUGHT)}
"""By turns: what breaks a promise on one server does so on the other."""


class Worlds:
    """One world of each kind and layout, made when it is first wanted, and anew when a round has failed in it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._worlds: dict[tuple[str, str], World] = {}

    async def of(self, kind: str, scene: Scene) -> World:
        """The world of that kind in which this scene can be played."""
        need(kind)
        if why := barred_here().get(scene.needs):
            (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
        key = kind, scene.layout
        if key in self._worlds and not self._worlds[key].is_clean:
            await self._worlds.pop(key).close()
        if key not in self._worlds:
            world = World(kind, 1, layout=scene.layout, small_disks=True, clocks=True)
            self._worlds[key] = await self._stack.enter_async_context(world)
        return self._worlds[key]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds() -> AsyncIterator[Worlds]:
    async with AsyncExitStack() as stack:
        yield Worlds(stack)


@pytest.mark.parametrize("variant", CAUGHT)
async def test_each_broken_variant_is_caught(worlds: Worlds, variant: str) -> None:
    scene, rule = CAUGHT[variant]
    world = await worlds.of(KIND_OF[variant], scene)
    violations = check(await play(world, scene, variant, in_vain=variant in IN_VAIN))
    assert rule in {violation.rule for violation in violations}, [str(violation) for violation in violations]


@pytest.mark.parametrize("variant", ENOUGH)
async def test_one_guard_of_two_suffices(worlds: Worlds, variant: str) -> None:
    assert check(await play(await worlds.of("redis", ENOUGH[variant]), ENOUGH[variant], variant)) == []


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_scenes_pass_unbroken(worlds: Worlds, kind: str, scene: Scene) -> None:
    history = await play(await worlds.of(kind, scene), scene)
    assert [str(violation) for violation in check(history)] == []


async def test_a_world_in_which_a_round_has_failed_is_left(worlds: Worlds) -> None:
    left = await worlds.of("redis", GOOD_DAY)
    with pytest.raises(ZeroDivisionError):
        async with left.round(1):
            raise ZeroDivisionError
    world = await worlds.of("redis", GOOD_DAY)
    assert world is not left
    assert not left.directory.exists()
    assert check(await play(world, GOOD_DAY)) == []
    assert await worlds.of("redis", GOOD_DAY) is world


async def test_every_variant_is_to_be_caught_or_shown_to_be_harmless() -> None:
    assert CAUGHT.keys() | ENOUGH.keys() == VARIANTS.keys()
    assert CAUGHT.keys() >= IN_VAIN
    assert {scene for scene, _ in CAUGHT.values()} | set(ENOUGH.values()) == set(SCENES)


async def test_a_variant_does_not_come_to_nothing_when_the_code_changes() -> None:
    with pytest.raises(AssertionError, match="Scene\\.name has 'no such words' 0 times"):
        rewrite(SimpleNamespace(__name__="Scene", name=play), "name", ("no such words", ""))
    before = scripts.source
    with pytest.raises(AssertionError, match=r"settle\.lua has 'local' \d\d times"):
        rewrite_script("settle", ("local", ""))
    assert scripts.source is before
