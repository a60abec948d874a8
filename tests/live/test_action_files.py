"""Action files on a real Asterisk: what it says, what it does, and that a spool that is killed repeats nothing."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.action_files.bench import answer, names, put, states
from tests.live.harness import Site, eventually
from tests.live.observer import observing
from tests.live.producer import Producer, new_id

CALL = "Action: Originate; Channel: Local/102@default; Application: Wait; Data: 1"


@asynccontextmanager
async def spool(directory: Path, url: str, server: str, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command's process; killed at the end if it still runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AMIBUS_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers.cli", "spool", "--server", server, "--settle", "0.2", *more, str(directory),
        env=own | {"AMIBUS_REDIS": url}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_asterisk_says_and_does(tmp_path: Path, pbx: Producer, site: Site) -> None:
    variable = new_id("spool").replace("-", "_")
    async with spool(tmp_path, site.redis.url, pbx.server) as process, observing(site.asterisk) as observer:
        put(
            tmp_path,
            "globals",
            f"# first set, then seen\nAction: Setvar; Variable: {variable}; Value: Grüße: 1",
            f"Action: Getvar; Variable: {variable}",
        )
        put(tmp_path, "version", "Action: Command; Command: core show version")
        put(tmp_path, "channels", "Action: CoreShowChannels")
        put(tmp_path, "call", f"{CALL}; ActionID: {variable}; Variable: a=1; Variable: b=2")
        put(tmp_path, "nobody", "Action: Hangup; Channel: PJSIP/nobody")
        put(tmp_path, "forbidden", "Action: Command; Command: core stop now")
        text = await answer(tmp_path, "globals")
        assert states(text) == ["done", "done"]
        assert f"\nVariable: {variable}\nValue: Grüße: 1\n" in text
        assert f"{variable}=Grüße: 1" in await site.asterisk.cli("dialplan show globals")
        said = await answer(tmp_path, "version")
        assert re.search(rf"^Output: Asterisk {re.escape(site.asterisk.version)}", said, re.MULTILINE)
        assert "\n\nEvent: CoreShowChannelsComplete\n" in await answer(tmp_path, "channels")
        call = await answer(tmp_path, "call")
        assert f"\n\nEvent: OriginateResponse\nPrivilege: call,all\nActionID: {variable}\nResponse: Success\n" in call
        await observer.until("Hangup", Uniqueid=f"amibus-{pbx.server}-{variable}")
        nobody = await answer(tmp_path, "nobody")
        assert (nobody.partition("\n")[0], states(nobody)) == ("Response: Error", ["failed"])
        assert "\nBus-Error-Code: forbidden\n" in await answer(tmp_path, "forbidden", "error")
        process.terminate()
        assert await process.wait() == 0
    stems = ("globals", "version", "channels", "call", "nobody")
    assert names(tmp_path) == {*(f"{stem}.out" for stem in stems), "forbidden.error", "forbidden.refused"}


async def test_a_spool_that_is_killed_repeats_nothing(tmp_path: Path, site: Site) -> None:
    stems = [f"a{number}" for number in range(40)]
    async with site.tapped(new_id("spool")) as (producer, worker, tap):
        for stem in stems:
            actions = [f"Action: Setvar; ActionID: {stem}.{n}; Variable: x; Value: {n}" for n in range(3)]
            put(tmp_path, stem, *actions, f"{CALL}; ActionID: {stem}.call")

        def written() -> int:
            return tap.written.count(b"Action: Setvar")

        for enough in (1, 30, 60, 90):
            async with spool(tmp_path, site.redis.url, producer.server) as process:

                async def is_enough(enough: int = enough) -> bool:
                    worker.check()
                    return written() >= enough

                await eventually(is_enough, f"{enough} actions are written")
                process.send_signal(signal.SIGKILL)
                await process.wait()
        async with spool(tmp_path, site.redis.url, producer.server, "--once") as process:
            async with asyncio.timeout(120):
                assert await process.wait() == 0
        assert names(tmp_path) == {f"{stem}.out" for stem in stems}
        for stem in stems:
            assert states((tmp_path / f"{stem}.out").read_text()) == ["done"] * 4
            assert [len(tap.actions(f"{stem}.{n}")) for n in (0, 1, 2, "call")] == [1, 1, 1, 1]
