"""The names on Redis, as the contract spells them."""

import pytest

from broker.errors import SettingsError
from broker.keys import ACTIONS, GROUP, LANES, URGENT, Keys, servers_key


def test_the_names_are_the_contracts() -> None:
    keys = Keys("pbx1")
    assert keys.actions == keys.lane(ACTIONS) == "ami:{pbx1}:actions"
    assert keys.urgent == keys.lane(URGENT) == "ami:{pbx1}:actions:urgent"
    assert keys.action("call-42") == "ami:{pbx1}:action:call-42"
    assert keys.reply("me") == "ami:{pbx1}:reply:me"
    assert keys.event("Hangup") == "ami:{pbx1}:event:Hangup"
    assert (keys.events, keys.legs, keys.results, keys.dead, keys.worker, keys.lease, keys.epoch) == tuple(
        f"ami:{{pbx1}}:{name}" for name in ("events", "legs", "results", "dead", "worker", "lease", "epoch")
    )
    assert servers_key() == "ami:servers"
    assert GROUP == "workers"
    assert LANES == (URGENT, ACTIONS)


def test_another_prefix_changes_every_name_and_nothing_else() -> None:
    keys = Keys("pbx1", "a:b")
    names = [getattr(keys, name) for name in ("actions", "urgent", "events", "results", "dead", "legs", "worker")]
    assert all(name.startswith("a:b:{pbx1}:") for name in (*names, keys.action("x"), keys.lease, keys.epoch))
    assert servers_key("a:b") == "a:b:servers"


@pytest.mark.parametrize("server", ["", "a" * 33, "a b", "a{b", "a}", "a:b", "pbx1\n", "büro", "a/b"])
def test_other_server_names_are_refused(server: str) -> None:
    with pytest.raises(SettingsError, match="server name"):
        Keys(server)


@pytest.mark.parametrize("prefix", ["", "a" * 33, "{a}", "a b", "ami\n"])
def test_other_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(SettingsError, match="prefix"):
        Keys("pbx1", prefix)


@pytest.mark.parametrize("server", ["p", "A" * 32, "pbx-1.example_2"])
def test_server_names_of_the_contract_are_taken(server: str) -> None:
    assert Keys(server).root == f"ami:{{{server}}}:"


def test_the_types_name_every_key_of_the_server() -> None:
    keys = Keys("pbx1")
    named = {getattr(keys, name) for name in Keys.__slots__} - {keys.prefix, keys.root, keys.server}
    assert set(keys.types) == {*named, servers_key()}
    assert keys.types[keys.urgent] == "stream"
