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
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\w[\w.-]*")
_VOCABULARY = frozenset(
    """
    a about access account action address admin after again all allowed already an and any api are
    array as at attribute attributes bad be because been before being between body boolean but by
    call can can't cannot character characters code column columns conflict contact content could
    create created credentials data database date decimal definition delete deleted denied
    disabled does doesn't domain don't duplicate duplicated e email empty encoding entities entity
    environment error errors exceeded exist existing exists expected expired fail failed failure
    field fields file filter for forbidden form format found from granted has have header
    identifier id if import imports in incorrect input integer internal invalid is isn't it json
    key know known least length licence license limit line list loaded locked long longer
    maintenance malformed mandatory match maximum message method minimum missing mode more most
    must name no not null number object of on one only operation or out parameter parse password
    path payload permission permissions phone please posted privileges process profile profiles
    properties property purpose quota rate read refused rejected request required reserved
    resource response right rights row rows same schema server service shorter should size
    specified status string structure subscription subscriptions supported table tables telephone
    temporarily than that the there this time timeout timestamp to token too try type unauthorised
    unauthorized unavailable unexpected unique unknown unsupported update updated url use used
    user users using valid validation value values was were when which with without write wrong
    you your
    """.split()  # noqa: SIM905 - one word per line would take two hundred
)
"""The words that are logged: a name or an address is among none of them."""
_LEFT_OUT = "***"


def reason_of(body: bytes | str, sent: Any = None) -> str:
    """Return the reason in the body of a refusal, as it may be logged.

    Only words of a small vocabulary and the names of the fields that were sent are shown: the text
    may repeat any value, in any spelling, and values of other people.

    Args:
        body: The response, or a part of it; JSON or text.
        sent: The values of the request, as JSON has them.

    Returns:
        At most 200 characters; empty where the body gives no reason, such as HTML of a proxy.
    """
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    try:
        text = next(_texts(msgspec.json.decode(text)), "")
    except (msgspec.MsgspecError, RecursionError):
        if "<" in text:
            return ""
    names = _names(sent)
    words: list[str] = []
    for found in _WORD.finditer(text):
        word = found[0] if found[0] in names or found[0].lower() in _VOCABULARY else _LEFT_OUT
        if word != _LEFT_OUT or words[-1:] != [_LEFT_OUT]:
            words.append(word)
    return " ".join(words)[:_LONGEST].rstrip() if set(words) - {_LEFT_OUT} else ""


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


def _names(sent: Any) -> set[str]:
    """Return the names of the fields of a request, except for those of its values."""
    names: set[str] = set()
    values: set[str] = set()
    waiting: list[Any] = [sent]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            names.update(map(str, node))
            waiting += node.values()
        elif isinstance(node, (list, tuple, set)):
            waiting += node
        else:
            values.add(str(node))
    return names - values


def with_reason(message: str, reason: str) -> str:
    """Append a reason to a message that ends with a full stop."""
    return f"{message.rstrip('.')}: {reason}." if reason else message
