"""Producers without our client, as the README shows them, run against the true worker with a producer's rights."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from broker.codec import unpack
from tests.deploy.guarded import KEYS, ROOT, Stage, need, password, process

PROGRAMS: Final = Path(__file__).parent / "polyglot"
README: Final = ROOT / "README.md"
NODE_MODULES: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "amibus-tests" / "node"
USER: Final = "amibus-producer"


@pytest.fixture(scope="session")
def php() -> list[str]:
    found = shutil.which("php")
    need(found, "no PHP on this machine (Debian: apt-get install php-cli php-redis php-msgpack)")
    modules = subprocess.run([str(found), "-m"], capture_output=True, text=True, check=True).stdout.split()
    need({"redis", "msgpack"} <= set(modules), "PHP without redis or msgpack (Debian: php-redis php-msgpack)")
    return [str(found), str(PROGRAMS / "producer.php")]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    found = shutil.which("node")
    need(found and shutil.which("npm"), "no Node.js on this machine (Debian: apt-get install nodejs npm)")
    wanted = (PROGRAMS / "package.json").read_text()
    installed = NODE_MODULES / "package.json"
    if not (NODE_MODULES / "node_modules").is_dir() or installed.read_text() != wanted:
        NODE_MODULES.mkdir(parents=True, exist_ok=True)
        installed.write_text(wanted)
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(command, cwd=NODE_MODULES, capture_output=True, text=True, check=False)
        if done.returncode:
            installed.unlink()
        need(done.returncode == 0, f"npm cannot install what producer.mjs needs: {done.stderr[-300:]}")
    # Node looks for modules beside the program.
    directory = tmp_path_factory.mktemp("node")
    (directory / "node_modules").symlink_to(NODE_MODULES / "node_modules")
    program = Path(shutil.copy(PROGRAMS / "producer.mjs", directory))
    return [str(found), str(program)]


@pytest.fixture(scope="session")
def shell() -> list[str]:
    need(shutil.which("redis-cli"), "no redis-cli on this machine (Debian: apt-get install redis-tools)")
    return ["bash", str(PROGRAMS / "producer.sh")]


@pytest.fixture(params=["shell", "php", "node"])
def program(request: pytest.FixtureRequest) -> list[str]:
    command: list[str] = request.getfixturevalue(request.param)
    return command


@pytest.fixture
def run(stage: Stage, program: list[str]) -> Callable[[], tuple[int, str]]:
    settings = {
        "AMIBUS_REDIS": stage.server.url_of(USER),
        "REDIS_PORT": str(stage.server.port),
        "REDIS_USER": USER,
        "REDISCLI_AUTH": password(USER),
    }

    def run() -> tuple[int, str]:
        with process(program, settings, stdout=subprocess.PIPE) as running:
            said, _ = running.communicate(timeout=60)
            return running.returncode, said

    return run


def test_places_a_call_and_hears_of_its_outcome(stage: Stage, run: Callable[[], tuple[int, str]]) -> None:
    code, said = run()
    action_id, state = said.splitlines()[-1].split()
    assert (code, state) == (0, "done")
    with stage.monitor as monitor:
        assert monitor.hget(KEYS.action(action_id), "state") == "done"
        # Both came through, in their order.
        monitor.get_encoder().decode_responses = False
        raw = monitor.execute_command("HGET", KEYS.action(action_id), "request", NEVER_DECODE=True)
    assert unpack(raw)["Variable"] == ["a=1", "b=2"]


@pytest.mark.parametrize("name", ["producer.sh", "producer.php", "producer.mjs"])
def test_the_readme_shows_the_program_as_it_is(name: str) -> None:
    text = README.read_text()
    need("\n## Producing and receiving without our client\n" in text, "README.md does not have this section yet")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert (PROGRAMS / name).read_text() in blocks
