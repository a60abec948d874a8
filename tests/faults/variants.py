"""Deliberately broken workers: the checker must find each of them out. Each lacks one thing that a promise rests on, or
several where the one alone is not missed: what guards twice is told in the variant's words."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import workers.event_pump
import workers.job
import workers.reader
import workers.records
import workers.service
from broker.entry import Request
from tests.faults.breaking import exchange, exchange_everywhere, rewrite, rewrite_script
from workers.action_worker import ActionWorker
from workers.batch import tolerated
from workers.calls import Calls
from workers.clock import ServerClock
from workers.diary import Diary
from workers.intake import Intake
from workers.job import Job
from workers.journal import Journal
from workers.journal_file import JournalFile, JournalFull
from workers.journal_lock import JournalLock
from workers.lease import Lease, LeaseLost
from workers.reader import Reader
from workers.records import Records
from workers.schedule import Schedule, Turn
from workers.tenure import Tenure

# -- who may write


def mark_after_write() -> None:
    """Records the intent when Asterisk has answered, not before the write."""
    mark, send = ActionWorker.mark_sending, ActionWorker._send_change

    async def mark_sending(self: ActionWorker, jobs: list[Job], *, probe: bool) -> list[tuple[str, float]]:
        if probe or jobs[0].reads_only:
            return await mark(self, jobs, probe=probe)
        return [("sending", self._clock.now()) for _ in jobs]

    async def _send_change(self: ActionWorker, job: Job, turn: Turn) -> Any:
        outcome = await send(self, job, turn)
        await mark(self, [job], probe=False)
        return outcome

    exchange(ActionWorker, mark_sending=mark_sending, _send_change=_send_change)


def no_fence() -> None:
    """A worker that has lost its lease may go on marking and publishing, and does not end before it has."""
    for name in ("mark_sending", "publish_events"):
        rewrite_script(name, ("if redis.pcall('GET', root .. 'epoch') ~= epoch then", "if false then"))
    beat = Tenure._beat

    async def _beat(self: Tenure) -> None:
        try:
            await beat(self)
        except LeaseLost:
            await self._pump.drained.wait()  # else which of the two Redis hears first is left to chance
            raise

    exchange(Tenure, _beat=_beat)


def no_lease_check() -> None:
    """Takes its lease for valid, however long it was stopped."""
    exchange(Lease, is_valid=property(lambda _self: True))


def no_lock() -> None:
    """Lets another process on this host have the journal: neither is ended."""

    def take(path: Path, _grace_s: float) -> JournalLock:
        return JournalLock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    exchange(JournalLock, take=staticmethod(take))


def no_seal() -> None:
    """Does not see that another process has sealed the journal. The lock, and the lease, would stop it as well."""
    only_the_seal()
    exchange(JournalFile, look=lambda _self: None)


def only_the_seal() -> None:
    """Nothing but the seal says that another worker has taken over: it suffices on this host."""
    no_lock()
    no_lease_check()


# -- what may be written again


def resend() -> None:
    """Takes everything for read-only, and so writes again what a lost worker had begun."""
    original = workers.job.make_job

    def make_job(request: Request, server: str) -> Job:
        return replace(original(request, server), reads_only=True)

    exchange_everywhere(original, make_job)


def no_journal_check() -> None:
    """Writes what the journal knows to be written."""
    rewrite(Diary, "begin_write", ("noted is None or noted.written", "noted is None"))


def no_journal_note() -> None:
    """Notes nothing, and does not miss it."""

    async def note(_self: Diary, _jobs: list[Job]) -> None:
        return

    exchange(Diary, note=note, begin_write=lambda _self, _job: True)


def full_disk_ignored() -> None:
    """Writes what the journal has no room for."""
    note = Journal.note

    def try_to_note(self: Journal, items: Sequence[tuple[str, str, str]], epoch: int) -> None:
        with contextlib.suppress(JournalFull):
            note(self, items, epoch)

    exchange(Journal, note=try_to_note)
    rewrite(Diary, "begin_write", ("return False", "return noted is None"))


def journal_proves_all() -> None:
    """Takes it for granted that what a lost worker had begun was never written."""
    exchange(Diary, proves_unwritten=lambda _self, _job: True)


def no_dedupe() -> None:
    """Takes a second entry with a known ActionID for a first one."""
    rewrite_script("mark_sending", ("local state, entry = record[1], record[2]", "local state, entry = false, false"))


def ignore_deadline() -> None:
    """Has never heard of deadlines."""
    original = workers.reader._request

    def _request(lane: str, entry: Any) -> Request:
        request = original(lane, entry)
        request.deadline = 4e9
        return request

    exchange(workers.reader, _request=_request)


# -- what is taken


def forget_pending() -> None:
    """Does not take over what a lost worker had taken."""

    async def claim_all(_self: Reader, _lane: str) -> tuple[list[Request], list[str]]:
        return [], []

    never_missed()
    exchange(Reader, claim_all=claim_all)


def never_missed() -> None:
    """Does not look for what a read took whose reply was lost."""

    async def take_missed(_self: Intake, _lane: str, *, surely: bool = False) -> None:
        return

    exchange(Intake, take_missed=take_missed)


def group_at_dollar() -> None:
    """Makes the consumer group anew at the stream's end."""
    rewrite(Reader, "make_groups", ('id="0"', 'id="$"'))


def last_in_first_out() -> None:
    """Lets the newest have the first turn."""

    def _line_up(queue: Any, turn: Turn) -> None:
        queue.appendleft(turn)

    exchange(Schedule, _line_up=staticmethod(_line_up))


# -- what is told


def settle_without_ack() -> None:
    """Neither acknowledges nor deletes. (Redis' word that it is settled would have it done by the next look.)"""
    rewrite_script(
        "settle",
        ("  acknowledge(root .. 'actions', finished.actions)", ""),
        ("  acknowledge(root .. 'actions:urgent', finished.urgent)", ""),
    )
    never_missed()


def settle_again() -> None:
    """Settles what is settled."""
    rewrite_script("settle", ("elseif FINAL[state] and entry then", "elseif false then"))


def result_not_published() -> None:
    """Says nothing on the action's channel."""
    rewrite_script("settle", ("  redis.call(publish, key, item.message)\n", ""))


def reply_not_published() -> None:
    """Says nothing on the reply channel."""
    rewrite_script("settle", ("redis.call(publish, root .. 'reply:' .. common.reply, item.message)", ""))


def record_not_written() -> None:
    """Says how it ended, and does not write it into the record."""
    rewrite_script(
        "settle", ("redis.call('HSET', key, 'state', common.state,", "redis.call('HSET', key, 'was', common.state,")
    )


def line_not_written() -> None:
    """Settles without a line in `results`."""
    rewrite_script("settle", ("redis.call('XADD', root .. 'results',", "tostring(root .. 'results',"))


def unknown_without_reason() -> None:
    """Does not say why nobody knows."""
    rewrite(workers.records, "_told", ('(outcome.message or "")[:MAX_LINE_TEXT]', '""'))


def message_of_another_state() -> None:
    """Says that it is done, whatever the record says."""
    rewrite(Records, "_result", ("outcome.state", "State.DONE"))


# -- who serves


def epoch_not_counted() -> None:
    """Hands the same epoch out again."""
    rewrite_script("acquire", ("math.max(count, floor) + 1", "math.max(count, floor, 1)"))


def epoch_not_overtaken() -> None:
    """Does not ask the journal which epoch was the last."""
    rewrite(workers.service, "_open_journal", ("if journal.last_epoch >= lease.epoch:", "if False:"))


def redis_taken_for_the_same() -> None:
    """Does not ask whether this is the Redis of before, nor what it has forgotten."""

    async def never(_lease: Lease, _journal: Journal, _now: float) -> float:
        return 0.0

    exchange(workers.service, _doubtful_before=never)


def hosts_clock_believed() -> None:
    """Takes its host's clock for Redis'."""
    exchange(ServerClock, now=lambda _self: time.time())


def release_lease_early() -> None:
    """Gives the lease back before what it has begun is over, and does not renew it any more."""
    shut_down = Tenure._shut_down

    async def _shut_down(self: Tenure) -> None:
        await self._lease.release()
        exchange(self._lease, renew=AsyncMock())
        await shut_down(self)

    exchange(Tenure, _shut_down=_shut_down)


# -- calls and events


def originate_without_channel_id() -> None:
    """Does not join an Originate to its call."""
    rewrite(workers.job, "_make_originate", ('pairs.append(("ChannelId", channel_id))', "pass"))


def legs_by_linkedid() -> None:
    """Asks each event's Linkedid to which call it belongs."""
    rewrite(
        Calls, "attribute",
        (
            "in named_legs(event, legs):",
            "in {value for header, value in event.headers.pairs if header == \"Linkedid\"} & legs.keys():",
        ),
    )  # fmt: skip
    rewrite(
        Calls, "_follow",
        ("call = self._legs.get(uniqueid or \"\")", "call = self._legs.get(headers.get(\"Linkedid\") or \"\")"),
    )  # fmt: skip


def events_twice() -> None:
    """Publishes a batch again whose reply was lost."""
    rewrite_script("publish_events", ("if i > done then", "if true then"))


def hole_not_seen() -> None:
    """Does not look whether Redis has forgotten events."""
    rewrite_script("publish_events", ("if seq and seq < first - 1 and ARGV[7] ~= ARGV[6] then", "if false then"))


def events_lost() -> None:
    """Takes a batch for published before Redis has said so. (That Redis seems to have forgotten it would be told.)"""
    hole_not_seen()

    async def once(what: str, call: Callable[[], Any]) -> None:
        with tolerated(what):
            await call()

    exchange(workers.event_pump, until_done=once)


def gap_not_told() -> None:
    """Does not say for which time nobody listened."""
    rewrite(Tenure, "_welcome", ("if self._away_since is not None:", "if False:"))


VARIANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        mark_after_write, no_fence, no_lease_check, no_lock, no_seal, only_the_seal, resend, no_journal_check,
        no_journal_note, journal_proves_all, no_dedupe, ignore_deadline, forget_pending, never_missed, group_at_dollar,
        last_in_first_out, settle_without_ack, settle_again, result_not_published, reply_not_published,
        record_not_written, line_not_written, unknown_without_reason, message_of_another_state, epoch_not_counted,
        full_disk_ignored, epoch_not_overtaken, redis_taken_for_the_same, hosts_clock_believed,
        release_lease_early, originate_without_channel_id, legs_by_linkedid, events_twice, events_lost, gap_not_told,
        hole_not_seen,
    )
}  # fmt: skip
