"""`deploy/redis.conf`: what a server that runs with it says of itself, and what becomes of a slow subscriber."""

import pytest

from tests.deploy.guarded import KEYS, GuardedRedis, wait_until

SETTINGS = {
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "stop-writes-on-bgsave-error": "no",
    "protected-mode": "yes",
    "save": "3600 1",
}

MESSAGE_BYTES = 8192
"""More than any event. From 16 KB on Valkey 9.1 counts a message for little (it keeps no copies)."""


@pytest.mark.parametrize("name", SETTINGS)
def test_setting(guarded: GuardedRedis, name: str) -> None:
    with guarded.client() as admin:
        assert admin.config_get(name) == {name: SETTINGS[name]}


def test_listens_on_the_loopback_alone(guarded: GuardedRedis) -> None:
    with guarded.client() as admin:
        assert set(admin.config_get("bind")["bind"].split()) <= {"127.0.0.1", "-::1"}


def test_memory_is_limited(guarded: GuardedRedis) -> None:
    with guarded.client() as admin:
        assert int(admin.config_get("maxmemory")["maxmemory"]) > 0


def test_only_the_slow_subscriber_is_cut(guarded: GuardedRedis) -> None:
    with guarded.client("amibus-monitor") as monitor, guarded.client("amibus-worker") as worker:
        connection = monitor.connection_pool.get_connection()
        connection.send_command("SUBSCRIBE", KEYS.event("Hangup"))
        connection.read_response()
        with guarded.client() as admin:

            def subscribers() -> int:
                return len([each for each in admin.client_list(_type="pubsub") if each["user"] == "amibus-monitor"])

            wait_until("somebody is subscribed", lambda: subscribers() == 1)
            with worker.pipeline(transaction=False) as unread:
                for _ in range(64 * 2**20 // MESSAGE_BYTES):  # the limit is 32 MB, and sockets take some
                    unread.publish(KEYS.event("Hangup"), "x" * MESSAGE_BYTES)
                unread.execute()
            wait_until("the subscriber is cut", lambda: subscribers() == 0)
        assert worker.ping()
        connection.disconnect()
