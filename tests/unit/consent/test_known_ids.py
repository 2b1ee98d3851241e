"""Ids of Didomi's configuration tree: which choices and names of mappings can exist."""

from __future__ import annotations

import pytest

from actito_didomi.consent.known_ids import KnownIds, ids_in
from actito_didomi.consent.mapping import Mapping
from actito_didomi.sandbox.didomi_organizations import ORGANIZATION, ORGANIZATIONS

KNOWN = KnownIds.read([ORGANIZATIONS[ORGANIZATION].tree()])
PURPOSE = ("consents", "purposes", "newsletter-Kd8xQ")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("consents", "channels", "emial", "enabled"), None),
        (("consents", "vendors", "shop", "enabled"), None),
        ((*PURPOSE, "enabled"), None),
        (("consents", "purposes", "newsletter", "enabled"), "purpose"),
        (("consents", "purposes", "old-campaign", "enabled"), "purpose"),
        ((*PURPOSE, "values", "frequency-Hj3", "weekly-1a2b"), None),
        ((*PURPOSE, "values", "frequency-Hj3", "weekly"), "value"),
        ((*PURPOSE, "values", "frequency", "weekly-1a2b"), "preference"),
        ((*PURPOSE, "preferences", "frequency", "enabled"), "preference"),
    ],
)
def test_ids_are_looked_up_in_the_tree(path, kind) -> None:
    found = KNOWN.find_unknown(path)
    assert (found.kind if found else None) == kind
    assert KNOWN.find_unknown(path, set(ids_in(path))) is None
    assert KnownIds().find_unknown(path) is None


def test_similar_ids_are_named() -> None:
    found = KNOWN.find_unknown(("consents", "purposes", "newsletter-Kd8xq", "enabled"))
    assert found is not None
    assert found.to_text() == (
        "Didomi's configuration tree has no purpose 'newsletter-Kd8xq' "
        "(there are: newsletter-Kd8xQ)"
    )


def test_nested_preferences_and_ids_of_namespaces_are_known() -> None:
    inner = {"preference": {"id": "inner", "type": "single", "values": [{"id": "a"}]}}
    value = {"id": "v", "selected_preferences": [inner]}
    outer = {"preference": {"id": "outer", "values": [value]}}
    purpose = {"id": "p", "namespaces": {"custom": "sdk-p"}}
    tree = {"selected_purposes": [{"purpose": purpose, "selected_preferences": [outer]}]}
    assert KnownIds.read(tree) == KnownIds(
        frozenset({"p", "sdk-p"}),
        {"outer": frozenset({"v"}), "inner": frozenset({"a"})},
        frozenset({"inner"}),
    )
    assert KnownIds.read(None) == KnownIds()


@pytest.mark.parametrize(
    "value",
    [
        "country",
        "metadata_x",
        "consents_channels_emial_enabled",
        "consents_purposes_partner_offers_enabled",
        "consents_purposes_partner_offers_enabled_li",
        "consents_purposes_partner_offers_channels_email_enabled",
        "consents_purposes_newsletter-Kd8xQ_values_topics-Zu7_food_wine-c3",
        "consents_purposes_newsletter-Kd8xQ_values_topics-Zu7_value",
        "consents_purposes_newsletter-Kd8xQ_preference_topics-Zu7_values_sport-a1_enabled",
        "consents_preferences_topics-Zu7_values_sport-a1_enabled",
    ],
)
def test_names_that_can_exist(value) -> None:
    assert KNOWN.find_unknown_names([Mapping("A", value)]) == []


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        ("consents_purposes_partner_ofers_enabled", "consents_purposes_partner_offers_enabled"),
        ("consents_purposes_partner_offers_enable", "consents_purposes_partner_offers_enabled"),
        (
            "consents_purposes_newsletter-Kd8xQ_values_topics-Zu7_sport",
            "consents_purposes_newsletter-Kd8xQ_values_topics-Zu7_sport-a1",
        ),
        (
            "consents_purposes_newsletter-Kd8xQ_values_topics_value",
            "consents_purposes_newsletter-Kd8xQ_values_topics-Zu7_value",
        ),
        ("consents_preferences_topics_values_sport-a1_enabled", None),
    ],
)
def test_names_that_can_not_exist(value, nearest) -> None:
    """The message names the mapping, its value, and what there is."""
    (found,) = KNOWN.find_unknown_names([Mapping("A", value)])
    assert "'A'" in found.to_text()
    assert repr(value) in found.to_text()
    if nearest:
        assert found.nearest[0] == nearest
    assert KnownIds().find_unknown_names([Mapping("A", value)]) == []


def test_a_path_is_looked_up_as_it_is() -> None:
    right = Mapping("A", "any", path=("consents", "purposes", "surveys", "enabled"))
    wrong = Mapping("A", "any", path=("consents", "purposes", "survey", "enabled"))
    assert [found.mapping for found in KNOWN.find_unknown_names([right, wrong])] == [wrong]
