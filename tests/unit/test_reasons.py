"""Reasons of refusals as they may be logged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.reasons import reason_of


@pytest.mark.parametrize(
    ("body", "sent", "expected"),
    [
        (b"", None, ""),
        (b"<html>Proxy ann@example.com</html>", None, ""),
        (b'{"message": "The row can\'t be loaded."}', None, "The row can't be loaded"),
        (b'{"errors": [{"code": "E1", "message": "Too long"}]}', None, "Too long"),
        (
            b'{"message": "Attribute \'emailAddress\' has invalid value \'nobody\'"}',
            {"attributes": {"emailAddress": "nobody"}},
            "Attribute emailAddress has invalid value ***",
        ),
        (b"Ann is used by bob@example.com (id 4711)", ["Ann"], "*** is used by *** id ***"),
        (b"Access denied", {"key": {"customerId": "c"}}, "Access denied"),
        (b"Telephone +32 47 11 23 45 is not valid", None, "Telephone *** is not valid"),
        (b"Profile of Marie Dupont is locked", None, "Profile of *** is locked"),
        (b"Address jean%40example.com unknown", None, "Address *** unknown"),
        (b"Dupont", None, ""),
    ],
)  # fmt: skip
def test_what_is_left_of_a_reason(body: bytes, sent: Any, expected: str) -> None:
    """Words that are no data, and names of fields."""
    assert reason_of(body, sent) == expected


@given(st.text(), st.text(), st.booleans())
def test_nothing_else_is_left(text: str, value: str, is_json: bool) -> None:
    """Whatever the response says: an invented word in it is never shown."""
    whole = f"{text} Xq{value} Dupont {value}"
    body = json.dumps({"message": whole}) if is_json else whole
    reason = reason_of(body, {"attributes": {"lastName": value}})
    assert len(reason) <= 200
    assert "Dupont" not in reason
    assert "xq" not in reason.lower()
