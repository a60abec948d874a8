"""Short rounds, each with one thing that goes wrong at one place: what a broken worker does wrong shows at once, and
the sound one passes. Every wait is for what is seen, on Redis or at Asterisk."""

import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from broker.codec import FINAL_STATES
from broker.keys import ACTIONS, GROUP, URGENT
from tests.faults.history import CLOCKS_S, LOOK_TO_WRITE_S, History, Loss
from tests.faults.host import PAGE_BYTES
from tests.faults.nursery import Life
from tests.faults.producer import PRODUCERS, REPLY, Wish
from tests.faults.redis_side import ALONE, REPLICATED
from tests.faults.world import SETTLE_DEADLINE_S, Round, World, wait_for

Course = Callable[[Round], Awaitable[None]]

LEASE_S: Final = 5.0
"""As long as usual: on a busy machine a process may well stand still for as long as a shorter one lasts."""

SHORT_LEASE_S: Final = 3.0
"""Where its end is waited for."""

DRAIN_S: Final = 30.0
"""A worker that was asked to end has as long as a scene needs it."""

IN_VAIN_S: Final = 3.0
"""What waits when the worker is at what came later is settled within that time, or never."""

MEDDLING_S: Final = 6.0
"""Who stands by looks for the lease a dozen times within that time."""

HOUR_S: Final = 3600.0

LONG: Final = "-of-a-name-that-is-as-long-as-an-ActionID-may-be"
"""It soon fills what is left of a page of the journal."""

NOTE_BYTES: Final = 100
"""No note of such an action is shorter."""


@dataclass(frozen=True)
class Scene:
    """A round and what is done to it."""

    course: Course
    workers: int = 1
    hosts: int = 1
    stop_at: str = ""
    """The first worker is stopped at this kill point."""
    is_armed: bool = False
    """Only once the course has armed it."""
    is_orderly: bool = False
    """All must be known in the end."""
    lease_s: float = LEASE_S
    layout: str = ALONE
    """Of Redis."""
    needs: str = ""
    """What not every machine allows: `disk-full`, `clock-step`."""

    @property
    def name(self) -> str:
        """For people: what is done, where, and whether to more than one host."""
        at = self.stop_at.partition(":")[2]
        return self.course.__name__ + (at and f"-{at}") + ("-on-two-hosts" if self.hosts > 1 else "")


async def play(world: World, scene: Scene, variant: str = "", *, in_vain: bool = False) -> History:
    """Play it with such workers: all that was seen. `in_vain`: some of it will never be settled."""
    world.variant, world.settings = variant, {"lease_s": f"{scene.lease_s:g}", "drain_s": f"{DRAIN_S:g}"}
    world.settle_deadline_s = IN_VAIN_S if in_vain else SETTLE_DEADLINE_S
    armed_by = str(world.armed) if scene.is_armed else ""
    first = world.orders(point=scene.stop_at, how="stop", armed_by=armed_by) if scene.stop_at else None
    async with world.round(1, scene.workers, scene.hosts, first) as running:
        running.is_orderly = scene.is_orderly
        await running.serving()
        await scene.course(running)
        if in_vain:
            await world.heal()
            await put(running, Wish("later", "Ping", (), URGENT, "", "reads"))
            await written(running, "later")
        return await running.finish()


# -- what is queued, and what is waited for


def setvar(action_id: str, **bus: str) -> Wish:
    """Something that changes something."""
    fields = ("Variable", "v"), ("Value", action_id), ("Bus-Timeout", "60"), ("Bus-Producer", PRODUCERS[0])
    more = [(f"Bus-{name.capitalize()}", value) for name, value in bus.items()]
    return Wish(action_id, "Setvar", (*fields, *more), ACTIONS, PRODUCERS[0], "changes")


def originate(action_id: str, seconds: str) -> Wish:
    """A call that lasts so long."""
    fields = ("Channel", "Local/100@default"), ("Application", "Wait"), ("Data", seconds)
    return Wish(action_id, "Originate", fields, ACTIONS, "", "calls")


async def put(running: Round, *wishes: Wish) -> None:
    """Queue these, in this order."""
    for wish in wishes:
        await running.producer.put(wish)


async def written(running: Round, action_id: str) -> None:
    """Wait until Asterisk has got it."""

    async def is_there() -> bool:
        writes, _ = running.world.asterisk.written(running.world.since)
        return any(write.action_id == action_id for write in writes)

    await wait_for(f"{action_id} is written", is_there)


async def recorded(running: Round, action_id: str, field: str, value: str) -> None:
    """Wait until its record says so."""
    key = running.world.keys.action(action_id)

    async def is_so() -> bool:
        return bool(await running.observer.redis.hget(key, field) == value.encode())

    await wait_for(f"{action_id} is {value}", is_so)


async def settled(running: Round, action_id: str) -> None:
    """Wait until it has a final state."""
    key = running.world.keys.action(action_id)

    async def is_so() -> bool:
        state = await running.observer.redis.hget(key, "state")
        return state is not None and state.decode() in FINAL_STATES

    await wait_for(f"{action_id} is settled", is_so)


async def stopped(life: Life) -> None:
    """Wait until it is held by SIGSTOP."""

    async def is_so() -> bool:
        return life.is_stopped

    await wait_for(f"{life.name} is stopped", is_so)


async def stop(running: Round) -> Life:
    """Stop the worker that serves."""
    life = running.server.present
    life.send(signal.SIGSTOP)
    await stopped(life)
    return life


async def stands_by(running: Round) -> None:
    """Wait until a worker stands by."""

    async def is_so() -> bool:
        lines = running.world.slots[-1].present.lines()
        return any(line["event"].startswith("standing by") for line in lines)

    await wait_for("a worker stands by", is_so)


async def wake(life: Life) -> None:
    """Let it go on, and wait until it knows that its time is over: it says so, or is no more."""
    life.send(signal.SIGCONT)

    async def is_over() -> bool:
        return life.is_over or any(line["event"].startswith("fenced") for line in life.lines())

    await wait_for(f"{life.name} knows that it is fenced", is_over)


async def passed(running: Round, seconds: float) -> None:
    """Wait until so much time has passed by Redis' clock."""
    began = await running.observer.redis.time()

    async def is_past() -> bool:
        now = await running.observer.redis.time()
        return bool(now[0] - began[0] + (now[1] - began[1]) / 1e6 > seconds)

    await wait_for("time passes", is_past)


async def hold(running: Round, action_id: str) -> None:
    """Asterisk will not answer this one."""
    await running.world.asterisk.ask("fault", name="hold_response", action=action_id)


async def let_go(running: Round) -> None:
    """Now it does."""
    await running.world.asterisk.ask("fault", name="resume")


# -- the courses


async def a_good_day(running: Round) -> None:
    """Some wait while the first is in flight; a call, and something that fails."""
    await hold(running, "a")
    await put(running, *[setvar(each, reply=REPLY) for each in "abcd"], originate("call", "0.05"))
    await put(running, Wish("failing", "Hangup", (("Channel", "SIP/nobody"),), ACTIONS, "", "changes"))
    await written(running, "a")

    async def are_taken() -> bool:
        return await running.observer.pending(ACTIONS) == await running.observer.backlog()

    await wait_for("all are taken", are_taken)
    await let_go(running)


async def killed_amid_an_answer(running: Round) -> None:
    """One is written and not answered, others wait behind it; the worker is killed, and another one comes."""
    await hold(running, "held")
    await put(running, setvar("held"), setvar("second"), setvar("third"))
    await written(running, "held")
    running.kill_next(running.world.orders())


async def stopped_amid_an_answer(running: Round) -> None:
    """The same, and the worker is stopped; another one takes over, and then the first wakes, and finds the answer."""
    await hold(running, "held")
    await put(running, setvar("held"), setvar("second"))
    await written(running, "held")
    zombie = await stop(running)
    await let_go(running)
    await running.serving()
    await recorded(running, "second", "state", "done")
    await wake(zombie)


async def stopped_before_a_write(running: Round) -> None:
    """The first worker stops right before a write, and wakes when another one has long settled that."""
    zombie = running.server.present
    await put(running, setvar("late"))
    await stopped(zombie)
    zombie.is_condemned = True  # another one on its host may end it
    await running.serving()
    await settled(running, "late")
    await passed(running, 3 * CLOCKS_S)  # so that late is late by any clock
    await wake(zombie)


async def woken_among_events(running: Round) -> None:
    """A worker is stopped right before it publishes an event, another one publishes others, and then the first
    wakes."""
    zombie = running.server.present
    running.world.armed.touch()
    await ask_to_tell(running, "first")
    await stopped(zombie)
    await running.serving()
    await tell(running, "second")
    await wake(zombie)
    await tell(running, "third")


async def flushed_and_asked_again(running: Round) -> None:
    """Redis loses its memory, and the producer asks again for what was done."""
    await put(running, setvar("once"))
    await recorded(running, "once", "state", "done")
    await running.flush()
    await running.serving()
    await put(running, setvar("once"))
    await wait_for("it is answered again", lambda: running.observer.redis.xlen(running.world.keys.results))


async def failed_over_to_another_host(running: Round) -> None:
    """What was done since its replica lagged Redis has forgotten, and another host's worker takes over."""
    redis = running.world.redis
    await stands_by(running)
    await hold(running, "first")
    await put(running, setvar("first"), setvar("second"))
    await written(running, "first")
    await redis.begin_to_forget()
    await let_go(running)
    await recorded(running, "second", "state", "done")
    await stop(running)
    running.losses.append(await redis.forget())
    await running.serving()
    await put(running, setvar("third"))
    await settled(running, "third")


async def power_failed_amid_two_lives(running: Round) -> None:
    """Redis forgets that there was a second worker, and a third one comes."""
    redis = running.world.redis
    await put(running, setvar("first"))
    await recorded(running, "first", "state", "done")
    await redis.begin_to_forget()
    running.kill_next(running.world.orders())
    await running.serving()
    await put(running, setvar("second"))
    await recorded(running, "second", "state", "done")
    running.server.is_quick = False  # the third one must not take the lease from a Redis that still knows of the second
    running.kill_next(running.world.orders())
    running.losses.append(await redis.forget())
    await running.serving()
    await put(running, setvar("second"), setvar("third"))
    await settled(running, "third")


async def disk_was_full(running: Round) -> None:
    """More is queued than the journal has room for, and then there is room again."""
    host, count = running.server.host, PAGE_BYTES // NOTE_BYTES + 5
    host.fill()
    await put(running, *[setvar(f"change-{number}{LONG}") for number in range(count)])

    async def is_told() -> bool:
        state = await running.observer.redis.hget(running.world.keys.worker, "state")
        return state == b"paused" or not await running.observer.backlog()

    await wait_for("the worker is paused", is_told)
    host.make_room()


async def clock_was_stepped(running: Round) -> None:
    """The worker's host believes that it is an hour earlier."""
    life = running.server.present
    running.server.host.step(-HOUR_S)
    numbers = itertools.count()

    async def has_seen_it() -> bool:
        """Its log tells; what it refuses is a line of that."""
        await put(running, Wish(f"refused-{next(numbers)}", "", (), ACTIONS, "", "changes"))
        last = list(life.lines())[-1]
        return datetime.fromisoformat(last["timestamp"]).timestamp() < time.time() - HOUR_S / 2

    await wait_for("the worker sees it", has_seen_it)
    await put(running, setvar("first", deadline="+60"), setvar("second"))


async def asked_twice(running: Round) -> None:
    """The producer asks again for what is done."""
    await put(running, setvar("once"))
    await recorded(running, "once", "state", "done")
    await put(running, setvar("once"))


async def read_past_its_deadline(running: Round) -> None:
    """An entry is read when its deadline is over."""
    life = await stop(running)
    await put(running, setvar("expired", deadline="+0.05"))
    await passed(running, LOOK_TO_WRITE_S + 3 * CLOCKS_S)
    life.send(signal.SIGCONT)


async def group_destroyed(running: Round) -> None:
    """The group is gone, and entries come before it is there again."""
    life = await stop(running)
    await running.command("XGROUP", "DESTROY", running.world.keys.actions, GROUP)
    await put(running, setvar("a"), setvar("b"))
    life.send(signal.SIGCONT)


async def read_reply_lost(running: Round) -> None:
    """Redis gave entries out, and its reply was lost."""
    await put(running, setvar("before"))
    await recorded(running, "before", "state", "done")
    life = await stop(running)
    loss = running.world.redis_proxy.drop_replies(b"XREADGROUP")

    async def is_lost() -> bool:
        return loss.is_over

    await put(running, setvar("a"), setvar("b"))
    life.send(signal.SIGCONT)
    await wait_for("the reply is lost", is_lost)


async def settle_reply_lost(running: Round) -> None:
    """Redis has settled it, and its reply was lost."""
    await put(running, setvar("before"))
    await recorded(running, "before", "state", "done")
    running.world.redis_proxy.drop_replies(b"settled_at")  # a key of the message, which no other script has
    await put(running, setvar("a"))
    await recorded(running, "a", "state", "done")


async def event_reply_lost(running: Round) -> None:
    """Redis has taken events, and its reply was lost."""
    running.world.redis_proxy.drop_replies(b"first word")
    await tell(running, "first word")
    await tell(running, "second word")


async def events_while_redis_is_full(running: Round) -> None:
    """An event comes while Redis takes none."""
    await running.command("CONFIG", "RESETSTAT")
    await running.command("CONFIG", "SET", "maxmemory", "1")
    await ask_to_tell(running, "first word")

    async def is_refused() -> bool:
        """A script was, and there is none but that of the events; other commands of the heartbeat are, too."""
        counts = await running.observer.redis.info("commandstats")
        return any(counts.get(f"cmdstat_{name}", {}).get("rejected_calls") for name in ("eval", "evalsha"))

    await wait_for("the event is refused", is_refused)
    await running.command("CONFIG", "SET", "maxmemory", "0")
    await tell(running, "second word")


async def ended_amid_an_answer(running: Round) -> None:
    """The worker is asked to end while one is in flight, and another one stands by."""
    await stands_by(running)
    await hold(running, "held")
    await put(running, setvar("held"), setvar("second"))
    await written(running, "held")
    first = running.server.present
    first.send(signal.SIGTERM)

    async def is_told() -> bool:
        return any(line["event"] == "draining" for line in first.lines())

    await wait_for(f"{first.name} is about to end", is_told)
    lines = running.world.slots[-1].present.lines

    async def is_taken() -> bool:
        return any(line["event"] == "lease taken" for line in lines())

    try:
        await wait_for("the lease is taken", is_taken, MEDDLING_S)
    except TimeoutError:
        pass  # as it should be
    else:
        await settled(running, "held")
    await let_go(running)
    await recorded(running, "second", "state", "done")


async def leg_of_a_changing_hand(running: Round) -> None:
    """A leg joins a call of the bus, is bridged with a stranger, whose Linkedid it takes on, and hangs up."""
    await put(running, originate("call", "600"))
    await recorded(running, "call", "call", "up")
    channel = (await running.observer.redis.hget(running.world.keys.action("call"), "uniqueid")).decode()
    leg = ("Channel", "SIP/late-1"), ("Uniqueid", "late-1")
    await running.world.asterisk.ask(
        "tell", event="Newchannel", privilege="call", headers=[*leg, ("Linkedid", channel)]
    )
    hangup = [*leg, ("Linkedid", "stranger"), ("Cause", "16")]
    await running.world.asterisk.ask("tell", event="Hangup", privilege="call", headers=hangup)
    await running.world.asterisk.ask("hang_up", uniqueid=channel)


async def events_deleted(running: Round) -> None:
    """The stream of events is deleted, and the worker goes on."""
    await tell(running, "first")
    await running.command("DEL", running.world.keys.events)
    running.losses.append(Loss(0.0, time.time(), "its events were deleted"))
    await tell(running, "second")


async def tell(running: Round, words: str) -> None:
    """Asterisk tells an event; wait until it is out."""
    keys = running.world.keys
    await ask_to_tell(running, words)

    async def is_out() -> bool:
        return any(words.encode() in fields[b"data"] for _, fields in await running.observer.redis.xrange(keys.events))

    await wait_for(f"the event of {words} is out", is_out)


async def ask_to_tell(running: Round, words: str) -> None:
    """Asterisk tells an event."""
    await running.world.asterisk.ask("tell", event="Reload", privilege="system", headers=[("Module", words)])


GOOD_DAY: Final = Scene(a_good_day, is_orderly=True)
KILLED: Final = Scene(killed_amid_an_answer)
STOPPED_ELSEWHERE: Final = Scene(stopped_amid_an_answer, workers=2, hosts=2, lease_s=SHORT_LEASE_S)
BEFORE_THE_LOOKS: Final = Scene(
    stopped_before_a_write, workers=2, stop_at="diary.py:begin_write@called", lease_s=SHORT_LEASE_S
)
BEFORE_THE_LOOKS_ELSEWHERE: Final = replace(BEFORE_THE_LOOKS, hosts=2)
BEHIND_THE_LOOKS: Final = replace(BEFORE_THE_LOOKS, stop_at="sessions.py:request_all@called")
AMONG_EVENTS: Final = Scene(
    woken_among_events, workers=2, hosts=2, stop_at="event_pump.py:_send@called", is_armed=True, lease_s=SHORT_LEASE_S
)
FLUSHED: Final = Scene(flushed_and_asked_again)
ASKED_TWICE: Final = Scene(asked_twice, is_orderly=True)
PAST_ITS_DEADLINE: Final = Scene(read_past_its_deadline)
GROUP_DESTROYED: Final = Scene(group_destroyed)
READ_REPLY_LOST: Final = Scene(read_reply_lost)
SETTLE_REPLY_LOST: Final = Scene(settle_reply_lost, is_orderly=True)
EVENT_REPLY_LOST: Final = Scene(event_reply_lost)
EVENTS_WHILE_FULL: Final = Scene(events_while_redis_is_full)
EVENTS_DELETED: Final = Scene(events_deleted)
ENDED: Final = Scene(ended_amid_an_answer, workers=2, hosts=2, is_orderly=True)
FAILED_OVER: Final = Scene(failed_over_to_another_host, workers=2, hosts=2, layout=REPLICATED, lease_s=SHORT_LEASE_S)
POWER_FAILED: Final = Scene(power_failed_amid_two_lives, lease_s=SHORT_LEASE_S)
DISK_FULL: Final = Scene(disk_was_full, is_orderly=True, needs="disk-full")
CLOCK_STEPPED: Final = Scene(clock_was_stepped, is_orderly=True, needs="clock-step")
CHANGING_HAND: Final = Scene(leg_of_a_changing_hand, is_orderly=True)

SCENES: Final = (
    GOOD_DAY, KILLED, STOPPED_ELSEWHERE, BEFORE_THE_LOOKS, BEFORE_THE_LOOKS_ELSEWHERE, BEHIND_THE_LOOKS, AMONG_EVENTS,
    FLUSHED, ASKED_TWICE, PAST_ITS_DEADLINE, GROUP_DESTROYED, READ_REPLY_LOST, SETTLE_REPLY_LOST, EVENT_REPLY_LOST,
    EVENTS_WHILE_FULL, EVENTS_DELETED, ENDED, CHANGING_HAND, FAILED_OVER, POWER_FAILED, DISK_FULL, CLOCK_STEPPED,
)  # fmt: skip

CAUGHT: Final[dict[str, tuple[Scene, str]]] = {
    "mark-after-write": (STOPPED_ELSEWHERE, "written twice"),
    "no-fence": (AMONG_EVENTS, "epochs"),
    "no-lease-check": (BEFORE_THE_LOOKS_ELSEWHERE, "written late"),
    "no-seal": (BEFORE_THE_LOOKS, "written twice"),
    "no-lock": (BEHIND_THE_LOOKS, "written late"),
    "resend": (KILLED, "written twice"),
    "no-journal-check": (FLUSHED, "written twice"),
    "no-journal-note": (KILLED, "written twice"),
    "journal-proves-all": (STOPPED_ELSEWHERE, "written twice"),
    "no-dedupe": (ASKED_TWICE, "two fates"),
    "ignore-deadline": (PAST_ITS_DEADLINE, "too late"),
    "forget-pending": (KILLED, "left over"),
    "never-missed": (READ_REPLY_LOST, "left over"),
    "group-at-dollar": (GROUP_DESTROYED, "lost"),
    "last-in-first-out": (GOOD_DAY, "out of order"),
    "settle-without-ack": (GOOD_DAY, "left over"),
    "settle-again": (SETTLE_REPLY_LOST, "settled twice"),
    "result-not-published": (GOOD_DAY, "not said"),
    "reply-not-published": (GOOD_DAY, "not replied"),
    "record-not-written": (GOOD_DAY, "not settled"),
    "line-not-written": (GOOD_DAY, "not settled"),
    "unknown-without-reason": (KILLED, "unexplained"),
    "message-of-another-state": (GOOD_DAY, "disagreement"),
    "epoch-not-counted": (KILLED, "epochs"),
    "release-lease-early": (ENDED, "needlessly unknown"),
    "originate-without-channel-id": (GOOD_DAY, "not followed"),
    "legs-by-linkedid": (CHANGING_HAND, "left over"),
    "events-twice": (EVENT_REPLY_LOST, "events"),
    "events-lost": (EVENTS_WHILE_FULL, "events"),
    "gap-not-told": (KILLED, "events"),
    "hole-not-seen": (EVENTS_DELETED, "events"),
    "redis-taken-for-the-same": (FAILED_OVER, "written twice"),
    "epoch-not-overtaken": (POWER_FAILED, "epochs"),
    "full-disk-ignored": (DISK_FULL, "not noted"),
    "hosts-clock-believed": (CLOCK_STEPPED, "wrong time"),
}
"""Which scene finds each variant out, and by which rule."""

IN_VAIN: Final = frozenset(
    (
        "forget-pending", "never-missed", "group-at-dollar", "settle-without-ack", "record-not-written",
        "originate-without-channel-id", "legs-by-linkedid",
    )
)  # fmt: skip
"""Variants that never settle what the checker finds."""

ENOUGH: Final[dict[str, Scene]] = {"only-the-seal": BEFORE_THE_LOOKS}
"""Variants that lack one guard of two: the other suffices, and nothing is to be found."""
