"""Who can be reached by IAX and by SIP."""

from dataclasses import dataclass, field
from typing import Final, Self, Unpack

from broker.ami import Headers
from broker.telephony.asking import Asking, Options, items_of
from broker.telephony.reading import count, is_true, number, text

_NO_ENDPOINTS: Final = "No endpoints found"
_NO_CONTACTS: Final = "No Contacts found"


@dataclass(frozen=True, slots=True)
class IaxPeer:
    """A peer of chan_iax2, as IAXpeerlist has it."""

    name: str
    address: str
    """Empty if it is not known (yet)."""
    port: int | None
    is_dynamic: bool
    """Whether it registers with us."""
    is_trunk: bool
    is_encrypted: bool
    status: str
    """`OK (12 ms)`, `LAGGED (...)`, `UNREACHABLE`, `UNKNOWN`, or `Unmonitored`."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a PeerEntry."""
        return cls(
            name=text(headers, "ObjectName"),
            address=text(headers, "IPaddress").removeprefix("(null)").removeprefix("-none-"),
            port=number(headers, "Port"),
            is_dynamic=is_true(headers, "Dynamic"),
            is_trunk=is_true(headers, "Trunk"),
            is_encrypted=is_true(headers, "Encryption"),
            status=text(headers, "Status"),
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class PjsipEndpoint:
    """An endpoint of PJSIP, as PJSIPShowEndpoints has it."""

    name: str
    device_state: str
    """In words: `Not in use`, `In use`, `Unavailable`, `Ringing` ..."""
    active_channels: int
    aors: tuple[str, ...]
    contacts: tuple[str, ...]
    """Each as `AOR/URI`."""
    transport: str
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read an EndpointList."""
        return cls(
            name=text(headers, "ObjectName"),
            device_state=text(headers, "DeviceState"),
            active_channels=count(headers, "ActiveChannels"),
            aors=_listed(headers, "Aor"),
            contacts=_listed(headers, "Contacts"),
            transport=text(headers, "Transport"),
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class PjsipContact:
    """A contact that registered, as PJSIPShowContacts has it."""

    uri: str
    endpoint: str
    user_agent: str
    expires_at: int | None
    """When the registration ends, in unix seconds."""
    status: str
    """`Reachable`, `Unreachable`, `NonQualified`, `Unknown` ..."""
    roundtrip_us: int | None
    """Microseconds of the last OPTIONS; None if none was answered."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a ContactList."""
        return cls(
            uri=text(headers, "Uri"),
            endpoint=text(headers, "Endpoint"),
            user_agent=text(headers, "UserAgent"),
            expires_at=number(headers, "ExpirationTime"),
            status=text(headers, "Status"),
            roundtrip_us=number(headers, "RoundtripUsec"),
            headers=headers,
        )


class Peers(Asking):
    """IAX and PJSIP peers."""

    async def iax_peers(self, **options: Unpack[Options]) -> list[IaxPeer]:
        """The peers of iax.conf, with where they are and whether they answer.

        AMI: IAXpeerlist (16 to 22; module chan_iax2.so, class `reporting` or `system`).
        """
        return [IaxPeer.of(headers) for headers in await items_of(self, "IAXpeerlist", "PeerEntry", **options)]

    async def pjsip_endpoints(self, **options: Unpack[Options]) -> list[PjsipEndpoint]:
        """All endpoints of PJSIP, with their states.

        AMI: PJSIPShowEndpoints (16 to 22; module res_pjsip.so; class `system`, which `deploy/manager.conf` does not
        give).
        """
        items = await items_of(self, "PJSIPShowEndpoints", "EndpointList", _NO_ENDPOINTS, **options)
        return [PjsipEndpoint.of(headers) for headers in items]

    async def pjsip_contacts(self, **options: Unpack[Options]) -> list[PjsipContact]:
        """All contacts that registered with PJSIP. One that is written down in pjsip.conf is none of them; the
        endpoint has it.

        AMI: PJSIPShowContacts (16 to 22; module res_pjsip.so; class `system`, which `deploy/manager.conf` does not
        give).
        """
        items = await items_of(self, "PJSIPShowContacts", "ContactList", _NO_CONTACTS, **options)
        return [PjsipContact.of(headers) for headers in items]


def _listed(headers: Headers, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text(headers, name).split(",") if part.strip())
