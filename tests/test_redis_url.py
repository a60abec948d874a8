"""URLs of Redis: those of sentinels taken apart, and all of them shown without a password."""

import pytest

from broker.errors import SettingsError
from broker.redis_url import SentinelUrl, is_sentinel_url, masked

HUSH = "hush-hush"


@pytest.mark.parametrize(
    ("url", "addresses", "service", "server_url"),
    [
        ("redis+sentinel://h/amibus", [("h", 26379)], "amibus", "redis://primary/0"),
        ("redis+sentinel://h:1,i:2/a.b-c_d/3", [("h", 1), ("i", 2)], "a.b-c_d", "redis://primary/3"),
        ("redis+sentinel://[::1]:1,[fe80::2]/s/", [("::1", 1), ("fe80::2", 26379)], "s", "redis://primary/0"),
        ("rediss+sentinel://u:p%2F@h:1/s?ssl_ca_certs=/c%26a", [("h", 1)], "s",
         "rediss://u:p%2F@primary/0?ssl_ca_certs=%2Fc%26a"),
        ("redis+sentinel://:p@q@h:1/s", [("h", 1)], "s", "redis://:p@q@primary/0"),
    ],
)  # fmt: skip
def test_a_sentinel_url(url: str, addresses: list[tuple[str, int]], service: str, server_url: str) -> None:
    parsed = SentinelUrl.parse(url)
    assert list(parsed.addresses) == addresses
    assert (parsed.service, parsed.server_url) == (service, server_url)
    assert (parsed.username, parsed.password) == (None, None)
    assert parsed.is_tls == url.startswith("rediss")
    assert is_sentinel_url(url)


def test_the_sentinels_have_a_login_of_their_own() -> None:
    parsed = SentinelUrl.parse(f"redis+sentinel://u:{HUSH}@h/s/1?sentinel_username=w&sentinel_password={HUSH}%2B")
    assert (parsed.username, parsed.password) == ("w", f"{HUSH}+")
    assert parsed.server_url == f"redis://u:{HUSH}@primary/1"
    assert HUSH not in repr(parsed)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://h:1", "name of the service"),
        ("redis+sentinel://h:1/", "name of the service"),
        ("redis+sentinel://h:1/a b", "name of the service"),
        ("redis+sentinel:///s", "'' is no host:port"),
        ("redis+sentinel://h:1,/s", "'' is no host:port"),
        ("redis+sentinel://h:0/s", "'h:0' is no host:port"),
        ("redis+sentinel://h:65536/s", "'h:65536' is no host:port"),
        ("redis+sentinel://::1/s", "'::1' is no host:port"),
        ("redis+sentinel://h/s/x", "number of a database"),
        ("redis+sentinel://h/s/0/1", "give redis"),
        (f"redis+sentinel://u:{HUSH}#@h/s", "give redis"),
        (f"redis+sentinel://u:1{HUSH}/x@h/s", "give redis"),
        (f"redis+sentinel://u:{HUSH}@h", "name of the service"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        SentinelUrl.parse(url)
    assert HUSH not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        (f"redis://u:{HUSH}@h:1/0?password={HUSH}", "redis://u:***@h:1/0"),
        (f"redis://u:12/{HUSH}@h:1/0", "(unreadable)"),
        ("unix:///run/a@b.sock", "unix:///run/a@b.sock"),
        ("redis://[::1", "(unreadable)"),
        (f"redis+sentinel://u:{HUSH}@h:1,i:2/s/1?sentinel_password={HUSH}", "redis+sentinel://u:***@h:1,i:2/s/1"),
        (f"rediss+sentinel://:{HUSH}@h/s", "rediss+sentinel://:***@h/s"),
        ("redis+sentinel://u@h/s", "redis+sentinel://u@h/s"),
        (f"redis+sentinel://u:12/{HUSH}@h/s", "(unreadable)"),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
