"""A worker that answers as a real Asterisk did: from captured bytes, through the AMI code, to a result on the bus."""

from functools import cache

from broker.ami import Exchange, InFlight, Message, Response, spec_of
from broker.entry import Request
from tests.ami.wire import received
from tests.bus_side import FakeWorker
from tests.lab import irregular, telephony
from tests.lab.capture import read_capture
from workers.outcome import outcome_of

PING = "Ping"


@cache
def asked(series: str) -> dict[str, Exchange]:
    """The answers of capture `telephony`, by ActionID, which is the action's name."""
    in_flight = InFlight()
    exchanges = {action: in_flight.register(action, spec_of(action)) for action in telephony.QUESTIONS}
    for message in _messages(series, "telephony"):
        in_flight.add(message)
    return exchanges


@cache
def irregularly_asked(series: str) -> dict[str, Exchange]:
    """The answers of capture `irregular`, by ActionID. Each action was followed by a Ping."""
    action_ids = [action for action, *_ in irregular.QUESTIONS] + ["IAXnetstats-of-a-call", "PJSIPShowEndpoint"]
    in_flight = InFlight()
    exchanges = {}
    for action_id in action_ids:
        exchanges[action_id] = in_flight.register(action_id, spec_of(action_id.partition("-")[0]))
        in_flight.register(PING, spec_of(PING))
    assert len(exchanges) == len(action_ids)
    for message in _messages(series, "irregular"):
        in_flight.add(message)
    assert in_flight.head is None
    return exchanges


def _messages(series: str, name: str) -> list[Message]:
    """A capture's messages after the answer to the login, which has no ActionID."""
    login, *messages = received([read_capture(series, name)], banner=b"")
    assert isinstance(login, Response)
    assert login.message == "Authentication accepted"
    return messages


def answer(worker: FakeWorker, action: str, exchange: Exchange) -> None:
    """Let the worker settle every such action by what the exchange holds."""
    outcome = outcome_of(exchange)

    async def settle(worker: FakeWorker, request: Request) -> None:
        await worker.settle(
            request,
            outcome.state,
            code=outcome.code,
            message=outcome.message or "",
            response=outcome.response,
            events=outcome.events,
            output=outcome.output,
        )

    worker.on(action, settle)
