"""Word to systemd, on sockets as it makes them."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.notify import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            sock.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        else:
            sock.bind("")  # the kernel finds a name
            name: bytes = sock.getsockname()
            monkeypatch.setenv("NOTIFY_SOCKET", f"@{name[1:].decode()}")
        sock.settimeout(60)
        yield sock


def test_the_word_is_one_datagram(manager: socket.socket) -> None:
    notify("READY=1")
    notify("STATUS=caf\u00e9")
    assert manager.recv(100) == b"READY=1"
    assert manager.recv(100).decode() == "STATUS=caf\u00e9"


def test_a_manager_that_does_not_read_holds_nobody_up(manager: socket.socket) -> None:
    began = time.monotonic()
    for _ in range(2000):
        notify("WATCHDOG=1")
    assert time.monotonic() - began < 60
    assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nobody/listens/here", "/" + "x" * 300, "vsock:2:1234", "@"])
def test_nobody_who_listens_is_no_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
