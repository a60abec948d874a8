"""Voicemail: somebody leaves a message, and the mailbox has it."""

from broker import Server
from tests.live.harness import Site, eventually
from tests.live.telephony.calls import TIMEOUT_S, end, live


async def test_a_message_is_left(pbx: Server, site: Site) -> None:
    before = await pbx.mailbox("1000", timeout=TIMEOUT_S)
    assert (before.name, before.context, before.old) == ("1000", "default", 0)
    inbox = site.asterisk.spool_dir / "voicemail" / "default" / "1000"
    call = await pbx.originate("Local/800@default", application="Milliwatt", timeout=TIMEOUT_S)
    await call.result(timeout=TIMEOUT_S)

    async def is_recorded() -> bool:
        return any(file.stat().st_size > 4000 for file in inbox.glob("tmp/*.wav"))

    await eventually(is_recorded, "the message is being recorded")
    await end(pbx, call)

    async def has_arrived() -> bool:
        return (await pbx.mailbox("1000", timeout=TIMEOUT_S)).new == before.new + 1

    await eventually(has_arrived, "the message has arrived")
    after = await pbx.mailbox("1000", timeout=TIMEOUT_S)
    assert (after.urgent, after.old, after.is_waiting) == (0, 0, True)
    listed = {each.name: each for each in await pbx.mailboxes(timeout=TIMEOUT_S)}
    assert (listed["1000"].owner, listed["1000"].new, listed["1000"].context) == ("Lab User", after.new, "default")
    assert (listed["1001"].owner, listed["1001"].new, listed["1001"].email) == ("Second User", 0, "")
    assert call.channel_id not in await live(pbx)


async def test_a_mailbox_that_there_is_not_is_empty(pbx: Server) -> None:
    mailbox = await pbx.mailbox("4711", "nowhere", timeout=TIMEOUT_S)
    assert (mailbox.urgent, mailbox.new, mailbox.old, mailbox.is_waiting) == (0, 0, 0, False)
