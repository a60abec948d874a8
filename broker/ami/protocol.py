"""One AMI session as bytes in and messages out. It does no I/O: its imports prove it."""

import re
from typing import Final

from broker.ami.errors import RemoteProtocolError
from broker.ami.message import Action, Message
from broker.ami.parser import parse_bytes, parse_command, parse_text
from broker.ami.serialise import serialise

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A block without an end beyond this is no AMI: even a Command of 50,000 lines takes about 5 MB."""

MAX_BANNER_BYTES: Final = 256
"""The banner is `Asterisk Call Manager/` and a version; what writes a longer first line is not Asterisk."""

_BANNER: Final = b"Asterisk Call Manager/"
_COMMAND: Final = b"Response: Follows"
_COMMAND_AT_BLOCK_START: Final = re.compile(rb"(?:\A(?:\r?\n)?|\n\r?\n)Response: Follows\r?\n")
_COMMAND_END: Final = re.compile(rb"--END COMMAND--\r?\n\r?\n")
_COMMAND_END_MAX_BYTES: Final = len(b"--END COMMAND--\r\n\r\n")


class Protocol:
    """One session, from its first byte. Feed it all that you read, and write all that `send_action` returns.

    Never stop reading: Asterisk drops a session that lets a write wait (100 ms by default), in mid-message.
    """

    __slots__ = ("_buffer", "_failure", "_in_command", "_searched", "banner")

    def __init__(self) -> None:
        self.banner: str | None = None
        """The first line, such as 'Asterisk Call Manager/11.0.0'; None until it has come."""
        self._buffer = bytearray()
        self._searched = 0  # no end of a block begins before this index of the buffer
        self._in_command = False  # the buffer begins with a Command's raw text, in which blank lines end nothing
        self._failure: RemoteProtocolError | None = None

    def send_action(self, action: Action) -> bytes:
        """The bytes of an action. You must write what this returns, whole, before anything else.

        Raises `LocalProtocolError` for what AMI cannot carry; nothing is to be written then.
        """
        return serialise(action)

    def receive_data(self, data: bytes) -> list[Message]:
        """Take what was read, cut anywhere, and return the messages that are now complete, in order.

        Raises `RemoteProtocolError`, now and ever after, when this cannot be AMI: close the connection.
        """
        if self._failure is not None:
            raise self._failure
        self._buffer += data
        messages: list[Message] = []
        if self.banner is None and not self._read_banner():
            return messages
        more = True
        while more:
            more = self._read_command(messages) if self._in_command else self._read_blocks(messages)
        if len(self._buffer) > MAX_MESSAGE_BYTES and not messages:
            self._fail(f"a message of more than {MAX_MESSAGE_BYTES} bytes without an end")
        return messages

    def _read_banner(self) -> bool:
        end = self._buffer.find(b"\n", 0, MAX_BANNER_BYTES)
        if end < 0 and len(self._buffer) < MAX_BANNER_BYTES:
            return False
        line = bytes(self._buffer[: end if end >= 0 else MAX_BANNER_BYTES])
        if end < 0 or not line.startswith(_BANNER):
            self._fail(f"the first line is {ascii(line.decode('latin-1'))[:80]}, not Asterisk's: no AMI listens there")
        self.banner = line.removesuffix(b"\r").decode("latin-1")
        del self._buffer[: end + 1]
        return True

    def _read_blocks(self, messages: list[Message]) -> bool:
        """Read all complete blocks; True if a Command's raw text stopped it."""
        complete = self._take_complete()
        if _COMMAND in complete and (command := _COMMAND_AT_BLOCK_START.search(complete)):
            start = command.end() - len(command[0].lstrip(b"\r\n"))
            self._buffer[:0] = complete[start:]
            self._searched = 0
            self._in_command = True
            complete = complete[:start]
        if complete:
            _parse_blocks(complete, messages)
        return self._in_command

    def _take_complete(self) -> bytes:
        """Cut off the buffer everything up to the last blank line."""
        buffer = self._buffer
        last = buffer.rfind(b"\n\r\n", self._searched)
        end = last + 3 if last >= 0 else 0
        last = buffer.rfind(b"\n\n", max(self._searched, end - 1))
        if last >= 0:
            end = last + 2
        complete = bytes(buffer[:end])
        del buffer[:end]
        # All but the two bytes that may begin a blank line (LF, CR) has been searched.
        self._searched = max(0, len(buffer) - 2)
        return complete

    def _read_command(self, messages: list[Message]) -> bool:
        """Read a Command's raw text, if its end is here."""
        found = _COMMAND_END.search(self._buffer, self._searched)
        if found is None:
            self._searched = max(0, len(self._buffer) - _COMMAND_END_MAX_BYTES)
            return False
        block = bytes(self._buffer[: found.end()])
        # The match must be gone first: a bytearray that somebody looks at cannot shrink.
        del found
        del self._buffer[: len(block)]
        self._searched = 0
        self._in_command = False
        messages.append(parse_command(block.replace(b"\r\n", b"\n")))
        return True

    def _fail(self, why: str) -> None:
        self._failure = RemoteProtocolError(why)
        self._buffer.clear()
        raise self._failure


def _parse_blocks(complete: bytes, messages: list[Message]) -> None:
    # Asterisk mixes bare LF into its CRLF (a Message that ends in one, Agents' CallStarted), so both end a
    # line. Extra blank lines leave a LF before a block, or a block of nothing.
    lines = complete.replace(b"\r\n", b"\n")
    try:
        text = lines.decode()
    except UnicodeDecodeError:
        messages += [parse_bytes(raw) for each in lines.split(b"\n\n") if (raw := each.strip(b"\n"))]
    else:
        messages += [parse_text(block) for each in text.split("\n\n") if (block := each.strip("\n"))]
