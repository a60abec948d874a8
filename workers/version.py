"""Which amibus this is."""

from importlib.metadata import PackageNotFoundError, version


def amibus_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("amibus")
    except PackageNotFoundError:
        return "unknown"
