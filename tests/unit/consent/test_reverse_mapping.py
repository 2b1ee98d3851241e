"""Reverse mappings, as rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.choices import to_consents
from actito_didomi.consent.mapping import Mapping, Resolver, flat_name
from actito_didomi.consent.reverse_mapping import _readings, reverse_mappings
from actito_didomi.errors import InvalidMappingError

ids = st.text("ab_-", min_size=1, max_size=6)
paths = st.one_of(
    st.tuples(st.just("channels"), ids, st.just("enabled")),
    st.tuples(st.just("purposes"), ids, st.sampled_from(["enabled", "enabled_li"])),
    st.tuples(st.just("purposes"), ids, st.just("channels"), ids, st.just("enabled")),
    st.tuples(st.just("purposes"), ids, st.just("preferences"), ids, st.just("enabled")),
    st.tuples(
        st.just("purposes"), ids, st.just("preferences"), ids, st.just("channels"), ids,
        st.just("enabled"),
    ),
).map(lambda path: ("consents", *path))  # fmt: skip


@given(path=paths)
def test_every_path_is_among_the_readings_of_its_name(path) -> None:
    """So a name that reads one way only can't be read wrongly."""
    assert path in set(_readings(flat_name(path)))


@given(path=paths)
def test_a_name_is_read_as_its_path_or_refused(path) -> None:
    """Never as another one."""
    mapping = Mapping("A", flat_name(path))
    try:
        ways = reverse_mappings([mapping])
    except InvalidMappingError:
        assert len(set(_readings(mapping.value))) > 1
    else:
        assert ways["subscription", "A"].path == path


@given(choices=st.dictionaries(paths, st.booleans(), min_size=1, max_size=6), invert=st.booleans())
def test_what_goes_back_reads_forward_as_it_was(choices, invert) -> None:
    """The consents of an event hold each choice where its mapping looks for it."""
    mappings = [
        Mapping(str(n), "given by path", "subscription", invert, path)
        for n, path in enumerate(choices)
    ]
    ways = reverse_mappings(mappings)
    said = [(way.path, way.choice(choices[way.path])) for way in ways.values()]
    found, unclear = Resolver(mappings).resolve({"consents": to_consents(said)})
    assert not unclear
    values = {hit.path: hit.value is not hit.mapping.invert for hit in found}
    assert values == choices


@given(purpose=ids, preference=ids, value=ids)
def test_a_value_of_a_preference_stands_among_its_values(purpose, preference, value) -> None:
    """With `enabled`, since the others that are chosen aren't known."""
    path = ("consents", "purposes", purpose, "values", preference, value)
    consents = to_consents([(path, True)])
    assert consents == {
        "purposes": [
            {
                "id": purpose,
                "preferences": [{"id": preference, "values": [{"id": value, "enabled": True}]}],
            }
        ]
    }


def test_two_ids_for_one_path_are_an_error_that_shows_both() -> None:
    """In the reverse sync a path has one source."""
    path = ("consents", "channels", "email", "enabled")
    with pytest.raises(InvalidMappingError, match=r"'A'.*'B'"):
        reverse_mappings([Mapping("A", flat_name(path)), Mapping("B", "x", path=path)])
