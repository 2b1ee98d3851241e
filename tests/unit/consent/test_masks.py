"""What is decided on masks is what is decided choice by choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from actito_didomi.consent.codec import Codec, masks_of, put_masks
from actito_didomi.consent.conflicts import ACTITO, BEGINNING, DIDOMI, Act, Rules
from actito_didomi.consent.entries import (
    Entry,
    Held,
    Intent,
    Place,
    Write,
    begin_write,
    end_import,
    end_write,
    is_seen,
    learn_event,
    learn_look,
)
from actito_didomi.consent.fields import ChoiceField
from actito_didomi.consent.masks import (
    FieldBits,
    Seen,
    begin_import,
    decide,
    learn_first_look,
    seen_fields,
    shows_what_is_held,
)
from actito_didomi.consent.masks import learn_event as learn_event_of
from actito_didomi.consent.owing import decide_quickly, find_due, flag, flag_quickly
from actito_didomi.consent.person import AttributeState, Owed, Person
from actito_didomi.consent.places import user_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actito_didomi.consent.entries import Micros

PATHS = [
    ("consents", "channels", "email", "enabled"),
    ("consents", "channels", "sms", "enabled"),
    ("consents", "purposes", "offers", "enabled"),
    ("value", "country"),
]
FIELDS = [
    ChoiceField("subscription", f"S{n}", path, f"a:subscription:S{n}", opt_out=False, opt_in=True)
    for n, path in enumerate(PATHS)
]
UNMAPPED = ChoiceField("subscription", "T", PATHS[0], "a:subscription:T", False, True)
USERS = ["d:00000001", "d:00000002"]
NUMBER = 7
RULES = st.builds(
    Rules,
    clock_tolerance=st.integers(0, 2),
    baseline=st.sampled_from([None, "opt_out", "didomi"]),
    late_bound=st.just(5),
)
TIMES = st.integers(1, 6)


class Names:
    """Numbers of names, in memory."""

    def __init__(self) -> None:
        self.names: dict[str, list[tuple[str, ...]]] = {}

    def number(self, kind: str, name: tuple[str, ...]) -> int:
        known = self.names.setdefault(kind, [])
        if name not in known:
            known.append(name)
        return known.index(name)

    def known(self, kind: str, count: int) -> Sequence[tuple[str, ...]]:
        del count
        return self.names.get(kind, [])


class End:
    """An import that has ended."""

    number = NUMBER
    ended: Micros | None = 9

    def __call__(self, entry: Entry) -> None:
        for name in list(entry.places):
            end_import(entry, name, self.number, 9)


def act(side: Any, sources: list[Any]) -> st.SearchStrategy[Act]:
    return st.builds(
        lambda value, earliest, length, source: Act(
            source != "baseline" and value,
            BEGINNING if source == "baseline" else earliest,
            earliest + length,
            side,
            source,
        ),
        st.booleans(),
        TIMES,
        st.integers(0, 2),
        st.sampled_from(sources),
    )


INTENTS = st.builds(
    Intent,
    value=st.booleans(),
    began=TIMES,
    writer=st.sampled_from(["run", "12"]),
    import_number=st.sampled_from([None, NUMBER, 8]),
)
FIELD_PLACES = st.builds(
    Place,
    held=st.none()
    | st.builds(Held, st.booleans(), TIMES, TIMES, ours=st.booleans(), doubtful=st.booleans()),
    intent=st.none() | INTENTS,
    late=st.just([]) | st.lists(INTENTS, max_size=1),
    writes=st.lists(st.builds(Write, st.booleans(), TIMES, TIMES), max_size=2),
)
USER_PLACES = st.builds(
    Place,
    held=st.none()
    | st.builds(
        Held,
        st.none() | st.booleans(),
        TIMES,
        TIMES,
        ours=st.booleans(),
        doubtful=st.integers(0, 9).map(lambda n: n == 9),
    ),
)


@st.composite
def people(draw: st.DrawFn) -> Person:
    """Make people of whom acts and places are drawn for each choice."""
    person = Person(owed=Owed(draw(st.sampled_from([0, 16, 32, 255]))))
    if draw(st.booleans()):
        value = draw(st.sampled_from([msgspec.UNSET, "BE"]))
        person.attributes["country"] = AttributeState(1, b"", value)
    for field in FIELDS:
        entry = Entry()
        if draw(st.booleans()):
            entry.acts[DIDOMI] = draw(act(DIDOMI, ["event", "status"]))
        if draw(st.booleans()):
            entry.acts[ACTITO] = draw(act(ACTITO, ["look", "row", "baseline"]))
        if draw(st.booleans()):
            entry.places[field.place] = draw(FIELD_PLACES)
        for user in USERS:
            if draw(st.booleans()):
                entry.places[user] = draw(USER_PLACES)
        person.entries[field.path] = entry
    return person


class Both:
    """A person twice, as they stand on disk: for masks, and choice by choice."""

    def __init__(self, person: Person, *, ended: bool = False) -> None:
        self.codec = Codec(Names())
        for path in [*PATHS, ("another",)]:
            self.codec.bit(path)
        self.bits = FieldBits(
            [(f, self.codec.bit(f.path), self.codec.field_bit(f.path, f.place)) for f in FIELDS]
        )
        data = self.codec.encode(person)
        ends = (lambda numbers: [End()] if NUMBER in numbers else []) if ended else None
        self.quick = self.codec.decode(data, int(person.owed), ends)
        self.slow = self.codec.decode(data, int(person.owed), ends)

    def choose(self, some: int, ins: int) -> list[tuple[ChoiceField, int, bool]]:
        """Return fields with their bits and choices."""
        return [
            (field, own, bool(ins >> at & 1))
            for at, (field, own) in enumerate(self.bits.fields)
            if some >> at & 1
        ]

    def check(self) -> None:
        for path in PATHS:
            self.slow.entries.get(path)
        assert self.codec.encode(self.quick) == self.codec.encode(self.slow)
        assert self.quick == self.slow
        assert dict(self.quick.entries) == dict(self.slow.entries)


@given(people(), RULES, st.booleans())
@settings(max_examples=400)
def test_masks_decide_as_the_rules_do(person: Person, rules: Rules, ended: bool) -> None:
    both = Both(person, ended=ended)
    decision = decide_quickly(both.quick, both.bits, rules)
    if decision is None:
        return
    due = [
        (field, act)
        for field, own in both.bits.fields
        for act, fields in decision.due
        if fields & own
    ]
    assert due == find_due(both.slow, FIELDS, rules)
    flag_quickly(both.quick, decision)
    flag(both.slow, FIELDS, rules)
    assert both.quick.owed == both.slow.owed


@given(people(), RULES, st.integers(1, 15), st.integers(0, 15), st.booleans())
@settings(max_examples=600)
def test_a_first_look_is_learned_on_masks_as_choice_by_choice(
    person: Person, rules: Rules, some: int, ins: int, ended: bool
) -> None:
    both = Both(person, ended=ended)
    masks = masks_of(both.quick)
    if masks is None:
        return
    shown = both.choose(some, ins)
    seen = Seen(
        sum(own for _, own, on in shown if on), sum(own for _, own, on in shown if not on), 20, 21
    )
    if shows_what_is_held(masks, seen):
        for field, _, on in shown:
            place = both.slow.entries[field.path].places[field.place]
            assert place.held is not None
            assert (place.held.value, place.intent, place.late) == (on, None, [])
            assert not place.held.doubtful
        return
    learned = learn_first_look(masks, seen, both.bits)
    if learned is None:
        return
    decision = decide(learned, both.bits, rules)
    put_masks(both.quick, learned)
    for field, _, on in shown:
        entry = both.slow.entry(field.path)
        place = entry.places.get(field.place)
        if place is None or place.held is None:
            learn_look(entry, field.place, on, began=20, ended=21, rules=rules)
    if decision is not None:
        flag_quickly(both.quick, decision)
        flag(both.slow, FIELDS, rules)
    both.check()


@given(people(), RULES, st.integers(0, 15), st.integers(0, 15), st.booleans())
@settings(max_examples=400)
def test_an_import_begins_on_masks_as_choice_by_choice(
    person: Person, rules: Rules, some: int, ins: int, ended: bool
) -> None:
    both = Both(person, ended=ended)
    masks = masks_of(both.quick)
    chosen = both.choose(some, ins)
    if masks is None or not chosen:
        return
    opt_ins = sum(own for _, own, on in chosen if on)
    opt_outs = sum(own for _, own, on in chosen if not on)
    begun = begin_import(masks, opt_ins, opt_outs, writer="run", number=9, began=20)
    if begun is None:
        return
    put_masks(both.quick, begun)
    for field, _, on in chosen:
        entry = both.slow.entry(field.path)
        begin_write(entry, field.place, Intent(on, 20, "run", 9), rules)
    assert both.codec.encode(both.quick) != both.codec.encode(person)
    decision = decide(begun, both.bits, rules)
    if decision is not None:
        flag_quickly(both.quick, decision)
        flag(both.slow, FIELDS, rules)
    both.check()


def test_an_opt_out_of_ours_at_one_user_is_taken_back_though_another_says_yes() -> None:
    places = {USERS[0]: Place(Held(True, 5, 5)), USERS[1]: Place(Held(False, 3, 3, ours=True))}
    person = Person()
    person.entries[PATHS[0]] = Entry({DIDOMI: Act(True, 5, 5, DIDOMI, "event")}, places)
    both = Both(person)
    decision = decide_quickly(both.quick, both.bits, Rules())
    assert decision is not None
    assert decision.owed & Owed.DIDOMI


def test_the_usual_person_is_decided_on_masks() -> None:
    person = Person()
    for field in FIELDS:
        person.entries[field.path] = Entry(
            {DIDOMI: Act(True, 1, 1, DIDOMI, "event")}, {USERS[0]: Place(Held(True, 1, 1))}
        )
    both = Both(person)
    assert decide_quickly(both.quick, both.bits, Rules()) is not None
    masks = masks_of(both.quick)
    assert masks is not None
    assert learn_first_look(masks, Seen(both.bits.all, 0, 2, 3), both.bits) is not None
    assert begin_import(masks, both.bits.all, 0, writer="run", number=1, began=2) is not None


@given(people(), RULES)
@settings(max_examples=400)
def test_the_end_of_an_import_changes_what_is_owed_only_where_it_was_overtaken(
    person: Person, rules: Rules
) -> None:
    for entry in person.entries.values():  # fewer were overtaken then
        for place in entry.places.values():
            place.late = [late for late in place.late if late.import_number != NUMBER]
    before, after = Both(person).slow, Both(person, ended=True).slow
    flag(before, FIELDS, rules)
    flag(after, FIELDS, rules)
    assert after.owed == before.owed


@given(
    people(),
    RULES,
    st.integers(1, 15),
    st.integers(0, 15),
    st.integers(0, 8),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=600)
def test_a_newer_event_is_learned_on_masks_as_choice_by_choice(
    person: Person, rules: Rules, some: int, ins: int, created: int, user: int, ended: bool
) -> None:
    both = Both(person, ended=ended)
    masks = masks_of(both.quick)
    if masks is None:
        return
    chosen = both.choose(some, ins)
    opt_ins = both.bits.choices(sum(own for _, own, on in chosen if on))
    opt_outs = both.bits.choices(sum(own for _, own, on in chosen if not on))
    consents = both.bits.consents(opt_ins | opt_outs)
    learned = learn_event_of(masks, user, opt_ins, opt_outs, created=created, consents=consents)
    if learned is None:
        return
    put_masks(both.quick, learned)
    for field, _, on in chosen:
        entry = both.slow.entry(field.path)
        learn_event(entry, user_place(user), on, created, ours=False, arrival=20, rules=rules)
    decision = decide(learned, both.bits, rules)
    if decision is not None:
        flag_quickly(both.quick, decision)
        flag(both.slow, FIELDS, rules)
    both.check()


def test_an_import_that_was_overtaken_is_decided_again_when_it_has_ended() -> None:
    field, rules = FIELDS[0], Rules()
    person = Person()
    entry = person.entry(field.path)
    learn_event(entry, USERS[0], True, 1, ours=False, arrival=1, rules=rules)
    begin_write(entry, field.place, Intent(True, 2, "run", NUMBER), rules)
    learn_event(entry, USERS[0], False, 3, ours=False, arrival=3, rules=rules)
    begin_write(entry, field.place, Intent(False, 4, "another"), rules)
    end_write(entry, field.place, 5)
    flag(person, FIELDS, rules)
    assert person.owed == Owed.IN_IMPORT  # by which it is found when the import has ended
    end_import(entry, field.place, NUMBER, 6)
    flag(person, FIELDS, rules)
    assert person.owed == Owed.ACTITO | Owed.OPT_OUT_ACTITO


@given(people(), st.integers(0, 8), st.booleans())
@settings(max_examples=400)
def test_masks_tell_which_fields_a_look_has_shown(
    person: Person, looked_at: int, ended: bool
) -> None:
    both = Both(person, ended=ended)
    masks = masks_of(both.quick)
    if masks is None:
        return
    shown = seen_fields(masks, looked_at)
    for field, own in both.bits.fields:
        entry = both.slow.entries.get(field.path)
        place = entry.places.get(field.place) if entry else None
        assert bool(shown & own) is is_seen(place, looked_at)
