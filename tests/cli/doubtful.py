"""Actions that a worker, which is gone, has left `unknown`: the desk writes what it would have written."""

from broker.ami import Headers
from broker.codec import State
from broker.errors import ErrorCode
from tests.desk import Desk
from workers.outcome import Outcome

NO_ANSWER = Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message="no answer within 30 s")
QUEUED = Headers([("Response", "Success"), ("ActionID", "c1"), ("Message", "Originate successfully queued")])


async def setvar(desk: Desk, action_id: str, outcome: Outcome | None = NO_ANSWER) -> None:
    """A Setvar, settled so; None: it is under way."""
    job = await desk.job(
        "Action", "Setvar", "ActionID", action_id, "Variable", "x", "Value", "1", "Bus-Producer", "crm"
    )
    await desk.mark(job)
    if outcome is not None:
        await desk.settle(job, outcome)


async def originate(desk: Desk, action_id: str) -> None:
    """An Originate that Asterisk queued, and of which no more was heard."""
    job = await desk.job("Action", "Originate", "ActionID", action_id, "Channel", "Local/1@x", "Application", "Echo",
                         "Bus-Reply", "me", "Bus-Tag", "order 7")  # fmt: skip
    await desk.mark(job)
    await desk.sent(job)
    await desk.settle(job, Outcome(State.UNKNOWN, QUEUED, code=NO_ANSWER.code, message=NO_ANSWER.message))
