"""The actions written to one session and not yet answered, and which message belongs to which of them.

Asterisk runs the actions of a session one after the other, in the order written, and writes the whole answer
of one before it reads the next (manager.c:7093-7209, 7346-7424). So a message belongs to the action whose
ActionID it bears and, if it bears none, to the first that is not yet answered; and whatever answers a later
action ends all earlier ones.
"""

from collections import deque

from broker.ami.catalog import SUCCESS_MAY_BE_FAILURE, ActionSpec
from broker.ami.message import Event, Message, RawText, Response


class Answer:
    """What Asterisk answered to one action."""

    __slots__ = ("events", "extra", "output", "response")

    def __init__(self) -> None:
        self.response: Response | None = None
        """The first response; None if there was none."""
        self.events: list[Event] = []
        """The items of a list in order, the terminating event last; or the one event that follows a response."""
        self.output: list[str] = []
        """The lines of a Command, or of IAXnetstats' table."""
        self.extra: list[Response] = []
        """The second and third responses: JabberSend's result, an Error after the start of a list."""

    def failure(self, action: str) -> str | None:
        """Asterisk's reason if the answer is a failure, also one that says Success or that came in mid-list.

        None if it is a success, or if there is no response to tell by. `action` is the action's name.
        """
        if self.response is None:
            return None
        if not self.response.is_success:
            return _reason(self.response)
        for response in self.extra:
            if not response.is_success:
                return _reason(response)
        if action.lower() in SUCCESS_MAY_BE_FAILURE and "failed" in self.response.message.lower():
            return self.response.message
        return None


def _reason(response: Response) -> str:
    # The Message of a Command is always the same; what went wrong is said by the lines.
    said = next((line.strip() for line in response.output if line.strip()), "")
    return said or response.message or "Asterisk gave no reason"


class Exchange:
    """One action on its way: what was asked, and what has been answered so far."""

    __slots__ = ("abandoned", "action_id", "answer", "done", "overtaken", "spec")

    def __init__(self, action_id: str, spec: ActionSpec) -> None:
        self.action_id = action_id
        self.spec = spec
        self.answer = Answer()
        self.done = False
        """Whether nothing more will be added to the answer."""
        self.overtaken = False
        """Whether it is done only because a later action was answered: something that should have come did not."""
        self.abandoned = False
        """Whether nobody waits for it any more; it keeps its place, since Asterisk may still be at it."""

    @property
    def started(self) -> bool:
        """Whether the first response is here and more is to come."""
        return self.answer.response is not None and not self.done

    @property
    def failure(self) -> str | None:
        """The reason if the answer so far is a failure (see `Answer.failure`), or has begun and will not be whole.

        None also if there is no response at all: what became of the action is unknown then.
        """
        if self.is_cut_short:
            return "Asterisk answered a later action without having answered this one to the end"
        return self.answer.failure(self.spec.name)

    @property
    def is_cut_short(self) -> bool:
        """Whether the answer has begun, will not be whole, and is no failure by what is there of it."""
        return self.overtaken and self.answer.response is not None and self.answer.failure(self.spec.name) is None

    def __repr__(self) -> str:
        return f"<Exchange {self.spec.name!r} action_id={self.action_id!r} done={self.done}>"

    def take_response(self, response: Response) -> None:
        """A response with this exchange's ActionID came."""
        answer = self.answer
        if answer.response is None:
            answer.response = response
            answer.output += response.output
            self.done = not self._more_follows(response)
        else:
            answer.extra.append(response)
            self.done = response.is_success or self.spec.shape != "list-past-error"

    def take_event(self, event: Event) -> None:
        """An event came that is part of the answer."""
        self.answer.events.append(event)
        self.done = event.completes_list or (self.spec.shape == "single+event" and not self._in_list)

    def take_items(self) -> list[Event]:
        """What has come of the list so far, to be kept elsewhere: the answer has it no more."""
        items, self.answer.events = self.answer.events, []
        return items

    def take_text(self, text: RawText) -> None:
        """A block without headers came, and this action answers by one."""
        self.answer.output += text.lines
        self.done = True

    @property
    def _in_list(self) -> bool:
        response = self.answer.response
        return response is not None and response.starts_list

    def _more_follows(self, response: Response) -> bool:
        # The actual response decides: what the catalog calls a list may be a plain Success, or an Error.
        return response.starts_list or (self.spec.shape in ("single+event", "two-responses") and response.is_success)


class InFlight:
    """The exchanges of one session, oldest first. Register before you write; a new session needs a new one."""

    __slots__ = ("_exchanges", "_overtaken")

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque()
        self._overtaken: list[Exchange] = []

    def __len__(self) -> int:
        return len(self._exchanges)

    @property
    def head(self) -> Exchange | None:
        """The oldest, the one that Asterisk is at."""
        return self._exchanges[0] if self._exchanges else None

    def register(self, action_id: str, spec: ActionSpec) -> Exchange:
        """Note that an action is about to be written with that ActionID. Call it in the order of writing."""
        exchange = Exchange(action_id, spec)
        self._exchanges.append(exchange)
        return exchange

    def add(self, message: Message) -> Exchange | None:
        """Give a message to the exchange it belongs to, and return that: it is `done`, or has advanced.

        None if it belongs to none: a queued event, a late answer, another's ActionID, or nobody waits for it.
        You must look at `take_overtaken` after it: what came may show that earlier actions get no (further)
        answer.
        """
        exchange = self._owner(message)
        if exchange is None:
            return None
        if isinstance(message, Response):
            exchange.take_response(message)
        elif isinstance(message, Event):
            exchange.take_event(message)
        else:
            exchange.take_text(message)
        if self._exchanges[0] is not exchange:
            self._end_all_before(exchange)
        if exchange.done:
            self._exchanges.popleft()
        return None if exchange.abandoned else exchange

    def take_overtaken(self) -> list[Exchange]:
        """The exchanges that ended, `done`, because a later action was answered: their answer may be empty.

        Such are a JabberSend without its second response, and an IAXnetstats with an empty table.
        """
        if not self._overtaken:
            return []
        overtaken, self._overtaken = self._overtaken, []
        return overtaken

    def abandon(self, exchange: Exchange) -> None:
        """Wait no more for this answer. It keeps its place in the order: Asterisk is still at it."""
        exchange.abandoned = True

    def clear(self) -> list[Exchange]:
        """The session is over: forget everything, and return what is still waited for, oldest first."""
        lost = [exchange for exchange in self._exchanges if not exchange.abandoned]
        self._exchanges.clear()
        return lost

    def _owner(self, message: Message) -> Exchange | None:
        if isinstance(message, Response):
            return self._by_action_id(message.action_id, unanswered=True)
        if isinstance(message, Event):
            # A queued event may bear any ActionID that its sender chose (UserEvent), or that of an Originate.
            owner = None if message.is_queued else self._by_action_id(message.action_id, unanswered=False)
            return owner if owner is not None and owner.started else None
        return next((each for each in self._exchanges if each.spec.shape == "raw-text"), None)

    def _by_action_id(self, action_id: str | None, *, unanswered: bool) -> Exchange | None:
        if action_id is None:
            # By position: a response is the head's first, an item (IAXpeers) is of the list it has begun.
            head = self.head
            return head if head is not None and (head.answer.response is None) is unanswered else None
        if self._exchanges and self._exchanges[0].action_id == action_id:
            return self._exchanges[0]
        return next((each for each in self._exchanges if each.action_id == action_id), None)

    def _end_all_before(self, exchange: Exchange) -> None:
        while self._exchanges[0] is not exchange:
            earlier = self._exchanges.popleft()
            earlier.done = earlier.overtaken = True
            if not earlier.abandoned:
                self._overtaken.append(earlier)
