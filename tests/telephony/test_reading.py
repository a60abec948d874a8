"""How header values are read."""

import pytest

from broker.ami import Headers
from broker.telephony import reading


def headers(value: str | None) -> Headers:
    return Headers([] if value is None else [("X", value)])


@pytest.mark.parametrize(
    ("value", "wanted"), [("5", 5), ("-1", -1), ("", None), (None, None), ("N/A", None), ("1.5", None)]
)
def test_a_number(value: str | None, wanted: int | None) -> None:
    assert reading.number(headers(value), "x") == wanted
    assert reading.count(headers(value), "X") == (wanted or 0)


@pytest.mark.parametrize(("value", "wanted"), [("0.5", 0.5), ("3", 3.0), ("", None), (None, None), ("none", None)])
def test_a_decimal(value: str | None, wanted: float | None) -> None:
    assert reading.decimal(headers(value), "X") == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("Yes", True), ("true", True), ("1", True), ("on", True), ("No", False), ("0", False), ("", False), (None, False)],
)
def test_yes_and_no(value: str | None, wanted: bool) -> None:
    assert reading.is_true(headers(value), "X") is wanted


@pytest.mark.parametrize(
    ("value", "wanted"), [("a", "a"), ("<unknown>", ""), ("(null)", ""), (None, ""), (" a ", " a "), ("\\", "\\")]
)
def test_a_text(value: str | None, wanted: str) -> None:
    assert reading.text(headers(value), "X") == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (r"the \"x\"", 'the "x"'),
        (r"back\\slash", "back\\slash"),
        (r"\\n", "\\n"),
        (r"tab\tend\?", "tab\tend?"),
        ("<unknown>", ""),
        ("ends with \\", "ends with \\"),
    ],
)
def test_a_person(value: str, wanted: str) -> None:
    assert reading.person(headers(value), "X") == wanted


@pytest.mark.parametrize(
    ("value", "wanted"), [("12", 12), ("00:01:05", 65), ("25:00:00", 90_000), ("", None), (None, None), ("a:b", None)]
)
def test_seconds(value: str | None, wanted: int | None) -> None:
    assert reading.seconds(headers(value), "X") == wanted
