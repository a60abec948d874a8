"""Word to systemd (sd_notify): one datagram on the socket that it names in the environment."""

import os
import socket


def notify(state: str) -> None:
    """Send e.g. `READY=1`, `WATCHDOG=1` or `STATUS=...`; nothing happens where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        # The event loop must not wait for a service manager that does not read.
        sock.setblocking(False)
        try:
            # A leading @ is an abstract socket, which the kernel spells with a NUL.
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sock.sendall(state.encode())
        except OSError:
            return  # a service manager that went away is no reason to stop serving
