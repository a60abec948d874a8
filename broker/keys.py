"""Every name on Redis: the only spelling in code of the contract's keys and channels.

All keys of one server carry its name in literal braces, so that they share a Redis Cluster hash slot and one
script may touch them all.
"""

import re

from broker.errors import SettingsError

GROUP = "workers"
"""The consumer group on both lanes, created at 0 so that nothing queued before the first start is skipped."""

DEFAULT_PREFIX = "ami"

ACTIONS = "actions"
URGENT = "urgent"
LANES = (URGENT, ACTIONS)
"""The lanes in the order in which they are served."""

_SERVER_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,32}")


def servers_key(prefix: str = DEFAULT_PREFIX) -> str:
    """The sorted set of server names by the unix time of their last heartbeat (in a slot of its own)."""
    return f"{prefix}:servers"


class Keys:
    """The names of one server.

    Raises `SettingsError` for a server name or prefix that the contract does not allow.
    """

    __slots__ = (
        "actions",
        "dead",
        "epoch",
        "events",
        "follows",
        "holder",
        "lease",
        "legs",
        "prefix",
        "results",
        "root",
        "server",
        "urgent",
        "worker",
    )

    def __init__(self, server: str, prefix: str = DEFAULT_PREFIX) -> None:
        if not _SERVER_NAME.fullmatch(server):
            raise SettingsError(f"server name {server!r} is not 1 to 32 characters of A-Z a-z 0-9 . _ -")
        if not _PREFIX.fullmatch(prefix):
            raise SettingsError(f"prefix {prefix!r} is not 1 to 32 characters of A-Z a-z 0-9 . _ : -")
        self.server = server
        self.prefix = prefix
        self.root = f"{prefix}:{{{server}}}:"
        self.actions = f"{self.root}actions"
        self.urgent = f"{self.root}actions:urgent"
        self.events = f"{self.root}events"
        self.results = f"{self.root}results"
        self.dead = f"{self.root}dead"
        self.legs = f"{self.root}legs"
        self.follows = f"{self.root}follows"
        self.worker = f"{self.root}worker"
        self.lease = f"{self.root}lease"
        self.epoch = f"{self.root}epoch"
        self.holder = f"{self.root}holder"

    @property
    def types(self) -> dict[str, str]:
        """What each of the server's keys is on Redis, the records apart."""
        streams = (self.actions, self.urgent, self.events, self.results, self.dead)
        return {
            **dict.fromkeys(streams, "stream"),
            **dict.fromkeys((self.legs, self.follows, self.worker, self.holder), "hash"),
            **dict.fromkeys((self.lease, self.epoch), "string"),
            servers_key(self.prefix): "zset",
        }

    def lane(self, lane: str) -> str:
        """The stream of a lane."""
        return self.urgent if lane == URGENT else self.actions

    def action(self, action_id: str) -> str:
        """The record of an action, and the channel of the same name."""
        return f"{self.root}action:{action_id}"

    def items(self, action_id: str) -> str:
        """The list of the items of a very large result, in chunks."""
        return f"{self.action(action_id)}:items"

    def call(self, uniqueid: str) -> str:
        """The channel of the events of a call that is followed."""
        return f"{self.root}call:{uniqueid}"

    def reply(self, name: str) -> str:
        """The channel of results for whoever named it in `Bus-Reply`."""
        return f"{self.root}reply:{name}"

    def event(self, name: str) -> str:
        """The channel of the AMI events of one name."""
        return f"{self.root}event:{name}"
