"""Fixtures of the worker's tests."""

from tests.workers.journals import clock, opened

__all__ = ["clock", "opened"]
