"""`deploy/amibus@.service`, its environment file and `amibus-spool@.service`, looked at by systemd's own tools."""

import re
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.deploy.guarded import DEPLOY, GuardedRedis, need, process, wait_until
from workers.cli.failures import SETTINGS
from workers.config import Settings, load_settings

UNIT = DEPLOY / "amibus@.service"
SPOOL_UNIT = DEPLOY / "amibus-spool@.service"
PROGRAM = "/opt/amibus/bin/amibus"
MAX_EXPOSURE = 15
"""In tenths, as `systemd-analyze security` counts: up to 20 is its best class, "OK"."""


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    need(tool, "no systemd-analyze on this machine (Debian: apt-get install systemd)")
    return str(tool)


@pytest.fixture(params=[UNIT, SPOOL_UNIT], ids=["worker", "spool"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each unit with a program that is there, since `verify` looks for it."""
    shipped: Path = request.param
    unit = tmp_path / shipped.name
    unit.write_text(shipped.read_text().replace(PROGRAM, str(shutil.which("true"))))
    return unit


def directives(unit: Path = UNIT) -> dict[str, list[str]]:
    """The unit's lines by name."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def test_systemd_understands_every_line(analyze: str, installed: Path) -> None:
    done = subprocess.run([analyze, "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_complain_of_a_wrong_line(analyze: str, installed: Path) -> None:
    installed.write_text(installed.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    done = subprocess.run([analyze, "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False)
    assert "NoNewPrivilege" in done.stderr


def test_is_hardened(analyze: str, installed: Path) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE}", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("unit", [UNIT, SPOOL_UNIT])
def test_a_wrong_setting_is_not_tried_again(unit: Path) -> None:
    assert directives(unit)["RestartPreventExitStatus"] == [str(SETTINGS)]
    assert directives(unit)["Restart"] == ["always"]
    assert directives(unit)["StartLimitIntervalSec"] == ["0"]


def test_stopping_leaves_time_to_drain() -> None:
    # Twice: first for the answers, then for the last events.
    assert int(directives()["TimeoutStopSec"][0]) > 2 * Settings.drain_s
    assert int(directives(SPOOL_UNIT)["TimeoutStopSec"][0]) > Settings.drain_s


def test_the_spool_may_write_where_it_works_and_the_group_may_read_it() -> None:
    unit = directives(SPOOL_UNIT)
    [directory] = unit["ReadWritePaths"]
    assert unit["ExecStart"] == [f"{PROGRAM} spool {directory}"]
    assert unit["UMask"] == ["0007"]
    page = (DEPLOY / "README.md").read_text()
    assert f"install -d -m 2770 -o root -g {unit['SupplementaryGroups'][0]} {directory.replace('%i', 'pbx1')}" in page


def test_the_spool_needs_no_more_than_a_producer_and_says_ready(guarded: GuardedRedis, tmp_path: Path) -> None:
    address, directory = tmp_path / "notify", tmp_path / "spool"
    directory.mkdir()
    settings = {
        "NOTIFY_SOCKET": str(address),
        "AMIBUS_REDIS": guarded.url_of("amibus-producer"),
        "AMIBUS_SERVER": "pbx1",
    }
    (directory / "ping.action").write_text("Action: Ping\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, guarded.client() as admin:
        systemd.bind(str(address))
        systemd.settimeout(60)
        admin.acl_log_reset()
        command = [sys.executable, "-m", "workers.cli", "spool", "--drain-s", "0", "--settle", "0.1", str(directory)]
        with process(command, settings) as spool:
            assert systemd.recv(200) == b"READY=1"
            wait_until("the action is queued", lambda: admin.xlen("ami:{pbx1}:actions") == 1)
            spool.terminate()
            assert spool.wait(60) == 0
        # The heartbeat is not a producer's to read, and then nothing is said of an absent worker.
        assert {entry["object"] for entry in admin.acl_log()} <= {"client|setinfo", "client", "ami:{pbx1}:worker"}


def test_the_worker_understands_the_environment(tmp_path: Path) -> None:
    for name in ("ami-secret", "ami-events-secret"):
        (tmp_path / name).write_text(f"{name}\n")
    environment = {}
    for line in directives()["Environment"]:
        name, _, value = line.replace("%i", "pbx1").replace("%d", str(tmp_path)).partition("=")
        environment[name] = value
    settings = load_settings(environment=environment | example())
    assert (settings.server, settings.ami_username, settings.ami_events_username) == ("pbx1", "amibus", "amibus-events")
    assert (settings.ami_secret, settings.ami_events_secret) == ("ami-secret", "ami-events-secret")


def test_the_manager_users_are_those_of_manager_conf() -> None:
    users = re.findall(r"^\[(.+)\]", (DEPLOY / "manager.conf").read_text(), re.MULTILINE)
    environment = dict(line.split("=", 1) for line in directives()["Environment"])
    assert {environment["AMIBUS_AMI_USERNAME"], environment["AMIBUS_AMI_EVENTS_USERNAME"]} <= set(users)


@pytest.mark.parametrize(
    "name", re.findall(r"^#?(AMIBUS_\w+)=", (DEPLOY / "amibus.env.example").read_text(), re.MULTILINE)
)
def test_every_line_of_the_example_is_a_setting(name: str) -> None:
    assert hasattr(Settings, name.removeprefix("AMIBUS_").lower())


def test_what_the_example_shows_as_default_is_the_default() -> None:
    shown = example(commented=True)
    del shown["AMIBUS_ALLOW"], shown["AMIBUS_EVENT_SPOOL_DIR"]  # of which an empty default would show nothing
    for name, text in shown.items():
        default = getattr(Settings, name.removeprefix("AMIBUS_").lower())
        assert type(default)(text) == default, name


def test_the_spool_of_the_example_lies_where_the_unit_lets_it_be_made() -> None:
    wanted = Path(example(commented=True)["AMIBUS_EVENT_SPOOL_DIR"])
    assert wanted.parent == Path("/var/lib") / directives()["StateDirectory"][0].replace("%i", "pbx1")
    assert directives()["StateDirectoryMode"] == ["0700"]


def example(*, commented: bool = False) -> dict[str, str]:
    """What systemd would read from the example, or the lines that are commented out in it."""
    start = "#AMIBUS_" if commented else "AMIBUS_"
    lines = [line for line in (DEPLOY / "amibus.env.example").read_text().splitlines() if line.startswith(start)]
    return dict(line.removeprefix("#").split("=", 1) for line in lines)


def test_says_ready_and_feeds_the_watchdog(guarded: GuardedRedis, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    settings = {
        "NOTIFY_SOCKET": str(address),
        "AMIBUS_REDIS": guarded.url_of("amibus-worker"),
        "AMIBUS_SERVER": "pbx1",
        "AMIBUS_AMI": "127.0.0.1:1",  # Asterisk is away: no reason to be restarted
        "AMIBUS_AMI_SECRET": "amibus",
        "AMIBUS_LOG_LEVEL": "error",
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60)
        with process([sys.executable, "-m", "workers.cli", "worker"], settings) as worker:
            said = [systemd.recv(200).decode() for _ in range(3)]
            worker.terminate()
            assert worker.wait(60) == 0
    assert "READY=1" in said
    assert "WATCHDOG=1" in said
