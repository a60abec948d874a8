"""Logging: for people on a terminal, JSON otherwise, and never a secret."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from broker.ami import is_secret_name

MASK = "***"


def configure(log_format: str = "auto", level: str = "info") -> None:
    """Set up structlog for the process. Log lines go to the standard error output."""
    is_terminal = sys.stderr.isatty()
    console = is_terminal if log_format == "auto" else log_format == "console"
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=is_terminal) if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _mask_secrets,
            _one_line,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if is_secret_name(name):
            event[name] = MASK
    return event


def _one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text from elsewhere may hold line ends or a terminal's control characters: they are shown, not obeyed."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = ascii(value)[1:-1]
    return event


def trace_of(traceparent: str) -> dict[str, str]:
    """What joins a line to the trace of who asked, where there is one."""
    return {"traceparent": traceparent} if traceparent else {}
