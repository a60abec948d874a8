"""A SIP phone that can do one thing: register, as endpoint `labdesk`, which needs no password."""

import socket
from types import TracebackType
from typing import Self

from tests.lab.asterisk import HOST, LabAsterisk

ANSWER_DEADLINE_S = 60.0
MAX_ANSWER_BYTES = 4096


class Phone:
    """`with Phone(asterisk) as phone: phone.register(60)`."""

    def __init__(self, asterisk: LabAsterisk) -> None:
        self._registrar = (HOST, asterisk.sip_port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self._socket.settimeout(ANSWER_DEADLINE_S)
        self._requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def uri(self) -> str:
        """Where it can be reached."""
        return f"sip:labdesk@{HOST}:{self._socket.getsockname()[1]}"

    def register(self, expires_s: int) -> str:
        """Asks to be registered for so long, 0: no longer; the status code of the answer."""
        self._requests += 1
        port = self._socket.getsockname()[1]
        lines = (
            f"REGISTER sip:{HOST}:{self._registrar[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{port};branch=z9hG4bK{self._requests};rport",
            f"From: <sip:labdesk@{HOST}>;tag=1",
            f"To: <sip:labdesk@{HOST}>",
            f"Call-ID: lab-{port}",
            f"CSeq: {self._requests} REGISTER",
            f"Contact: <{self.uri}>",
            f"Expires: {expires_s}",
            "User-Agent: amibus-lab",
            "Max-Forwards: 70",
            "Content-Length: 0",
        )
        self._socket.sendto("".join(f"{line}\r\n" for line in (*lines, "")).encode(), self._registrar)
        status_line = self._socket.recv(MAX_ANSWER_BYTES).split(b"\r\n")[0]
        return status_line.split()[1].decode()
