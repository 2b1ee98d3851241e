"""Values in Actito's forms."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.actito import ConversionError, ValueType, convert
from actito_didomi.actito.session import read_lifetime

ZONE = ZoneInfo("Europe/Brussels")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("Gent", ValueType.STRING, "Gent"),
        (7, ValueType.STRING, "7"),
        (True, ValueType.STRING, "true"),
        (7, ValueType.INTEGER, 7),
        ("-7", ValueType.INTEGER, -7),
        (7.0, ValueType.INTEGER, 7),
        ("9007199254740993", ValueType.INTEGER, 9007199254740993),
        ("3.5", ValueType.DECIMAL, 3.5),
        ("Y", ValueType.BOOLEAN, True),
        (0, ValueType.BOOLEAN, False),
        ("false", ValueType.BOOLEAN, False),
        ("2024-03-15", ValueType.DATE, "2024-03-15"),
        ("2024-03-15T23:30:00Z", ValueType.DATE, "2024-03-16"),  # it is past midnight in Brussels
        ("2024-03-15T10:00:00Z", ValueType.TIMESTAMP, "2024-03-15 11:00:00"),
        ("2024-07-15T10:00:00", ValueType.TIMESTAMP, "2024-07-15 12:00:00"),
        ("2024-03-15", ValueType.TIMESTAMP, "2024-03-15 00:00:00"),
    ],
)
def test_a_value_takes_the_form_of_its_attribute(value, kind, expected) -> None:
    """Dates and timestamps are in the zone of the account, numbers keep their digits."""
    converted = convert(value, kind, ZONE)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("many", ValueType.INTEGER),
        ("3.5", ValueType.INTEGER),
        (True, ValueType.INTEGER),
        ("nan", ValueType.DECIMAL),
        ("inf", ValueType.DECIMAL),
        ("perhaps", ValueType.BOOLEAN),
        ("15/03/2024", ValueType.DATE),
        ("2024-02-30", ValueType.DATE),
        (20240315, ValueType.DATE),
        ("soon", ValueType.TIMESTAMP),
        (["a"], ValueType.STRING),
        ({"a": 1}, ValueType.STRING),
    ],
)
def test_what_has_no_form_is_refused_without_showing_the_value(value, kind) -> None:
    """The text of the error may be logged."""
    with pytest.raises(ConversionError) as caught:
        convert(value, kind, ZONE)
    assert str(value) not in str(caught.value)


def test_a_text_longer_than_the_attribute_takes_is_refused() -> None:
    """The limit is the table's."""
    assert convert("abc", ValueType.STRING, ZONE, 3) == "abc"
    with pytest.raises(ConversionError, match="at most 3 characters, found 4"):
        convert("abcd", ValueType.STRING, ZONE, 3)


@given(st.dates(min_value=date(1900, 1, 1)))
def test_a_plain_date_never_moves_to_another_day(day) -> None:
    """A date has no zone."""
    assert convert(day.isoformat(), ValueType.DATE, ZONE) == day.isoformat()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("900s", 900), ("15m", 900), ("1h", 3600), (60, 60), ("500ms", 0.5), (None, 900), ("?", 900)],
)
def test_the_life_of_a_token_is_read_with_its_unit(text, seconds) -> None:
    """Documented as a text with a unit; unreadable means the documented 15 minutes."""
    assert read_lifetime(text) == seconds
