"""One real Asterisk with a private directory and a free AMI port, as long as a test needs it.

The object belongs to no event loop, so a fixture of the whole session and the loop of each test can share one.
"""

import asyncio
import re
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.configuration import Configuration
from tests.lab.fetch import LabUnavailable, ensure
from tests.lab.suites import SUITES
from tests.ports import free_port

START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 30.0
CLI_DEADLINE_S = 60.0
POLL_S = 0.02
HOST = "127.0.0.1"


@cache
def available(version: str) -> str | None:
    """Why this machine cannot have that Asterisk, or None when it can. Fetches it when it is not in the cache yet."""
    try:
        ensure(version)
    except LabUnavailable as error:
        return str(error)
    return None


class LabAsterisk:
    """`async with LabAsterisk('22') as asterisk:` is a running, fully booted Asterisk with nobody else's calls.

    Raises LabUnavailable (it cannot be had here) and RuntimeError (it did not start; the text ends with its log).
    """

    host = HOST

    def __init__(self, version: str = "22", *, port: int | None = None) -> None:
        self.series = version
        self.installation = ensure(version)
        self.version = ""
        """The full version that the running Asterisk says, as '22.10.1'; empty before the first start."""
        # Not pytest's directory: the path of a Unix socket has at most 107 bytes, and Asterisk has one in run/.
        self._home = Path(tempfile.mkdtemp(prefix=f"amibus-lab-{version}-"))
        self._configuration = Configuration(self._home, port or free_port())
        self._configuration.write(self.installation)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._configuration.port

    @property
    def sip_port(self) -> int:
        """UDP port of PJSIP, where endpoint `labphone` (secret the same) may call."""
        return self._configuration.sip_port

    @property
    def users(self) -> dict[str, str]:
        """AMI users and their secrets: `amibus`, `amibus-events` (as in deploy/manager.conf), `limited`, `observer`."""
        return self._configuration.users

    @property
    def spool_dir(self) -> Path:
        """Recordings are in monitor/ below it, voicemail in voicemail/."""
        return self._home / "spool"

    @property
    def log_path(self) -> Path:
        return self._home / "log" / "full"

    @property
    def config_dir(self) -> Path:
        return self._home / "etc"

    @property
    def pid(self) -> int:
        """Process id. RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError(f"Asterisk {self.series} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Starts it, again after stop() or kill() on the same port, and returns when it is fully booted."""
        if self.running:
            raise RuntimeError(f"Asterisk {self.series} runs already, as process {self.pid}")
        self._process = self._spawn()
        deadline = time.monotonic() + START_DEADLINE_S
        await self._wait_until_booted(deadline)
        await self._wait_for_version(deadline)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self._home / "log" / "console").open("ab") as console:
            return subprocess.Popen(
                [*_dies_with_us(), *self._asterisk("-f", "-n")],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self._home,
                # its own group: Ctrl-C in the terminal is for us, and we stop Asterisk ourselves
                process_group=0,
            )

    async def stop(self) -> None:
        """Ends it gracefully (SIGTERM), or with SIGKILL when it has not gone by the deadline."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Ends it as a crash does (SIGKILL): no Shutdown event, no closed calls."""
        await self._end(signal.SIGKILL)

    async def close(self) -> None:
        """Stops it and removes its directory."""
        await self.stop()
        await asyncio.to_thread(shutil.rmtree, self._home)

    async def cli(self, command: str) -> str:
        """What the CLI answers to one command, by a remote console: an independent look, not by AMI."""
        return await asyncio.to_thread(self._cli, command)

    def _cli(self, command: str) -> str:
        done = subprocess.run(
            self._asterisk("-r", "-x", command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CLI_DEADLINE_S,
            check=False,
            cwd=self._home,
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode:
            raise RuntimeError(f"the CLI of Asterisk {self.series} refused {command!r}: {text.strip()}")
        return text

    def _asterisk(self, *arguments: str) -> list[str]:
        return self.installation.command("-C", str(self._configuration.asterisk_conf), *arguments)

    async def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait, STOP_DEADLINE_S)
        self._process = None

    async def _wait_until_booted(self, deadline: float) -> None:
        while True:
            problem = await self._boot_problem(deadline)
            if problem is None:
                return
            if not self.running:
                raise RuntimeError(f"Asterisk {self.series} ended during its start. {self._log_tail()}")
            if time.monotonic() > deadline:
                late = f"Asterisk {self.series} is not ready after {START_DEADLINE_S:.0f} s ({problem})"
                raise RuntimeError(f"{late}. {self._log_tail()}")
            await asyncio.sleep(POLL_S)

    async def _wait_for_version(self, deadline: float) -> None:
        """It is fully booted a moment before the CLI knows the first of its own commands."""
        while not (version := _version_in(text := await self.cli("core show version"))):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no version in what the CLI of Asterisk {self.series} says: {text!r}")
            await asyncio.sleep(POLL_S)
        self.version = version

    async def _boot_problem(self, deadline: float) -> str | None:
        """None once a session that logged in has seen FullyBooted; else why not (yet)."""
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                return await self._look_at_ami()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            return repr(error)

    async def _look_at_ami(self) -> str | None:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            banner = await reader.readuntil(b"\r\n")
            if banner.decode().strip() != SUITES[self.series].ami_banner:
                return f"a stranger at port {self.port}: {banner!r}"
            writer.write(login("observer", self.users["observer"]))
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"Response: Success"):
                return f"the login was refused: {answer!r}"
            # a session that comes before the end of the boot gets it as an event, later ones at once
            while b"Event: FullyBooted" not in answer:
                answer = await reader.readuntil(b"\r\n\r\n")
            return None
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    def _log_tail(self, lines: int = 15) -> str:
        text = (self._home / "log" / "console").read_text(errors="replace")
        return "Its console ended:\n" + "\n".join(text.splitlines()[-lines:])


def login(user: str, secret: str, *, events: str = "on") -> bytes:
    """A plain Login, for sessions that look at Asterisk without the project's own AMI code."""
    return f"Action: Login\r\nUsername: {user}\r\nSecret: {secret}\r\nEvents: {events}\r\n\r\n".encode()


def _version_in(text: str) -> str:
    """'22.10.1' of 'Asterisk 22.10.1+dfsg... built by ...'; empty where there is none."""
    match = re.match(r"Asterisk (\d+(?:\.\d+)*)", text)
    return match[1] if match else ""


def _dies_with_us() -> list[str]:
    """A prefix that lets the kernel end Asterisk when we are killed (setpriv execs, so the process id stays the same).

    The kernel looks at the thread: start() belongs into one that lives as long as Asterisk shall.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []
