"""Legs that are alone in a bridge."""

from collections.abc import Iterable

from broker.ami import Event


class LoneLegs:
    """Who waits in a bridge for company: the BridgeEnter of whoever joins them belongs to their call as well.

    Otherwise a call that waits in a bridge would not hear that it talks to somebody: that event names none of its legs.
    """

    def __init__(self) -> None:
        self._owners: dict[str, list[str]] = {}
        """By the bridge's id: the calls whose leg is alone in it."""

    def joined_by(self, event: Event) -> list[str]:
        """The calls that this event brings company to."""
        if not self._owners or event.name != "BridgeEnter":
            return []
        return self._owners.pop(event.headers.get("BridgeUniqueid", ""), [])

    def note(self, event: Event, owners: Iterable[str]) -> None:
        """Take an event of these calls."""
        if event.name == "BridgeEnter" and event.headers.get("BridgeNumChannels") == "1":
            self._owners[event.headers.get("BridgeUniqueid", "")] = [*owners]
        elif event.name == "BridgeLeave" and event.headers.get("BridgeNumChannels") == "0":
            self._owners.pop(event.headers.get("BridgeUniqueid", ""), None)

    def clear(self) -> None:
        """Events were missed."""
        self._owners.clear()
