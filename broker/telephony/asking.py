"""What the typed calls stand on: a server that takes any action by name, and how they ask it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict, Unpack

from broker.ami import Headers
from broker.codec import Result
from broker.entry import HeaderValue
from broker.errors import ActionFailed

if TYPE_CHECKING:
    from broker.call import Call

ExtraHeaders = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]


class Options(TypedDict, total=False):
    """What each typed call takes besides its own arguments; `Server.request` explains them.

    Where a call takes several actions, `action_id` is that of the one which changes something; the rest is for each.
    """

    timeout: float | None
    """The caller's own patience in seconds; None: without end."""
    action_id: str | None
    urgent: bool
    producer: str | None
    deadline: float | str | None
    answer_timeout: float | None
    tag: str | None
    traceparent: str | None


class Asking(ABC):
    """A server that takes actions by name; the typed calls are mixed into it."""

    @abstractmethod
    async def request(
        self,
        /,
        action: str,
        *,
        timeout: float | None = None,
        action_id: str | None = None,
        urgent: bool = False,
        producer: str | None = None,
        deadline: float | str | None = None,
        answer_timeout: float | None = None,
        tag: str | None = None,
        traceparent: str | None = None,
        headers: ExtraHeaders = (),
        raise_on_failure: bool = True,
        **pairs: HeaderValue,
    ) -> Result:
        """Put an action on the queue and wait for its whole result."""

    @abstractmethod
    async def submit(
        self,
        /,
        action: str,
        *,
        timeout: float | None = None,
        action_id: str | None = None,
        urgent: bool = False,
        producer: str | None = None,
        deadline: float | str | None = None,
        answer_timeout: float | None = None,
        tag: str | None = None,
        traceparent: str | None = None,
        headers: ExtraHeaders = (),
        **pairs: HeaderValue,
    ) -> "Call":
        """Put an action on the queue, listening to it from before it is there."""


def known(options: Options) -> Options:
    """The options of a typed call, none of which is a misspelt name: `request` would take that for a header, which
    Asterisk would ignore. Raises `TypeError`, as any function does."""
    for name in options:
        if name not in Options.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    return options


async def items_of(
    asking: Asking,
    action: str,
    item: str | tuple[str, ...],
    *empty: str,
    headers: ExtraHeaders = (),
    **options: Unpack[Options],
) -> list[Headers]:
    """The items of a list, those events whose name is `item`, in order.

    `empty` are the beginnings of the errors by which Asterisk says that there is nothing to list; a plain Success
    without a list says so, too. Raises the `ActionError` of any other end. What had come of a list that broke off is in
    its `result.events`.
    """
    try:
        result = await asking.request(action, headers=headers, **known(options))
    except ActionFailed as error:
        if _begins_with_any(error.result.error_message or "", empty):
            return []
        raise
    names = (item,) if isinstance(item, str) else item
    return [event for event in result.events if event.get("Event") in names]


def _begins_with_any(message: str, beginnings: tuple[str, ...]) -> bool:
    return message.lower().startswith(tuple(beginning.lower() for beginning in beginnings))
