"""Notes that wait are merged by call, and say the same as their parts one after the other."""

from typing import Any

from workers.notes import Note, Notes


def note(call: str, **parts: Any) -> Note:
    return {"id": call, "add": [], "drop": [], "fields": [], "ttl_ms": None} | parts


def test_however_much_happens_to_a_call_it_is_one_note() -> None:
    notes = Notes()
    notes.add([note("a", add=["u1"], fields=["call", "dialing", "channel", "Local/1"]), note("b", add=["v1"])])
    notes.add([note("a", fields=["call", "up", "answered_at", "1.0"]), note("a", add=["u2"])])
    notes.add([note("a", drop=["u2"])])
    notes.add([note("a", drop=["u1"], fields=["call", "ended", "cause", "16"], ttl_ms=5)])
    assert len(notes) == 2
    whole, other = notes.all()
    fields = ["call", "ended", "channel", "Local/1", "answered_at", "1.0", "cause", "16"]
    assert whole == note("a", drop=["u2", "u1"], fields=fields, ttl_ms=5)
    assert other == note("b", add=["v1"])


def test_a_leg_that_has_gone_stays_gone_where_an_older_part_was_written_before() -> None:
    notes = Notes()
    notes.add([note("a", add=["u1"]), note("a", drop=["u1"])])
    assert notes.all() == [note("a", drop=["u1"])], "its add may be in Redis already"


def test_what_was_given_is_left_alone() -> None:
    notes = Notes()
    first, second = note("a", add=["u1"]), note("a", add=["u2"])
    notes.add([first, second])
    assert (first["add"], second["add"]) == (["u1"], ["u2"])
    notes.clear()
    assert not notes
