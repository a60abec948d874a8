"""Peers by IAX and SIP, one of whom really registers."""

import asyncio
import socket
import time

import pytest

from broker import ActionFailed, PjsipContact, Server
from tests.live.harness import Site, eventually
from tests.live.telephony.calls import TIMEOUT_S


async def test_iax_peers(pbx: Server) -> None:
    peers = {peer.name: peer for peer in await pbx.iax_peers(timeout=TIMEOUT_S)}
    peer = peers["labpeer"]
    assert (peer.address, peer.port, peer.status) == ("127.0.0.1", 9, "Unmonitored")
    assert (peer.is_dynamic, peer.is_trunk, peer.is_encrypted) == (False, False, False)


async def test_pjsip_endpoints(trusted: Server) -> None:
    endpoints = {endpoint.name: endpoint for endpoint in await trusted.pjsip_endpoints(timeout=TIMEOUT_S)}
    trunk, phone = endpoints["labtrunk"], endpoints["labphone"]
    assert (trunk.aors, trunk.contacts) == (("labtrunk",), ("labtrunk/sip:labtrunk@127.0.0.1:9",))
    assert (trunk.device_state, trunk.active_channels) == ("Not in use", 0)
    assert (phone.device_state, phone.contacts) == ("Unavailable", ())


async def test_a_phone_registers(trusted: Server, site: Site) -> None:
    assert await contacts(trusted) == []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        phone.settimeout(10)
        assert b"SIP/2.0 200" in await asyncio.to_thread(register, phone, site.asterisk.sip_port, 60)
        [contact] = await eventually(lambda: contacts(trusted), "it is a contact")
        assert contact.uri == f"sip:labdesk@127.0.0.1:{phone.getsockname()[1]}"
        assert (contact.endpoint, contact.user_agent, contact.status) == ("labdesk", "amibus-lab", "NonQualified")
        assert contact.roundtrip_us is None
        assert contact.expires_at is not None
        assert abs(contact.expires_at - time.time()) < 120
        [endpoint] = [each for each in await trusted.pjsip_endpoints(timeout=TIMEOUT_S) if each.name == "labdesk"]
        assert endpoint.device_state == "Not in use"
        assert b"SIP/2.0 200" in await asyncio.to_thread(register, phone, site.asterisk.sip_port, 0)

        async def nobody() -> bool:
            return await contacts(trusted) == []

        await eventually(nobody, "it is no contact any more")


async def test_without_the_class_system_the_error_says_so(pbx: Server) -> None:
    for asked in (pbx.pjsip_endpoints, pbx.pjsip_contacts):
        with pytest.raises(ActionFailed, match="it needs class system"):
            await asked(timeout=TIMEOUT_S)


async def contacts(trusted: Server) -> list[PjsipContact]:
    return await trusted.pjsip_contacts(timeout=TIMEOUT_S)


def register(phone: socket.socket, sip_port: int, expires_s: int) -> bytes:
    """REGISTER as endpoint `labdesk`, which needs no password; Asterisk's answer."""
    host, port = phone.getsockname()
    lines = (
        f"REGISTER sip:127.0.0.1:{sip_port} SIP/2.0",
        f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{expires_s};rport",
        "From: <sip:labdesk@127.0.0.1>;tag=1",
        "To: <sip:labdesk@127.0.0.1>",
        f"Call-ID: lab-{port}",
        f"CSeq: {100 - expires_s} REGISTER",
        f"Contact: <sip:labdesk@{host}:{port}>",
        f"Expires: {expires_s}",
        "User-Agent: amibus-lab",
        "Max-Forwards: 70",
        "Content-Length: 0",
        "",
        "",
    )
    phone.sendto("\r\n".join(lines).encode(), ("127.0.0.1", sip_port))
    return phone.recv(4096)
