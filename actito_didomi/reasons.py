"""What an API says about a refusal, without the personal data that it may repeat."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST = 200
_NAMES = ("message", "error", "errorMessage", "reason", "detail", "title", "description", "code")
"""Keys under which APIs usually say what is wrong (inferred: neither API documents it)."""
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"|`([^`]*)`|<([^>]*)>")
_DATA = re.compile(r"\S*@\S*|\S*\d{3}\S*")
"""Addresses, and words with three digits in a row, such as telephone numbers, ids and dates."""
_LEFT_OUT = "***"
_MOST_TEXTS = 1000


def reason_of(body: bytes | str, sent: Any = None) -> str:
    """Return the reason in the body of a refusal, as it may be logged.

    What the request held is left out, except for the names of fields; so is all that stands in
    quotes, and whatever looks like an address or a number of a person.

    Args:
        body: The response, or a part of it; JSON or text.
        sent: The values of the request, as JSON has them.

    Returns:
        At most 200 characters; empty where there is no text, as in the page of a proxy.
    """
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    try:
        text = next(_texts(msgspec.json.decode(text)), "")
    except (msgspec.MsgspecError, RecursionError):
        if "<" in text:
            return ""
    names, values = _split(sent)
    values -= names
    if values:
        some = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
        text = re.sub(some, _LEFT_OUT, text, flags=re.IGNORECASE)

    def mask(found: re.Match[str]) -> str:
        inside = next(part for part in found.groups() if part is not None)
        return found[0] if inside in names else _LEFT_OUT

    text = _DATA.sub(_LEFT_OUT, _QUOTED.sub(mask, text))
    return " ".join(text.split())[:_LONGEST].rstrip(". ")


def _texts(node: Any) -> Iterator[str]:
    """Yield the texts of a body that say what is wrong, the likeliest first."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for part in node:
            yield from _texts(part)
    elif isinstance(node, dict):
        for name in _NAMES:
            if isinstance(node.get(name), str) and node[name].strip():
                yield node[name]
        for part in node.values():
            if isinstance(part, (dict, list)):
                yield from _texts(part)


def _split(sent: Any) -> tuple[set[str], set[str]]:
    """Return the names of fields and the values of a request, as texts."""
    names: set[str] = set()
    values: set[str] = set()
    waiting: list[Any] = [sent]
    while waiting and len(values) < _MOST_TEXTS:
        node = waiting.pop()
        if isinstance(node, dict):
            names.update(map(str, node))
            waiting += node.values()
        elif isinstance(node, (list, tuple, set)):
            waiting += node
        elif node is not None and not isinstance(node, bool) and str(node).strip():
            values.add(str(node))
    return names, {value for value in values if len(value) > 1}


def with_reason(message: str, reason: str) -> str:
    """Append a reason to a message that ends with a full stop."""
    return f"{message.rstrip('.')}: {reason}." if reason else message
