"""Who is who."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actito_didomi import codes
from actito_didomi.consent.identity import (
    SUSPECTS,
    is_placeholder,
    keyless_row,
    match_key,
    matching_of,
)
from actito_didomi.consent.scope import Scope
from actito_didomi.errors import BadInputError


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


@given(
    st.text(alphabet=st.sampled_from([*"undefilaoNUL[ ]bjectOb\x1f", "\u2003", "\xa0"]), min_size=1)
)
@example("\x1fprofileId=5")
@example("[OBJECT Object]\u3000")
def test_the_quick_test_misses_no_placeholder(text: str) -> None:
    """Every placeholder but the empty one begins with one of a few characters."""
    assert text[0] in SUSPECTS or not is_placeholder(text)


def test_a_row_of_a_profile_without_key_is_no_person() -> None:
    """Nobody gets at it by an id that looks like it."""
    assert is_placeholder(keyless_row("5"))
    scope = Scope("gdpr", frozenset({"us"}))
    with pytest.raises(BadInputError, match="placeholder") as found:
        scope.reason_to_skip(keyless_row("5"), "confirmed", "gdpr", "us")
    assert found.value.code is codes.PLACEHOLDER_ID


def test_a_placeholder_that_does_not_count_is_skipped() -> None:
    """As any record that is pending or of another regulation."""
    scope = Scope("gdpr", frozenset())
    assert scope.reason_to_skip("undefined", "pending_approval", None, None) is codes.NOT_CONFIRMED
    assert scope.reason_to_skip("undefined", None, "cpra", None) is codes.OTHER_REGULATION
