"""A relay between the worker and Asterisk that keeps what the worker wrote: the proof of what did and did not reach
AMI."""

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536


class Tap:
    """Relays every connection to one AMI port. In threads of its own, for a test's event loop stands still between
    tests."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._written: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._cut_after: tuple[bytes, bool] | None = None
        self.has_cut = False
        """What `cut_after` asked for has happened."""
        self.is_barred = False
        """Nobody who comes now is let through, as if Asterisk were away."""
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # shutdown wakes the thread that waits in accept, close alone does not
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        for each in self._sockets:
            each.close()

    @property
    def address(self) -> str:
        """Where the worker is to find Asterisk."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def written(self) -> bytes:
        """All that was written to Asterisk, session by session."""
        return b"".join(bytes(session) for session in self._written)

    def actions(self, action_id: str) -> list[bytes]:
        """The actions written with that ActionID, whole blocks."""
        blocks = self.written.split(b"\r\n\r\n")
        return [block for block in blocks if f"ActionID: {action_id}".encode() in block.split(b"\r\n")]

    def cut_after(self, text: str, *, all_sessions: bool = False) -> None:
        """Once: as soon as this was written to Asterisk, cut the session that wrote it (or all), before an answer."""
        self._cut_after = text.encode(), all_sessions

    def _is_to_be_cut(self, data: bytes, worker: socket.socket, asterisk: socket.socket) -> bool:
        """Called when data is about to be handed to Asterisk; then the worker hears no more."""
        if self._cut_after is None or self._cut_after[0] not in data:
            return False
        all_sessions = self._cut_after[1]
        self._cut_after, self.has_cut = None, True
        for each in [*self._sockets] if all_sessions else [worker]:
            if each is not asterisk:
                _shut(each)
        return True

    def _accept(self) -> None:
        relays = []
        while True:
            try:
                worker, _ = self._listener.accept()
            except OSError:
                break
            try:
                if self.is_barred:
                    raise ConnectionRefusedError
                asterisk = socket.create_connection(self._target)
            except OSError:
                worker.close()  # Asterisk is away: the worker finds the same
                continue
            written = bytearray()
            self._written.append(written)
            self._sockets += [worker, asterisk]
            for thread in (
                threading.Thread(target=_relay, args=(worker, asterisk, written, self._is_to_be_cut), daemon=True),
                threading.Thread(target=_relay, args=(asterisk, worker, bytearray()), daemon=True),
            ):
                thread.start()
                relays.append(thread)
        for each in self._sockets:
            _shut(each)
        for thread in relays:
            thread.join(10)


def _relay(
    source: socket.socket,
    target: socket.socket,
    kept: bytearray,
    is_to_be_cut: Callable[[bytes, socket.socket, socket.socket], bool] = lambda *_: False,
) -> None:
    while True:
        try:
            data = source.recv(CHUNK_BYTES)
            kept += data
            cut = is_to_be_cut(data, source, target)
            target.sendall(data)
        except OSError:
            break
        if not data or cut:
            break
    _shut(source)
    _shut(target)


def _shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side has done it
