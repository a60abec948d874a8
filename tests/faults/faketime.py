"""A clock that is set at run time, for one process alone: libfaketime between it and the system's clock."""

import os
from pathlib import Path
from typing import Final

import pytest

LIBRARIES: Final = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))
"""The library for processes with several threads, where it is installed."""

SHARED: Final = ("faketime_shm_", "sem.faketime_sem_")

CACHE_S: Final = 1
"""The process looks so often at what the hour is to be: each look costs it a file."""


class FakeTime:
    """Start the process with `environment`. Its wall clock is the system's until `step`; its monotonic clock always."""

    def __init__(self, directory: Path) -> None:
        if not LIBRARIES:
            reason = "no libfaketime (Debian: apt-get install libfaketime)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self.forget_dead()
        self._file = directory / "faketime"
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(CACHE_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        """Set the clock so many seconds off the system's, within `CACHE_S`."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+.0f}\n")
        draft.replace(self._file)

    @staticmethod
    def forget_dead() -> None:
        """Remove what the library shares with children, of processes that were killed: a later one of the same number
        must not take it for its own."""
        for path in [path for kind in SHARED for path in Path("/dev/shm").glob(f"{kind}*")]:
            if not Path(f"/proc/{path.name.rpartition('_')[2]}").exists():
                path.unlink(missing_ok=True)
