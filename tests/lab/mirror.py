"""The Debian mirror that the machine's own apt uses: the lab writes no host of its own."""

import os
import re
import subprocess

# A suite of Debian's main archive, and not its -security, -updates or -backports neighbour: those lie elsewhere
# on a mirror or hold only a part. Ubuntu's suites are other words, so an Ubuntu mirror is never taken for Debian's.
_DEBIAN_SUITES = "bullseye|bookworm|trixie|forky|duke|sid|oldoldstable|oldstable|stable|testing|unstable"
_RELEASE_FILE = re.compile(rf"^'(?P<base>[^']+?)/+dists/(?:{_DEBIAN_SUITES})/(?:InRelease|Release)'", re.MULTILINE)


def debian_mirror() -> str | None:
    """The address of a Debian archive, from $AMIBUS_LAB_MIRROR or from apt's configuration; None if there is none.

    `apt-get --print-uris update` reads every form of sources (one-line, deb822, mirror+file) as apt itself does, and
    needs neither the network nor lists fetched before.
    """
    configured = os.environ.get("AMIBUS_LAB_MIRROR")
    if configured:
        return configured
    done = subprocess.run(
        ["apt-get", "--print-uris", "update"], capture_output=True, text=True, timeout=120, check=False
    )
    return mirror_in(done.stdout)


def mirror_in(uris: str) -> str | None:
    """The first Debian archive among the lines of `apt-get --print-uris update`."""
    match = _RELEASE_FILE.search(uris)
    return match["base"] if match else None
