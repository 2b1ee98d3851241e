"""The form on disk of what the ledger holds about a person."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.codec import Codec
from actito_didomi.consent.conflicts import ACTITO, BEGINNING, DIDOMI, END, Act
from actito_didomi.consent.entries import Entry, Held, Intent, Place, Write
from actito_didomi.consent.person import AttributeState, Owed, Person, Retry


class Names:
    """Names in memory."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[tuple[str, ...], int]] = {}

    def number(self, kind: str, name: tuple[str, ...]) -> int:
        numbers = self._numbers.setdefault(kind, {})
        return numbers.setdefault(name, len(numbers))

    def known(self, kind: str, count: int) -> list[tuple[str, ...]]:
        return list(self._numbers.get(kind, {}))


TIMES = (
    st.sampled_from([BEGINNING, END, 0, 1_790_000_000_000_000])
    | st.integers(1_790_000_000_000_000, 1_790_000_100_000_000)
    | st.integers(BEGINNING, END)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
PATHS = st.sampled_from(
    [("consents", "channels", "email", "enabled"), ("consents", "purposes", "p", "enabled")]
    + [("consents", "purposes", str(n), "values", "a", "b") for n in range(100)]
)
PLACES = st.sampled_from(
    ["a:subscription:News", "a:subscription:SMS", "a:attribute:x", "d:00000000", "d:fedcba98"]
)
NUMBERS = st.none() | st.integers(0, 2**40)
INTENTS = st.builds(
    Intent, st.booleans(), TIMES, st.sampled_from(["orphan", "1", "01", "x"]), NUMBERS, TIMES
)


def acts(side: Any) -> st.SearchStrategy[Act]:
    sources = st.sampled_from(
        ["event", "status"] if side == DIDOMI else ["look", "row", "baseline"]
    )
    return st.builds(Act, st.booleans(), TIMES, TIMES, st.just(side), sources)


ENTRIES = st.builds(
    Entry,
    acts=st.fixed_dictionaries({}, optional={ACTITO: acts(ACTITO), DIDOMI: acts(DIDOMI)}),
    places=st.dictionaries(
        PLACES,
        st.builds(
            Place,
            held=st.none()
            | st.builds(
                Held, st.none() | st.booleans(), TIMES, TIMES, st.booleans(), st.booleans()
            ),
            intent=st.none() | INTENTS,
            late=st.lists(INTENTS, max_size=3),
            writes=st.lists(st.builds(Write, st.booleans(), TIMES, TIMES), max_size=3),
        ),
        max_size=4,
    ),
)
VALUES = st.just(msgspec.UNSET) | st.none() | st.booleans() | TEXTS | st.lists(TEXTS, max_size=2)
PEOPLE = st.builds(
    Person,
    entries=st.dictionaries(PATHS, ENTRIES, max_size=6),
    attributes=st.dictionaries(
        TEXTS, st.builds(AttributeState, TIMES, st.binary(max_size=8), VALUES), max_size=3
    ),
    spelling=st.none() | TEXTS.filter(bool),
    profile_id=st.none() | TEXTS.filter(bool),
    owed=st.integers(0, 127).map(Owed),
    retries=st.dictionaries(
        st.sampled_from(["actito", "didomi"]),
        st.builds(Retry, TEXTS, st.integers(0, 9), TIMES, TIMES, TEXTS),
    ),
)


def without_empty(person: Person) -> Person:
    entries = {}
    for path, entry in person.entries.items():
        places = {name: place for name, place in entry.places.items() if place != Place()}
        if entry.acts or places:
            entries[path] = Entry(entry.acts, places)
    return msgspec.structs.replace(person, entries=entries)


@given(PEOPLE, TEXTS)
def test_whatever_a_person_is_they_come_back_from_disk(person: Person, key: str) -> None:
    codec = Codec(Names())
    data = codec.encode(person, key)
    found = codec.decode(data, person.owed, key=key)
    assert found == without_empty(person)
    assert codec.encode(found, key) == data


@given(PEOPLE, st.randoms())
def test_equal_people_have_one_form_whatever_the_order(person: Person, shuffled: Any) -> None:
    codec = Codec(Names())
    data = codec.encode(person)
    entries = list(person.entries.items())
    shuffled.shuffle(entries)
    assert codec.encode(msgspec.structs.replace(person, entries=dict(entries))) == data


@given(PEOPLE, st.sets(PATHS), st.sets(PATHS))
def test_what_is_not_asked_for_stays_as_it_was(
    person: Person, asked: set[Any], removed: set[Any]
) -> None:
    codec = Codec(Names())
    found = codec.decode(codec.encode(person), person.owed)
    expected = without_empty(person)
    for path in asked:
        assert found.entries.get(path) == expected.entries.get(path)
        assert (path in found.entries) is (path in expected.entries)
    for path in removed:
        if path in expected.entries:
            del found.entries[path], expected.entries[path]
        found.entries["a", "new", path[2]] = expected.entries["a", "new", path[2]] = Entry(
            {DIDOMI: Act(True, 1, 2, DIDOMI, "event")}
        )
    assert len(found.entries) == len(expected.entries)
    again = codec.decode(codec.encode(found), person.owed)
    assert again == expected
    assert codec.encode(expected) == codec.encode(found)


def test_a_place_of_another_kind_is_refused() -> None:
    entry = Entry(places={"d:1": Place(held=Held(True, 0, 0))})
    with pytest.raises(ValueError, match="place"):
        Codec(Names()).encode(Person({("consents",): entry}))


def test_a_form_of_a_newer_version_is_refused() -> None:
    with pytest.raises(ValueError, match="Version 3"):
        Codec(Names()).decode(msgspec.msgpack.encode([3]))


@pytest.mark.parametrize(("choices", "limit"), [(4, 75), (20, 90)])
def test_what_choices_have_in_common_stands_on_disk_once(choices: int, limit: int) -> None:
    at = 1_790_000_000_000_000
    person = Person()
    for n in range(choices):
        value = n % 2 == 0
        person.entries["consents", "purposes", str(n), "enabled"] = Entry(
            {DIDOMI: Act(value, at, at, DIDOMI, "event")},
            {
                "d:12345678": Place(Held(value, at, at)),
                f"a:subscription:{n}": Place(
                    Held(value, at + 60_000_000, at + 90_000_000, ours=True),
                    writes=[Write(value, at + 60_000_000, at + 90_000_000)],
                ),
            },
        )
    assert len(Codec(Names()).encode(person)) <= limit
