"""Which names of mappings can exist, and which of them meet no value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.mapping import Mapping
from actito_didomi.consent.mapping_watch import MappingTotal, MappingWatch, _distance, check_roots
from actito_didomi.errors import InvalidMappingError

MAIL = "consents_channels_email_enabled"
WORDS = st.text("ab", max_size=5)


def line(**channels: Any) -> bytes:
    """A RECORD message of an event."""
    nodes = [{"id": name, "enabled": value} for name, value in channels.items()]
    record = {"regulation": "gdpr", "user": {}, "consents": {"channels": nodes}}
    return json.dumps({"type": "RECORD", "record": record}).encode()


def silent(value: str, *lines: bytes, people: int = 20, **more: Any) -> tuple[list[str], bool]:
    """Return the nearest names of a mapping that met nothing, and whether it is a mistake."""
    watch = MappingWatch([Mapping("A", value, **more), Mapping("B", "metadata_b")])
    watch.sample(lines)
    watch.count({0b10: 1}, {})
    watch.note_people(people)
    found, is_mistake = watch.find_silent(20)
    return [name for one in found for name in one.nearest], is_mistake


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping("A", "country"),
        Mapping("A", "metadata_x"),
        Mapping("A", "consents_channel_x_enabled"),
        Mapping("A", "any", path=("consents", "purposes", "a", "enabled")),
        Mapping("A", "any", path=("metadata", "x")),
    ],
)
def test_roots_that_exist(mapping) -> None:
    check_roots([mapping])


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping("A", "metadata_"),
        Mapping("A", "consents"),
        Mapping("A", "Consents_channels_email_enabled"),
        Mapping("A", MAIL, path=("consent", "channels", "email", "enabled")),
        Mapping("A", MAIL, path=("channels", "email", "enabled")),
    ],
)
def test_roots_that_do_not_exist(mapping) -> None:
    with pytest.raises(InvalidMappingError, match="'A'"):
        check_roots([mapping])


def test_a_similar_name_that_no_mapping_names_is_a_mistake() -> None:
    wrong = "consents_channels_emial_enabled"
    assert silent(wrong, line(email=True)) == ([MAIL], True)
    assert silent(wrong, line(email=None)) == ([], False)
    assert silent(wrong, line(newsletter=True))[1] is False
    assert silent(wrong, b"no JSON", b"[]", line(email=True))[1] is True
    assert silent(wrong, line(email=True), people=19) == ([], False)
    assert silent(wrong, line(email=True), may_be_silent=True) == ([], False)
    path = ("consents", "channels", "email", "enabled")
    assert silent("consents_channels_emai_enabled", line(email=True), path=path)[1] is False


def test_what_was_met_in_earlier_runs_counts_for_the_same_mapping() -> None:
    earlier = [MappingTotal(MAIL, "A", None, people=30, choices=1)]
    assert MappingWatch([Mapping("A", MAIL)], earlier).find_silent(20) == ([], False)
    moved = MappingWatch([Mapping("B", MAIL)], earlier)
    moved.note_people(20)
    assert [one.id for one in moved.find_silent(20)[0]] == ["B"]
    assert moved.find_silent(20)[1] is True
    assert moved.totals == [MappingTotal(MAIL, "B", None, people=20)]


def edits(word: str) -> set[str]:
    """All words that one edit leads to."""
    parts = [(word[:n], word[n:]) for n in range(len(word) + 1)]
    return {
        *(a + b[1:] for a, b in parts if b),
        *(a + c + b for a, b in parts for c in "ab"),
        *(a + c + b[1:] for a, b in parts if b for c in "ab"),
        *(a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1),
    }


@given(WORDS, WORDS)
def test_one_edit_is_at_distance_one(one, other) -> None:
    assert (_distance(one, other) == 0) is (one == other)
    assert (_distance(one, other) <= 1) is (other in edits(one) | {one})
    assert _distance(one, other) == _distance(other, one)
