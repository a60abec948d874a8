"""The lab's own fixtures, for the lab's own tests."""

from tests.lab.fixtures import asterisk, asterisk16, asterisk22, pytest_collection_modifyitems

__all__ = ["asterisk", "asterisk16", "asterisk22", "pytest_collection_modifyitems"]
