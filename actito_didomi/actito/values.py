"""Values in the forms that Actito takes (documented for CSV; the JSON forms seen agree)."""

from __future__ import annotations

import enum
import math
import re
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_TRUE = frozenset({"true", "1", "y", "yes"})
_FALSE = frozenset({"false", "0", "n", "no"})
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class ValueType(enum.Enum):
    """The types of attributes."""

    STRING = "text"
    INTEGER = "whole number"
    DECIMAL = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"


class ConversionError(ValueError):
    """A value has no form in the type of its attribute. The text never holds the value."""


def convert(
    value: Any, to: ValueType, zone: ZoneInfo, max_length: int | None = None
) -> str | int | float | bool:
    """Bring a value into the form that Actito takes for a type.

    Args:
        value: Text, number or boolean, as it came in JSON; never None.
        to: Type of the attribute.
        zone: Time zone in which Actito keeps timestamps and dates (not documented).
        max_length: Maximum length of a text, in characters; None for no limit.

    Returns:
        Dates as `yyyy-MM-dd`, timestamps as `yyyy-MM-dd HH:mm:ss` in `zone`, other values as in
        JSON.

    Raises:
        ConversionError: The value has no such form.
    """
    if isinstance(value, (dict, list)):
        raise ConversionError(
            f"expected a {to.value}, found {'a list' if isinstance(value, list) else 'an object'}"
        )
    if to is ValueType.STRING:
        text = _text(value)
        if max_length is not None and len(text) > max_length:
            raise ConversionError(f"expected at most {max_length} characters, found {len(text)}")
        return text
    if to is ValueType.BOOLEAN:
        return _boolean(value)
    if to in {ValueType.INTEGER, ValueType.DECIMAL}:
        return _number(value, whole=to is ValueType.INTEGER)
    if not isinstance(value, str):
        raise ConversionError(f"expected a {to.value}, found {_kind_of(value)}")
    text = value.strip()
    if _DATE.fullmatch(text):
        day = _date(text)
        return day.isoformat() if to is ValueType.DATE else f"{day.isoformat()} 00:00:00"
    try:
        timestamp = parse_timestamp(text).astimezone(zone)
    except OverflowError:
        raise ConversionError("expected a year from 2 to 9998") from None
    return timestamp.strftime("%Y-%m-%d" if to is ValueType.DATE else "%Y-%m-%d %H:%M:%S")


def parse_timestamp(text: str) -> datetime:
    """Read an ISO 8601 timestamp; one without a zone counts as UTC.

    Raises:
        ConversionError: The text isn't a timestamp.
    """
    try:
        timestamp = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise ConversionError(
            "expected a date or timestamp in ISO 8601 form, found another string"
        ) from None
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=timezone.utc)


def _kind_of(value: Any) -> str:
    """Return what JSON calls a value that isn't a list or an object."""
    if isinstance(value, bool):
        return "a boolean"
    return "another string" if isinstance(value, str) else "a number"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ConversionError(f"expected true or false, found {_kind_of(value)}")


def _number(value: Any, *, whole: bool) -> int | float:
    if isinstance(value, bool):
        raise ConversionError("expected a number, found a boolean")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConversionError("expected a number, found a string") from None
    if not math.isfinite(number):
        raise ConversionError("expected a finite number")
    if number.is_integer():
        # Through text, so that whole numbers beyond 2**53 keep their last digits.
        return int(str(value)) if re.fullmatch(r"[+-]?\d+", str(value).strip()) else int(number)
    if whole:
        raise ConversionError("expected a whole number, found decimals")
    return number


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConversionError("expected a date, found another string") from None
