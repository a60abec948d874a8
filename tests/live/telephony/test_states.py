"""States of extensions, devices and people, as they are set."""

import pytest

from broker import ActionFailed, ExtensionState, Server
from tests.live.harness import eventually
from tests.live.telephony.calls import TIMEOUT_S, calling

# a device's state, and what becomes of the extension that has it for a hint (Asterisk 16 and 22 alike)
STATES = {
    "NOT_INUSE": ("Idle", ["is_idle"]),
    "INUSE": ("InUse", ["is_in_use"]),
    "BUSY": ("Busy", ["is_busy"]),
    "UNAVAILABLE": ("Unavailable", ["is_unavailable"]),
    "RINGING": ("Ringing", ["is_ringing"]),
    "RINGINUSE": ("InUse&Ringing", ["is_in_use", "is_ringing"]),
    "ONHOLD": ("Hold", ["is_on_hold"]),
}
KINDS = ("is_idle", "is_in_use", "is_busy", "is_unavailable", "is_ringing", "is_on_hold")


async def state(pbx: Server) -> ExtensionState:
    found = await pbx.extension_state("101", timeout=TIMEOUT_S)
    assert found is not None
    return found


@pytest.mark.parametrize("device_state", STATES)
async def test_an_extension_follows_its_device(pbx: Server, device_state: str) -> None:
    text, kinds = STATES[device_state]
    await pbx.setvar("DEVICE_STATE(Custom:101)", device_state, timeout=TIMEOUT_S)

    async def follows() -> bool:
        return (await state(pbx)).status_text == text

    await eventually(follows, f"the extension is {text}")
    found = await state(pbx)
    assert [kind for kind in KINDS if getattr(found, kind)] == kinds
    assert (found.exten, found.context, found.hint) == ("101", "default", "Custom:101")
    assert (await pbx.device_state("Custom:101", timeout=TIMEOUT_S)).state == device_state
    assert found in await pbx.extension_states(timeout=TIMEOUT_S)
    states = {each.device: each.state for each in await pbx.device_states(timeout=TIMEOUT_S)}
    assert states["Custom:101"] == device_state


async def test_an_extension_without_a_hint_has_no_state(pbx: Server) -> None:
    assert await pbx.extension_state("200", timeout=TIMEOUT_S) is None
    assert await pbx.extension_state("101", "nowhere", timeout=TIMEOUT_S) is None


async def test_the_device_of_a_conference(pbx: Server) -> None:
    async with calling(pbx) as call:
        await call.redirect("601", timeout=TIMEOUT_S)

        async def is_in_use() -> bool:
            return (await pbx.device_state("confbridge:601", timeout=TIMEOUT_S)).state == "INUSE"

        await eventually(is_in_use, "the conference is in use")


async def test_a_device_that_there_is_not(pbx: Server) -> None:
    assert (await pbx.device_state("Nix/100", timeout=TIMEOUT_S)).state == "INVALID"


async def test_presence(pbx: Server) -> None:
    await pbx.setvar("PRESENCE_STATE(CustomPresence:100)", "away,lunch,back at two", timeout=TIMEOUT_S)

    async def is_away() -> bool:
        return (await pbx.presence_state("CustomPresence:100", timeout=TIMEOUT_S)).state == "away"

    await eventually(is_away, "100 is away")
    found = await pbx.presence_state("CustomPresence:100", timeout=TIMEOUT_S)
    assert (found.provider, found.subtype, found.message) == ("CustomPresence:100", "lunch", "back at two")

    async def is_listed() -> bool:
        return found in await pbx.presence_states(timeout=TIMEOUT_S)

    await eventually(is_listed, "it is listed")


async def test_presence_that_nobody_set_or_knows(pbx: Server) -> None:
    found = await pbx.presence_state("CustomPresence:nobody", timeout=TIMEOUT_S)
    assert (found.state, found.subtype, found.message) == ("not_set", "", "")
    with pytest.raises(ActionFailed, match="Invalid provider"):
        await pbx.presence_state("Nix:100", timeout=TIMEOUT_S)
