"""A secret that Asterisk refuses: one sentence and exit code 78 at the start, patience later."""

import re

import pytest

from tests.lab import LabAsterisk
from tests.live.harness import Site, Worker, eventually

SETTINGS = {
    "actions": ("ami_secret", "AMIBUS_AMI_SECRET", "amibus"),
    "events": ("ami_events_secret", "AMIBUS_AMI_EVENTS_SECRET", "amibus-events"),
}


@pytest.mark.parametrize(("setting", "variable", "user"), SETTINGS.values(), ids=SETTINGS)
async def test_a_wrong_secret_at_the_start_ends_the_worker(site: Site, setting: str, variable: str, user: str) -> None:
    worker = site.worker("wrong", **{setting: "sesame-open"})
    try:
        worker.start()
        assert await worker.exit_code() == 78
        said = [line for line in worker.output.splitlines() if not line.startswith("{")]
        assert len(said) == 1, worker.output
        assert re.match(rf"amibus: Asterisk at \S+ refused the login of .*'{user}' .*{variable}\b", said[0])
        assert "sesame" not in worker.output
    finally:
        await worker.close()


async def test_a_wrong_user_name_is_named(site: Site) -> None:
    worker = site.worker("wrong", ami_username="nobody")
    try:
        worker.start()
        assert await worker.exit_code() == 78
        assert "'nobody'" in worker.output
    finally:
        await worker.close()


async def test_a_secret_that_becomes_wrong_is_no_reason_to_end(site: Site) -> None:
    async with (
        LabAsterisk(site.asterisk.series) as own,
        Site(own, site.redis).serving("changed") as (producer, worker),
    ):
        await own.stop()
        path = own.config_dir / "manager.conf"
        path.write_text(path.read_text().replace(own.users["amibus-events"], "another-one"))
        await own.start()
        await eventually(lambda: _refused(worker), "the login is refused")
        await worker.until("asterisk-away", producer)
        # what is queued waits, and says so by its deadline
        result = await producer.ask("Ping", "Bus-Deadline", "+0.5")
        assert result["state"] == "expired"
        assert len([line for line in worker.log if line["event"] == "login refused"]) == 1


async def _refused(worker: Worker) -> bool:
    return any(line["event"] == "login refused" for line in worker.log)
