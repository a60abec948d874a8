"""`amibus simulate`: a process that says what it is."""

import signal
import socket

import pytest

from tests.cli.commands import Running, amibus


def test_it_says_that_it_is_simulated_and_ends_by_ctrl_c() -> None:
    with Running("simulate", "--port", "0") as asterisk:
        line = asterisk.line(" on ")
        assert line.startswith("simulated Asterisk 22.10.1 on 127.0.0.1:")
        assert asterisk.line("manager users") == "manager users: amibus, secret amibus\n"
        with socket.create_connection(("127.0.0.1", int(line.split()[4].rpartition(":")[2])), 10) as client:
            assert client.recv(100).startswith(b"Asterisk Call Manager/")
        asterisk.interrupt()
        assert asterisk.wait() == 0
        assert asterisk.stderr == ""


def test_sigterm_ends_it_too_and_a_secret_of_ones_own_is_not_printed() -> None:
    with Running("simulate", "--port", "0", settings={"AMIBUS_AMI_SECRET": "hunter2"}) as asterisk:
        asterisk.line("secrets as set")
        asterisk.process.send_signal(signal.SIGTERM)
        assert asterisk.wait() == 0
        assert "hunter2" not in "".join(asterisk.lines)


def test_a_taken_port(simulated: str) -> None:
    outcome = amibus("simulate", "--port", simulated.rpartition(":")[2])
    assert outcome.returncode == 78
    assert outcome.stderr.startswith(f"amibus: cannot listen on {simulated}: ")
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("fault", ["explode", "explode:Ping", ":Ping"])
def test_an_unknown_fault(fault: str) -> None:
    outcome = amibus("simulate", "--fault", fault)
    assert outcome.returncode == 2
    assert "drop-before" in outcome.stderr
