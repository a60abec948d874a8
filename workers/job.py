"""A request made ready to send: what goes to Asterisk, on which session, and how long its answer is waited for."""

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from broker.ami import Action, ActionSpec, LocalProtocolError, lookup, reads_function, serialise, unknown_spec
from broker.entry import DEFAULT_TIMEOUT_S, Pairs, Request, own_channel_id, printable
from broker.errors import ErrorCode, Refused
from workers.items import Items
from workers.schedule import CALLS, CHANGES, READS, session_of

ORIGINATE_DEFAULT_TIMEOUT_MS: Final = 30_000
"""Asterisk's own default of an Originate's Timeout (all versions 16 to 22)."""

ORIGINATE_GRACE_S: Final = 10.0
"""How much longer than its own Timeout an Originate's outcome is waited for."""

MARK: Final = ("epoch", "sending_at", "worker")
"""The fields of a record that say who marked it, and when."""

MAX_CHANNEL_ID: Final = 149
"""AST_MAX_PUBLIC_UNIQUEID: Asterisk refuses a longer ChannelId."""

_MILLISECONDS: Final = re.compile(r"[0-9]{1,9}[ \t]*")
"""Asterisk reads an int: a longer number would be another one to it."""

_EPOCH: Final = re.compile(rb"[1-9][0-9]{0,15}")
_TIME: Final = re.compile(rb"[1-9][0-9]{0,10}(\.[0-9]{1,6})?")
"""Of a mark, as `mark_sending` writes them."""

_BLANKS: Final = "".join(map(chr, range(1, 33)))
"""What Asterisk skips before a value: everything up to the blank (ast_skip_blanks)."""


@dataclass(slots=True)
class Job:
    """One request on its way to Asterisk."""

    request: Request
    action: Action
    spec: ActionSpec
    reads_only: bool
    """Whether it may be repeated: the catalog says so, and no dialplan function runs in it."""
    session: str
    cost: str
    answer_timeout_s: float
    """How long Asterisk's (first) whole answer is waited for."""
    channel_id: str | None = None
    """An Originate's ChannelId, which becomes the Uniqueid of its channel."""
    is_ruled_out: bool = False
    """Its call is known not to be alive (any more)."""
    outcome_timeout_s: float = 0.0
    """How long the OriginateResponse is waited for."""
    sending_at: float | None = None
    """Redis' time of its mark; None: it is not marked."""
    epoch: int | None = None
    """The epoch of its mark: this worker's, or a lost one's."""
    marked_by: str = ""
    """The lost worker that marked it, by its name."""
    begun_before: float | None = None
    """Redis forgot it, and it may have been sent since this (unix seconds by Redis' clock)."""
    again: bool = False
    """It had been begun, by a worker or on a session that was lost, and may be repeated."""
    written: bool = False
    """It may have reached Asterisk on a session that was lost since."""
    repeats: int = 0
    number: int | None = None
    """Its place in the order of the schedule, which it keeps when it is tried again."""
    items: Items | None = None
    """What has come of a long list so far."""
    noted: asyncio.Future[None] | None = None
    """The marking as `sent`, which must be out before the end is."""

    def was_marked(self, epoch: bytes | None, sending_at: bytes | None, worker: bytes | None) -> None:
        """Take what its record says of the mark of a lost worker: the fields `MARK`.

        Of a mark that somebody has spoilt nothing is taken: an attempt named by an epoch that is not written there to
        the letter could never settle it.
        """
        self.epoch = self.sending_at = None
        if epoch and sending_at and _EPOCH.fullmatch(epoch) and _TIME.fullmatch(sending_at):
            self.epoch, self.sending_at = int(epoch), float(sending_at)
        self.marked_by = (worker or b"").decode(errors="replace")


def make_job(request: Request, server: str) -> Job:
    """Make a well-formed request ready. Raises `Refused` for what AMI cannot carry."""
    spec = lookup(request.action) or unknown_spec(request.action)
    pairs = request.pairs
    # Getvar of a function runs the function, and some functions change things.
    reads_only = spec.reads_only and not (pairs and _runs_function(pairs))
    action = Action(request.action, pairs, request.action_id)
    session, cost = session_of(request.lane, reads_only), READS if reads_only else CHANGES
    job = Job(request, action, spec, reads_only, session, cost, request.timeout_s or DEFAULT_TIMEOUT_S)
    if spec.name == "Originate":
        _make_originate(job, server)
    try:
        serialise(job.action)
    except LocalProtocolError as error:
        raise Refused(ErrorCode(error.code), str(error)) from None
    return job


def _make_originate(job: Job, server: str) -> None:
    """Always asynchronous, for a synchronous one blocks its session and tells no reason; always with a ChannelId, which
    joins the action to its call."""
    pairs: Pairs = [(name, value) for name, value in job.request.pairs if name.lower() != "async"]
    channel_id = _first(pairs, "channelid")
    if channel_id is None:
        channel_id = own_channel_id(server, job.request.action_id)
        pairs = [(name, value) for name, value in pairs if name.lower() != "channelid"]
        pairs.append(("ChannelId", channel_id))
    _check_channel_id(channel_id)
    timeout_ms = _first(pairs, "timeout")
    if timeout_ms is not None and not _MILLISECONDS.fullmatch(timeout_ms):
        raise Refused(ErrorCode.BAD_HEADER, f"Timeout {printable(timeout_ms)} is not a number of milliseconds")
    rings_s = int(timeout_ms or ORIGINATE_DEFAULT_TIMEOUT_MS) / 1000
    pairs.append(("Async", "true"))
    job.action = Action(job.request.action, pairs, job.request.action_id)
    job.cost = CALLS
    job.channel_id = channel_id
    # Only that it is queued: Asterisk says so at once. The session is held up for no longer than the producer waits.
    job.answer_timeout_s = min(job.answer_timeout_s, DEFAULT_TIMEOUT_S)
    job.outcome_timeout_s = job.request.timeout_s or rings_s + ORIGINATE_GRACE_S


def _check_channel_id(channel_id: str) -> None:
    try:
        size_bytes = len(channel_id.encode())
    except UnicodeEncodeError:  # it is a field on Redis, and Asterisk's events must lead back to it
        raise Refused(ErrorCode.BAD_HEADER, "ChannelId is not UTF-8") from None
    if size_bytes > MAX_CHANNEL_ID:
        raise Refused(ErrorCode.BAD_HEADER, f"ChannelId is over {MAX_CHANNEL_ID} bytes")


def _first(pairs: Pairs, name: str) -> str | None:
    """A header's value as Asterisk reads it: the first of several, and an empty one is none (manager.c:1549-1580)."""
    value = next((value.lstrip(_BLANKS) for given, value in pairs if given.lower() == name), "")
    return value or None


def _runs_function(pairs: Pairs) -> bool:
    return any(reads_function(value) for name, value in pairs if name.lower() in ("variable", "variables"))
