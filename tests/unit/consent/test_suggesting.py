"""Proposals for mappings, by the names of both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.suggesting import suggest

NAMES = [
    "consents_channels_email_enabled",
    "consents_channels_sms_enabled",
    "consents_purposes_newsletter-Kd8xQ_enabled",
    "consents_purposes_loyalty_club-R4_enabled",
    "consents_purposes_newsletter-Kd8xQ_values_frequency-Hj3_weekly-1a2b",
]


@pytest.mark.parametrize(
    ("subscription", "name"),
    [
        ("Newsletter", NAMES[2]),
        ("SmsAlerts", NAMES[1]),
        ("loyalty club", NAMES[3]),
        ("WeeklyDigest", NAMES[4]),
        ("EMAIL", NAMES[0]),
    ],
)
def test_the_most_similar_name_is_proposed(subscription: str, name: str) -> None:
    (found,) = suggest([subscription], NAMES)
    assert (found.id, found.value) == (subscription, name)


def test_what_is_not_similar_is_left_out() -> None:
    assert suggest(["LegacyMagazine", "Z"], NAMES) == []


@given(st.lists(st.text(min_size=1), unique=True), st.lists(st.text(), unique=True))
def test_nothing_is_proposed_twice(subscriptions: list[str], names: list[str]) -> None:
    found = suggest(subscriptions, names)
    assert len({one.id for one in found}) == len({one.value for one in found}) == len(found)
