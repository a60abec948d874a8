"""Banner, login in both ways, rights, and what a session is told about itself."""

import hashlib

from tests.simulated.raw import RawClient, parse, value
from workers.simulated import SimulatedAsterisk, User


async def test_banner_and_plain_login(asterisk: SimulatedAsterisk) -> None:
    async with RawClient(asterisk.port) as raw:
        assert await raw.until("\r\n") == "Asterisk Call Manager/11.0.0\r\n"
        assert await raw.login() == [
            [("Response", "Success"), ("ActionID", "login"), ("Message", "Authentication accepted")]
        ]
        (booted,) = parse(await raw.until(r"Status: Fully Booted\r\n\r\n"))
        assert [name for name, _ in booted] == ["Event", "Privilege", "Uptime", "LastReload", "Status"]
    (attempt,) = asterisk.logins
    assert (attempt.username, attempt.accepted) == ("amibus", True)
    assert asterisk.written == []


async def test_md5_login(asterisk: SimulatedAsterisk) -> None:
    async with RawClient(asterisk.port) as raw:
        raw.send("Action: Challenge", "AuthType: MD5")
        challenge = (await raw.until(r"Challenge: (\d+)\r\n\r\n")).split()[-1]
        key = hashlib.md5((challenge + "amibus").encode()).hexdigest()
        raw.send("Action: Login", "AuthType: MD5", "Username: AMIBUS", f"Key: {key}")
        await raw.until("Authentication accepted")


async def test_md5_login_needs_a_challenge_and_the_right_key(asterisk: SimulatedAsterisk) -> None:
    for key in (hashlib.md5(b"amibus").hexdigest(), "0" * 32):
        async with RawClient(asterisk.port) as raw:
            raw.send("Action: Login", "AuthType: MD5", "Username: amibus", f"Key: {key}")
            assert "Authentication failed" in await raw.until_eof()


async def test_wrong_secret_is_refused_and_closed(asterisk: SimulatedAsterisk) -> None:
    async with RawClient(asterisk.port) as raw:
        raw.send("Action: Login", "ActionID: l1", "Username: amibus", "Secret: wrong")
        raw.send("Action: Ping", "ActionID: p1")
        answer = parse((await raw.until_eof()).partition("\r\n")[2])
    assert answer == [[("Response", "Error"), ("ActionID", "l1"), ("Message", "Authentication failed")]]
    assert [attempt.accepted for attempt in asterisk.logins] == [False]


async def test_nothing_but_login_before_login(asterisk: SimulatedAsterisk) -> None:
    async with RawClient(asterisk.port) as raw:
        raw.send("Action: Ping", "ActionID: p1")
        await raw.until("Response: Error\r\nActionID: p1\r\nMessage: Permission denied\r\n\r\n")
        await raw.login()
    assert asterisk.written == []


async def test_events_off_brings_no_fully_booted(asterisk: SimulatedAsterisk, client: RawClient) -> None:
    await client.ask("Action: Ping")
    assert "FullyBooted" not in client.text


async def test_fully_booted_comes_when_booted() -> None:
    async with SimulatedAsterisk(boot_s=2.0) as asterisk, RawClient(asterisk.port) as raw:
        await raw.login()
        await raw.ask("Action: Ping")
        assert "FullyBooted" not in raw.text
        (booted,) = await raw.events_until("FullyBooted")
        assert value(booted, "Timestamp")


async def test_events_action(client: RawClient, listener: RawClient) -> None:
    assert await client.ask("Action: Events", "EventMask: call,user") == [
        [("Response", "Success"), ("ActionID", "ask"), ("Events", "On")]
    ]
    assert value((await client.ask("Action: Events", "EventMask: off"))[0], "Events") == "Off"
    assert value((await client.ask("Action: Events"))[0], "Message") == "Invalid event mask"


async def test_classes_permit_actions_and_events() -> None:
    users = {"some": User("some", read=frozenset({"user"}), write=frozenset({"call", "user"}))}
    async with SimulatedAsterisk(users=users) as asterisk, RawClient(asterisk.port) as raw:
        await raw.login("some")
        assert await raw.ask("Action: CoreStatus") == [
            [("Response", "Error"), ("ActionID", "ask"), ("Message", "Permission denied")]
        ]
        assert value((await raw.ask("Action: Setvar", "Variable: v", "Value: 1"))[0], "Response") == "Success"
        raw.send("Action: UserEvent", "UserEvent: Mine")
        await raw.until("Event: UserEvent")
    assert "VarSet" not in raw.text
    assert "FullyBooted" not in raw.text


async def test_a_bare_secret_means_every_right() -> None:
    async with SimulatedAsterisk(users={"one": "one"}) as asterisk, RawClient(asterisk.port) as raw:
        await raw.login("one")
        assert value((await raw.ask("Action: CoreStatus"))[0], "Response") == "Success"
    assert "one" not in repr(asterisk.users["one"])


async def test_logoff_says_goodbye_and_closes(client: RawClient) -> None:
    client.send("Action: Logoff", "ActionID: bye")
    (goodbye,) = parse(await client.until_eof())
    assert goodbye == [
        ("Response", "Goodbye"),
        ("ActionID", "bye"),
        ("Message", "Thanks for all the fish."),
    ]


async def test_a_second_login_changes_nothing(client: RawClient) -> None:
    (answer,) = await client.ask("Action: Login", "Username: amibus", "Secret: wrong")
    assert value(answer, "Message") == "Already authenticated"
