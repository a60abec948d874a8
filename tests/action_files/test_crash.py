"""A spool that is killed at every step, and at any moment: each action reaches Asterisk exactly once all the same."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.action_files.bench import names, put, states
from tests.action_files.dying import PLACES
from tests.workers.worker_process import USERS, eventually, make_settings, running_worker, soon
from workers.simulated import SimulatedAsterisk

ONE_KIND = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
FILES = 8
PER_FILE = 2


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


@pytest.fixture
async def worker(redis_url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[None]:
    async with running_worker(make_settings(redis_url, asterisk, lease_s=5.0)):
        yield


async def spool(directory: Path, url: str, *before: str) -> Any:
    """Start the command, `--once`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AMIBUS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", *(before or ("workers.cli", "spool")),
        "--once", "--settle", "0.1", "--server", "pbx1", str(directory),
        env=own | {"AMIBUS_REDIS": url}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


def fill(directory: Path, files: int) -> None:
    for number in range(files):
        (directory / f"a{number}.out").write_text("an old answer")
        put(directory, f"a{number}", *[f"Action: Setvar; Variable: v{number}; Value: {n}" for n in range(PER_FILE)])


def check(directory: Path, asterisk: SimulatedAsterisk, files: int) -> None:
    """Every file has its answer, and Asterisk has seen every action once."""
    assert names(directory) == {f"a{number}.out" for number in range(files)}
    for number in range(files):
        assert states((directory / f"a{number}.out").read_text()) == ["done"] * PER_FILE
    seen = Counter(
        tuple(line for line in each.text.split("\n") if line.startswith(("Variable: ", "Value: ")))
        for each in asterisk.written
        if each.action == "Setvar"
    )
    asked = [(f"Variable: v{number}", f"Value: {n}") for number in range(files) for n in range(PER_FILE)]
    assert seen == Counter(asked)


@ONE_KIND
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("place", PLACES)
async def test_killed_at_a_step(
    tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk, place: str, nth: int
) -> None:
    fill(tmp_path, FILES)
    process = await spool(tmp_path, redis_url, "tests.action_files.dying", place, str(nth))
    assert await soon(process.wait()) == -signal.SIGKILL
    process = await spool(tmp_path, redis_url)
    assert await soon(process.wait()) == 0
    check(tmp_path, asterisk, FILES)


@pytest.mark.usefixtures("worker")
async def test_killed_again_and_again(tmp_path: Path, redis_url: str, asterisk: SimulatedAsterisk) -> None:
    files, seed = 150, random.randrange(10**6)
    print("seed", seed)  # shown where it fails
    chance = random.Random(seed)
    fill(tmp_path, files)
    for _ in range(6):
        enough = written(asterisk) + chance.randrange(2 * files // 6)
        process = await spool(tmp_path, redis_url)
        await eventually(lambda: process.returncode is not None or written(asterisk) >= enough)  # noqa: B023
        if process.returncode is None:
            process.kill()
        await soon(process.wait())
    process = await spool(tmp_path, redis_url)
    assert await soon(process.wait()) == 0
    check(tmp_path, asterisk, files)


def written(asterisk: SimulatedAsterisk) -> int:
    """How many actions of the files Asterisk has seen."""
    return sum(each.action == "Setvar" for each in asterisk.written)
