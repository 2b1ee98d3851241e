"""Who is who."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.identity import is_placeholder, match_key, matching_of


@pytest.mark.parametrize("spelling", ["Ann@Ex.com", " ann@ex.com", "ANN@EX.COM\t", "ann@ex.com"])
def test_a15_one_person_in_several_spellings(spelling) -> None:
    """Case and blanks don't count where keys are folded, and do where they are exact."""
    assert match_key(spelling, "folded") == "ann@ex.com"
    assert match_key(spelling, "exact") == spelling


@given(st.text())
def test_folding_is_stable(text) -> None:
    """Folded twice is folded once, in whatever form accents are written."""
    folded = match_key(text, "folded")
    assert match_key(folded, "folded") == folded
    assert match_key(unicodedata.normalize("NFD", text), "folded") == folded


def test_e_mail_addresses_are_folded_unless_a_setting_says_otherwise() -> None:
    """By the name of the key attribute."""
    assert matching_of(None, "emailAddress") == "folded"
    assert matching_of(None, "e-mail") == "folded"
    assert matching_of(None, "customerId") == "exact"
    assert matching_of("exact", "emailAddress") == "exact"


@pytest.mark.parametrize("text", ["undefined", "null", "NaN", " None ", "[object Object]", "", " "])
def test_placeholders_are_nobody(text) -> None:
    """What programs write where they have no key."""
    assert is_placeholder(text)
    assert not is_placeholder(f"x{text}x")
