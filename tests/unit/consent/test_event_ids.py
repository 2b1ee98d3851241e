"""Events of ours are known by their ids, and by nothing else."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.event_ids import is_ours, make_event_id

texts = st.text(max_size=20)
postings = st.tuples(texts, st.lists(texts, min_size=1, max_size=3), texts, texts)


@given(postings)
def test_an_id_of_ours_is_a_uuid_that_is_recognised(posting) -> None:
    """Version 8, in its usual spelling; the order of acts makes no difference."""
    scope, acts, user, replaces = posting
    found = make_event_id(scope, acts, user, replaces)
    parsed = uuid.UUID(found)
    assert (str(parsed), parsed.version, parsed.variant) == (found, 8, uuid.RFC_4122)
    assert is_ours(scope, found)
    assert is_ours(scope, found.upper())
    assert not is_ours(scope + "x", found)
    assert found == make_event_id(scope, acts[::-1], user, replaces)


@given(postings, postings)
def test_another_posting_has_another_id(one, other) -> None:
    """By pair, acts, user and the event that is replaced."""
    same = (one[0], sorted(one[1]), *one[2:]) == (other[0], sorted(other[1]), *other[2:])
    assert same or make_event_id(*one) != make_event_id(*other)


@given(st.one_of(st.uuids(), st.uuids(version=4), st.uuids(version=5), texts.map(str)))
def test_no_foreign_id_is_ours(foreign) -> None:
    """Random ones, derived ones of other programs, and texts of any kind."""
    assert not is_ours("scope", str(foreign))
    assert not is_ours("scope", str(foreign)[:14] + "8" + str(foreign)[15:])


@pytest.mark.parametrize("odd", [None, "", 8, 8.0, True, b"8" * 36, ["8"] * 36, "8" * 36])
def test_odd_ids_are_not_ours(odd) -> None:
    """Of any type."""
    assert not is_ours("scope", odd)


def test_the_same_posting_has_the_same_id_in_each_version() -> None:
    """Ids outlive a release: those of before are recognised after it."""
    assert make_event_id("scope", ["act"], "user", "event") == (
        "fd9dee8c-556b-89d4-9fd5-d3f4ec95aaa1"
    )
