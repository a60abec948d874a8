from collections import Counter

import pytest

from broker.ami import ActionSpec, all_actions, lookup, spec_of, unknown_spec

SESSION_ACTIONS = {"Login", "Logoff", "Challenge", "Events", "Filter", "WaitEvent"}


def known(name: str) -> ActionSpec:
    spec = lookup(name)
    assert spec is not None
    return spec


def test_all_actions_of_asterisk_22() -> None:
    names = [spec.name for spec in all_actions()]
    assert len(names) == len({name.lower() for name in names}) == 154
    assert names == sorted(names, key=str.lower)


def test_columns_hold_only_what_they_may() -> None:
    assert Counter(spec.effect for spec in all_actions()) == {"state-changing": 87, "read-only": 61, "session": 6}
    assert Counter(spec.retry for spec in all_actions()) == {"yes": 93, "conditional": 33, "no": 28}
    assert {spec.risk for spec in all_actions()} == {"", "code", "secrets", "session"}
    assert {spec.shape for spec in all_actions()} == {
        "single", "single+event", "list", "list-past-error", "two-responses", "raw-text",
    }  # fmt: skip
    assert sum(not spec.privileges for spec in all_actions()) == 32


@pytest.mark.parametrize("spec", all_actions(), ids=lambda spec: spec.name)
def test_an_action_is_consistent(spec: ActionSpec) -> None:
    assert (spec.effect == "session") == (spec.risk == "session") == (spec.name in SESSION_ACTIONS)
    assert bool(spec.risk) == bool(spec.risk_reason)
    assert spec.module == "core" or spec.module.endswith(".so")
    assert spec.name.isalnum()
    if spec.shape.startswith("list"):
        assert spec.item_events
        assert spec.terminator.endswith("Complete")


@pytest.mark.parametrize("name", ["CoreShowChannels", "coreshowchannels", "CORESHOWCHANNELS"])
def test_lookup_in_any_case(name: str) -> None:
    assert lookup(name) == ActionSpec(
        name="CoreShowChannels",
        module="core",
        privileges=("system", "reporting"),
        effect="read-only",
        shape="list",
        item_events=("CoreShowChannel",),
        terminator="CoreShowChannelsComplete",
        retry="yes",
        risk="",
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Ping", "single"), ("FAXStats", "single+event"), ("FAXSession", "single+event"), ("QueueStatus", "list"),
        ("PJSIPShowEndpoint", "list-past-error"), ("JabberSend", "two-responses"), ("IAXnetstats", "raw-text"),
        ("Originate", "single"), ("Hangup", "single"), ("Command", "single"),
    ],
)  # fmt: skip
def test_shapes(name: str, shape: str) -> None:
    assert known(name).shape == shape


@pytest.mark.parametrize(
    ("name", "risk"),
    [
        ("Command", "code"), ("ModuleLoad", "code"), ("UpdateConfig", "code"), ("CreateConfig", "code"),
        ("DialplanExtensionAdd", "code"), ("AGI", "code"), ("DBPut", "code"),
        ("GetConfig", "secrets"), ("GetConfigJSON", "secrets"), ("ListCategories", "secrets"), ("DBGetTree", "secrets"),
        ("PJSIPShowAuths", "secrets"), ("Login", "session"), ("WaitEvent", "session"),
        ("Setvar", ""), ("Redirect", ""), ("QueueAdd", ""), ("DBGet", ""), ("MixMonitor", ""), ("Originate", ""),
    ],
)  # fmt: skip
def test_risks(name: str, risk: str) -> None:
    assert known(name).risk == risk


def test_reads_only() -> None:
    assert known("Status").reads_only
    assert not known("Hangup").reads_only
    assert not known("Events").reads_only


def test_what_is_unknown_is_assumed_to_change_things() -> None:
    assert lookup("DongleSendSMS") is None
    spec = spec_of("DongleSendSMS")
    assert spec == unknown_spec("DongleSendSMS")
    assert (spec.name, spec.effect, spec.retry, spec.shape, spec.risk) == (
        "DongleSendSMS", "state-changing", "no", "single", "",
    )  # fmt: skip
    assert not spec.reads_only
    assert spec_of("ping").name == "Ping"
