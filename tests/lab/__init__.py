"""A real Asterisk 22 and 16 for the tests: fetched and started without root and without Docker (see README.md)."""

from tests.lab.asterisk import LabAsterisk, available
from tests.lab.fetch import LabUnavailable

__all__ = ["LabAsterisk", "LabUnavailable", "available"]
