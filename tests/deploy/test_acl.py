"""`deploy/users.acl`: what each user may do, and what it is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from broker import Bus
from broker.scripts import source
from tests.deploy.guarded import DEPLOY, KEYS, PLACEHOLDER, ROOT, USERS, GuardedRedis, Stage, password, wait_until

SCRIPTS = sorted(path.stem for path in (ROOT / "broker" / "scripts").glob("*.lua"))
OTHER = "ami:{pbx2}:"

PRODUCER_MAY = (
    ("XADD", KEYS.actions, "*", "Action", "Ping", "Variable", "a=1", "Variable", "b=2"),
    ("XADD", KEYS.urgent, "*", "Action", "Ping"),
    ("XLEN", KEYS.actions),
    ("HGETALL", KEYS.action("call-42")),
    ("HMGET", KEYS.action("call-42"), "state", "error_code"),
    ("SUBSCRIBE", KEYS.action("call-42"), KEYS.reply("web-1")),
    ("SSUBSCRIBE", KEYS.reply("web-1")),
    ("TIME",),
    ("PING",),
)
PRODUCER_MAY_NOT = (
    ("XADD", OTHER + "actions", "*", "Action", "Ping"),
    ("XADD", KEYS.results, "*", "state", "done"),
    ("HGETALL", OTHER + "action:call-42"),
    ("HGETALL", KEYS.worker),
    ("HSET", KEYS.action("call-42"), "state", "done"),
    ("SUBSCRIBE", OTHER + "action:call-42"),
    ("SUBSCRIBE", KEYS.event("Newchannel")),
    ("PSUBSCRIBE", "*"),
    ("PSUBSCRIBE", KEYS.action("*")),
    ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", KEYS.actions, ">"),
    ("XRANGE", KEYS.actions, "-", "+"),
    ("XDEL", KEYS.actions, "1-1"),
    ("XTRIM", KEYS.actions, "MAXLEN", "0"),
    ("PUBLISH", KEYS.action("call-42"), "forged"),
    ("EVAL", "return 1", "0"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("DEL", KEYS.actions),
    ("DEL", KEYS.action("call-42")),
    ("RENAME", KEYS.actions, KEYS.actions),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("MONITOR",),
    ("ACL", "WHOAMI"),
)
MONITOR_MAY = (
    ("XLEN", KEYS.actions),
    ("XRANGE", KEYS.actions, "-", "+", "COUNT", "5"),
    ("XREVRANGE", KEYS.results, "+", "-", "COUNT", "5"),
    ("XREVRANGE", OTHER + "dead", "+", "-", "COUNT", "5"),
    ("XREAD", "COUNT", "1", "STREAMS", KEYS.events, "0"),
    ("XPENDING", KEYS.actions, "workers"),
    ("XINFO", "STREAM", KEYS.actions),
    ("XINFO", "GROUPS", KEYS.actions),
    ("XINFO", "CONSUMERS", KEYS.actions, "workers"),
    ("HGETALL", KEYS.action("call-42")),
    ("HGETALL", KEYS.worker),
    ("HGETALL", KEYS.legs),
    ("GET", KEYS.lease),
    ("PTTL", KEYS.worker),
    ("ZRANGE", "ami:servers", "0", "-1", "WITHSCORES"),
    ("LRANGE", KEYS.action("call-42") + ":items", "0", "-1"),
    ("INFO",),
    ("SUBSCRIBE", KEYS.action("call-42")),
    ("PSUBSCRIBE", KEYS.event("*")),
    ("PSUBSCRIBE", KEYS.action("*")),
    ("PSUBSCRIBE", "ami:*"),
)
MONITOR_MAY_NOT = (
    ("XADD", KEYS.actions, "*", "Action", "Ping"),
    ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", KEYS.actions, ">"),
    ("XACK", KEYS.actions, "workers", "1-1"),
    ("XDEL", KEYS.actions, "1-1"),
    ("XTRIM", KEYS.results, "MAXLEN", "0"),
    ("XGROUP", "DESTROY", KEYS.actions, "workers"),
    ("HSET", KEYS.worker, "state", "connected"),
    ("SET", KEYS.lease, "me"),
    ("DEL", KEYS.lease),
    ("ZADD", "ami:servers", "1", "pbx9"),
    ("PUBLISH", KEYS.event("Hangup"), "forged"),
    ("PSUBSCRIBE", "*"),
    ("GET", "somebody-else"),
    ("EVAL", "return 1", "0"),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("SHUTDOWN",),
    ("MONITOR",),
)
WORKER_MAY_NOT = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("CONFIG", "REWRITE"),
    ("SHUTDOWN", "NOSAVE"),
    ("DEBUG", "SLEEP", "0"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "amibus-worker", "+@all"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "FLUSH"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("REPLICAOF", "NO", "ONE"),
    ("MODULE", "LIST"),
    ("KEYS", "*"),
    ("MONITOR",),
    ("XADD", OTHER + "actions", "*", "Action", "Ping"),
    ("PUBLISH", OTHER + "action:call-42", "forged"),
    ("GET", "somebody-else"),
    ("ZRANGE", "ami:servers", "0", "-1"),
    ("EVAL", "return redis.call('DEL', ARGV[1])", "0", OTHER + "epoch"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
)

REFUSALS = (
    "ACL failure in script",  # Valkey
    "The user executing the script can't",  # Redis 7.0
    "DEBUG command not allowed",  # even before the ACL is asked
)
"""Refusals that are not NOPERM errors: from within a script they come as the script's own error."""


@pytest.fixture
def seeded(guarded: GuardedRedis) -> Iterator[GuardedRedis]:
    """The server with one group, so that a command which is let through has something to work on."""
    with guarded.client() as admin:
        admin.flushall()
        admin.xgroup_create(KEYS.actions, "workers", id="0", mkstream=True)
        yield guarded


def refusal(server: GuardedRedis, user: str, command: tuple[str, ...]) -> str:
    """What the server says when it does not let a user run a command; empty if it does."""
    with server.client(user) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command(*command)
        try:
            connection.read_response()
        except redis.exceptions.NoPermissionError as error:
            return str(error)
        except redis.ResponseError as error:
            if not any(words in str(error) for words in REFUSALS):
                raise
            return str(error)
        finally:
            connection.disconnect()
    return ""


def shown(command: tuple[str, ...]) -> str:
    return " ".join(command)


@pytest.mark.parametrize("command", PRODUCER_MAY, ids=shown)
def test_producer_may(seeded: GuardedRedis, command: tuple[str, ...]) -> None:
    assert refusal(seeded, "amibus-producer", command) == ""


@pytest.mark.parametrize("command", PRODUCER_MAY_NOT, ids=shown)
def test_producer_may_not(seeded: GuardedRedis, command: tuple[str, ...]) -> None:
    assert refusal(seeded, "amibus-producer", command)


@pytest.mark.parametrize("command", MONITOR_MAY, ids=shown)
def test_monitor_may(seeded: GuardedRedis, command: tuple[str, ...]) -> None:
    assert refusal(seeded, "amibus-monitor", command) == ""


@pytest.mark.parametrize("command", MONITOR_MAY_NOT, ids=shown)
def test_monitor_may_not(seeded: GuardedRedis, command: tuple[str, ...]) -> None:
    assert refusal(seeded, "amibus-monitor", command)


@pytest.mark.parametrize("command", WORKER_MAY_NOT, ids=shown)
def test_worker_may_not(seeded: GuardedRedis, command: tuple[str, ...]) -> None:
    assert refusal(seeded, "amibus-worker", command)


def test_nobody_comes_in_without_a_password(guarded: GuardedRedis) -> None:
    with redis.Redis(port=guarded.port) as anybody, pytest.raises(redis.AuthenticationError):
        anybody.ping()


def test_every_user_of_the_file_has_a_placeholder_to_replace() -> None:
    lines = [line.split() for line in (DEPLOY / "users.acl").read_text().splitlines()]
    passwords = {words[1]: words[3] for words in lines if words[2] == "on"}
    assert passwords == {user: f">{PLACEHOLDER}{user.removeprefix('amibus-')}" for user in USERS}
    assert lines[0] == ["user", "default", "off"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_worker_may_run_what_its_scripts_call(guarded: GuardedRedis, script: str) -> None:
    called = set(re.findall(r"redis\.p?call\('(\w+)'", source(script).decode())) | {"PUBLISH", "SPUBLISH"}
    with guarded.client() as admin:
        for command in called:
            dry_run: Any = admin.execute_command("ACL", "DRYRUN", "amibus-worker", command, *arguments(command))
            assert dry_run == "OK", (script, command, dry_run)


def arguments(command: str) -> tuple[str, ...]:
    """Some arguments with which the command is complete."""
    given = {
        "TIME": (),
        "PUBLISH": (KEYS.action("a"), "m"),
        "SPUBLISH": (KEYS.reply("r"), "m"),
        "XADD": (KEYS.results, "*", "f", "v"),
        "XREVRANGE": (KEYS.events, "+", "-"),
        "XPENDING": (KEYS.actions, "workers"),
        "XTRIM": (KEYS.results, "MAXLEN", "10"),
        "XACK": (KEYS.actions, "workers", "1-1"),
        "XDEL": (KEYS.actions, "1-1"),
        "RPUSH": (KEYS.action("a") + ":items", "v"),
        "PEXPIRE": (KEYS.worker, "1000"),
        "EXPIRE": (KEYS.worker, "1"),
        "HSET": (KEYS.worker, "f", "v"),
        "HMGET": (KEYS.worker, "f"),
        "HGET": (KEYS.worker, "f"),
        "HDEL": (KEYS.legs, "f"),
        "HEXISTS": (KEYS.legs, "f"),
        "SET": (KEYS.lease, "v"),
    }
    return given.get(command, (KEYS.epoch,))


async def test_the_worker_and_the_client_are_refused_nothing(stage: Stage) -> None:
    with stage.server.client() as admin:
        admin.acl_log_reset()
        async with Bus(stage.server.url_of("amibus-producer")) as bus:
            pbx = bus.server(KEYS.server)
            assert (await pbx.request("Ping", timeout=60)).is_done
            call = await pbx.submit(
                "Originate", Channel="Local/100@default", Application="Wait", Data="0.1", Variable=["a=1", "b=2"]
            )
            names = [event.name async for event in call.events()]
            assert (await call.result(timeout=60)).is_done
            assert names[-1] == "Hangup"
            call = await pbx.originate("Local/100@default", application="Wait", data="600")
            await call.answered(timeout=60)
            followed = await pbx.follow(call.uniqueid, timeout=60)
            await followed.hangup(timeout=60)
            assert (await followed.ended(timeout=60)).is_answered
            refused = await pbx.request("Command", Command="core stop now", timeout=60, raise_on_failure=False)
            assert refused.error_code == "forbidden"
        denied = {entry["object"] for entry in admin.acl_log()}
    # redis-py introduces itself so at every connection, and does not mind; Redis 7.0 cannot name that right.
    assert denied <= {"client|setinfo", "client"}


async def test_the_worker_may_take_again_what_it_did_not_hear_of(stage: Stage) -> None:
    with stage.server.client() as admin:
        admin.acl_log_reset()
        for trim in (False, True):
            name = admin.hget(KEYS.worker, "worker")
            at_once = admin.pipeline(transaction=True)
            at_once.xadd(KEYS.actions, {"Action": "Ping", "ActionID": f"unheard-{trim}"})
            at_once.xreadgroup("workers", name, {KEYS.actions: ">"})
            if trim:
                at_once.xtrim(KEYS.actions, maxlen=0)
            entry = at_once.execute()[0]
            told = KEYS.action(entry if trim else f"unheard-{trim}")
            wait_until("its fate is told", lambda told=told: admin.hget(told, "state") in ("done", "unknown"))  # type: ignore[misc]
            assert admin.hget(told, "state") == ("unknown" if trim else "done")
        assert {entry["object"] for entry in admin.acl_log()} <= {"client|setinfo", "client"}


def operate(stage: Stage, user: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of an operator's, as one of the users."""
    command = [sys.executable, "-m", "workers.cli", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AMIBUS_", "REDIS"))}
    environment = inherited | {"AMIBUS_REDIS": stage.server.url_of(user)}
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


@pytest.fixture
def doubtful(stage: Stage) -> Iterator[str]:
    """The ActionID of an action that is unknown."""
    result = operate(
        stage, "amibus-producer", "send", KEYS.server, "Originate", "Channel=Local/noanswer@default", "Timeout=600000",
        "Application=Echo", "--answer-timeout", "0.1", "--json",
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    action_id: str = json.loads(result.stdout)["action_id"]
    yield action_id
    with stage.server.client() as admin:
        admin.xadd(KEYS.actions, {"Action": "Hangup", "Channel": admin.hget(KEYS.action(action_id), "channel") or "-"})
        wait_until("the call is over", lambda: admin.hget(KEYS.action(action_id), "call") == "ended")


@pytest.mark.parametrize("user", ["amibus-worker", "admin"])
def test_who_may_say_what_became_of_an_action(stage: Stage, doubtful: str, user: str) -> None:
    with stage.server.client() as admin:
        admin.acl_log_reset()
        listed = operate(stage, user, "unknown", KEYS.server, "--json")
        assert [json.loads(line)["action_id"] for line in listed.stdout.splitlines()][-1:] == [doubtful]
        outcome = operate(stage, user, "resolve", KEYS.server, doubtful, "failed", "--why", "nobody was called")
        assert outcome.returncode == 0, outcome.stderr
        assert admin.hget(KEYS.action(doubtful), "state") == "failed"
        assert {entry["object"] for entry in admin.acl_log()} <= {"client|setinfo", "client"}


@pytest.mark.parametrize("user", ["amibus-monitor", "amibus-producer"])
def test_who_may_not(stage: Stage, doubtful: str, user: str) -> None:
    if user == "amibus-monitor":
        listed = operate(stage, user, "unknown", KEYS.server, "--json")
        assert [json.loads(line)["action_id"] for line in listed.stdout.splitlines()][-1:] == [doubtful]
    outcome = operate(stage, user, "resolve", KEYS.server, doubtful, "failed", "--why", "nobody was called")
    assert outcome.returncode == 1
    assert f"does not let user '{user}' do this: resolve needs the rights of the worker's user" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert password(user) not in outcome.stderr
    with stage.monitor as monitor:
        assert monitor.hget(KEYS.action(doubtful), "state") == "unknown"
