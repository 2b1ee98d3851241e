"""The mapping language: names, aliases, preference values, paths."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.mapping import Mapping, Resolver, check_mappings, flat_name, flatten
from actito_didomi.errors import InvalidMappingError

TREE: dict[str, Any] = {
    "organization_user_id": "ann",
    "country": "FR",
    "metadata": {"shop_name": "Gent"},
    "consents": {
        "channels": [{"id": "email", "enabled": False}, {"id": "push-app", "enabled": None}],
        "purposes": [
            {"id": "a_b", "enabled": True, "enabled_li": False},
            {
                "id": "cookies",
                "enabled": None,
                "preferences": [
                    {"id": "news", "enabled": True, "channels": [{"id": "email", "enabled": False}]}
                ],
            },
            {"id": "mail", "values": {"freq": {"value": "weekly-1,monthly-2"}}},
        ],
    },
}


def mappings_of(*raw: dict[str, Any]) -> list[Mapping]:
    """Return mappings as the setting holds them."""
    return msgspec.convert(raw, list[Mapping])


def resolve(value: str, tree: dict[str, Any] = TREE, **more: Any) -> tuple[list[Any], list[Any]]:
    resolver = Resolver(mappings_of({"id": "X", "value": value, **more}))
    found, unclear = resolver.resolve(tree)
    return [hit.value for hit in found], unclear


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("consents_channels_email_enabled", [False]),
        ("consents_purposes_a_b_enabled", [True]),
        ("consents_purposes_a_b_enabled_li", [False]),
        ("consents_purposes_cookies_preferences_news_channels_email_enabled", [False]),
        ("organization_user_id", ["ann"]),
        ("country", ["FR"]),
        ("metadata_shop_name", ["Gent"]),
        ("consents_purposes_mail_values_freq_value", ["weekly-1,monthly-2"]),
        ("consents_channels_push-app_enabled", []),  # null is no choice
        ("consents_purposes_cookies_enabled", []),  # null, though there are choices below
        ("consents_purposes_absent_enabled", []),
    ],
)
def test_a_name_is_looked_up_in_the_flattened_user_form(value, expected) -> None:
    """Ids are taken as they are, and names are compared whole."""
    assert resolve(value) == (expected, [])


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (
            "consents_purposes_cookies_preferences_news_channel_email_enabled",
            "consents.purposes.cookies.preferences.news.channels.email.enabled",
        ),
        (
            "consents_preferences_news_enabled",
            "consents.purposes.cookies.preferences.news.enabled",
        ),
        (
            "consents_preference_news_channel_email_enabled",
            "consents.purposes.cookies.preferences.news.channels.email.enabled",
        ),
        ("consents_channel_email_enabled", "consents.channels.email.enabled"),
        (
            "consents_purposes_mail_preferences_freq_values_weekly-1_enabled",
            "consents.purposes.mail.values.freq.weekly-1",
        ),
    ],
)
def test_other_spellings_are_read_with_one_warning_that_names_the_path(
    value, path, caplog: pytest.LogCaptureFixture
) -> None:
    """The spellings in Didomi's published examples work, and say how they were read, once."""
    resolver = Resolver(mappings_of({"id": "X", "value": value}))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found, _ = resolver.resolve(TREE)
            assert len(found) == 1
    assert [r.getMessage() for r in caplog.records] == [f"Mapping X: {value!r} is read as {path}."]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("consents_purposes_mail_values_freq_weekly-1", [True]),
        ("consents_purposes_mail_values_freq_daily-9", [False]),  # answered without it
        ("consents_purposes_mail_preferences_freq_values_monthly-2_enabled", [True]),
        ("consents_preferences_freq_values_monthly-2_enabled", [True]),
        ("consents_purposes_mail_values_topics_sport-3", []),  # not answered
    ],
)
def test_one_value_of_a_preference_is_a_boolean(value, expected) -> None:
    """True when chosen, false when the preference was answered without it, else no choice."""
    assert resolve(value) == (expected, [])


def answered(**preferences: str) -> dict[str, Any]:
    values = {name: {"value": text} for name, text in preferences.items()}
    return {"consents": {"purposes": [{"id": "mail", "values": values}]}}


def test_ids_of_values_may_hold_underscores_and_the_reading_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A name that fits one preference only is read so, with a warning that names the path."""
    name = "consents_purposes_mail_values_freq_food_wine-3"
    resolver = Resolver(mappings_of({"id": "X", "value": name}))
    results = [
        [hit.value for hit in resolver.resolve(answered(freq=text))[0]]
        for text in ("a,b", "food_wine-3", "")
    ]
    assert results == [[False], [True], [False]]
    logged = [r.getMessage() for r in caplog.records]
    assert logged == [
        f"Mapping X: {name!r} is read as consents.purposes.mail.values.freq.food_wine-3."
    ]


def test_a_value_of_a_longer_preference_is_no_opt_out_of_a_shorter_one() -> None:
    """Once `freq_x` was seen, `freq_x_weekly` is its value; without an answer it is no choice."""
    name = "consents_purposes_mail_values_freq_x_weekly"
    resolver = Resolver(mappings_of({"id": "X", "value": name}))
    records = [answered(freq="a", freq_x="b"), answered(freq="a"), answered(freq_x="weekly")]
    results = [[hit.value for hit in resolver.resolve(record)[0]] for record in records]
    assert results == [[False], [], [True]]


def test_a_value_seen_chosen_settles_whose_it_is() -> None:
    """`x_weekly` chosen under `freq` outweighs that `freq_x` exists."""
    name = "consents_purposes_mail_values_freq_x_weekly"
    resolver = Resolver(mappings_of({"id": "X", "value": name}))
    records = [answered(freq="x_weekly", freq_x="b"), answered(freq_x="b"), answered(freq="a")]
    results = [[hit.value for hit in resolver.resolve(record)[0]] for record in records]
    assert results == [[True], [], [False]]


def test_of_preferences_that_begin_alike_the_longer_id_is_meant() -> None:
    """With both answered, `freq_x` explains `freq_x_weekly` better than `freq`."""
    values = {"freq": {"value": "a"}, "freq_x": {"value": "weekly"}}
    tree = {"consents": {"purposes": [{"id": "mail", "values": values}]}}
    assert resolve("consents_purposes_mail_values_freq_x_weekly", tree) == ([True], [])


def test_two_paths_of_one_name_are_an_error_that_shows_both_and_path_settles_it() -> None:
    """Purpose `a` with preference `b` flattens like purpose `a_preferences_b`."""
    tree = {
        "consents": {
            "purposes": [
                {"id": "a", "preferences": [{"id": "b", "enabled": True}]},
                {"id": "a_preferences_b", "enabled": False},
            ]
        }
    }
    name = "consents_purposes_a_preferences_b_enabled"
    found, unclear = resolve(name, tree)
    assert found == []
    assert unclear[0].maybe_opt_out
    for path in (
        "consents.purposes.a.preferences.b.enabled",
        "consents.purposes.a_preferences_b.enabled",
    ):
        assert path in unclear[0].reason
    chosen = ["consents", "purposes", "a_preferences_b", "enabled"]
    assert resolve(name, tree, path=chosen) == ([False], [])


def test_a_path_may_lead_to_one_value_of_a_preference() -> None:
    """A path ends in the value's id; without an answer there is no choice."""
    path = ["consents", "purposes", "mail", "values", "freq"]
    assert resolve("any", path=[*path, "weekly-1"]) == ([True], [])
    assert resolve("any", path=[*path, "daily-9"]) == ([False], [])
    assert resolve("any", path=[*path[:-1], "topics", "x"]) == ([], [])


ids = st.text(alphabet="ab_-:é", min_size=1, max_size=5)


@given(st.dictionaries(ids, st.sampled_from([True, False, None]), max_size=6))
def test_every_channel_is_found_by_its_flattened_name(channels) -> None:
    """Whatever is in an id, flattening and comparing finds exactly that node."""
    tree = {"consents": {"channels": [{"id": k, "enabled": v} for k, v in channels.items()]}}
    names = [flat_name(path) for path, _ in flatten(tree)]
    for channel, value in channels.items():
        name = f"consents_channels_{channel}_enabled"
        found, unclear = resolve(name, tree)
        if names.count(name) == 1:
            assert found == ([] if value is None else [value])
        else:
            assert unclear


trees = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3),
    lambda nodes: st.dictionaries(ids, nodes, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(ids, trees, max_size=4))
def test_flattening_keeps_every_leaf_with_its_path(tree) -> None:
    """Following each path from the root leads to the leaf that was given with it."""
    seen = 0
    for path, value in flatten(tree):
        node: Any = tree
        for part in path:
            node = node[part]
        assert node == value
        seen += 1

    def count(node: Any) -> int:
        return sum(map(count, node.values())) if isinstance(node, dict) else 1

    assert seen == count(tree)


PATHS = [
    ("consents_channels_email_enabled", ["consents", "channels", "email", "enabled"]),
    (
        "consents_purposes_a_b_channels_sms_enabled",
        ["consents", "purposes", "a_b", "channels", "sms", "enabled"],
    ),
]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("value", "path"), PATHS)
@given(
    choices=st.lists(
        st.fixed_dictionaries({}, optional={"enabled": st.sampled_from([True, False, None])}),
        max_size=4,
    )
)
def test_of_a_choice_that_a_record_repeats_the_opt_out_counts(named, value, path, choices) -> None:
    """Wherever it stands in the list, with and without `path`; null and absent say nothing."""
    tree: Any = [{"id": path[-2], **choice} for choice in choices]
    if len(path) > 4:  # the purpose is repeated, and each has a channel of one id
        tree = [{"id": path[2], "channels": [node]} for node in tree]
    consents = {path[1]: tree}
    said = [c["enabled"] for c in choices if c.get("enabled") is not None]
    expected = [all(said)] if said else []
    more = {"path": path} if named else {}
    assert resolve(value, {"consents": consents}, **more) == (expected, [])


@pytest.mark.parametrize("named", [False, True])
def test_of_an_answer_that_a_record_repeats_the_opt_out_counts(named) -> None:
    """A value is chosen if it is in each answer to the preference."""
    purposes = [
        {"id": "mail", "values": {"freq": {"value": answer}}}
        for answer in ("daily,weekly", "daily")
    ]
    for value_id, expected in (("daily", True), ("weekly", False)):
        path = ["consents", "purposes", "mail", "values", "freq", value_id]
        more = {"path": path} if named else {}
        for order in (purposes, purposes[::-1]):
            found = resolve("_".join(path), {"consents": {"purposes": order}}, **more)
            assert found == ([expected], [])


def test_a_repeated_value_that_is_neither_true_nor_false_is_unclear() -> None:
    """Unless it is the same; it may be an opt-out."""
    value, path = PATHS[0]
    for odd in ("false", 1):
        channels = [{"id": "email", "enabled": True}, {"id": "email", "enabled": odd}]
        found, unclear = resolve(value, {"consents": {"channels": channels}}, path=path)
        assert (found, [u.maybe_opt_out for u in unclear]) == ([], [True])
        assert "consents.channels.email.enabled" in unclear[0].reason
        same = {"consents": {"channels": [channels[1]] * 2}}
        assert resolve(value, same, path=path) == ([odd], [])


def test_an_id_that_occurs_twice_says_so() -> None:
    """The message names it and both values."""
    raw = [{"id": "A", "value": "v"}, {"id": "A", "value": "w"}]
    with pytest.raises(InvalidMappingError, match="'A' occurs 2 times, for v and w"):
        check_mappings(mappings_of(*raw))


def test_one_value_may_go_to_several_ids() -> None:
    """One consent may set two subscriptions."""
    raw = [{"id": i, "value": "consents_channels_email_enabled"} for i in "AB"]
    found, _ = Resolver(mappings_of(*raw)).resolve(TREE)
    assert [hit.mapping.id for hit in found] == ["A", "B"]
