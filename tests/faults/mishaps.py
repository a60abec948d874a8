"""The faults of the matrix, each done to a running round, with its cure. What is random in them comes of the dice."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from broker.keys import GROUP, LANES
from tests.faults.host import may_mount, may_step
from tests.faults.proxy import Cut, Proxy
from tests.faults.redis_side import ALONE, REPLICATED, ReplicatedSide
from tests.faults.world import LEASE_S, Round, wait_for

Mishap = Callable[[Round, random.Random], Awaitable[None]]

PATIENCE_S: Final = 1.5
"""How long a fault waits for its occasion; then the round goes on without it."""

KILL_PATIENCE_S: Final = 0.6
"""And a kill point, once that life has come to no new one for so long: most are met on the way, or not at all."""

SILENCES_S: Final = (0.05, 0.1, 0.3, 0.3, 0.8, 0.8, 1.5, 6.0)
"""Some shorter than a lease, some longer, and some longer than all that the worker waits for Redis or a session."""

REPLIES: Final = ("mark_sending", "mark_sent", "settle", "beat", "publish_events", "XREADGROUP", "HMGET", "XPENDING")
REPLIES_AT_START: Final = ("acquire", "XCLAIM", "XGROUP", "HGETALL")
SCRIPTS: Final = ("mark_sending", "mark_sent", "settle", "beat", "publish_events", "acquire")
ACTIONS: Final = ("Setvar", "Hangup", "Originate", "Ping", "Getvar")

STEPS_S: Final = (3600.0, -3600.0, 86_400.0, -86_400.0, 5.0, -5.0, 0.0)
"""How far off a host's clock is set: hours and days, some seconds, and right again."""


# -- the worker's end, and its sleep


async def kill_at_point(running: Round, dice: random.Random) -> None:
    """SIGKILL at one of the awaits."""
    slot = running.server
    orders = running.world.orders(
        point=dice.choice(sorted(running.world.points())), visit=_visit(dice), loop=dice.choice(("uvloop", "asyncio"))
    )
    slot.is_quick = dice.random() < 0.9
    running.kill_next(orders)
    await _at_a_standstill(running, lambda: slot.present.orders == orders and slot.present.is_over)
    slot.is_quick = True
    if slot.present.orders == orders and not slot.present.is_over:
        slot.present.send(signal.SIGTERM)  # some points lie on the way out


async def kill_at_random(running: Round, dice: random.Random) -> None:
    """SIGKILL at any moment."""
    await asyncio.sleep(dice.uniform(0, 0.1))
    running.kill_next(running.world.orders(loop=dice.choice(("uvloop", "asyncio"))))


async def terminate(running: Round, _dice: random.Random) -> None:
    """SIGTERM: it drains, and the next one takes over."""
    life = running.server.present
    life.send(signal.SIGTERM)
    await life.wait()


async def stop_at_point(running: Round, dice: random.Random) -> None:
    """SIGSTOP at one of the awaits, SIGCONT when the lease is long over."""
    orders = running.world.orders(
        point=dice.choice(sorted(running.world.points())), visit=_visit(dice), how="stop",
        loop=dice.choice(("uvloop", "asyncio")),
    )  # fmt: skip
    running.kill_next(orders)
    slot = running.server
    await _in_time(lambda: slot.present.orders == orders and slot.present.is_stopped)
    if slot.present.orders == orders and slot.present.is_stopped:
        running.world.befell["pauses"] += 1
    if slot.present.orders == orders and not slot.present.is_stopped:
        slot.present.is_condemned = True  # else it stops when nobody expects it any more
        slot.present.send(signal.SIGKILL)
    await _sleep_and_wake(running, dice)


async def stop_at_random(running: Round, dice: random.Random) -> None:
    """The same at any moment."""
    await asyncio.sleep(dice.uniform(0, 0.1))
    running.server.present.send(signal.SIGSTOP)
    running.world.befell["pauses"] += 1
    await _sleep_and_wake(running, dice)


async def _sleep_and_wake(running: Round, dice: random.Random) -> None:
    await asyncio.sleep(dice.uniform(0.5, 3) * LEASE_S)
    for slot in running.world.slots:
        slot.present.send(signal.SIGCONT)


# -- Redis


async def lose_reply(running: Round, dice: random.Random) -> None:
    """The reply to a script or command is lost, and the connection with it."""
    name = dice.choice(REPLIES + REPLIES_AT_START)
    proxy = running.world.redis_proxy
    lose = (
        proxy.drop_script_replies if name in SCRIPTS else lambda name, times: proxy.drop_replies(name.encode(), times)
    )
    loss = lose(name, dice.randint(1, 3))
    if name in REPLIES_AT_START:
        running.kill_next(running.world.orders())
    await _in_time(lambda: loss.is_over)
    proxy.losses.clear()


async def lose_xadd(running: Round, dice: random.Random) -> None:
    """The producer does not hear that its entry was accepted."""
    proxy = running.world.producer_proxy
    loss = proxy.drop_replies(b"XADD", dice.randint(1, 3))
    await _in_time(lambda: loss.is_over)
    proxy.losses.clear()


async def redis_silent(running: Round, dice: random.Random) -> None:
    """Redis says nothing, or hears nothing, for a while."""
    await _silence(running.world.redis_proxy, dice)


async def redis_reset(running: Round, _dice: random.Random) -> None:
    """Every connection of the worker to Redis is reset."""
    running.world.redis_proxy.reset_all()


async def redis_away(running: Round, dice: random.Random) -> None:
    """And no new one is accepted for a while."""
    await _away(running.world.redis_proxy, dice)


async def redis_slow(running: Round, dice: random.Random) -> None:
    """Packets are cut in two, and late."""
    await _slow(running.world.redis_proxy, dice)


async def redis_killed(running: Round, _dice: random.Random) -> None:
    """SIGKILL of the server, and a start from its append-only file."""
    await asyncio.to_thread(running.world.server.kill)
    await asyncio.to_thread(running.world.server.start)


async def script_flush(running: Round, _dice: random.Random) -> None:
    """Redis forgets its scripts."""
    await running.command("SCRIPT", "FLUSH")


async def group_destroyed(running: Round, dice: random.Random) -> None:
    """Somebody destroys the consumer group, and the pending list with it."""
    await running.command("XGROUP", "DESTROY", running.world.keys.lane(dice.choice(LANES)), GROUP)


async def clients_killed(running: Round, _dice: random.Random) -> None:
    """CLIENT KILL of everyone."""
    await running.command("CLIENT", "KILL", "TYPE", "normal")


async def memory_full(running: Round, dice: random.Random) -> None:
    """The memory limit is hit for a while."""
    await running.command("CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(dice.uniform(0.1, 1))
    await running.command("CONFIG", "SET", "maxmemory", "0")


async def flushed(running: Round, _dice: random.Random) -> None:
    """FLUSHALL."""
    await running.flush()


async def power_lost(running: Round, dice: random.Random) -> None:
    """Redis' machine loses its power, and the last second is not on its disk."""
    await running.world.redis.begin_to_forget()
    await asyncio.sleep(dice.uniform(0.05, 1.2))
    running.losses.append(await running.world.redis.forget())
    running.world.befell["power failures"] += 1


async def failed_over(running: Round, dice: random.Random) -> None:
    """The sentinels make the replica the primary, which may lag behind the old one."""
    redis = running.world.redis
    assert isinstance(redis, ReplicatedSide)
    how = dice.choice(("lagging", "lagging", "in step", "as asked"))
    if how == "lagging":
        await redis.begin_to_forget()
        await asyncio.sleep(dice.uniform(0.05, 1.5))
        running.losses.append(await redis.forget())
    else:
        running.losses.append(await (redis.fail_over_in_step() if how == "in step" else redis.fail_over_as_asked()))
    running.world.befell["fail-overs"] += 1


# -- the worker's host


async def disk_full(running: Round, dice: random.Random) -> None:
    """The journal's disk is full for a while."""
    host = running.server.host
    host.fill()
    running.world.befell["disks full"] += 1
    await asyncio.sleep(dice.uniform(0.1, 1.5))
    host.make_room()


async def clock_stepped(running: Round, dice: random.Random) -> None:
    """The clock of a worker's host is stepped, and stays so."""
    dice.choice(running.world.slots).host.step(dice.choice(STEPS_S))
    running.world.befell["clocks stepped"] += 1


# -- Asterisk


async def ami_silent(running: Round, dice: random.Random) -> None:
    """Asterisk says nothing, or hears nothing, for a while."""
    since = time.time()
    await _silence(running.world.ami_proxy, dice)
    running.held.append((since, time.time()))


async def ami_reset(running: Round, _dice: random.Random) -> None:
    """Every session is reset."""
    running.world.ami_proxy.reset_all()


async def ami_away(running: Round, dice: random.Random) -> None:
    """And no new one is accepted for a while."""
    await _away(running.world.ami_proxy, dice)


async def ami_slow(running: Round, dice: random.Random) -> None:
    """Packets are cut in two, and late."""
    await _slow(running.world.ami_proxy, dice)


async def ami_response(running: Round, dice: random.Random) -> None:
    """Responses are lost, late, or in the wrong order."""
    name = dice.choice(("lose_response", "delay_response", "misorder"))
    more = {"seconds": dice.choice((0.05, 0.5, 2.0))} if name == "delay_response" else {}
    await running.world.asterisk.ask(
        "fault", name=name, action=dice.choice(ACTIONS), nth=dice.randint(1, 4), times=dice.randint(1, 2), **more
    )
    await asyncio.sleep(dice.uniform(0.1, 0.6))
    await running.world.asterisk.ask("fault", name="clear")


async def ami_dropped(running: Round, dice: random.Random) -> None:
    """A session is dropped around one action: before it is read, executed, in the middle of the answer, after it."""
    when = dice.choice(("unread", "before", "amid", "after"))
    await running.world.asterisk.ask(
        "fault", name="drop_connection", action=dice.choice(ACTIONS), when=when, nth=dice.randint(1, 4)
    )
    await asyncio.sleep(dice.uniform(0.1, 0.4))
    await running.world.asterisk.ask("fault", name="clear")


async def ami_away_in_a_list(running: Round, dice: random.Random) -> None:
    """Asterisk dies in the middle of a list, and is away for longer than some have time."""
    asterisk = running.world.asterisk
    await asterisk.ask("fault", name="drop_connection", action="QueueStatus", when="amid", times=0)
    await asyncio.sleep(dice.uniform(0.05, 0.3))
    await asterisk.ask("restart", down_s=dice.choice((0.5, 1.0, 2.5)))
    await asterisk.ask("fault", name="clear")


async def ami_sessions(running: Round, dice: random.Random) -> None:
    """The sessions of one kind are cut."""
    await running.world.asterisk.ask("drop", which=dice.choice(("all", "events", "actions")))


async def ami_restart(running: Round, dice: random.Random) -> None:
    """Asterisk dies with all its calls, and comes back."""
    await running.world.asterisk.ask("restart", down_s=dice.choice((0.0, 0.1, 0.5)))


# -- shared


async def _silence(proxy: Proxy, dice: random.Random) -> None:
    up, down = dice.choice(((True, True), (True, False), (False, True)))
    proxy.black_hole(up=up, down=down)
    await asyncio.sleep(dice.choice(SILENCES_S))
    await proxy.heal()


async def _away(proxy: Proxy, dice: random.Random) -> None:
    if dice.random() < 0.5:
        proxy.refuse()
    else:
        proxy.accept_silently()
    proxy.reset_all()
    await asyncio.sleep(dice.choice((0.05, 0.2, 0.6)))
    await proxy.heal()


async def _slow(proxy: Proxy, dice: random.Random) -> None:
    proxy.cut = dice.choice((Cut.EVERYWHERE, Cut.RANDOM))
    proxy.delay_s = dice.choice((0.0, 0.0, 0.01, 0.05))
    await asyncio.sleep(dice.uniform(0.2, 0.8))
    await proxy.heal()


def _visit(dice: random.Random) -> int:
    return 1 if dice.random() < 0.5 else 1 + int(dice.expovariate(0.2))


async def _in_time(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for an occasion, which need not come."""

    async def is_there() -> bool:
        return condition()

    with contextlib.suppress(TimeoutError):
        await wait_for("the occasion", is_there, patience_s)


async def _at_a_standstill(running: Round, is_met: Callable[[], bool]) -> None:
    """Wait for a kill point, which need not come, as long as points are met for the first time in a life."""
    size, since = -1, 0.0

    async def is_there() -> bool:
        nonlocal size, since
        noted = running.world.notes.stat().st_size
        if noted != size:
            size, since = noted, time.monotonic()
        return is_met() or time.monotonic() - since > KILL_PATIENCE_S

    await wait_for("a kill point, or no new ones", is_there)


MISHAPS: Final[dict[str, Mishap]] = {
    "kill-point": kill_at_point,
    "kill": kill_at_random,
    "terminate": terminate,
    "stop-point": stop_at_point,
    "stop": stop_at_random,
    "lost-reply": lose_reply,
    "lost-xadd": lose_xadd,
    "redis-silent": redis_silent,
    "redis-reset": redis_reset,
    "redis-away": redis_away,
    "redis-slow": redis_slow,
    "redis-killed": redis_killed,
    "script-flush": script_flush,
    "group-destroyed": group_destroyed,
    "clients-killed": clients_killed,
    "memory-full": memory_full,
    "flushall": flushed,
    "power-lost": power_lost,
    "failover": failed_over,
    "disk-full": disk_full,
    "clock-step": clock_stepped,
    "ami-silent": ami_silent,
    "ami-reset": ami_reset,
    "ami-away": ami_away,
    "ami-slow": ami_slow,
    "ami-response": ami_response,
    "ami-dropped": ami_dropped,
    "ami-away-in-a-list": ami_away_in_a_list,
    "ami-sessions": ami_sessions,
    "ami-restart": ami_restart,
}

WEIGHTS: Final = {
    "kill-point": 10, "kill": 6, "lost-reply": 8, "lost-xadd": 3, "stop-point": 4, "stop": 3, "redis-reset": 4,
    "ami-reset": 4, "ami-sessions": 3, "ami-dropped": 3, "ami-response": 2, "failover": 9, "power-lost": 6,
    "clock-step": 2, "disk-full": 2,
}  # fmt: skip
"""How often each befalls, beside 1."""

ONLY_IN: Final = {"power-lost": ALONE, "failover": REPLICATED}
"""What befalls one layout of Redis and not the other."""


def usual(layout: str = ALONE) -> list[str]:
    """What befalls a round on such a Redis if nobody says otherwise, as far as this machine allows it."""
    barred = barred_here()
    return [name for name in MISHAPS if name not in barred and ONLY_IN.get(name, layout) == layout]


def barred_here() -> dict[str, str]:
    """What this machine does not allow, and why."""
    barred = {}
    if not may_mount():
        barred["disk-full"] = "no rights to mount a small disk"
    if not may_step():
        barred["clock-step"] = "no libfaketime"
    return barred
