"""Fetching an Asterisk: a private apt state downloads the packages, dpkg-deb unpacks them into the cache.

Nothing of the machine is changed: no package is installed, no root is needed, and apt's own lists stay as they are.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.mirror import debian_mirror
from tests.lab.suites import SUITES, Installation, Suite, cache_dir

Progress = Callable[[str], None]

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMMAND_DEADLINE_S = 600
# Documentation and translations are a tenth of the packages, and no test reads them.
LEFT_OUT = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale")


class LabUnavailable(RuntimeError):
    """This machine cannot have that Asterisk; the text says why and what would mend it."""


def say(line: str) -> None:
    """A progress line, on standard error: standard output stays for what the command was asked for."""
    print(f"lab: {line}", file=sys.stderr, flush=True)


def ensure(version: str, *, again: bool = False, progress: Progress = say) -> Installation:
    """The unpacked Asterisk of that series, fetched first if the cache has none.

    Safe to call from many processes at once: one fetches, the others wait for it. Raises LabUnavailable.
    """
    suite = SUITES.get(version)
    if suite is None:
        raise LabUnavailable(f"there is no lab for Asterisk {version!r}, only for {' and '.join(SUITES)}")
    home = cache_dir() / version
    if home.is_dir() and not again:
        return Installation(home)
    _require_tools()
    with _lock(home.with_suffix(".lock"), progress):
        if again or not home.is_dir():
            _fetch(suite, home, progress)
    return Installation(home)


def _require_tools() -> None:
    if sys.platform != "linux":
        raise LabUnavailable("the lab runs Debian's Asterisk, which needs Linux")
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise LabUnavailable(f"{tool} is not here: the lab takes Asterisk from Debian's packages")


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is fetching {path.stem}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(suite: Suite, home: Path, progress: Progress) -> None:
    mirror = debian_mirror()
    if mirror is None:
        raise LabUnavailable(
            "apt on this machine names no Debian mirror (the packages are Debian's): set AMIBUS_LAB_MIRROR to one"
        )
    began = time.monotonic()
    # Beside its final place, so that the rename is atomic: nobody ever sees half an Asterisk.
    with tempfile.TemporaryDirectory(prefix=f".{suite.version}-", dir=home.parent) as scratch:
        work = Path(scratch)
        options = _private_state(work, suite, mirror)
        progress(f"Asterisk {suite.version}: reading the package lists of Debian {suite.name}")
        _run(["apt-get", *options, "update"], suite)
        progress(f"Asterisk {suite.version}: downloading (about 75 MB)")
        _run(["apt-get", *options, "--yes", "--download-only", "install", *suite.packages], suite)
        packages = sorted((work / "cache" / "archives").glob("*.deb"))
        progress(f"Asterisk {suite.version}: unpacking {len(packages)} packages (about 220 MB)")
        root = work / "root"
        root.mkdir()
        for package in packages:
            _unpack(package, root, suite)
        _link_sounds(root)
        _check(Installation(root), suite)
        _replace(root, home, work)
    progress(f"Asterisk {suite.version}: in {home}, {time.monotonic() - began:.0f} s")


def _private_state(work: Path, suite: Suite, mirror: str) -> list[str]:
    """apt options for a state of our own, whose empty status file makes apt bring everything, libc included."""
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb {_source_options()}{mirror} {suite.name} main\n")
    return [
        "-q=2",
        f"-oDir::Etc::sourcelist={work}/sources.list",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State={work}",
        f"-oDir::State::Lists={work}/lists",
        f"-oDir::State::status={work}/status",
        f"-oDir::Cache={work}/cache",
        "-oDebug::NoLocking=1",
        "-oAPT::Install-Recommends=0",
        # root's apt fetches as user _apt, who may not enter a home directory's cache
        "-oAPT::Sandbox::User=",
        "-oAcquire::Languages=none",
        "-oAcquire::Retries=2",
        "-oAcquire::http::Timeout=20",
        "-oAcquire::https::Timeout=20",
        # a mirror that is a snapshot, or bullseye after its end, is past its date but rightly signed
        "-oAcquire::Check-Valid-Until=false",
        "-oAPT::Update::Error-Mode=any",
    ]


def _source_options() -> str:
    """Signatures are checked, against Debian's own keyring where the machine has it (an Ubuntu has it as a package).

    sid is signed by the newest keys and some older ones. Where the keyring is too old for all of them, whoever runs
    the tests may decide to go without the check: code that nobody vouches for would run under their own account, so
    it is their choice to make and never made for them.
    """
    if os.environ.get("AMIBUS_LAB_ALLOW_UNSIGNED") == "1":
        say("AMIBUS_LAB_ALLOW_UNSIGNED=1: the packages' signatures are not checked. They are run for tests only.")
        return "[trusted=yes] "
    return f"[signed-by={DEBIAN_KEYRING}] " if DEBIAN_KEYRING.exists() else ""


def _run(command: list[str], suite: Suite) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            check=False,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired as error:
        raise LabUnavailable(f"{command[0]} took more than {COMMAND_DEADLINE_S} s: is the mirror reachable?") from error
    if done.returncode:
        raise LabUnavailable(_failure(command, suite, done.stdout + done.stderr))


def _failure(command: list[str], suite: Suite, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    said = " ".join(lines[-3:]) or output[-300:]
    text = f"{command[0]} could not get Asterisk {suite.version} from Debian {suite.name}: {said}"
    if "NO_PUBKEY" in output or "not signed" in output:
        text += " (a newer package debian-archive-keyring has the key; AMIBUS_LAB_ALLOW_UNSIGNED=1 goes without)"
    return text


def _unpack(package: Path, root: Path, suite: Suite) -> None:
    """Unpacks one package as dpkg would, with `/lib` kept a link where the suite has it so."""
    tar = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", f"--directory={root}"]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as contents:
        done = subprocess.run(
            [*tar, *(f"--exclude={path}" for path in LEFT_OUT)],
            stdin=contents.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
    if contents.returncode or done.returncode:
        raise LabUnavailable(f"{package.name} of Asterisk {suite.version} could not be unpacked: {done.stderr[-300:]}")


def _link_sounds(root: Path) -> None:
    """The link that the sound package's own script would have made, had it been installed."""
    english = root / "usr/share/asterisk/sounds/en"
    if not english.exists():
        english.symlink_to("en_US_f_Allison")


def _check(installation: Installation, suite: Suite) -> None:
    done = subprocess.run(installation.command("-V"), capture_output=True, text=True, timeout=120, check=False)
    if not done.stdout.startswith(f"Asterisk {suite.version}."):
        raise LabUnavailable(
            f"Debian {suite.name} should bring Asterisk {suite.version}, and it says {(done.stdout + done.stderr)!r}"
        )


def _replace(root: Path, home: Path, work: Path) -> None:
    if home.is_dir():
        home.rename(work / "replaced")
    root.rename(home)
