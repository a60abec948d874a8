"""Ports for servers of the tests."""

import socket
from random import SystemRandom


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that is free now, from below the ephemeral range.

    From the ephemeral range it could become the source port of somebody's connection while a server is down and
    about to start on it; a client that knocks at a dead port of that range may even connect to itself.
    """
    for port in SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket(socket.AF_INET, kind) as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port of 127.0.0.1 between 20000 and 32000")
