"""Live channels are recorded to files that are really there."""

from pathlib import Path

import pytest

from broker import ActionFailed, NoSuchAction, Server
from tests.live.harness import Site, eventually
from tests.live.observer import observing
from tests.live.producer import new_id
from tests.live.telephony.calls import TIMEOUT_S, TONE, calling, live, talking


def recorded(site: Site, name: str) -> Path:
    return site.asterisk.spool_dir / "monitor" / name


def size_of(file: Path) -> int:
    """In bytes; 0 while there is none."""
    return file.stat().st_size if file.exists() else 0


async def until_it_grows(file: Path, beyond: int = 1000) -> None:
    async def grows() -> bool:
        return size_of(file) > beyond

    await eventually(grows, f"{file} grows")


async def recorders(site: Site, channel: str) -> list[str]:
    """The names of the files (without their ending) to which Asterisk records the channel, by its CLI."""
    shown = await site.asterisk.cli(f"mixmonitor list {channel}")
    # one that is being taken down has no file any more
    lines = [line.split() for line in shown.splitlines() if line.startswith("0x")]
    return [Path(words[1]).name for words in lines if len(words) > 1]


async def until_recorded_to(site: Site, channel: str, *names: str) -> None:
    async def look() -> bool:
        return await recorders(site, channel) == [Path(name).stem for name in names]

    await eventually(look, f"{channel} is recorded to {names}")


async def test_to_a_file_of_ones_own_name_and_stopped(trusted: Server, site: Site) -> None:
    name = f"orders/{new_id('order')}.wav"
    async with talking(trusted, "111") as pair:
        recording = await trusted.record(pair.caller.uniqueid, name, timeout=TIMEOUT_S)
        assert (recording.channel, recording.file) == (pair.caller.uniqueid, name)
        assert recording.id
        await until_it_grows(recorded(site, name))
        await until_recorded_to(site, pair.caller.name, name)
        await trusted.stop_recording(pair.caller.uniqueid, recording, timeout=TIMEOUT_S)
        await until_recorded_to(site, pair.caller.name)
        assert pair.caller.uniqueid in await live(trusted), "the call goes on"
        with pytest.raises(ActionFailed, match="Could not stop"):
            await trusted.stop_recording(pair.caller.uniqueid, recording, timeout=TIMEOUT_S)


async def test_of_two_recordings_the_one_that_is_meant_is_stopped(trusted: Server, site: Site) -> None:
    one, two = f"{new_id('one')}.wav", f"{new_id('two')}.wav"
    async with talking(trusted, "111") as pair:
        first = await trusted.record(pair.caller.uniqueid, one, timeout=TIMEOUT_S)
        await trusted.record(pair.caller.uniqueid, two, timeout=TIMEOUT_S)
        await trusted.stop_recording(pair.caller.uniqueid, first, timeout=TIMEOUT_S)
        await until_recorded_to(site, pair.caller.name, two)


async def test_muted_and_only_while_bridged(trusted: Server, site: Site) -> None:
    name = f"{new_id('bridged')}.wav"
    async with calling(trusted, TONE) as call:
        await call.record(name, only_while_bridged=True, append=True, timeout=TIMEOUT_S)
        await trusted.mute_recording(call.channel_id, timeout=TIMEOUT_S)
        await trusted.mute_recording(call.channel_id, False, side="heard", timeout=TIMEOUT_S)
        async with calling(trusted) as other:
            before = size_of(recorded(site, name))
            await trusted.bridge(call.channel_id, other.channel_id, timeout=TIMEOUT_S)
            await until_it_grows(recorded(site, name), before + 1000)


async def test_without_the_class_system_the_error_says_so(pbx: Server) -> None:
    async with calling(pbx) as call:
        with pytest.raises(ActionFailed, match="it needs class system") as denied:
            await call.record("x.wav", timeout=TIMEOUT_S)
        assert denied.value.code == "permission-denied"


async def test_monitor_where_there_is_one(pbx: Server, site: Site) -> None:
    name = new_id("monitor")
    async with talking(pbx, "111") as pair:
        if site.asterisk.series == "22":
            with pytest.raises(NoSuchAction, match=r"it comes with module res_monitor.so of Asterisk up to 20"):
                await pbx.monitor(pair.caller.uniqueid, name, timeout=TIMEOUT_S)
            with pytest.raises(NoSuchAction):
                await pbx.stop_monitor(pair.caller.uniqueid, timeout=TIMEOUT_S)
            return
        await pbx.monitor(pair.caller.uniqueid, name, mix=False, timeout=TIMEOUT_S)
        await until_it_grows(recorded(site, f"{name}-out.wav"))
        async with observing(site.asterisk) as observer:
            await pbx.stop_monitor(pair.caller.uniqueid, timeout=TIMEOUT_S)
            await observer.until("MonitorStop", Uniqueid=pair.caller.uniqueid)
        assert pair.caller.uniqueid in await live(pbx), "the call goes on"
