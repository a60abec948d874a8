"""A nursery of workers: one process that has everything imported, and forks `amibus worker` as often as it is told.

Commands come as JSON lines: `{"environment": ..., "orders": ..., "log": ...}` starts one. Answers are
`{"started": pid}` in the order of the commands, and `{"ended": pid, "code": ...}` whenever one has ended. When the
standard input ends, all are killed.
"""

import asyncio
import contextlib
import gc
import json
import os
import select
import selectors
import signal
import sys
import time
from typing import Any, Final

import uvloop

import workers.service
from tests.faults.breaking import exchange
from tests.faults.kill_points import Orders, Points
from tests.faults.variants import VARIANTS
from workers.cli.failures import failure_of
from workers.cli.worker import run_worker
from workers.config import Settings, load_settings
from workers.journal import Journal
from workers.lease import MARGIN, Lease

BYTES: Final = 65_536


def main() -> None:
    """Fork workers until the standard input ends."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(read, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if read in ready:
                os.read(read, BYTES)
                _reap(children)
            if 0 in ready:
                data = os.read(0, BYTES)
                if not data:
                    break
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    children.add(_start(json.loads(line)))
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _start(command: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = _live(command)
        finally:
            os._exit(code)
    _say(started=pid)
    return pid


def _reap(children: set[int]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.discard(pid)
            _say(ended=pid, code=os.waitstatus_to_exitcode(status))


def _say(**answer: Any) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def _live(command: dict[str, Any]) -> int:
    """One life, as the console script would live it; the exit code."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(command["environment"])
    orders = Orders(**command["orders"])
    if orders.loop == "asyncio":
        uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]
    try:
        if orders.variant:
            VARIANTS[orders.variant]()
        points = Points(orders)
        points.wrap_functions()
        _watch(points)
        if orders.leases:
            _note_leases(orders.leases)
        if "LD_PRELOAD" in os.environ:  # libfaketime: up to 0.9.10 it makes an error of the system call behind this
            time.sleep = lambda seconds: select.select([], [], [], float(seconds)) and None
        run_worker(load_settings())
    except BaseException as error:
        print(json.dumps({"event": "ended by an error", "error": repr(error)}), file=sys.stderr, flush=True)
        # As the command line ends it: 78 for what an operator has to mend, such as a full disk at the start.
        return int(getattr(error, "exit_code", failure_of(error).exit_code))
    return 0


def _watch(points: Points) -> None:
    serve = workers.service.serve

    async def watched(settings: Settings, **more: Any) -> None:
        points.install(asyncio.get_running_loop())
        await asyncio.create_task(serve(settings, **more), name="serve")

    workers.service.serve = watched  # type: ignore[assignment]


def _note_leases(path: str) -> None:
    """Note each lease that is taken, and which of them came to be used. All workers note in one file."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    acquire, seal = Lease.acquire, Journal.seal

    def note(what: str, epoch: int, asked_at: float = 0.0) -> None:
        # By the monotonic clock, which all processes share and no test sets.
        host = os.environ["AMIBUS_AMI_USERNAME"]
        os.write(notes, f"{what} {epoch} {os.getpid()} {host} {time.monotonic():.6f} {asked_at:.6f}\n".encode())

    async def noted_acquire(self: Lease, *arguments: Any) -> None:
        await acquire(self, *arguments)
        note("taken", self.epoch, self._valid_until - self._life_s * (1 - MARGIN))

    def noted_seal(self: Journal, epoch: int, worker: str = "") -> None:
        seal(self, epoch, worker)
        note("sealed", epoch)

    exchange(Lease, acquire=noted_acquire)
    exchange(Journal, seal=noted_seal)


if __name__ == "__main__":
    main()
