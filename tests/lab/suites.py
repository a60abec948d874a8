"""Which Debian suite brings which Asterisk, and where its parts lie once they are unpacked."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Suite:
    """One Asterisk series and the Debian suite that it comes from."""

    version: str
    """The series as the tests name it: '22' or '16'."""
    name: str
    packages: tuple[str, ...]
    ami_banner: str
    """What the AMI port says first (Asterisk's own AMI version, which stands for the series)."""


# Debian 12 and 13 have no asterisk package: sid has the current LTS, bullseye the oldest that we support.
# app_voicemail is a package of its own in bullseye, and part of asterisk-modules in sid.
SUITES = {
    "22": Suite("22", "sid", ("asterisk", "asterisk-modules"), "Asterisk Call Manager/11.0.0"),
    "16": Suite(
        "16", "bullseye", ("asterisk", "asterisk-modules", "asterisk-voicemail"), "Asterisk Call Manager/5.0.4"
    ),
}


def cache_dir() -> Path:
    """Where unpacked packages are kept, outside the tree: $AMIBUS_LAB_CACHE, else ~/.cache/amibus/lab."""
    configured = os.environ.get("AMIBUS_LAB_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "amibus" / "lab"


@dataclass(frozen=True, slots=True)
class Installation:
    """An unpacked Asterisk: nothing of it is installed, so it runs with its own loader and its own libraries."""

    root: Path

    @property
    def loader(self) -> Path:
        """The dynamic loader of the suite's own libc: the machine's may be older than Asterisk needs."""
        return self._first("usr/lib64/ld-linux-*.so.*", "lib/*-linux-gnu/ld-2*.so", "usr/lib/**/ld-linux-*.so.*")

    @property
    def library_path(self) -> str:
        """Every library directory of the suite, for `--library-path`."""
        patterns = ("usr/lib", "usr/lib/*-linux-gnu", "lib/*-linux-gnu")
        found = [path for pattern in patterns for path in self.root.glob(pattern) if path.is_dir()]
        return ":".join(str(path) for path in found)

    @property
    def binary(self) -> Path:
        return self.root / "usr/sbin/asterisk"

    @property
    def module_dir(self) -> Path:
        return self._first("usr/lib/*-linux-gnu/asterisk/modules", "usr/lib/asterisk/modules")

    @property
    def data_dir(self) -> Path:
        return self.root / "usr/share/asterisk"

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs this Asterisk with these arguments."""
        return [str(self.loader), "--library-path", self.library_path, str(self.binary), *arguments]

    def _first(self, *patterns: str) -> Path:
        for pattern in patterns:
            for path in sorted(self.root.glob(pattern)):
                return path
        raise FileNotFoundError(f"none of {', '.join(patterns)} is in {self.root}: fetch it again")
