"""Which files are whole and may be taken: by the kernel's word where it gives one, by their keeping still otherwise."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import structlog
from asyncinotify import Event, Inotify, Mask

from workers.action_files.drop_box import DropBox, Identity
from workers.action_files.names import stem_of

MAX_KNOWN: Final = 50_000
"""Names held in memory. What lies beyond is found when there is room again."""

TICKS: Final = 4
"""How often within the settling time it is looked whether a file has settled."""

WATCHED: Final = Mask.MODIFY | Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR

log = structlog.get_logger()


class DirectoryGone(Exception):
    """The directory was removed, renamed or unmounted."""


class _Candidate(NamedTuple):
    """A file that may not be whole yet."""

    name: str
    identity: Identity | None
    due: float
    """When it is looked at again, by the loop's clock."""


class Lookout:
    """Tells of each file that may be taken, by `found`.

    A file that was renamed into the directory is whole at once. One that was written there is whole once its writer has
    closed it and it has not changed for `settle_s` since; while it is empty it is not. Of one that was there before, or
    of which the kernel does not tell (NFS), nobody knows the writer: it must keep still for `settle_s`. `look_s`: how
    often the whole directory is looked through for such files.
    """

    def __init__(self, box: DropBox, settle_s: float, look_s: float, found: Callable[[str], None]) -> None:
        self._box = box
        self._settle_s = settle_s
        self._look_s = look_s
        self._found = found
        self._candidates: deque[_Candidate] = deque()
        """In the order in which they are due."""
        self._known: set[str] = set()
        """Candidates, and what was told and is not taken yet."""
        self._growing: set[str] = set()
        """Written to, and not closed yet."""
        self._look_now = asyncio.Event()
        self._is_full = False

    def forget(self, name: str) -> None:
        """It was taken, or cannot be: tell of it again if it is there again."""
        self._known.discard(name)
        if self._is_full and len(self._known) < MAX_KNOWN // 2:
            self._is_full = False
            self._look_now.set()

    async def once(self) -> list[str]:
        """Tell of all that is there and keeps still. Returns what did not, and is left."""
        there = {name: each for name, each in (await asyncio.to_thread(self._box.actions)).items() if each.size_bytes}
        if there:
            await asyncio.sleep(self._settle_s)
        later = await asyncio.to_thread(self._box.identities, there)
        for name, identity in there.items():
            if later[name] == identity:
                self._known.add(name)
                self._found(name)
        return [name for name, identity in there.items() if later[name] not in (identity, None)]

    async def run(self) -> None:
        """Look out, without end. Raises `DirectoryGone`."""
        with contextlib.ExitStack() as stack:
            try:
                inotify = stack.enter_context(Inotify())
                inotify.add_watch(self._box.path, WATCHED)
            except OSError as error:
                log.warning("the kernel does not tell of new files: the directory is looked through", error=str(error))
                inotify = None
            async with asyncio.TaskGroup() as tasks:
                if inotify is not None:
                    tasks.create_task(self._listen(inotify))
                tasks.create_task(self._look_through())
                tasks.create_task(self._settle())

    async def _listen(self, inotify: Inotify) -> None:
        async for event in inotify:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        if event.mask & (Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED):
            raise DirectoryGone(f"{self._box.path} was removed, renamed or unmounted")
        if event.mask & Mask.Q_OVERFLOW:
            # Of some it is not known any more whether they were closed: they must keep still.
            self._growing.clear()
            self._look_now.set()
            return
        name = str(event.name)
        if event.mask & Mask.ISDIR or stem_of(name) is None:
            return
        if event.mask & Mask.MODIFY:
            self._growing.add(name)
            return
        self._growing.discard(name)
        if event.mask & Mask.MOVED_TO:
            self._tell(name)
        else:
            self._consider([name])

    def _tell(self, name: str) -> None:
        identity = self._box.identities([name])[name]
        if identity is not None and self._has_room(name):
            self._known.add(name)
            self._found(name)

    def _consider(self, names: Iterable[str]) -> None:
        """Look at these again once they had time to settle."""
        due = asyncio.get_running_loop().time() + self._settle_s
        for name, identity in self._box.identities(names).items():
            if identity is not None and identity.size_bytes and name not in self._known and self._has_room(name):
                self._known.add(name)
                self._candidates.append(_Candidate(name, identity, due))

    def _has_room(self, name: str) -> bool:
        if len(self._known) >= MAX_KNOWN and name not in self._known:
            self._is_full = True
            return False
        return True

    async def _look_through(self) -> None:
        while True:
            growing = self._growing.copy()
            there = await self._actions()
            self._growing -= growing - there.keys()  # those are gone
            self._consider([name for name in there if name not in self._known and name not in self._growing])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await self._look_now.wait()
            self._look_now.clear()

    async def _actions(self) -> dict[str, Identity]:
        try:
            return await asyncio.to_thread(self._box.actions)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DirectoryGone(f"{self._box.path} was removed, renamed or unmounted") from error
        except OSError as error:
            log.warning("the directory cannot be looked through now", error=str(error))
            return {}

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(self._settle_s / TICKS)
            now = asyncio.get_running_loop().time()
            due = []
            while self._candidates and self._candidates[0].due <= now:
                due.append(self._candidates.popleft())
            if due:
                self._judge(due, await asyncio.to_thread(self._box.identities, [each.name for each in due]))

    def _judge(self, due: list[_Candidate], now: dict[str, Identity | None]) -> None:
        restless = []
        for each in due:
            identity = now[each.name]
            if identity is not None and identity == each.identity and each.name not in self._growing:
                self._found(each.name)
                continue
            self._known.discard(each.name)
            if identity is not None and each.name not in self._growing:
                restless.append(each.name)
        self._consider(restless)
