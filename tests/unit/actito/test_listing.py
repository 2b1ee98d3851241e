"""All profiles of a table are read, or it is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import Actito, back_config

from actito_didomi.actito._wire import FACTS
from actito_didomi.actito.listing import ProfilePage, list_profiles
from actito_didomi.errors import BadInputError
from actito_didomi.runtime import Runtime
from tap_actito.tap import TapActito

NAMES = ("News", "Sms")


@pytest.fixture
def tap(url: str, tmp_path: Path) -> TapActito:
    """A tap, for its session with the sandbox."""
    return TapActito(config=back_config(url, tmp_path))


def read(tap: TapActito, page_size: int = 1000) -> list[ProfilePage]:
    """Read the sandbox's profiles."""
    return list(list_profiles(tap.session, tap.structure, page_size, Runtime()))


@pytest.mark.parametrize("total", [True, False])
def test_b11_short_pages_are_not_the_last(actito: Actito, tap: TapActito, *, total: bool) -> None:
    """Reading ends at the total that a page names, or else at an empty page."""
    actito.create_many(f"p{n}" for n in range(55))
    actito.steer("options", {"largest_page": 20, "page_names_total": total})
    actito.steer("reset", {})
    pages = read(tap)
    assert [len(page.profiles) for page in pages] == [20, 20, 15]
    assert len({profile.id for page in pages for profile in page.profiles}) == 55
    assert actito.calls("list_profiles") == (3 if total else 4)


def test_b10_profiles_under_another_name_are_an_error(actito: Actito, tap: TapActito) -> None:
    """It names the keys found, never values."""
    actito.create("ann")
    actito.steer("options", {"page_list": "items"})
    with pytest.raises(BadInputError, match="an object with items, page, pageSize, total") as found:
        read(tap)
    assert "ann" not in str(found.value)


@pytest.mark.parametrize(
    "body", [None, "login", 7, {}, {"profiles": None}, ["ann"], {"profiles": [1]}]
)
def test_b10_anything_but_a_list_of_objects_is_no_page(body: Any) -> None:
    """Such as what a proxy returns; an empty list is a page."""
    assert FACTS.profiles.profiles_of(body) is None
    assert FACTS.profiles.profiles_of([]) == FACTS.profiles.profiles_of({"profiles": []}) == []


@pytest.mark.parametrize("shown", ["absent", "empty", "null"])
def test_a16_a_profile_without_subscriptions_is_unknown(
    actito: Actito, tap: TapActito, caplog: pytest.LogCaptureFixture, shown: str
) -> None:
    """It is not "all off"."""
    actito.create("ann", Newsletter=True)
    actito.steer("options", {"page_subscriptions": shown})
    (page,) = read(tap)
    assert [profile.subscriptions for profile in page.profiles] == [None]
    assert page.unknown == 1
    assert "1 of 1 profiles came without subscriptions" in caplog.text
    actito.steer("options", {"page_subscriptions": "whole"})
    (page,) = read(tap)
    assert page.unknown == 0
    assert page.profiles[0].subscriptions
    assert page.profiles[0].subscriptions["Newsletter"] is True


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"News": True, "Sms": False}, {"News": True, "Sms": False}),
        ({"News": True}, {"News": True, "Sms": False}),
        ({"News": True, "Sms": None}, {"News": True}),
        ({"News": True, "Sms": "?"}, {"News": True}),
        ([{"name": "Sms", "subscribe": "Y"}, "x"], {"News": False, "Sms": True}),
        ([], None), ({}, None), (None, None), ("x", None),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_unknown(found: Any, expected: Any) -> None:
    """Null isn't off; a subscription that isn't listed while others are, is."""
    assert FACTS.profiles.states_of({"subscriptions": found}, NAMES, lists_off=False) == expected
    assert FACTS.profiles.states_of({}, (), lists_off=False) == {}


def test_a_subscription_that_is_not_listed_is_unknown_where_those_that_are_off_are_listed() -> None:
    whole, lacking = {"subscriptions": {"News": True, "Sms": False}}, {"subscriptions": {"Sms": 0}}
    assert FACTS.profiles.lists_off(whole)
    assert FACTS.profiles.lists_off(lacking)
    assert not FACTS.profiles.lists_off({"subscriptions": {"News": True}})
    assert FACTS.profiles.states_of(lacking, NAMES, lists_off=True) == {"Sms": False}
