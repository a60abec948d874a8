"""Deliberately broken workers: the checker must find each of them out."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import workers.job
from broker.entry import Request
from workers.job import Job
from workers.reader import Reader


def resend() -> None:
    """Takes everything for read-only, and so writes again what a lost worker had begun."""
    original = workers.job.make_job

    def make_job(request: Request, server: str) -> Job:
        return replace(original(request, server), reads_only=True)

    _replace_everywhere("make_job", original, make_job)


def forget_pending() -> None:
    """Does not take over what a lost worker had taken."""

    async def claim_all(_self: Reader, _lane: str) -> tuple[list[Request], list[str]]:
        return [], []

    async def missed(_self: Reader, _lane: str, _held: Any, _most: int) -> list[Request]:
        return []

    for function in (claim_all, missed):
        setattr(Reader, function.__name__, function)


def _replace_everywhere(name: str, original: Callable[..., Any], better: Callable[..., Any]) -> None:
    for module in list(sys.modules.values()):
        if getattr(module, name, None) is original:
            setattr(module, name, better)


VARIANTS: dict[str, Callable[[], None]] = {"resend": resend, "forget-pending": forget_pending}
