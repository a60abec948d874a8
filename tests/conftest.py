"""Fixtures of all tests: real servers, each started once per run."""

from tests.sentinel import sentinels
from tests.servers import own_redis, redis_server, redis_url

__all__ = ["own_redis", "redis_server", "redis_url", "sentinels"]
