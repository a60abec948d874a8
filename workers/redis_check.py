"""What is asked of Redis, looked up before anything is sent."""

import re
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, InvalidResponse, NoPermissionError, ResponseError

from broker.errors import SettingsError
from broker.redis_pool import SentinelsRefused
from workers.batch import passes, until_done
from workers.config import shown_url

log = structlog.get_logger()


async def check_redis(redis: "Redis", url: str) -> dict[str, Any]:
    """Look whether this Redis will do, waiting while it is away. Returns its INFO.

    Raises `SettingsError` with the sentence that says what to change.
    """
    info: dict[str, Any] = await until_done("a first answer", lambda: _info(redis, url))
    _check_version(info)
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        raise SettingsError(
            f"Redis' maxmemory-policy is {policy}: it would evict records, and an action could be sent twice; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
    if not int(info.get("aof_enabled") or 0):
        log.warning(
            "redis does not persist: accepted actions are lost if it stops", hint="set appendonly yes in redis.conf"
        )
    return info


def publish_command(info: dict[str, Any]) -> str:
    """How action and reply channels are published: sharded in a Redis Cluster."""
    return "SPUBLISH" if int(info.get("cluster_enabled") or 0) else "PUBLISH"


def server_name(info: dict[str, Any]) -> str:
    """Such as 'redis 7.0.15' or 'valkey 9.1.2'."""
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info.get('redis_version')}"


def _check_version(info: dict[str, Any]) -> None:
    # Valkey, too, says which version of Redis it is compatible with.
    version = str(info.get("redis_version", "0"))
    if [int(digits) for digits in re.findall(r"\d+", version)[:2]] < [7, 0]:
        raise SettingsError(f"Redis {version} is too old: Redis 7.0 or later, or Valkey 7.2 or later, is needed")


async def _info(redis: "Redis", url: str) -> dict[str, Any]:
    try:
        info: dict[str, Any] = await redis.info()
    except SentinelsRefused as error:
        raise SettingsError(f"Redis at {shown_url(url)} cannot be found: {error}: see AMIBUS_REDIS") from None
    # Here, for to redis-py a refused password is a lost connection, which would be waited for.
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise SettingsError(
            f"Redis at {shown_url(url)} refused the user or its rights ({error}): see AMIBUS_REDIS and the ACL"
        ) from None
    except (ResponseError, InvalidResponse) as error:
        if passes(error):
            raise
        raise SettingsError(f"Redis at {shown_url(url)} cannot be used: {error}") from None
    return info
