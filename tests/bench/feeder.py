"""Stands in for Asterisk where only its bytes matter: lets everybody log in, and floods with events as fast as they
are read.

Run as a process of its own. Says its port; then, for each `flood`, when it began.
"""

import contextlib
import json
import socket
import sys
import threading
import time

from tests.bench.capture import flood
from tests.bench.side import say

ASTERISK_VERSION = "22.10.1"
BANNER = b"Asterisk Call Manager/11.0.0\r\n"
BOOTED = b"Event: FullyBooted\r\nPrivilege: system,all\r\nUptime: 1\r\nLastReload: 1\r\nStatus: Fully Booted\r\n\r\n"


class Feeder:
    """Answers what a client asks while it connects; one thread per session."""

    def __init__(self, channels: list[str]) -> None:
        self._channels = channels
        """Uniqueids of the channels that CoreShowChannels shows."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._readers: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Take sessions for ever."""
        while True:
            session, _ = self._listener.accept()
            session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(session,), daemon=True).start()

    def flood(self, data: bytes) -> float:
        """Write to the one session that gets events, as fast as it reads. Returns when the first byte went
        (monotonic)."""
        (reader,) = self._readers
        began_at = time.monotonic()
        reader.sendall(data)
        return began_at

    def _serve(self, session: socket.socket) -> None:
        # A client that is ended in mid-session resets it: nothing to be said about that.
        with contextlib.suppress(ConnectionError), session:
            self._talk(session)
        if session in self._readers:
            self._readers.remove(session)

    def _talk(self, session: socket.socket) -> None:
        session.sendall(BANNER)
        waiting = b""
        while data := session.recv(65536):
            *blocks, waiting = (waiting + data).split(b"\r\n\r\n")
            for block in blocks:
                headers = dict(line.split(": ", 1) for line in block.decode().split("\r\n"))
                answer = self._answer(headers)
                if headers["Action"] == "Login" and headers.get("Events") != "off":
                    # Before it can know that it is logged in, and have the flood asked for.
                    self._readers.append(session)
                    answer += BOOTED
                session.sendall(answer)

    def _answer(self, headers: dict[str, str]) -> bytes:
        action_id = headers.get("ActionID", "")
        more = {
            "Challenge": "Challenge: 123456789\r\n",
            "Ping": "Ping: Pong\r\nTimestamp: 1795452021.577218\r\n",
            "CoreSettings": f"AsteriskVersion: {ASTERISK_VERSION}\r\n",
            "CoreShowChannels": "EventList: start\r\nMessage: Channels will follow\r\n",
        }.get(headers["Action"], "")
        answer = f"Response: Success\r\nActionID: {action_id}\r\n{more}\r\n"
        if headers["Action"] == "CoreShowChannels":
            answer += "".join(
                f"Event: CoreShowChannel\r\nActionID: {action_id}\r\nUniqueid: {each}\r\n\r\n"
                for each in self._channels
            )
            answer += f"Event: CoreShowChannelsComplete\r\nActionID: {action_id}\r\nEventList: Complete\r\n\r\n"
        return answer.encode()


def main() -> None:
    feeder = Feeder(sys.argv[1:])
    threading.Thread(target=feeder.serve, daemon=True).start()
    say(port=feeder.port)
    for line in sys.stdin:
        data = flood(json.loads(line)["events"])
        say(began_at=feeder.flood(data), size_bytes=len(data))


if __name__ == "__main__":
    main()
