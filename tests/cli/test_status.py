"""`amibus status`: all servers, one of them, and servers without a worker."""

import json
import signal
import tempfile
from contextlib import ExitStack

from tests.cli.commands import Running, amibus, connected, until
from tests.cli.conftest import Station


def test_all_servers(station: Station) -> None:
    outcome = station.amibus("status")
    assert outcome.returncode == 0, outcome.stderr
    columns, *rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    [row] = [dict(zip(columns, row, strict=True)) for row in rows if row[0] == "pbx1"]
    assert row["state"] == "connected"
    assert row["asterisk"].startswith("22.10.1")
    assert row["heartbeat"].endswith("ago")


def test_one_server_in_detail(station: Station) -> None:
    station.amibus("send", "pbx1", "Ping", "--action-id", "seen-1")
    station.amibus("send", "pbx1", "Command", "Command=stop now", "--action-id", "refused-1")
    outcome = station.amibus("status", "pbx1")
    assert outcome.returncode == 0
    lines = outcome.stdout.splitlines()
    assert lines[0] == "pbx1  connected"
    assert any(line.startswith("lease:") and "epoch 1" in line for line in lines)
    assert any("\tseen-1\tPing\tdone" in line for line in lines)
    assert any("\trefused-1\tCommand\tforbidden: " in line for line in lines)


def test_json(station: Station) -> None:
    station.amibus("send", "pbx1", "Ping", "--action-id", "seen-2")
    one = json.loads(station.amibus("status", "pbx1", "--json").stdout)
    assert (one["server"], one["alive"], one["epoch"]) == ("pbx1", True, 1)
    assert one["lanes"] == {lane: {"backlog": 0, "pending": 0} for lane in ("urgent", "actions")}
    assert one["results"][0]["action_id"] == "seen-2"
    assert 0 < one["lease"]["ttl_s"] <= 5
    every = [json.loads(line) for line in station.amibus("status", "--json").stdout.splitlines()]
    assert "pbx1" in [each["server"] for each in every]


def test_a_server_that_never_had_a_worker(station: Station) -> None:
    station.amibus("send", "pbx9", "Ping", "--no-wait")
    outcome = station.amibus("status", "pbx9")
    assert outcome.returncode == 1
    assert "No worker is alive (never seen): what is queued waits." in outcome.stdout
    assert "actions:    backlog 1, pending 0" in outcome.stdout


def test_a_worker_that_was_killed(station: Station) -> None:
    settings = {**station.settings, "AMIBUS_SERVER": "pbx2", "AMIBUS_LEASE_S": "1"}
    with Running("worker", settings=settings) as worker:
        connected(station.url, "pbx2", worker)
        assert station.amibus("status", "pbx2").returncode == 0
        worker.process.send_signal(signal.SIGKILL)
        worker.wait()
    until(lambda: station.amibus("status", "pbx2").returncode == 1, "the lease's end")
    outcome = station.amibus("status", "pbx2")
    assert "No worker is alive (last heartbeat " in outcome.stdout
    assert "pbx2\tno worker" in station.amibus("status").stdout


def test_no_server_at_all(redis_url_of_nobody: str) -> None:
    outcome = amibus("status", "--prefix", "other", "--redis", redis_url_of_nobody)
    assert outcome.returncode == 0
    assert outcome.stdout == f"no server has had a worker yet on {redis_url_of_nobody}\n"


def test_it_says_why_a_worker_cannot_work(station: Station) -> None:
    with ExitStack() as stack:
        asterisk = stack.enter_context(Running("simulate", "--port", "0"))
        address = asterisk.line(" on ").partition(" on ")[2].split()[0]
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="amibus-journal-"))
        own = {"AMIBUS_SERVER": "pbx3", "AMIBUS_AMI": address, "AMIBUS_JOURNAL_DIR": directory}
        worker = stack.enter_context(Running("worker", settings=station.settings | own))
        connected(station.url, "pbx3", worker)
        assert "why:" not in station.amibus("status", "pbx3").stdout
        asterisk.process.terminate()
        asterisk.wait()

        def shown() -> list[str]:
            return station.amibus("status", "pbx3").stdout.splitlines()

        reason = f"why:        no session with {address}: "
        until(lambda: any(line.startswith(reason) for line in shown()), "the reason")
        assert shown()[0] == "pbx3  asterisk-away"
