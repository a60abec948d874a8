"""The same calls by the blocking client."""

import asyncio

import pytest

from broker import ActionFailed, NoSuchAction
from broker.sync import Bus
from tests.live.harness import Site, Worker, eventually
from tests.live.telephony.calls import ANSWERING, TIMEOUT_S


async def test_a_call_goes_into_a_conference_and_is_hung_up_there(site: Site, worker: Worker) -> None:
    await asyncio.to_thread(_go_and_come, site, worker)


def _go_and_come(site: Site, worker: Worker) -> None:
    with Bus(site.redis.url, producer="live") as bus:
        pbx = bus.server(worker.server)
        call = pbx.originate(ANSWERING, "200", variables={"a": "1,2"}, timeout=TIMEOUT_S)
        call.result(timeout=TIMEOUT_S)
        assert call.getvar("a", timeout=TIMEOUT_S) == "1,2"
        call.redirect("600", timeout=TIMEOUT_S)
        conference = pbx.conference("600")

        async def members() -> list[str]:
            return [member.uniqueid for member in await asyncio.to_thread(conference.members, timeout=TIMEOUT_S)]

        assert asyncio.run(eventually(members, "it is in the conference")) == [call.channel_id]
        [member] = conference.members(timeout=TIMEOUT_S)
        conference.mute(member.channel, timeout=TIMEOUT_S)
        assert conference.members(timeout=TIMEOUT_S)[0].is_muted
        pbx.hangup(member.channel, timeout=TIMEOUT_S)

        async def is_gone() -> bool:
            channels = await asyncio.to_thread(pbx.channels, timeout=TIMEOUT_S)
            return call.channel_id not in [channel.uniqueid for channel in channels]

        assert asyncio.run(eventually(is_gone, "it is hung up"))
        with pytest.raises(ActionFailed, match="No such channel"):
            call.hangup(timeout=TIMEOUT_S)
        with pytest.raises(NoSuchAction):
            pbx.request("MeetmeList", timeout=TIMEOUT_S)
        [queue] = pbx.queues("support", timeout=TIMEOUT_S)
        assert queue.members[0].name == "Lab Agent"
