"""The command's process: hold the directory, take up what an earlier run left, look out, stop."""

import asyncio
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from broker.client import Bus, Server
from broker.errors import AmibusError, BusUnavailable
from workers.action_files.desk import Desk, Tally
from workers.action_files.drop_box import DropBox
from workers.action_files.lookout import DirectoryGone, Lookout
from workers.notify import notify
from workers.stopping import Stopped, unless

PRODUCER: Final = "spool"
"""`Bus-Producer` of an action that names none."""

log = structlog.get_logger()


class NoDirectory(AmibusError):
    """The directory has gone while it was at work in it, or its disk fails."""


async def serve(
    directory: Path,
    server: str,
    *,
    redis: str,
    prefix: str,
    settle_s: float,
    look_s: float,
    drain_s: float,
    once: bool = False,
    stopping: asyncio.Event | None = None,
) -> Tally:
    """Take the directory's files until `stopping` is set (left out: by SIGTERM or SIGINT; a second signal ends the
    process at once), or, with `once`, those that are there. Returns what came of them.

    Raises `SettingsError`, `BusUnavailable` at the start, `NoDirectory`.
    """
    if stopping is None:
        stopping = asyncio.Event()
        _watch_signals(stopping)
    with closing(DropBox(directory).open()) as box:
        async with Bus(redis, prefix, PRODUCER) as bus:
            desk = Desk(box, bus, bus.server(server))
            lookout = Lookout(box, settle_s, look_s, desk.add)
            desk.on_taken = lookout.forget
            try:
                left = await asyncio.to_thread(box.recover)
                log.info("starting", directory=str(directory), server=server, left_under_way=len(left))
                await _warn_of_absence(bus.server(server))
                desk.resume(left)
                notify("READY=1")
                await (_serve_once if once else _serve)(desk, lookout, stopping, drain_s)
            except OSError as error:
                raise NoDirectory(f"{directory} cannot be worked in: {error.strerror or error}") from error
    return desk.tally


async def _serve(desk: Desk, lookout: Lookout, stopping: asyncio.Event, drain_s: float) -> None:
    looking = asyncio.create_task(lookout.run(), name="amibus looks out")
    looking.add_done_callback(lambda _: stopping.set())  # it ends by an error only, or with us
    await desk.run(stopping, drain_s)
    looking.cancel()
    [error] = await asyncio.gather(looking, return_exceptions=True)
    log.info("stopped", **desk.tally.shown())
    if isinstance(error, BaseExceptionGroup):
        gone, others = error.split(DirectoryGone)
        if others is not None:
            raise others
        if gone is not None:
            raise NoDirectory(str(gone.exceptions[0]))


async def _serve_once(desk: Desk, lookout: Lookout, stopping: asyncio.Event, drain_s: float) -> None:
    try:
        restless = await unless(stopping, lookout.once())
    except Stopped:
        restless = []
    for name in restless:
        log.warning("a file is still being written, and is left", file=name)
    await desk.run(stopping, drain_s, until_done=True)
    log.info("finished", **desk.tally.shown())


async def _warn_of_absence(server: Server) -> None:
    try:
        heartbeat = await server.status()
    except BusUnavailable:
        return  # a producer need not have the right to read it
    if not heartbeat:
        log.warning("no worker serves this server now: what is taken waits for one", server=server.name)


def _watch_signals(stopping: asyncio.Event) -> None:
    def stop() -> None:
        if stopping.is_set():
            log.warning("second signal: ending at once")
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
