"""Peers by IAX and SIP, one of whom really registers."""

import asyncio
import time

import pytest

from broker import ActionFailed, PjsipContact, Server
from tests.lab.phone import Phone
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
    with Phone(site.asterisk) as phone:
        assert await asyncio.to_thread(phone.register, 60) == "200"
        [contact] = await eventually(lambda: contacts(trusted), "it is a contact")
        assert contact.uri == phone.uri
        assert (contact.endpoint, contact.user_agent, contact.status) == ("labdesk", "amibus-lab", "NonQualified")
        assert contact.roundtrip_us is None
        assert contact.expires_at is not None
        assert abs(contact.expires_at - time.time()) < 120

        async def is_not_in_use() -> bool:
            endpoints = await trusted.pjsip_endpoints(timeout=TIMEOUT_S)
            return [each.device_state for each in endpoints if each.name == "labdesk"] == ["Not in use"]

        await eventually(is_not_in_use, "its endpoint has a contact")
        assert await asyncio.to_thread(phone.register, 0) == "200"

        async def nobody() -> bool:
            return await contacts(trusted) == []

        await eventually(nobody, "it is no contact any more")


async def test_without_the_class_system_the_error_says_so(pbx: Server) -> None:
    for asked in (pbx.pjsip_endpoints, pbx.pjsip_contacts):
        with pytest.raises(ActionFailed, match="it needs class system"):
            await asked(timeout=TIMEOUT_S)


async def contacts(trusted: Server) -> list[PjsipContact]:
    return await trusted.pjsip_contacts(timeout=TIMEOUT_S)
