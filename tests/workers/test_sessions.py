"""The four sessions and their coming and going, against the simulated Asterisk."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from broker.ami import Action, Event, spec_of
from broker.errors import SettingsError
from tests.workers.worker_process import DEADLINE_S, EVENTS_SECRET, SECRET, USERS, eventually, make_settings, soon
from workers import sessions as module
from workers.config import Settings
from workers.connection import AnswerTimeout, Asked, ConnectionLost
from workers.sessions import Sessions
from workers.simulated import ALL_CLASSES, SimulatedAsterisk, User


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        yield simulated


class Story:
    """What the sessions told: `ready`, and the roles that were lost."""

    def __init__(self, settings: Settings) -> None:
        self.told: list[str] = []
        self.events: list[Event] = []
        self.sessions = Sessions(
            settings,
            on_event=self.events.append,
            on_ready=lambda: self.told.append("ready"),
            on_away=lambda role, _why: self.told.append(f"{role} lost"),
            on_back=lambda role: self.told.append(f"{role} back"),
        )
        self.task = asyncio.create_task(self.sessions.run())

    def is_ready(self, times: int = 1) -> bool:
        return self.sessions.is_ready and self.told.count("ready") >= times


@contextlib.asynccontextmanager
async def kept(asterisk: SimulatedAsterisk, **settings: str) -> AsyncIterator[Story]:
    story = Story(make_settings("redis://unused", asterisk, **settings))
    try:
        yield story
    finally:
        story.task.cancel()
        await asyncio.gather(story.task, return_exceptions=True)
        await eventually(lambda: not asterisk.sessions)


async def ask(story: Story, role: str, name: str, action_id: str, timeout_s: float = DEADLINE_S) -> None:
    await soon(story.sessions.request(role, Asked(Action(name, [], action_id), spec_of(name), timeout_s)))


async def refusal(asterisk: SimulatedAsterisk, **settings: str) -> str:
    """The sentence with which the sessions end."""
    async with kept(asterisk, **settings) as story:
        with pytest.RaisesGroup(SettingsError) as raised:
            await soon(story.task)
        return str(raised.value.exceptions[0])


async def test_four_sessions_and_only_one_hears_events(asterisk: SimulatedAsterisk) -> None:
    async with kept(asterisk) as story:
        await eventually(story.is_ready)
        assert [session.username for session in asterisk.sessions if session.mask] == ["amibus-events"]
        assert [session.username for session in asterisk.sessions if not session.mask] == ["amibus"] * 3
        for role in ("urgent", "write", "read"):
            await ask(story, role, "Ping", f"ping-{role}")
        assert len({asterisk.writes(f"ping-{role}")[0].session for role in ("urgent", "write", "read")}) == 3
        assert story.told == ["ready"]


async def test_actions_wait_for_fully_booted() -> None:
    async with SimulatedAsterisk(users=USERS, boot_s=0.3) as asterisk, kept(asterisk) as story:
        await eventually(lambda: asterisk.logins)
        while not asterisk.is_booted:
            assert not story.sessions.is_ready
            assert [login.username for login in asterisk.logins] == ["amibus-events"]
            await asyncio.sleep(0.01)
        await eventually(story.is_ready)
        assert len(asterisk.logins) == 4


async def test_fully_booted_is_waited_for_again_after_the_events_session_was_lost(asterisk: SimulatedAsterisk) -> None:
    async with kept(asterisk) as story:
        await eventually(story.is_ready)
        asterisk.is_booted = False
        await asterisk.drop_connections("events")
        await eventually(lambda: len(asterisk.logins) == 5 and len(asterisk.sessions) == 4)
        await ask(story, "read", "Ping", "a1")  # that session never went away
        assert not story.sessions.is_ready
        asterisk.tell("FullyBooted", "system")
        await eventually(lambda: story.is_ready(2))
        assert story.told == ["ready", "events lost", "ready"]


async def test_an_events_user_who_may_not_read_system_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOT_PATIENCE_S", 0.1)
    users: dict[str, User | str] = {
        "amibus": SECRET,
        "amibus-events": User(EVENTS_SECRET, read=ALL_CLASSES - {"system"}),
    }
    async with SimulatedAsterisk(users=users) as asterisk:
        with capture_logs() as logs:
            async with kept(asterisk) as story:
                await eventually(lambda: logs)
                assert not story.sessions.is_ready
    assert [line["event"] for line in logs] == ["actions wait for Asterisk's event FullyBooted"]
    assert "'amibus-events' lacks the class system in read=" in logs[0]["hint"]
    assert "ami_events_username" in logs[0]["hint"]


async def test_a_wrong_secret_is_an_error_of_the_settings(asterisk: SimulatedAsterisk) -> None:
    sentence = await refusal(asterisk, ami_secret="wrong-one")
    assert "refused the login of 'amibus' (Authentication failed)" in sentence
    assert "AMIBUS_AMI_SECRET (or AMIBUS_AMI_SECRET_FILE)" in sentence
    assert "wrong-one" not in sentence
    assert [login.username for login in asterisk.logins] == ["amibus-events", "amibus"]


async def test_a_wrong_secret_of_the_events_user(asterisk: SimulatedAsterisk) -> None:
    sentence = await refusal(asterisk, ami_events_secret="wrong-one")
    assert "'amibus-events'" in sentence
    assert "AMIBUS_AMI_EVENTS_SECRET" in sentence
    assert len(asterisk.logins) == 1


async def test_a_user_name_that_cannot_be_sent(asterisk: SimulatedAsterisk) -> None:
    sentence = await refusal(asterisk, ami_events_username="x" * 2000)
    assert "cannot be sent to Asterisk" in sentence
    assert asterisk.logins == []


async def test_a_user_who_may_log_in_only_once() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Asterisk Call Manager/11.0.0\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"Response: Error\r\nActionID: login-challenge\r\nMessage: Login Already In Use\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        asterisk = SimulatedAsterisk(port=server.sockets[0].getsockname()[1])
        assert "allowmultiplelogin=yes" in await refusal(asterisk)


async def test_an_asterisk_that_shuts_down_has_not_refused_the_secret(asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.shutting_down = True
    with capture_logs() as logs:
        async with kept(asterisk) as story:
            await eventually(lambda: logs)
            assert logs[0]["event"] == "asterisk is away"
            assert logs[0]["error"] == "Asterisk is shutting down"
            asterisk.faults.clear()
            await eventually(story.is_ready)


async def test_a_login_refused_later_is_tried_seldom_and_told_once(
    asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.3)
    with capture_logs() as logs:
        async with kept(asterisk) as story:
            await eventually(story.is_ready)
            asterisk.faults.refuse_login = True
            await asterisk.drop_connections("actions")
            await eventually(lambda: sum(not login.accepted for login in asterisk.logins) >= 4)
            refused = [login.at for login in asterisk.logins if not login.accepted]
            # Three sessions of one user, and still one login at a time.
            assert all(later - earlier >= 0.29 for earlier, later in pairwise(refused))
            assert "AMIBUS_AMI_SECRET" in story.sessions.why
            asterisk.faults.refuse_login = False
            await eventually(lambda: sum(each.endswith("back") for each in story.told) == 3)
            assert story.sessions.why == ""
    told = [line for line in logs if line["event"] == "login refused"]
    assert len(told) == 1
    assert "AMIBUS_AMI_SECRET" in told[0]["hint"]


@pytest.mark.parametrize("role", ["urgent", "write", "read"])
async def test_a_session_that_was_given_up_is_replaced_and_the_others_stay(
    asterisk: SimulatedAsterisk, role: str
) -> None:
    async with kept(asterisk) as story:
        await eventually(story.is_ready)
        before = {session.number for session in asterisk.sessions}
        asterisk.faults.lose_response("a1")
        with pytest.raises(AnswerTimeout):
            await ask(story, role, "Ping", "a1", timeout_s=0.1)
        await eventually(lambda: f"{role} back" in story.told)
        await ask(story, role, "Ping", "a2")
        assert len({session.number for session in asterisk.sessions} - before) == 1
        assert story.told == ["ready", f"{role} lost", f"{role} back"]


async def test_a_session_is_not_there_any_more_from_the_instant_of_its_loss(asterisk: SimulatedAsterisk) -> None:
    async with kept(asterisk) as story:
        await eventually(story.is_ready)
        assert story.sessions.present == {"events", "urgent", "write", "read"}
        story.sessions._connections["write"].abort("gone")
        # No turn of the loop has passed: whoever looks before a write must see it.
        assert story.sessions.present == {"events", "urgent", "read"}


async def test_a_restart_of_asterisk_is_told_once(asterisk: SimulatedAsterisk) -> None:
    with capture_logs() as logs:
        async with kept(asterisk) as story:
            await eventually(story.is_ready)
            await asterisk.stop()
            await eventually(lambda: [line for line in logs if line["event"] == "asterisk is away"])
            await asterisk.start()
            await eventually(lambda: story.is_ready(2))
            assert [event.name for event in story.events] == ["FullyBooted", "FullyBooted"]
    told = [line["event"] for line in logs]
    assert told == ["asterisk is here", "asterisk session lost", "asterisk is away", "asterisk is here"]


async def test_an_asterisk_that_is_not_there_yet(asterisk: SimulatedAsterisk) -> None:
    await asterisk.stop()
    with capture_logs() as logs:
        async with kept(asterisk) as story:
            await eventually(lambda: logs)
            with pytest.raises(ConnectionLost) as lost:
                await ask(story, "write", "Ping", "a1")
            assert not lost.value.written
            await asterisk.start()
            await eventually(story.is_ready)
    assert [line["event"] for line in logs] == ["asterisk is away", "asterisk is here"]


async def test_actions_under_way_are_counted(asterisk: SimulatedAsterisk) -> None:
    async with kept(asterisk) as story:
        await eventually(story.is_ready)
        asterisk.faults.hold_response("a1")
        asked = asyncio.create_task(ask(story, "write", "Ping", "a1"))
        await eventually(lambda: story.sessions.in_flight == 1)
        asterisk.faults.resume()
        await asked
        assert story.sessions.in_flight == 0
