"""What is written on Redis for one entry: its record, the line in `results`, the copy in `dead`, the messages."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from broker.ami import Headers, Response, mask
from broker.codec import BusResponse, Result, State, pack, response_map, result_map
from broker.entry import Request, text_of
from broker.errors import ErrorCode
from broker.record import Record, result_of_fields
from broker.scripts import Item
from workers.config import Settings
from workers.job import Job
from workers.outcome import Outcome

MAX_COPIED_BYTES: Final = 65_536
"""Of an entry's fields that much is copied into its record or into `dead`: a malformed entry may be of any size."""

MAX_COPIED_FIELDS: Final = 256
"""And so many of them: Lua passes only some thousands of arguments to one command."""

MAX_KNOWN_HEADERS: Final = 4
"""What so few headers ask for is packed once: at some 1,000 bytes a header, what is remembered takes 4 MB at most."""

MAX_LINE_TEXT: Final = 512
"""A text in the `results` stream is cut at this length; the record has it whole."""

Fields = tuple[str | bytes, ...]
"""Of a record, or of an entry: name, value, name, value, ..."""


class Records:
    """Builds the items that the scripts take: their values stand in the order of `broker.scripts.LAYOUTS`."""

    def __init__(self, settings: Settings) -> None:
        self._server = settings.server
        self._worker = settings.name
        self._ttl_ms = int(settings.record_s * 1000)
        self._read_ttl_ms = int(settings.record_read_s * 1000)

    def mark(self, job: Job, *, probe: bool = False) -> Item:
        """For `mark_sending`."""
        request = job.request
        shared = (
            request.lane, request.fingerprint, request.reply, int(probe), int(job.again), request.name,
            request.producer, _request(request), _extra(request),
        )  # fmt: skip
        deadline, queued_at = _seconds(request.deadline), _seconds(request.queued_at)
        return shared, (request.action_id, request.entry, deadline, job.channel_id or "", queued_at)

    def sent(self, job: Job, response: Response, at: float) -> Item:
        """For `mark_sent`."""
        action_id, headers = job.request.action_id, response.headers
        message = pack(response_map(BusResponse(self._server, action_id, headers, at)))
        return (("sent_at", _seconds(at), *_response_fields(headers)),), (action_id, message)

    def settle(
        self, request: Request, outcome: Outcome, at: float, job: Job | None, epoch: int, *, whole: bool = False
    ) -> Item:
        """For `settle`. `whole`: bring the record's first fields, too, for its mark did not write them, or they are
        gone."""
        sending_at = None if job is None else job.sending_at
        if sending_at is not None and sending_at > at:
            # Redis' own time is known here to a few milliseconds only; nothing ends before it has begun.
            at = sending_at
        result = self._result(request, outcome, at, sending_at)
        attempt: int | str = ""
        channel_id, ttl_ms = "", self._ttl_ms
        if job is not None:
            if sending_at is not None:
                attempt = job.epoch or epoch
            if job.channel_id is not None:
                # Of a call that failed the ChannelId is free again; of one of which nobody knows it is not, and one
                # that was never begun did not have it.
                has_failed = outcome.code is not None and outcome.state is not State.UNKNOWN
                if (has_failed and sending_at is not None) or outcome.has_no_call:
                    channel_id = job.channel_id
            if job.reads_only:
                ttl_ms = self._read_ttl_ms
        shared = (
            request.lane, request.fingerprint, attempt, ttl_ms, request.reply, channel_id,
            *_told(outcome), request.name, request.producer, _seconds(at), 0,
            0 if outcome.items is None else outcome.items.chunks,
            self.base(request) if whole or sending_at is None else (),
            _final_fields(outcome),
            _dead(request, outcome) if outcome.state is State.REJECTED else (),
            _line(request.tag),
        )  # fmt: skip
        return shared, (request.action_id, request.entry, pack(result_map(result)), _seconds(request.queued_at))

    def revision(self, record: Record, outcome: Outcome, at: float) -> Item:
        """For `settle`: the truth about an action that was settled as `unknown`."""
        told = record.result or result_of_fields(record.server, record.action_id, record.fields)
        response = outcome.response or told.response
        result = replace(
            told, state=outcome.state, response=response, events=outcome.events or told.events, error_code=outcome.code,
            error_message=outcome.message, revised=True, settled_at=at,
        )  # fmt: skip
        shared = (
            record.get("lane"), record.fingerprint, "", self._ttl_ms, record.get("reply"), "",
            *_told(outcome), record.get("action"), record.get("producer"), _seconds(at), 1, 0,
            (), _final_fields(outcome), (), _line(record.get("tag")),
        )  # fmt: skip
        return shared, (record.action_id, record.entry, pack(result_map(result)), record.get("queued_at"))

    def base(self, request: Request) -> Fields:
        """The record's first fields, as `mark_sending` writes them."""
        return (
            "action", request.name, "lane", request.lane, "entry", request.entry, "producer", request.producer,
            "fingerprint", request.fingerprint, "worker", self._worker, "queued_at", _seconds(request.queued_at),
            "request", _request(request), *_extra(request),
        )  # fmt: skip

    def _result(self, request: Request, outcome: Outcome, at: float, sending_at: float | None) -> Result:
        result = Result(
            self._server, request.action_id, request.entry, request.name, outcome.state, request.producer, request.tag,
            outcome.response, outcome.events, outcome.output,
        )  # fmt: skip
        result.error_code, result.error_message = outcome.code, outcome.message
        result.queued_at, result.sending_at, result.settled_at = request.queued_at, sending_at, at
        result.traceparent = request.traceparent
        if outcome.items is not None:
            result.items, result.chunks = outcome.items.count, outcome.items.chunks
            result.items_latin1 = tuple(outcome.items.latin1)
        return result


def _told(outcome: Outcome) -> tuple[str, str, str]:
    """What the line in `results` says: state, error code, and the error cut to a line."""
    return outcome.state, outcome.code or "", (outcome.message or "")[:MAX_LINE_TEXT]


def _line(tag: str) -> Fields:
    """What only some lines in `results` have."""
    return ("tag", tag) if tag else ()


def _response_fields(response: Headers | None) -> Fields:
    if response is None:
        return ()
    answer, message = response.get("Response"), response.get("Message")
    fields: Fields = () if answer is None else ("response", answer)
    return fields if message is None else (*fields, "message", message)


def _extra(request: Request) -> Fields:
    """The fields that only some requests have."""
    fields: Fields = ()
    if request.reply:
        fields += ("reply", request.reply)
    if request.tag:
        fields += ("tag", request.tag)
    if request.traceparent:
        fields += ("traceparent", request.traceparent)
    return fields


def _final_fields(outcome: Outcome) -> Fields:
    """The last fields beside `state`, `settled_at` and `result`, which the script has from elsewhere."""
    fields = _response_fields(outcome.response)
    if outcome.code is not None:
        fields += ("error_code", outcome.code, "error", outcome.message or "")
    if outcome.reason is not None:  # an Originate's
        fields += ("reason", outcome.reason)
    if outcome.uniqueid is not None:
        fields += ("channel", outcome.channel or "", "uniqueid", outcome.uniqueid)
    return fields


def _shown(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers asked for, as they may be kept: secrets masked, text whatever the bytes were, not without end."""
    shown, room = [], MAX_COPIED_BYTES
    for name, value in mask(pairs)[:MAX_COPIED_FIELDS]:
        name, value = text_of(name)[:room], text_of(value)  # noqa: PLW2901
        shown.append((name, value if len(value) <= room else f"{value[:room]}..."))
        room -= len(name) + len(value)
        if room <= 0:
            break
    return shown


@lru_cache(maxsize=256)
def _seconds(at: float) -> str:
    """A time as the contract writes it. Actions come in bursts, so that many have the same."""
    return f"{at:.6f}"


def _request(request: Request) -> bytes:
    if len(request.pairs) > MAX_KNOWN_HEADERS or request.refusal is not None:
        return _packed(request.name, _shown(request.pairs))
    return _known_request(request.name, tuple(request.pairs))


@lru_cache(maxsize=1024)
def _known_request(name: str, pairs: tuple[tuple[str, str], ...]) -> bytes:
    # The same is asked for again and again.
    return _packed(name, _shown(pairs))


def _packed(action: str, shown: Sequence[tuple[str, str]]) -> bytes:
    headers: dict[str, Any] = {}
    for name, value in [("Action", action), *shown]:
        if name in headers:
            headers[name] = [*headers[name], value] if isinstance(headers[name], list) else [headers[name], value]
        else:
            headers[name] = value
    return pack(headers)


def _dead(request: Request, outcome: Outcome) -> Fields:
    """The copy of a refused entry: why, whence, and its fields."""
    fields: list[str | bytes] = [
        "reason_code", outcome.code or ErrorCode.MALFORMED, "reason", outcome.message or "", "lane", request.lane,
        "entry", request.entry, "action_id", request.action_id, "producer", request.producer,
    ]  # fmt: skip
    given = [part.decode("utf-8", "surrogateescape") for part in request.raw]
    for name, value in _shown([*zip(given[::2], given[1::2], strict=False)]):
        fields += [name or "(empty)", value]
    return tuple(fields)
