"""How results and events are laid out."""

import io

import pytest

from broker.ami import Headers
from broker.codec import BusEvent
from workers.cli.event_view import MAX_FACTS, event_object, facts, moment
from workers.cli.output import Output, clean, fitted_widths
from workers.cli.result_view import choose_columns, duration
from workers.cli.status import _flow, _stepped_s


def test_what_could_command_a_terminal_is_made_visible() -> None:
    assert clean("Zoë 東京") == "Zoë 東京"
    assert clean("a\x1b]0;owned\x07b\r\nc\u202e") == "a\\x1b]0;owned\\x07b\\r\\nc\\u202e"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0 ms"), (0.0421, "42 ms"), (3.21, "3.2 s"), (99, "99.0 s"), (150, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_columns_hold_something_and_fit() -> None:
    items = [
        Headers([("Event", "CoreShowChannel"), ("Bulky", "x" * 60), ("Channel", "PJSIP/1"), ("Empty", "")]),
        Headers([("Event", "CoreShowChannel"), ("Channel", "PJSIP/2"), ("State", "6")]),
    ]
    assert choose_columns(items, None) == ["Bulky", "Channel", "State"]
    assert choose_columns(items, 20) == ["Channel", "State"]
    assert choose_columns(items, 1) == ["Channel"], "one at least"
    assert choose_columns([Headers([("Event", "X")])], 80) == []


def test_columns_give_way_where_a_text_has_blanks() -> None:
    texts = [["channel", "Local/100@default-00000001;1"], ["caller", "Anna Maria Müller <200>"], ["for", "3 s"]]
    assert fitted_widths(texts, 80) == [28, 23, 3]
    assert fitted_widths(texts, 62) == [28, 23, 3]
    assert fitted_widths(texts, 50) == [28, 11, 3]
    assert fitted_widths(texts, 43) is None, "no word is cut in two"


def test_a_name_is_whole_on_the_narrowest_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output = Output()
    output.__dict__["terminal"] = True
    name = "Local/100@default-00000001;1"
    assert output.width == 40
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    output.table(("channel", "caller", "Uniqueid"), [(name, "Anna Müller", f"amibus-{name}")])
    assert name in out.getvalue()
    assert f"amibus-{name}" in out.getvalue()


def test_an_empty_table_says_so_to_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.table(("caller",), [], "nobody")
    assert capsys.readouterr().out == "caller\n", "a pipe has the names of the columns"
    output.__dict__["terminal"] = True
    output.table(("caller",), [], "nobody")
    assert capsys.readouterr().out == "nobody\n"


def test_the_telling_headers_of_events() -> None:
    var_set = Headers([("Event", "VarSet"), ("Channel", "a"), ("Context", "c"), ("Variable", "v"), ("Value", "1")])
    assert facts("VarSet", var_set) == [("Channel", "a"), ("Variable", "v"), ("Value", "1")]
    unknown = Headers([("Event", "Odd"), ("Privilege", "call,all"), *[(f"H{n}", "x") for n in range(20)]])
    assert facts("Odd", unknown) == [(f"H{n}", "x") for n in range(MAX_FACTS)]
    gap = Headers([("reason", "overflow"), ("dropped", "12")])
    assert facts("BusGap", gap) == [("reason", "overflow"), ("dropped", "12")]


def test_an_event_that_is_from_no_stream_has_no_time() -> None:
    event = BusEvent("pbx1", "Hangup", Headers([]), [], 1, 1)
    assert moment(event, brief=True) == ""
    assert "id" not in event_object(event)


def test_events_that_wait_for_redis_are_shown() -> None:
    beat = {"events_in": "9", "events_dropped": "1", "events_queued": "0", "events_spooled": "0"}
    assert _flow(beat) == ", 9 in, 1 dropped"
    assert _flow(beat | {"events_queued": "7", "events_spooled": "5"}) == ", 9 in, 1 dropped, 7 waiting (5 on disk)"
    assert _flow({"events_in": "9", "events_dropped": "1"}) == ", 9 in, 1 dropped", "of an older worker"


@pytest.mark.parametrize(("told", "step_s"), [("0.000", 0), ("-3600.000", -3600), ("x", 0), (None, 0)])
def test_a_step_of_redis_clock(told: str | None, step_s: float) -> None:
    assert _stepped_s({} if told is None else {"clock_stepped_s": told}) == step_s
