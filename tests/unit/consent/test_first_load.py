"""The quick way of a first load leads to the same as the ordinary one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_databases import DATABASES, SCOPE

from actito_didomi.consent.coalesce import ChoiceLayer, PersonLayers
from actito_didomi.consent.fields import ChoiceField
from actito_didomi.consent.ledger import Ledger
from actito_didomi.runtime import Runtime
from target_actito.learning import Learner

T = 1_790_000_000_000_000
ARRIVAL = T + 10
PATHS = [("consents", "channels", str(n), "enabled") for n in range(5)]
FIELDS: list[ChoiceField | None] = [
    *(
        ChoiceField("subscription", str(n), path, f"a:subscription:{n}", "0", "1")
        for n, path in enumerate(PATHS)
    ),
    None,
    ChoiceField("attribute", "again", PATHS[0], "a:attribute:again", "0", "1"),
]
ALL = (1 << len(FIELDS)) - 1


@pytest.fixture(scope="module", params=DATABASES)
def ledger(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
    made = request.param(tmp_path_factory.mktemp("ledger"))
    opened = Ledger.open(made, SCOPE, Runtime())
    yield opened
    opened.close()


@st.composite
def layers(draw: st.DrawFn) -> ChoiceLayer:
    opt_ins = draw(st.integers(0, ALL))
    return ChoiceLayer(
        T + draw(st.integers(-3, 12)),
        opt_ins,
        draw(st.integers(0, ALL)) & ~opt_ins,
        draw(st.sampled_from([7, 7, 7, 0, 9])),
        draw(st.sampled_from([0, 0, 0, 0, 1, 2, 4])),
    )


KEYS = st.sampled_from(["anna", "bob", "carl", "dora"])
PEOPLE = st.builds(
    PersonLayers,
    KEYS,
    st.just(0),
    st.lists(layers(), max_size=3).map(lambda found: tuple(sorted(found, reverse=True))),
    st.dictionaries(
        st.sampled_from(["name", "age"]),
        st.tuples(st.integers(T, T + 3), st.none() | st.integers(0, 9) | st.text(max_size=3)),
    ),
)


def forget_all(ledger: Ledger) -> None:
    with ledger._store.write() as transaction:
        transaction.execute("DELETE FROM ledger_people")


def rows(ledger: Ledger) -> list[Any]:
    with ledger._store.read() as transaction:
        return [
            tuple(row)
            for row in transaction.all(
                "SELECT person, owed, due, data FROM ledger_people ORDER BY person"
            )
        ]


def learn_slowly(ledger: Ledger, learner: Learner, found: list[tuple[str, PersonLayers]]) -> None:
    with ledger.change([key for key, _ in found]) as change:
        for key, person in found:
            learner.learn(change.people[key], person, ARRIVAL)


def learn_quickly(ledger: Ledger, learner: Learner, found: list[tuple[str, PersonLayers]]) -> int:
    left = ledger.learn_new(found, learner.paths, ARRIVAL, learner.digest)
    learn_slowly(ledger, learner, [found[position] for position in left])
    return len(left)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(known=st.lists(PEOPLE, max_size=2), new=st.lists(PEOPLE, max_size=5))
def test_both_ways_lead_to_the_same(
    ledger: Ledger, known: list[PersonLayers], new: list[PersonLayers]
) -> None:
    learner = Learner(FIELDS, ledger.rules, ledger.key)
    forget_all(ledger)
    first = [(found.person, found) for found in known]
    found = [(person.person, person) for person in new]
    learn_slowly(ledger, learner, first)
    learn_slowly(ledger, learner, found)
    expected = rows(ledger)
    forget_all(ledger)
    learn_slowly(ledger, learner, first)
    learn_quickly(ledger, learner, found)
    assert rows(ledger) == expected


def test_events_of_a_new_person_take_the_quick_way(ledger: Ledger) -> None:
    learner = Learner(FIELDS, ledger.rules, ledger.key)
    forget_all(ledger)
    said = (ChoiceLayer(T + 1, 0b1, 0b10, 7, 0), ChoiceLayer(T, 0b100, 0, 7, 0))
    found = [(key, PersonLayers(key, 0, said, {"age": (T, 9)})) for key in ("b", "a", "c", "a")]
    assert learn_quickly(ledger, learner, found) == 1  # who occurs repeatedly
    assert [row[0] for row in rows(ledger)] == ["a", "b", "c"]
    assert ledger.read(["a"])["a"].entries[PATHS[1]].places.keys() == {"d:00000007"}
