"""Settings from flags, environment and file, and one sentence for each that is wrong."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from broker.errors import SettingsError
from workers.config import HIDDEN, Settings, load_settings, shown_url

SECRET = "hush-hush"


def load(environment: dict[str, str] | None = None, file: Path | None = None, **flags: Any) -> Settings:
    return load_settings(flags, environment=environment or {}, file=None if file is None else str(file))


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "amibus.toml"
    file.write_text(
        'server = "file"\nprefix = "file"\nrate = 3\nami = "file:1"\nallow = ["A", "B"]\nevent_channels = false\n'
    )
    environment = {"AMIBUS_SERVER": "env", "AMIBUS_PREFIX": "env", "AMIBUS_RATE": "2", "OTHER": "x"}
    settings = load(environment, file, server="flag", rate=None)
    assert (settings.server, settings.prefix, settings.ami, settings.rate) == ("flag", "env", "file:1", 2.0)
    assert settings.allow == ("A", "B")
    assert settings.event_channels is False
    assert settings.redis == "redis://127.0.0.1:6379/0"
    assert load({"AMIBUS_CONFIG": str(file)}).server == "file"


def test_every_setting_may_come_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    given = {
        "redis": "redis://h:1/2", "server": "s", "prefix": "p", "ami": "h:2", "ami_username": "u", "ami_secret": "x",
        "ami_secret_file": "", "ami_events_username": "eu", "ami_events_secret": "ex", "ami_events_secret_file": "",
        "allow": "A,B", "rate": "1", "rate_calls": "2", "rate_changes": "3", "rate_reads": "4", "read_ahead": "5",
        "record_s": "7200", "record_read_s": "7", "events_length": "8", "results_length": "9", "dead_length": "10",
        "event_channels": "no", "event_buffer_mb": "11", "event_spool_dir": "d", "event_spool_mb": "12",
        "sensitive_events": "AuthList", "lease_s": "12", "drain_s": "13", "journal_dir": "/var/lib/journal",
        "name": "n", "log_format": "json", "log_level": "debug",
    }  # fmt: skip
    assert set(given) == {each.name for each in fields(Settings)}
    by_environment = load({f"AMIBUS_{name.upper()}": value for name, value in given.items()})
    file = tmp_path / "all.toml"
    file.write_text("".join(f'{name} = "{value}"\n' for name, value in given.items()))
    assert load(file=file) == by_environment
    assert (by_environment.allow, by_environment.event_channels, by_environment.dead_length) == (("A", "B"), False, 10)
    assert (by_environment.ami_host, by_environment.ami_port) == ("h", 2)


def test_the_events_user_is_the_same_unless_it_is_given() -> None:
    same = load(ami_username="u", ami_secret="x")
    assert (same.ami_events_username, same.ami_events_secret) == ("u", "x")
    assert load().ami_events_username == Settings.ami_username
    own = load(ami_username="u", ami_secret="x", ami_events_username="e", ami_events_secret="y")
    assert (own.ami_events_username, own.ami_events_secret) == ("e", "y")
    assert load(ami_secret="x", ami_events_username="e").ami_events_secret == "x"
    assert load(ami_secret="x", ami_events_secret="y").ami_events_secret == "y"


def test_secrets_may_come_from_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\r\n")
    assert load({"AMIBUS_AMI_SECRET_FILE": str(file)}).ami_secret == SECRET
    assert load(ami_events_username="e", ami_events_secret_file=str(file)).ami_events_secret == SECRET
    with pytest.raises(SettingsError, match="both ami_secret and ami_secret_file"):
        load(ami_secret="x", ami_secret_file=str(file))
    with pytest.raises(SettingsError, match=r"ami_secret_file .*: No such file"):
        load(ami_secret_file=str(tmp_path / "none"))
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match=r"ami_secret_file .*: it is not text"):
        load(ami_secret_file=str(file))


def test_no_secret_is_ever_shown() -> None:
    url = f"redis://user:{SECRET}@h:1/0"
    settings = load({"AMIBUS_REDIS": url}, ami_secret=SECRET, ami_events_secret=SECRET)
    shown = settings.shown()
    assert SECRET not in repr(settings) + repr(shown)
    assert shown["ami_secret"] == shown["ami_events_secret"] == HIDDEN
    assert shown["redis"] == f"redis://user:{HIDDEN}@h:1/0"
    assert load().shown()["ami_secret"] == ""
    assert set(shown) == {each.name for each in fields(Settings)}


@pytest.mark.parametrize("url", [
        f"redis://:{SECRET}@h", f"redis://u:{SECRET}@h:1/0", f"redis://h/0?password={SECRET}",
        f"redis+sentinel://:{SECRET}@h,i/s", f"redis+sentinel://h,i/s?sentinel_password={SECRET}",
    ])  # fmt: skip
def test_a_password_has_no_place_in_an_argument_list(url: str) -> None:
    with pytest.raises(SettingsError, match="AMIBUS_REDIS") as caught:
        load(redis=url)
    assert SECRET not in str(caught.value)
    assert load({"AMIBUS_REDIS": url}).redis == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user@h/0", "redis://user@h/0"),
        (f"redis://:{SECRET}@h:1/0", f"redis://:{HIDDEN}@h:1/0"),
        (f"rediss://user:{SECRET}#/?@x@h:1/0", f"rediss://user:{HIDDEN}@h:1/0"),
        (f"redis://h/0?password={SECRET}&db=1", f"redis://h/0?password={HIDDEN}&db=1"),
        (f"unix:///s.sock?db=0&PASSWORD={SECRET}", f"unix:///s.sock?db=0&PASSWORD={HIDDEN}"),
        (f"redis://h?ssl_password={SECRET}", f"redis://h?ssl_password={HIDDEN}"),
        (f"redis://[::1:{SECRET}@", f"redis://[:{HIDDEN}@"),
        (f"redis+sentinel://u:{SECRET}@h:1,i:2/s/0", f"redis+sentinel://u:{HIDDEN}@h:1,i:2/s/0"),
        (
            f"redis+sentinel://h:1,i:2/s?sentinel_password={SECRET}",
            f"redis+sentinel://h:1,i:2/s?sentinel_password={HIDDEN}",
        ),
    ],
)
def test_a_redis_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"server": "a b"}, "server name"),
        ({"prefix": "{"}, "prefix"),
        *[
            ({"ami": ami}, "ami is")
            for ami in ("", "h", "h:", ":5038", "h:0", "h:65536", "h:x", "h:\u00b2", "h:\u0663", "h:-1")
        ],
        *[
            ({"redis": url}, "redis is")
            for url in ("", "h:6379", "http://h", "redis://h:x/0", "redis://[::1", "redis://h:99999")
        ],
        ({"redis": "redis+sentinel://h:1"}, "the Redis URL redis+sentinel://h:1 is wrong: the name of the service"),
        *[
            ({name: value}, f"{name} is")
            for name in (
                "rate", "rate_calls", "rate_changes", "rate_reads", "record_s", "record_read_s", "event_buffer_mb",
                "event_spool_mb", "lease_s", "drain_s",
            )
            for value in (-1, "nan", "inf")
        ],
        *[({name: 0}, f"{name} is 0") for name in ("read_ahead", "events_length", "results_length", "dead_length")],
        ({"record_s": 3599}, "could place a call twice"),
        ({"lease_s": 0.5}, "lease_s is 0.5"),
        ({"rate": "fast"}, "--rate: 'fast' is not a"),
        ({"read_ahead": "1.5"}, "--read-ahead: '1.5' is not a"),
        ({"event_channels": "perhaps"}, "--event-channels: 'perhaps' is not a"),
        ({"log_format": "xml"}, "log_format is 'xml': one of auto, console, json"),
        ({"log_level": "loud"}, "log_level is 'loud'"),
        ({"ami_secret": f"{SECRET}\r\nAction: Logoff"}, "ami_secret holds a line end"),
        ({"ami_events_secret": f"{SECRET}\0"}, "ami_events_secret holds"),
        ({"ami_username": "a\n"}, "ami_username holds"),
        ({"ami_secret": os.fsdecode(SECRET.encode() + b"\xff")}, "what is not UTF-8"),
        ({"name": os.fsdecode(b"\xff")}, "name holds"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_by_name_in_one_sentence(flags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**flags)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"servr = 'x'", "servr is not a setting"),
        (b"server = ", "settings file"),
        (b"server = '\xff'", "settings file"),
        (b"rate = 'x'", "'x' is not a"),
        (b"allow = 5", "5 is not a"),
    ],
)
def test_a_wrong_file_is_told_by_its_name(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "amibus.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(file=file)
    assert sentence in str(caught.value)
    assert str(file) in str(caught.value)
    with pytest.raises(SettingsError, match="No such file"):
        load(file=tmp_path / "none")


@pytest.mark.parametrize("text", ["A,B", "A, B", " A B ", "A,,B,"])
def test_lists_are_split_at_commas_and_blanks(text: str) -> None:
    assert load({"AMIBUS_ALLOW": text}).allow == ("A", "B")


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_yes_is_said_in_several_ways(text: str) -> None:
    assert load({"AMIBUS_EVENT_CHANNELS": text}).event_channels is True


def test_a_worker_has_a_name_and_an_address_may_be_ipv6() -> None:
    assert load().name.endswith(f"-{os.getpid()}")
    assert (load(ami="[::1]:5038").ami_host, load(ami="[::1]:5038").ami_port) == ("::1", 5038)
    assert load(server="pbx1").keys.root == "ami:{pbx1}:"
