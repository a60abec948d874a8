"""Variables and caller ids as Asterisk reads them: compared with what its own code does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import Refused
from broker.telephony.dialling import caller_id, variable

TEXT = st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), max_size=60)
NAMES = st.text('ABCxyz_(),019:-"\\', min_size=1, max_size=20)


def as_asterisk_cuts(text: str) -> list[str]:
    """The arguments of a text (app.c, __ast_app_separate_args with remove_chars, as AST_STANDARD_APP_ARGS calls it)."""
    arguments, current = [], ""
    parentheses = brackets = at = 0
    quoted = False
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text):
            at += 1
            current += text[at]
        elif character == '"':
            quoted = not quoted
        elif character == "," and not (parentheses or brackets or quoted):
            arguments.append(current)
            current = ""
        else:
            current += character
            parentheses = max(0, parentheses + {"(": 1, ")": -1}.get(character, 0))
            brackets = max(0, brackets + {"[": 1, "]": -1}.get(character, 0))
        at += 1
    return [*arguments, current]


def as_asterisk_reads_a_caller(text: str) -> tuple[str, str]:
    """Name and number of a quoted name and a bracketed number (callerid.c, ast_callerid_parse)."""
    name, _, number = text.rpartition("<")
    name = name.strip()
    unescaped, at = "", 1
    while at < len(name) - 1:
        at += name[at] == "\\"
        unescaped += name[at]
        at += 1
    return unescaped, number.rstrip(">")


@given(NAMES, TEXT)
def test_a_variable_is_one_and_has_its_very_value(name: str, value: str) -> None:
    [argument] = as_asterisk_cuts(variable(name, value))
    assert argument == f"{name}={value}"


def test_what_would_have_become_of_it() -> None:
    assert as_asterisk_cuts('a=1,b="2,3",c=(4,5)') == ["a=1", "b=2,3", "c=(4,5)"]


@pytest.mark.parametrize("name", ["", " a", "a ", "a=b"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(Refused):
        variable(name, "1")


@pytest.mark.parametrize(
    ("number", "name", "wanted"),
    [
        (None, None, None),
        ("4711", None, "<4711>"),
        (None, "Ann", '"Ann" <>'),
        ("4711", "Ann, Sr.", '"Ann, Sr." <4711>'),
        ("", "", '"" <>'),
    ],
)
def test_a_caller(number: str | None, name: str | None, wanted: str | None) -> None:
    assert caller_id(number, name) == wanted


@given(TEXT.map(str.strip), st.text("0123456789+*#", max_size=20))
def test_a_caller_has_the_very_name_and_number(name: str, number: str) -> None:
    assert as_asterisk_reads_a_caller(str(caller_id(number, name))) == (name, number)
