"""The lab itself: both Asterisks start, answer, die and come back, side by side, and leave nothing behind."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.lab.asterisk import LabAsterisk
from tests.lab.configuration import LAB_USERS, PRODUCTION_USERS
from tests.lab.fetch import LabUnavailable, ensure
from tests.lab.fixtures import FETCH_TIMEOUT_S, require_asterisk
from tests.lab.mirror import mirror_in
from tests.lab.session import Session, logged_in
from tests.lab.suites import SUITES
from tests.ports import free_port

pytestmark = [pytest.mark.timeout(FETCH_TIMEOUT_S)]
MODULES = (
    "app_agent_pool",
    "app_confbridge",
    "app_mixmonitor",
    "app_queue",
    "app_voicemail",
    "bridge_softmix",
    "chan_iax2",
    "chan_pjsip",
    "func_devstate",
    "pbx_config",
    "res_manager_devicestate",
    "res_manager_presencestate",
    "res_musiconhold",
    "res_parking",
)
both = pytest.mark.parametrize("series", list(SUITES))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


@asynccontextmanager
async def lab(series: str) -> AsyncIterator[LabAsterisk]:
    """An Asterisk of the test's own."""
    require_asterisk(series)
    async with LabAsterisk(series) as asterisk:
        yield asterisk


@both
@pytest.mark.live
async def test_it_starts_answers_and_leaves_nothing_behind(series: str) -> None:
    async with lab(series) as asterisk:
        pid, home = asterisk.pid, asterisk.config_dir.parent
        assert asterisk.version.startswith(f"{series}.")
        async with logged_in(asterisk, "amibus") as session:
            assert session.received.startswith(SUITES[series].ami_banner.encode() + b"\r\n")
            assert b"Ping: Pong\r\n" in await session.action("Ping")
        assert is_alive(pid)
        assert "System uptime" in await asterisk.cli("core show uptime")
    assert not is_alive(pid)
    assert not home.exists()
    assert not asterisk.running


@both
@pytest.mark.live
async def test_it_comes_back_on_the_same_port_after_a_crash(series: str) -> None:
    async with lab(series) as asterisk:
        port, first = asterisk.port, asterisk.pid
        async with logged_in(asterisk, "observer") as session:
            await asterisk.kill()
            with pytest.raises(ConnectionResetError):
                await session.wait_for(b"Goodbye")
        assert not is_alive(first)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(asterisk.host, port)
        await asterisk.start()
        assert (asterisk.port, asterisk.pid == first) == (port, False)
        async with logged_in(asterisk, "observer") as session:
            assert b"Ping: Pong\r\n" in await session.action("Ping")


@pytest.mark.live
async def test_instances_run_side_by_side() -> None:
    async with lab("22") as one, lab("22") as two, lab("16") as three:
        instances = (one, two, three)
        for asterisk in instances:
            async with logged_in(asterisk, "observer") as session:
                up = await session.action("Command", "Command: iax2 show peers", until=b"Output: ")
            assert b"labpeer" in up
            assert str(asterisk.sip_port) in await asterisk.cli("pjsip show transports")
        assert len({(asterisk.port, asterisk.sip_port, asterisk.pid) for asterisk in instances}) == 3


async def test_shared_instances_have_the_modules_that_tests_count_on(asterisk: LabAsterisk) -> None:
    loaded = await asterisk.cli("module show")
    for module in MODULES:
        assert f"{module}.so" in loaded


async def test_rights_are_those_of_the_production_example(asterisk: LabAsterisk) -> None:
    assert set(asterisk.users) == {*PRODUCTION_USERS, *LAB_USERS}
    denied = b"Message: Permission denied"
    command = ("Command", "Command: core show version")
    async with (
        logged_in(asterisk, "amibus") as actions,
        logged_in(asterisk, "amibus-events", events="on") as events,
        logged_in(asterisk, "limited") as limited,
    ):
        assert b"Output: Asterisk " in await actions.action(*command, until=b"Output: ")
        assert denied in await actions.action("ModuleLoad", "Module: app_echo.so", "LoadType: reload")
        assert denied in await events.action(*command)
        assert denied in await limited.action(*command)
        assert b"Event: FullyBooted" in events.received
        assert b"Event: " not in actions.received


async def test_a_call_is_recorded_into_the_spool(asterisk: LabAsterisk) -> None:
    async with (
        logged_in(asterisk, "amibus") as actions,
        logged_in(asterisk, "amibus-events", events="on") as events,
    ):
        await _originate(actions, "900", "recorded")
        await events.wait_for(b"Event: MixMonitorStart")
        # a recording that ends with its call raises no MixMonitorStop, one that is stopped does
        assert b"Response: Success" in await actions.action("StopMixMonitor", "Channel: recorded;2")
        await events.wait_for(b"Event: MixMonitorStop")
        await actions.action("Hangup", "Channel: recorded")
        await events.wait_for(b"Event: Hangup\r\n")
    assert [path.suffix for path in (asterisk.spool_dir / "monitor").iterdir()] == [".wav"]


async def _originate(session: Session, extension: str, channel_id: str) -> None:
    answer = await session.action(
        "Originate",
        f"Channel: Local/{extension}@default",
        "Application: Wait",
        "Data: 300",
        "Async: true",
        f"ChannelId: {channel_id}",
    )
    assert b"Response: Success" in answer


def test_an_unknown_series_is_refused_with_a_sentence() -> None:
    with pytest.raises(LabUnavailable, match="there is no lab for Asterisk '11', only for 22 and 16"):
        ensure("11")


def test_without_apt_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AMIBUS_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabUnavailable, match="apt-get is not here"):
        ensure("22")


def test_a_mirror_that_does_not_answer_is_a_sentence_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AMIBUS_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("AMIBUS_LAB_MIRROR", f"http://127.0.0.1:{free_port()}/debian")
    progress: list[str] = []
    with pytest.raises(LabUnavailable, match=r"could not get Asterisk 22 from Debian sid: .*Connection refused"):
        ensure("22", progress=progress.append)
    assert [path.name for path in tmp_path.iterdir()] == ["22.lock"]
    assert progress == ["Asterisk 22: reading the package lists of Debian sid"]


@pytest.mark.parametrize(
    ("uris", "mirror"),
    [
        ("'http://a.example/debian/dists/bookworm/InRelease' x 0 \n", "http://a.example/debian"),
        (
            """'http://a.example/debian-security/dists/bookworm-security/InRelease' x 0
'mirror+file:/etc/apt/mirrors/debian.list/dists/trixie/InRelease' x 0
""",
            "mirror+file:/etc/apt/mirrors/debian.list",
        ),
        ("'http://a.example/ubuntu/dists/noble/InRelease' x 0\n", None),
        ("'http://a.example/debian/dists/bookworm-backports/InRelease' x 0\n", None),
        ("", None),
    ],
)
def test_the_mirror_is_the_one_of_apt(uris: str, mirror: str | None) -> None:
    assert mirror_in(uris) == mirror
