"""The names of the files."""

import pytest

from broker.entry import usable_action_id
from workers.action_files.names import Taken, is_draft, stem_of


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("call.action", "call"),
        ("a.b c.action", "a.b c"),
        ("\udcff.action", "\udcff"),
        (".call.action", None),
        (".action", None),
        ("call.action.tmp", None),
        ("call.out", None),
        ("call.ACTION", None),
    ],
)
def test_which_files_ask_for_something(name: str, stem: str | None) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize("stem", ["call", "a.b c", "x.1795533009.aaaaaaaaaa", "new\nline"])
def test_a_taken_files_name_says_it_all(stem: str) -> None:
    taken = Taken.now(stem, 1795533009.7)
    assert Taken.from_name(taken.name) == taken
    assert taken.taken_at == 1795533009
    assert is_draft(taken.draft)
    assert stem_of(taken.name) is None
    assert Taken.now(stem, 1795533009.7).name != taken.name


@pytest.mark.parametrize(
    "name", ["call.taken", "call.1.taken", "call.1.short.taken", ".1.aaaaaaaaaa.taken", "call.out"]
)
def test_other_names_are_no_taken_files(name: str) -> None:
    assert Taken.from_name(name) is None


def test_action_ids_and_tags() -> None:
    taken = Taken("Grüße" * 80, 10**12 - 1, "a" * 10)
    assert usable_action_id(taken.action_id(100_000))
    assert taken.action_id(1) != taken.action_id(2)
    assert len(taken.tag(100_000)) <= 256
    assert taken.tag(2).isascii()
    assert Taken("call", 1, "a" * 10).tag(2) == "call.action#2"
