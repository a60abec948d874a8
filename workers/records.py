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
from workers.config import Settings
from workers.items import Items
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

Item = dict[str, Any]


class Records:
    """Builds the items that the scripts take."""

    def __init__(self, settings: Settings) -> None:
        self._server = settings.server
        self._worker = settings.name
        self._ttl_ms = int(settings.record_s * 1000)
        self._read_ttl_ms = int(settings.record_read_s * 1000)

    def mark(self, job: Job, *, probe: bool = False) -> Item:
        """For `mark_sending`."""
        request = job.request
        return {
            "id": request.action_id,
            "lane": request.lane,
            "entry": request.entry,
            "fingerprint": request.fingerprint,
            "deadline": request.deadline,
            "reply": request.reply,
            "channel_id": job.channel_id or "",
            "probe": int(probe),
            "again": int(job.again),
            "action": request.name,
            "producer": request.producer,
            "queued_at": _seconds(request.queued_at),
            "request": _request(request),
            "extra": _extra(request),
        }

    def sent(self, job: Job, response: Response, at: float) -> Item:
        """For `mark_sent`."""
        message = BusResponse(self._server, job.request.action_id, response.headers, at)
        return {
            "id": job.request.action_id,
            "message": pack(response_map(message)),
            "fields": ["sent_at", _seconds(at), *_response_fields(response.headers)],
        }

    def settle(
        self, request: Request, outcome: Outcome, at: float, job: Job | None, epoch: int, *, whole: bool = False
    ) -> Item:
        """For `settle`. `whole`: bring the record's first fields, too, for its mark did not write them, or they are
        gone."""
        sending_at = None if job is None else job.sending_at
        # Redis' own time is known here to a few milliseconds only; nothing ends before it has begun.
        at = max(at, sending_at or at)
        message = pack(result_map(self._result(request, outcome, at, sending_at)))
        reads_only = job is not None and job.reads_only
        # Of a call that failed the ChannelId is free again; of one of which nobody knows it is not, and one that was
        # never begun did not have it.
        has_failed = sending_at is not None and outcome.code is not None and outcome.state is not State.UNKNOWN
        call_failed = job is not None and (has_failed or outcome.has_no_call)
        settled_at = _seconds(at)
        return {
            "id": request.action_id,
            "lane": request.lane,
            "entry": request.entry,
            "fingerprint": request.fingerprint,
            "attempt": "" if job is None or sending_at is None else job.epoch or epoch,
            "ttl_ms": self._read_ttl_ms if reads_only else self._ttl_ms,
            "message": message,
            "reply": request.reply,
            "channel_id": job.channel_id or "" if job is not None and call_failed else "",
            "state": outcome.state,
            "error_code": outcome.code or "",
            "error": (outcome.message or "")[:MAX_LINE_TEXT],
            "action": request.name,
            "producer": request.producer,
            "queued_at": _seconds(request.queued_at),
            "settled_at": settled_at,
            "revised": 0,
            "chunks": 0 if outcome.items is None else outcome.items.chunks,
            "base": self.base(request) if whole or sending_at is None else [],
            "fields": _final_fields(outcome),
            "dead": _dead(request, outcome) if outcome.state is State.REJECTED else [],
        }

    def revision(self, record: Record, outcome: Outcome, at: float) -> Item:
        """For `settle`: the truth about an action that was settled as `unknown`."""
        told = record.result or result_of_fields(record.server, record.action_id, record.fields)
        response = outcome.response or told.response
        message = replace(
            told, state=outcome.state, response=response, events=outcome.events or told.events, error_code=outcome.code,
            error_message=outcome.message, revised=True, settled_at=at,
        )  # fmt: skip
        return {
            "id": record.action_id,
            "lane": record.get("lane"),
            "entry": record.entry,
            "fingerprint": record.fingerprint,
            "attempt": "",
            "ttl_ms": self._ttl_ms,
            "message": pack(result_map(message)),
            "reply": record.get("reply"),
            "channel_id": "",
            "state": outcome.state,
            "error_code": outcome.code or "",
            "error": (outcome.message or "")[:MAX_LINE_TEXT],
            "action": record.get("action"),
            "producer": record.get("producer"),
            "queued_at": record.get("queued_at"),
            "settled_at": _seconds(at),
            "revised": 1,
            "chunks": 0,
            "base": [],
            "fields": _final_fields(outcome),
            "dead": [],
        }

    def base(self, request: Request) -> list[str | bytes]:
        """The record's first fields, as `mark_sending` writes them."""
        fields: list[str | bytes] = [
            "action", request.name, "lane", request.lane, "entry", request.entry, "producer", request.producer,
            "fingerprint", request.fingerprint, "worker", self._worker, "queued_at", _seconds(request.queued_at),
            "request", _request(request),
        ]  # fmt: skip
        return fields + _extra(request)

    def _result(self, request: Request, outcome: Outcome, at: float, sending_at: float | None) -> Result:
        return Result(
            server=self._server,
            action_id=request.action_id,
            entry=request.entry,
            action=request.name,
            state=outcome.state,
            producer=request.producer,
            tag=request.tag,
            response=outcome.response,
            events=outcome.events,
            output=outcome.output,
            **_apart(outcome.items),
            error_code=outcome.code,
            error_message=outcome.message,
            queued_at=request.queued_at,
            sending_at=sending_at,
            settled_at=at,
        )


def _apart(items: Items | None) -> dict[str, Any]:
    if items is None:
        return {}
    return {"items": items.count, "chunks": items.chunks, "items_latin1": tuple(items.latin1)}


def _response_fields(response: Headers | None) -> list[str | bytes]:
    if response is None:
        return []
    fields: list[str | bytes] = []
    for name in ("Response", "Message"):
        value = response.get(name)
        if value is not None:
            fields += [name.lower(), value]
    return fields


def _extra(request: Request) -> list[str | bytes]:
    """The fields that only some requests have."""
    fields: list[str | bytes] = []
    if request.reply:
        fields += ["reply", request.reply]
    if request.tag:
        fields += ["tag", request.tag]
    if request.traceparent:
        fields += ["traceparent", request.traceparent]
    return fields


def _final_fields(outcome: Outcome) -> list[str | bytes]:
    """The last fields beside `state`, `settled_at` and `result`, which the script has from elsewhere."""
    fields = _response_fields(outcome.response)
    if outcome.code is not None:
        fields += ["error_code", outcome.code, "error", outcome.message or ""]
    if outcome.reason is not None:  # an Originate's
        fields += ["reason", outcome.reason]
    if outcome.uniqueid is not None:
        fields += ["channel", outcome.channel or "", "uniqueid", outcome.uniqueid]
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


def _dead(request: Request, outcome: Outcome) -> list[str]:
    """The copy of a refused entry: why, whence, and its fields."""
    fields = [
        "reason_code", outcome.code or ErrorCode.MALFORMED, "reason", outcome.message or "", "lane", request.lane,
        "entry", request.entry, "action_id", request.action_id, "producer", request.producer,
        "Action", request.name,
    ]  # fmt: skip
    for name, value in _shown(request.pairs):
        fields += [name or "(empty)", value]
    return fields
