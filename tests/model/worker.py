"""A worker as the machine plays it: what it believes to hold, and what it has learnt of each entry."""

from dataclasses import dataclass, field
from typing import Any

from broker.ami import Headers, Response
from broker.codec import State
from broker.entry import Request
from broker.errors import ErrorCode, Refused
from broker.scripts import LAYOUTS
from tests.model.contract import Event, Item
from workers.config import Settings
from workers.job import Job, make_job
from workers.outcome import Outcome
from workers.records import Records

SUCCESS = Headers([("Response", "Success"), ("Message", "fine")])

ENDS = {
    "expired": [Outcome(State.EXPIRED, code=ErrorCode.EXPIRED, message="late")],
    "cancelled": [Outcome(State.CANCELLED, code=ErrorCode.CANCELLED, message="taken back")],
    "reused": [Outcome(State.REJECTED, code=ErrorCode.ACTION_ID_REUSED, message="reused")],
    "duplicate-channel-id": [Outcome(State.REJECTED, code=ErrorCode.DUPLICATE_CHANNEL_ID, message="taken")],
    "refused": [Outcome(State.REJECTED, code=ErrorCode.MALFORMED, message="malformed")],
    "lost": [Outcome(State.UNKNOWN, code=ErrorCode.ENTRY_LOST, message="vanished")],
    "begun": [
        Outcome(State.UNKNOWN, code=ErrorCode.WORKER_LOST, message="lost"),
        Outcome(State.DONE, SUCCESS),
        Outcome(State.FAILED, code=ErrorCode.ORIGINATE_FAILED, message="busy"),
    ],
    "sending": [
        Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message="no answer"),
        Outcome(State.DONE, SUCCESS),
        Outcome(State.FAILED, code=ErrorCode.ORIGINATE_FAILED, message="busy"),
        Outcome(State.EXPIRED, code=ErrorCode.EXPIRED, message="late, and not written yet"),
    ],
}
"""By what a worker knows of an entry: how it may end."""


@dataclass(slots=True)
class Held:
    """An entry in a worker's hands."""

    request: Request
    job: Job | None = None
    """None: no job could be made of it."""
    verdict: str = ""
    """The last of `mark_sending`, or why there is no job; empty: not asked yet."""
    whole: bool = False
    item: Item | None = None
    """Of a settling whose reply was lost: it is repeated as it was."""


@dataclass(slots=True)
class Worker:
    """One of those that compete. It may go on in an epoch that is over."""

    name: str
    epoch: int = 0
    floor: int = 0
    """The highest epoch that it has seen."""
    held: dict[tuple[str, str], Held] = field(default_factory=dict)
    seq: int = 0
    """Of the last event that is surely out."""
    batch: list[Event] = field(default_factory=list)
    """Events whose reply was lost, or that were not published."""
    hole_before: int = 0
    """The seq before which it knows that events are missing."""
    records: Records = field(init=False)

    def __post_init__(self) -> None:
        self.records = Records(Settings(server="pbx1", name=self.name))

    @property
    def holder(self) -> str:
        """What the lease says of it."""
        return f'{{"worker":"{self.name}"}}'

    def hold(self, request: Request, *, begun: dict[str, bytes] | None = None) -> None:
        """Take an entry; `begun`: the record that a lost worker left of it."""
        held = self.held[request.lane, request.entry] = Held(request, verdict="refused")
        if request.refusal is not None:
            return
        try:
            held.job, held.verdict = make_job(request, "pbx1"), ""
        except Refused:
            return
        if begun is not None:
            self.learn_begun(held, begun)

    def learn_begun(self, held: Held, record: dict[str, bytes]) -> None:
        """Another has begun it: what only reads is done again, of all else the truth is looked for."""
        job = held.job
        assert job is not None
        if job.reads_only:
            job.again, job.sending_at, job.epoch, held.verdict = True, None, None, ""
        else:
            job.epoch, job.sending_at = int(record["epoch"]), float(record["sending_at"])
            held.verdict = "begun"

    def learn_verdict(self, held: Held, verdict: str, now: str, record: dict[str, bytes]) -> None:
        """What `mark_sending` said."""
        if verdict in ("duplicate", "settled"):
            del self.held[held.request.lane, held.request.entry]
        elif verdict == "begun":
            self.learn_begun(held, record)
        elif verdict != "early":
            held.verdict = verdict
            if verdict == "sending" and held.job is not None:
                held.job.sending_at, held.job.epoch = float(now), self.epoch

    def unsent(self) -> list[Held]:
        """What may be marked, also again: the reply may have been lost."""
        return [held for held in self.held.values() if held.job is not None and held.item is None]

    def sent(self) -> list[Held]:
        """What Asterisk may answer."""
        return [held for held in self.unsent() if held.verdict == "sending"]

    def over(self) -> list[Held]:
        """What can be settled."""
        return [held for held in self.held.values() if held.verdict]

    def sent_item(self, held: Held, at: float) -> Item:
        """For `mark_sent`."""
        assert held.job is not None
        return LAYOUTS["mark_sent"].values(self.records.sent(held.job, Response(SUCCESS), at))

    def settle_item(self, held: Held, choice: int, at: float) -> Item:
        """For `settle`: one of the ends that this entry may have."""
        if held.item is None:
            ends = ENDS[held.verdict]
            outcome = ends[choice % len(ends)]
            item = self.records.settle(held.request, outcome, at, held.job, self.epoch, whole=held.whole)
            held.item = LAYOUTS["settle"].values(item)
        return held.item

    def learn_settled(self, held: Held, verdict: str) -> None:
        """What `settle` said."""
        held.item = None
        if verdict == "missing":
            held.whole = True
        elif verdict == "reused":
            held.verdict = verdict
        else:
            del self.held[held.request.lane, held.request.entry]


def mark_item(worker: Worker, held: Held, *, probe: bool) -> dict[str, Any]:
    """For `mark_sending`."""
    assert held.job is not None
    return LAYOUTS["mark_sending"].values(worker.records.mark(held.job, probe=probe))
