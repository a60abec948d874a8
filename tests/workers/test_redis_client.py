"""The worker's connections."""

from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from workers.redis_client import connect


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://host:1/0", Connection),
        ("rediss://host:1/0", SSLConnection),
        ("unix:///run/redis.sock", UnixDomainSocketConnection),
    ],
)
def test_each_scheme_connects_in_its_own_way(url: str, kind: type) -> None:
    pool: Any = connect(url).connection_pool
    made = pool.make_connection()
    assert type(made)._connect is kind._connect  # type: ignore[attr-defined]
