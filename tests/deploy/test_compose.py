"""`deploy/compose.yaml` and `deploy/Dockerfile`, read only: no Docker engine runs them here."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deploy.guarded import DEPLOY, ROOT
from tests.deploy.test_unit import directives
from workers.cli import cli
from workers.config import Settings, load_settings

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
DOCKERFILE: Final = (DEPLOY / "Dockerfile").read_text()


def test_names_its_services() -> None:
    assert set(SERVICES) == {"redis", "worker", "producer"}


@pytest.mark.parametrize("volume", [each for each in SERVICES["redis"]["volumes"] if each.startswith("./")])
def test_what_is_mounted_is_there(volume: str) -> None:
    path = Path(volume.split(":")[0])
    # The operator's own secrets are made from a file of the same name.
    assert (DEPLOY / path).exists() or (path.parent.name == "secrets" and (DEPLOY / path.name).exists())


def test_redis_runs_with_our_configuration_and_is_open_to_the_loopback_alone() -> None:
    assert "/etc/amibus/redis.conf" in SERVICES["redis"]["command"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["redis"]["ports"])


def test_the_worker_understands_its_environment(tmp_path: Path) -> None:
    for name in COMPOSE["secrets"]:
        (tmp_path / name).write_text(name)
    given = SERVICES["worker"]["environment"]
    settings = load_settings(
        environment={name: value.replace("/run/secrets", str(tmp_path)) for name, value in given.items()}
    )
    assert settings.server == "pbx1"
    assert (settings.ami_secret, settings.ami_events_secret) == ("ami-secret", "ami-events-secret")
    assert set(SERVICES["worker"]["secrets"]) == set(COMPOSE["secrets"])


def test_the_worker_has_time_to_drain() -> None:
    assert SERVICES["worker"]["stop_grace_period"] == f"{directives()['TimeoutStopSec'][0]}s"
    assert int(SERVICES["worker"]["stop_grace_period"][:-1]) > 2 * Settings.drain_s


def test_the_producer_is_an_example_that_our_command_line_takes() -> None:
    assert SERVICES["producer"]["profiles"] == ["example"]
    command, *arguments = SERVICES["producer"]["command"]
    parsed = cli.commands[command].make_context(command, arguments)
    assert (parsed.params["server"], parsed.params["action"], parsed.params["wait_s"]) == ("pbx1", "Ping", 10.0)


def test_the_image_has_all_that_the_package_is_built_from() -> None:
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *packages}
    assert needed <= copied
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert let_in == copied
    assert re.search(r"^USER 10001", DOCKERFILE, re.MULTILINE)


def test_the_image_ends_on_the_signal_that_drains() -> None:
    assert re.findall(r"^STOPSIGNAL (\w+)", DOCKERFILE, re.MULTILINE) == directives()["KillSignal"]
