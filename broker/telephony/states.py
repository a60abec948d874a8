"""States of extensions, devices and people."""

from dataclasses import dataclass, field
from typing import Final, Self, Unpack

from broker.ami import Headers
from broker.telephony.arguments import given
from broker.telephony.asking import Asking, Options, items_of, known
from broker.telephony.reading import count, number, text

_IN_USE: Final = 1
_BUSY: Final = 2
_UNAVAILABLE: Final = 4
_RINGING: Final = 8
_ON_HOLD: Final = 16
_NO_HINTS: Final = "No dialplan hints are available"


@dataclass(frozen=True, slots=True)
class ExtensionState:
    """The state of an extension, which is that of the devices of its hint."""

    exten: str
    context: str
    hint: str
    """The devices that it is made of."""
    status: int
    """Asterisk's bits: 1 in use, 2 busy, 4 unavailable, 8 ringing, 16 on hold; 0 is idle."""
    status_text: str
    """The same in Asterisk's words: `Idle`, `InUse`, `InUse&Ringing` ..."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read an ExtensionStatus, or the answer to ExtensionState."""
        return cls(
            exten=text(headers, "Exten"),
            context=text(headers, "Context"),
            hint=text(headers, "Hint"),
            status=count(headers, "Status"),
            status_text=text(headers, "StatusText"),
            headers=headers,
        )

    @property
    def is_idle(self) -> bool:
        """It is there, and nothing is going on."""
        return self.status == 0

    @property
    def is_in_use(self) -> bool:
        """Some device of it has a call."""
        return self._has(_IN_USE)

    @property
    def is_busy(self) -> bool:
        """Every device of it is busy."""
        return self._has(_BUSY)

    @property
    def is_unavailable(self) -> bool:
        """No device of it can be reached."""
        return self._has(_UNAVAILABLE)

    @property
    def is_ringing(self) -> bool:
        """Some device of it rings."""
        return self._has(_RINGING)

    @property
    def is_on_hold(self) -> bool:
        """All its calls are on hold."""
        return self._has(_ON_HOLD)

    def _has(self, bit: int) -> bool:
        return self.status > 0 and bool(self.status & bit)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The state of a device."""

    device: str
    """Such as `PJSIP/100`, `Queue:support_avail`, `confbridge:600`, `Custom:lamp`."""
    state: str
    """In Asterisk's words: `NOT_INUSE`, `INUSE`, `BUSY`, `RINGING`, `RINGINUSE`, `ONHOLD`, `UNAVAILABLE`, `INVALID`,
    `UNKNOWN`."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a DeviceStateChange."""
        return cls(text(headers, "Device"), text(headers, "State"))


@dataclass(frozen=True, slots=True)
class PresenceState:
    """The presence of a person, as a provider knows it."""

    provider: str
    """Such as `CustomPresence:100`."""
    state: str
    """In Asterisk's words: `not_set`, `available`, `unavailable`, `away`, `xa`, `chat`, `dnd`."""
    subtype: str
    message: str

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a PresenceStateChange."""
        return cls(
            text(headers, "Presentity"), text(headers, "Status"), text(headers, "Subtype"), text(headers, "Message")
        )


class States(Asking):
    """States."""

    async def extension_state(
        self, exten: str, context: str = "default", **options: Unpack[Options]
    ) -> ExtensionState | None:
        """The state of an extension; None if the dialplan has no hint for it.

        AMI: ExtensionState (16 to 22; class `call` or `reporting`).
        """
        asked = {"Exten": given("exten", exten), "Context": given("context", context)}
        headers = (await self.request("ExtensionState", headers=asked, **known(options))).response or Headers([])
        status = number(headers, "Status")
        return None if status is None or status < 0 else ExtensionState.of(headers)

    async def extension_states(self, **options: Unpack[Options]) -> list[ExtensionState]:
        """The states of all extensions that have a hint.

        AMI: ExtensionStateList (16 to 22; class `call` or `reporting`).
        """
        items = await items_of(self, "ExtensionStateList", "ExtensionStatus", _NO_HINTS, **options)
        return [ExtensionState.of(headers) for headers in items]

    async def device_state(self, device: str, **options: Unpack[Options]) -> DeviceState:
        """The state of one device, asked of its provider. One that there is not is `INVALID` or `UNKNOWN`.

        AMI: Getvar of the function DEVICE_STATE (16 to 22; module func_devstate.so, class `call` or `reporting`).
        """
        asked = f"DEVICE_STATE({given('device', device)})"
        headers = (await self.request("Getvar", Variable=asked, **known(options))).response or Headers([])
        return DeviceState(device, text(headers, "Value"))

    async def device_states(self, **options: Unpack[Options]) -> list[DeviceState]:
        """The states of all devices that Asterisk has seen change since its start.

        AMI: DeviceStateList (16 to 22; module res_manager_devicestate.so, class `call` or `reporting`).
        """
        return [
            DeviceState.of(each) for each in await items_of(self, "DeviceStateList", "DeviceStateChange", **options)
        ]

    async def presence_state(self, provider: str, **options: Unpack[Options]) -> PresenceState:
        """The presence that a provider such as `CustomPresence:100` knows. Raises `ActionFailed` for one that there is
        not.

        AMI: PresenceState (16 to 22; class `call` or `reporting`).
        """
        result = await self.request("PresenceState", Provider=given("provider", provider), **known(options))
        headers = result.response or Headers([])
        # Message comes twice where somebody set one, and is Asterisk's own text where nobody did.
        return PresenceState(
            provider, text(headers, "State"), text(headers, "Subtype"), text(headers, "PresenceMessage")
        )

    async def presence_states(self, **options: Unpack[Options]) -> list[PresenceState]:
        """The presence of everybody whose presence Asterisk has seen change since its start.

        AMI: PresenceStateList (16 to 22; module res_manager_presencestate.so, class `call` or `reporting`).
        """
        items = await items_of(self, "PresenceStateList", "PresenceStateChange", **options)
        return [PresenceState.of(headers) for headers in items]
