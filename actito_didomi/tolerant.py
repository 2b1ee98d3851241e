"""A second decoding of JSON that can't be decoded strictly: what is odd in it is marked. Pure.

Singer messages, lines of files and responses are decoded strictly. Where that fails, one odd value
(half of a surrogate pair, bytes that aren't UTF-8, NaN, a number without end, brackets without end)
must not hide all else that is said. It is replaced by `UNREADABLE`, which is no value of any choice
or attribute: where a mapping names it, it becomes a reject, and elsewhere it is left out.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

MARK: Final = "$unreadable"
UNREADABLE: Final[dict[str, Any]] = {MARK: True}
"""Stands for a value that can't be read; an object, so that it can be emitted as JSON. Never change
it."""
ODD_CHARACTER: Final = "\ufffd"
"""Stands in a key for what can't be read of it."""
MAX_DEPTH: Final = 64
"""Objects and lists within each other; deeper ones are unreadable. Didomi's have seven at most."""
_MAX_DIGITS = 400
"""Of a whole number; Python refuses to read more than 4,300."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')
_BOM = "\ufeff"


def decode_tolerantly(line: bytes) -> Any:
    """Decode JSON, with `UNREADABLE` in place of each value that can't be read.

    Args:
        line: The JSON.

    Raises:
        ValueError: It isn't JSON at all.
    """
    text = line.decode("utf-8", "surrogateescape").removeprefix(_BOM)
    try:
        return _value(_DECODER.decode(_flatten(text.strip())))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_unreadable(value: Any) -> bool:
    """Return whether a value is `UNREADABLE`."""
    return value.__class__ is dict and value == UNREADABLE


def has_unreadable(value: Any) -> bool:
    """Return whether a value is unreadable, or holds something that is, keys included."""
    if isinstance(value, dict):
        return is_unreadable(value) or any(
            ODD_CHARACTER in key or has_unreadable(part) for key, part in value.items()
        )
    return isinstance(value, list) and any(map(has_unreadable, value))


def readable_part(value: Any) -> Any:
    """Return a value without all that is unreadable in it; None if it is so as a whole."""
    if is_unreadable(value):
        return None
    if isinstance(value, dict):
        return {
            key: readable_part(part)
            for key, part in value.items()
            if ODD_CHARACTER not in key and not is_unreadable(part)
        }
    if isinstance(value, list):
        return [readable_part(part) for part in value if not is_unreadable(part)]
    return value


def _flatten(text: str) -> str:
    """Replace what is nested too deeply by NaN, which `_DECODER` marks."""
    kept: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept.append(text[start : token.start()])
        elif sign in "]}":
            if depth == MAX_DEPTH + 1:
                kept.append("NaN")
                start = token.end()
            depth -= 1
    if not kept:
        return text
    if depth > MAX_DEPTH:
        raise ValueError("cut off")
    return "".join([*kept, text[start:]])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_SURROGATE.sub(ODD_CHARACTER, key): _value(part) for key, part in pairs}


def _value(value: Any) -> Any:
    """Return a value; texts that hold half of a surrogate pair are unreadable."""
    if isinstance(value, str):
        return UNREADABLE if _SURROGATE.search(value) else value
    if isinstance(value, list):
        return [_value(part) for part in value]
    return value


def _float(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else UNREADABLE


def _int(text: str) -> Any:
    return int(text) if len(text) <= _MAX_DIGITS else UNREADABLE


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_float,
    parse_int=_int,
    parse_constant=lambda _: UNREADABLE,
    strict=False,
)
