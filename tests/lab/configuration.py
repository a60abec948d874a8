"""The configuration directory of one lab instance, from the templates in conf/ and from deploy/manager.conf."""

import re
import secrets
import socket
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tests.lab.suites import Installation
from tests.ports import free_port

TEMPLATES = Path(__file__).parent / "conf"
MANAGER_CONF = Path(__file__).parents[2] / "deploy" / "manager.conf"
# user -> what stands in its place in deploy/manager.conf
PRODUCTION_USERS = {"amibus": "CHANGE-ME-amibus", "amibus-events": "CHANGE-ME-events"}
LAB_USERS = ("limited", "observer")
SILENCE_S = 2


@dataclass(frozen=True, slots=True)
class Configuration:
    """What distinguishes one lab instance from another."""

    home: Path
    port: int
    iax_port: int = field(default_factory=lambda: free_port(socket.SOCK_DGRAM))
    sip_port: int = field(default_factory=lambda: free_port(socket.SOCK_DGRAM))
    # Made anew for each instance: whoever takes another instance for this one fails to log in.
    users: dict[str, str] = field(
        default_factory=lambda: {user: secrets.token_hex(16) for user in (*PRODUCTION_USERS, *LAB_USERS)}, repr=False
    )

    @property
    def asterisk_conf(self) -> Path:
        return self.home / "etc" / "asterisk.conf"

    def write(self, installation: Installation) -> None:
        """Makes the instance's directories and files."""
        for name in ("etc", "lib/moh", "lib/keys", "lib/agi-bin", "spool", "run", "log"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        values = {
            "home": str(self.home),
            "modules": str(installation.module_dir),
            "data": str(installation.data_dir),
            "iax_port": str(self.iax_port),
            "sip_port": str(self.sip_port),
            **self.users,
        }
        for template in TEMPLATES.glob("*.conf"):
            self._write_file(template.name, _fill(template.read_text(), values))
        modules = _expand_patterns((self.home / "etc/modules.conf").read_text(), installation.module_dir)
        self._write_file("modules.conf", modules)
        users = self.home / "etc" / "manager-users.conf"
        self._write_file("manager.conf", self._manager_conf() + users.read_text())
        users.unlink()
        # slin needs no codec: 8000 samples a second of 2 bytes
        (self.home / "lib/moh/silence.sln").write_bytes(bytes(SILENCE_S * 8000 * 2))

    def _manager_conf(self) -> str:
        text = MANAGER_CONF.read_text()
        for user, placeholder in PRODUCTION_USERS.items():
            text = _replace_once(text, f"secret = {placeholder}", f"secret = {self.users[user]}")
        return _replace_once(text, "port = 5038", f"port = {self.port}")

    def _write_file(self, name: str, text: str) -> None:
        (self.home / "etc" / name).write_text(text)


def _fill(template: str, values: dict[str, str]) -> str:
    return re.sub(r"@([a-z_]+)@", lambda match: values.get(match[1], match[0]), template)


def _replace_once(text: str, old: str, new: str) -> str:
    """Replaces one whole line: the lab must notice when the production example changes."""
    if text.splitlines().count(old) != 1:
        raise ValueError(f"deploy/manager.conf should have exactly one line {old!r}")
    return text.replace(f"\n{old}\n", f"\n{new}\n")


def _expand_patterns(text: str, module_dir: Path) -> str:
    present = sorted(path.name for path in module_dir.glob("*.so"))
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("noload = "):
            lines.append(line)
            continue
        pattern = line.removeprefix("noload = ")
        lines += [f"noload = {name}" for name in present if fnmatch(name, pattern)]
    return "\n".join(lines) + "\n"
