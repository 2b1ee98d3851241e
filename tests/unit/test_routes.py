"""A request renders its path from its route, and only the route is shown."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.actito._wire import FACTS
from actito_didomi.http import fill_route


@given(person=st.text(min_size=1))
def test_any_key_stays_in_its_place_and_can_be_read_back(person: str) -> None:
    """No character of a value ends the segment or begins a query."""
    values = {"entity": "e/1", "table": "7", "attribute": "customerId", "value": person}
    path = fill_route(FACTS.paths.profile, values)
    head, tail = path.rsplit("/", 1)
    assert head == "/profiles/v5/entities/e%2F1/profile-tables/7/profiles"
    name, key = tail.split("=")
    assert (name, unquote(key)) == ("customerId", person)
    assert not set("?#&+ ") & set(tail)


def test_a_placeholder_needs_a_value() -> None:
    """Otherwise it would go to the server as it is."""
    with pytest.raises(KeyError):
        fill_route(FACTS.paths.profile, {"entity": "e"})
