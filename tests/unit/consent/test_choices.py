"""The choices in consents, read and written."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.choices import read_choices

EMAIL = ("consents", "channels", "email", "enabled")
VENDOR = ("consents", "vendors", "acme", "enabled")
FREQ = ("consents", "purposes", "mail", "values", "freq")


@given(said=st.lists(st.sampled_from([True, False, None]), max_size=4))
def test_of_a_choice_that_is_repeated_the_opt_out_counts(said) -> None:
    """Wherever it stands in the list; null says nothing."""
    channels = [{"id": "email", "enabled": choice} for choice in said]
    choices = [choice for choice in said if choice is not None]
    expected = {EMAIL: all(choices)} if choices else {}
    assert read_choices({"channels": channels}).single == expected


@given(said=st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_vendor_that_is_both_enabled_and_disabled_is_disabled(said) -> None:
    """The lists name it in any order, and repeatedly."""
    vendors: dict[str, list[Any]] = {"enabled": [], "disabled": []}
    for choice in said:
        vendors["enabled" if choice else "disabled"].append("acme")
    assert read_choices({"vendors": vendors}).single == {VENDOR: all(said)}


@given(answers=st.lists(st.lists(st.sampled_from("abc"), unique=True), min_size=1, max_size=3))
def test_of_an_answer_that_is_repeated_each_value_must_be_in_all(answers) -> None:
    """What is missing in one of them is an opt-out."""
    purposes = [
        {"id": "mail", "values": {"freq": {"value": ",".join(answer)}}} for answer in answers
    ]
    found = read_choices({"purposes": purposes}).answers[FREQ]
    assert set(found) == set.intersection(*map(set, answers))
