"""The quick way of a first load leads to the same as the ordinary one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_databases import DATABASES, SCOPE
from msgspec import UNSET

from actito_didomi.actito.table import TableStructure
from actito_didomi.consent.coalesce import ChoiceLayer, PersonLayers
from actito_didomi.consent.conflicts import Rules
from actito_didomi.consent.drafts import Draft, Glimpse, Start
from actito_didomi.consent.entries import learn_look
from actito_didomi.consent.fields import ChoiceField
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.looks import Look
from actito_didomi.consent.masks import Seen
from actito_didomi.plugin.looks import LookLearner, ProfileReader, Sight
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


# Events, a look and the start of an import in one step

MAPPED = [field for field in FIELDS[:5] if field is not None]
LOOKED, BEGAN = ARRIVAL + 20, ARRIVAL + 40
RUN = "run"


class Batch:
    """What a batch teaches, drawn; learned in one step, or step by step."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.people = draw(st.lists(PEOPLE, max_size=4, unique_by=lambda found: found.person))
        keys = draw(st.sets(KEYS))
        self.looks = {key: (draw(st.integers(0, 31)), draw(st.booleans())) for key in keys}
        self.begins = draw(st.booleans())


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    return Batch(draw)


class Case:
    """A ledger and what learns into it."""

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        ledger.rules = rules
        self.ledger = ledger
        fields = [*MAPPED, None, None]
        self.bits = ledger.number_fields(MAPPED)
        assert self.bits is not None
        self.learner = Learner(fields, rules, ledger.key, self.bits)
        reader = ProfileReader(
            TableStructure("e", "1", "t", {}, ()),
            "key",
            "exact",
            timezone.utc,  # type: ignore[arg-type]
            MAPPED,
        )
        self.looks = LookLearner(ledger, reader, RUN, MAPPED, self.bits)
        self.slow = LookLearner(ledger, reader, RUN, MAPPED)

    def glimpse(self, key: str, shown: tuple[int, bool], at: int) -> Glimpse:
        """Return a look at a profile."""
        assert self.bits is not None
        opt_ins = sum(own for n, (_, own) in enumerate(self.bits.fields) if shown[0] >> n & 1)
        spelling = key if shown[1] else key.upper()
        opt_outs = self.bits.all & ~opt_ins
        seen = Seen(opt_ins, opt_outs, LOOKED + at, LOOKED + at + 1)
        return Glimpse(seen, spelling, f"id-{key}")

    def sight(self, seen: Glimpse) -> Sight:
        """Return the same look with its choices by field."""
        assert self.bits is not None
        opt_ins, _, began, ended = seen.seen
        choices = {field: bool(opt_ins & own) for field, own in self.bits.fields}
        return Sight(seen.spelling, seen.profile_id, choices, began, ended)

    def step_by_step(self, batch: Batch, last: Look | None, at: int, number: int) -> None:
        """Learn a batch as the rules say, and begin an import."""
        learn_slowly(
            self.ledger,
            Learner([*MAPPED, None, None], self.ledger.rules, self.ledger.key),
            [(found.person, found) for found in batch.people],
        )
        seen = {key: [self.sight(self.glimpse(key, s, at))] for key, s in batch.looks.items()}
        self.slow.learn_glimpses(seen, last)
        self.confirm(batch, seen)
        if not batch.begins:
            return
        keys = {found.person for found in batch.people}
        with self.ledger.change(keys) as change:
            for key, person in change.people.items():
                due = self.learner.change(key, person)
                if due is not None:
                    self.learner.begin(person, due, now=BEGAN + at, run=RUN, import_number=number)

    def confirm(self, batch: Batch, seen: dict[str, list[Sight]]) -> None:
        """Keep the times of looks that show what is held: the rows are written in any case."""
        keys = {found.person for found in batch.people} & seen.keys()
        with self.ledger.change(keys) as change:
            for key, person in change.people.items():
                for field, choice in seen[key][0].choices.items():
                    place = person.entries[field.path].places.get(field.place)
                    if place and place.held and place.held.value is choice and not place.intent:
                        learn_look(
                            person.entries[field.path],
                            field.place,
                            choice,
                            began=seen[key][0].began,
                            ended=seen[key][0].ended,
                            rules=self.ledger.rules,
                        )

    def at_once(self, batch: Batch, last: Look | None, at: int, number: int) -> list[str]:
        """Learn a batch in one step; return who was left."""
        assert self.bits is not None
        said = self.looks.said(self.bits, self.learner.paths, last, ARRIVAL)
        by_key = {found.person: found for found in batch.people}
        seen = {key: self.glimpse(key, shown, at) for key, shown in batch.looks.items()}
        waiting = [(key, by_key[key], seen.get(key)) for key in sorted(by_key)]
        changes: list[Any] = []

        def begin(drafts: list[Draft]) -> int:
            changes.extend(map(self.learner.change_of, drafts))
            return len(drafts) if batch.begins else 0

        left = self.ledger.write_drafts(waiting, said, begin, Start("b", RUN, BEGAN + at, number))
        rest = {key: [s] for key, s in seen.items() if key not in by_key}
        self.looks.learn_glimpses(rest, last)
        self.changes = {change.person: change for change in changes}
        return left


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    first=batches(),
    second=batches(),
    ended=st.sampled_from(["ended", "started", "never_received"]),
    baseline=st.sampled_from([None, "opt_out", "didomi"]),
    tolerance=st.sampled_from([0, 3, 1000]),
    is_first_look=st.booleans(),
)
def test_one_step_leads_to_the_same_as_many(
    ledger: Ledger,
    first: Batch,
    second: Batch,
    ended: Any,
    baseline: Any,
    tolerance: int,
    is_first_look: bool,
) -> None:
    case = Case(ledger, Rules(clock_tolerance=tolerance, baseline=baseline, late_bound=5))
    forget_all(ledger)
    one, two = ledger.add_import("a", T), ledger.add_import("b", T)
    case.step_by_step(first, None, 0, one)
    ledger.set_import(one, state=ended, ended=BEGAN + 5 if ended == "ended" else None)
    start = rows(ledger)
    names = frozenset(field.look_name for field in MAPPED)
    last = None if is_first_look else Look(LOOKED - 9, LOOKED + 9, names, 4, 0)
    left = case.at_once(second, last, 50, two)
    quick = ledger.read(["anna", "bob", "carl", "dora"])
    restore(ledger, start)
    case.step_by_step(second, last, 50, two)
    slow = ledger.read(["anna", "bob", "carl", "dora"])
    for key in left:
        quick.pop(key, None)
        slow.pop(key, None)
    owed_attributes = {
        key
        for key, person in slow.items()
        if any(state.value is not UNSET for state in person.attributes.values())
    }
    for key in owed_attributes:  # an import of choices leaves them out
        quick.pop(key, None)
        slow.pop(key, None)
    assert quick.keys() == slow.keys()
    for key, person in slow.items():
        assert dict(quick[key].entries) == dict(person.entries)
        assert (quick[key].owed, quick[key].spelling) == (person.owed, person.spelling)
        assert quick[key].profile_id == person.profile_id


def restore(ledger: Ledger, before: list[Any]) -> None:
    forget_all(ledger)
    with ledger._store.write() as transaction:
        transaction.execute_many(
            "INSERT INTO ledger_people (scope, person, owed, due, data) VALUES (?, ?, ?, ?, ?)",
            [(ledger._scope, *row) for row in before],
        )
