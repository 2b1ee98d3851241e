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
            b'{"message": "Attribute \'emailAddress\' does not accept \'nobody\'"}',
            {"attributes": {"emailAddress": "nobody"}},
            "Attribute 'emailAddress' does not accept ***",
        ),
        (b"Ann is taken by bob@example.com (id 4711)", ["Ann"], "*** is taken by *** (id ***"),
        (b"Access denied", {"key": {"customerId": "c"}}, "Access denied"),
    ],
)  # fmt: skip
def test_what_is_left_of_a_reason(body: bytes, sent: Any, expected: str) -> None:
    """The text and names of fields; no values, no addresses, no numbers."""
    assert reason_of(body, sent) == expected


@given(st.text(), st.lists(st.text(min_size=2), max_size=3), st.booleans())
def test_nothing_that_was_sent_is_left(text: str, sent: list[str], is_json: bool) -> None:
    """Whatever else the response says, and however it is written."""
    whole = text + "".join(sent)
    body = json.dumps({"message": whole}) if is_json else whole
    reason = reason_of(body, {"attributes": sent}).replace("***", "\0")
    assert len(reason) <= 200
    values = [value for value in sent if value.strip() and value != "attributes"]
    assert not [value for value in values if value in reason]
