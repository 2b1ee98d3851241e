"""What the ledger learns and decides, held against the executable specification."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import ledger_model as model

from actito_didomi.consent.conflicts import (
    ACTITO,
    BEGINNING,
    DIDOMI,
    END,
    OPT_IN,
    OPT_OUT,
    Act,
    Rules,
)
from actito_didomi.consent.entries import (
    ORPHAN,
    Entry,
    Held,
    Intent,
    begin_write,
    drop_intent,
    due_actito,
    due_didomi,
    end_import,
    end_write,
    give_up_intent,
    is_deferred,
    learn,
    learn_event,
    learn_look,
    learn_row,
    learn_status,
    orphan,
    winner,
)

TICK = 250_000
FIELD = "a:subscription:Newsletter"
USERS = ("d:00000001", "d:00000002")
PLACES = {model.ACTITO: FIELD, "u0": USERS[0], "u1": USERS[1]}
EVENT = "event"


def at(tick: float) -> int:
    """Return the timestamp of a tick of the model."""
    if tick == model.NEVER:
        return BEGINNING
    return END if tick == model.FOREVER else int(tick * TICK)


class Both:
    """One entry of the model and one of the product, through the same operations."""

    def __init__(self, tolerance: int, baseline: str | None) -> None:
        self.specified = model.Rules(clock_tolerance=tolerance, baseline=baseline, late_bound=30)
        self.rules = Rules(clock_tolerance=at(tolerance), baseline=baseline, late_bound=at(30))
        self.theirs = model.Entry()
        self.ours = Entry()
        self.imports = 0

    def compare(self) -> None:
        """Check that both know and decide the same."""
        for side in (ACTITO, DIDOMI):
            assert self.ours.acts.get(side) == to_act(self.theirs.acts.get(side))
        for name, place in PLACES.items():
            known = self.ours.places.get(place)
            assert (known and known.held) == to_held(self.theirs.held.get(name))
            if name == model.ACTITO:
                assert (known and known.intent) == to_intent(self.theirs.intents.get(name))
        place = self.ours.place(FIELD)
        assert place.late == [to_intent(late) for late in self.theirs.late]
        assert [tuple(write) for write in place.writes] == [
            (value, at(began), at(ended)) for value, began, ended in self.theirs.writes
        ][-16:]
        best = to_act(model.winner(self.theirs, self.specified))
        assert winner(self.ours, self.rules) == best
        assert is_deferred(self.ours, self.rules) is bool(self.theirs.acts and best is None)
        due = to_act(model.due_actito(self.theirs, self.specified))
        assert due_actito(self.ours, FIELD, self.rules) == due
        assert due_didomi(self.ours, USERS, self.rules) == [
            PLACES[user] for user in model.due_didomi(self.theirs, ("u0", "u1"), self.specified)
        ]

    def event(self, now, user, value, age, *, is_ours) -> None:
        """Learn an event of a user."""
        name, created = f"u{user}", now - age
        number = f"e{now}{user}{value}{age}"
        event = model.Event(number, name, value, created, frozenset({number} if is_ours else ()))
        model.learn_event(self.theirs, event, now, self.specified)
        learn_event(
            self.ours,
            PLACES[name],
            value,
            at(created),
            ours=is_ours,
            arrival=at(now),
            rules=self.rules,
        )

    def look(self, now, value, age, length, run, absent) -> None:
        """Learn a look."""
        began, ended = now - age, now - age + length
        absent_at = began - 5 if absent else None
        model.learn_look(
            self.theirs, value, began, ended, self.specified, me=run, absent_at=absent_at
        )
        learn_look(
            self.ours,
            FIELD,
            value,
            began=at(began),
            ended=at(ended),
            rules=self.rules,
            run=run,
            absent_at=None if absent_at is None else at(absent_at),
        )

    def row(self, now, value, age) -> None:
        """Learn a row of an export: its timestamp is a whole second."""
        second = (now - age) // model.SECOND * model.SECOND
        is_act = model.learn_row(self.theirs, value, second, now, self.specified)
        assert is_act is learn_row(
            self.ours,
            FIELD,
            value,
            earliest=at(second),
            latest=at(second + model.SECOND - 1),
            arrival=at(now),
            rules=self.rules,
        )

    def begin(self, now, value, run, *, is_import) -> None:
        """Record an intent."""
        number = None
        if is_import:
            number = self.imports = self.imports + 1
        intent = model.Intent(value, now, "act", run, number)
        model.begin_write(self.theirs, model.ACTITO, intent, self.specified)
        begin_write(self.ours, FIELD, to_intent(intent), self.rules)

    def end(self, now) -> None:
        """Record the success of the open write."""
        model.end_write(self.theirs, now)
        end_write(self.ours, FIELD, at(now))

    def end_import(self, now, back) -> None:
        """Record the end of one of the imports."""
        number = max(1, self.imports - back)
        model.end_import(self.theirs, number, now)
        end_import(self.ours, FIELD, number, at(now))

    def die(self) -> None:
        """The run that writes dies, and another one begins."""
        intent = self.theirs.intents.get(model.ACTITO)
        if intent and intent.import_id is None:
            self.theirs.intents[model.ACTITO] = replace(intent, writer=model.ORPHAN)
            orphan(self.ours, FIELD)

    def drop(self) -> None:
        """The open write certainly wasn't carried out."""
        if self.theirs.intents.pop(model.ACTITO, None):
            drop_intent(self.ours, FIELD)

    def give_up(self, now) -> None:
        """It isn't known what became of the open write."""
        intent = self.theirs.intents.pop(model.ACTITO, None)
        if intent:
            model.give_up(self.theirs, replace(intent, import_id=None), now, self.specified)
            give_up_intent(self.ours, FIELD, at(now), self.rules)


def to_act(act: model.Act | None) -> Act | None:
    """Return the same act for the product."""
    if act is None:
        return None
    return Act(act.value, at(act.earliest), at(act.latest), act.side, act.source)


def to_held(held: model.Held | None) -> Held | None:
    """Return the same for the product."""
    if held is None:
        return None
    return Held(held.value, at(held.began), at(held.ended), held.ours, held.doubtful)


def to_intent(intent: model.Intent | None) -> Intent | None:
    """Return the same intent for the product."""
    if intent is None:
        return None
    writer = ORPHAN if intent.writer == model.ORPHAN else intent.writer
    return Intent(intent.value, at(intent.began), writer, intent.import_id, at(intent.until))


values = st.booleans()
runs = st.sampled_from(["", "run", "run", "other"])
steps = st.one_of(
    st.tuples(st.just(EVENT), st.integers(0, 1), values, st.integers(-12, 20), values),
    st.tuples(st.just("look"), values, st.integers(0, 6), st.integers(0, 4), runs, values),
    st.tuples(
        st.just("look"), values, st.just(0), st.just(0), st.just("run"), st.just(value=False)
    ),
    st.tuples(st.just("row"), values, st.integers(0, 30)),
    st.tuples(st.just("begin"), values, st.sampled_from(["run", "other"]), values),
    st.sampled_from([("end",), ("die",), ("drop",), ("give_up",)]),
    st.tuples(st.just("end_import"), st.integers(0, 2)),
)


@settings(max_examples=1500)
@given(
    history=st.lists(st.tuples(st.integers(0, 12), steps), max_size=14),
    tolerance=st.integers(0, 6),
    baseline=st.sampled_from(["opt_out", "didomi", None]),
)
def test_any_history_is_learned_and_decided_as_specified(history, tolerance, baseline) -> None:
    """Acts, what places hold, intents, late writes, winner and what is due, after each step."""
    both, now = Both(tolerance, baseline), 100
    for wait, (name, *given_) in history:
        now += wait
        if name == EVENT:
            user, value, age, is_ours = given_
            both.event(now, user, value, age, is_ours=is_ours)
        elif name == "begin":
            value, run, is_import = given_
            both.begin(now, value, run, is_import=is_import)
        elif name in {"die", "drop"}:
            getattr(both, name)()
        else:
            getattr(both, name)(now, *given_)
        both.compare()


facts = st.lists(
    st.tuples(st.sampled_from([EVENT, "row"]), values, st.integers(0, 24)), min_size=1, max_size=5
)


@given(found=facts, data=st.data(), tolerance=st.integers(0, 6))
def test_the_winner_does_not_depend_on_the_order_of_arrival(found, data, tolerance) -> None:
    """Events and rows in any order, and each of them again."""
    order = data.draw(st.permutations([*found, *found]))
    winners = []
    for facts_ in (found, order):
        both = Both(tolerance, "opt_out")
        for name, value, age in facts_:
            if name == EVENT:
                both.event(100, 0, value, age, is_ours=False)
            else:
                both.row(100, value, age)
        winners.append(winner(both.ours, both.rules))
    assert winners[0] == winners[1]


RULES = Rules(clock_tolerance=0)


def test_a_field_is_judged_by_what_it_held_itself() -> None:
    """Two fields of one choice: a look at one says nothing about the other."""
    entry = Entry()
    first, second = FIELD, "a:attribute:emailOptIn"
    for place in (first, second):
        learn_look(entry, place, OPT_IN, began=1, ended=2, rules=RULES)
    assert not learn_look(entry, second, OPT_IN, began=5, ended=6, rules=RULES)
    assert learn_look(entry, first, OPT_OUT, began=7, ended=8, rules=RULES)
    assert entry.acts[ACTITO] == Act(OPT_OUT, 1, 8, ACTITO, "look")
    assert due_actito(entry, second, RULES) == entry.acts[ACTITO]
    assert due_actito(entry, first, RULES) is None


@pytest.mark.parametrize("value", [OPT_IN, OPT_OUT])
def test_a_status_says_by_when_and_the_event_when(value) -> None:
    """In either order the event counts, and a touch of the user later makes nothing newer."""
    for first_event in (True, False):
        entry = Entry()
        for is_event in (first_event, not first_event):
            if is_event:
                learn_event(entry, USERS[0], value, 10, ours=False, arrival=90, rules=RULES)
            else:
                learn_status(entry, USERS[0], value, 80, arrival=90, rules=RULES)
        assert entry.acts[DIDOMI] == Act(value, 10, 10, DIDOMI, "event")


def test_an_opt_in_of_a_status_never_wins_over_an_opt_out() -> None:
    """Its age is unknown, whatever `updated_at` says."""
    entry = Entry()
    learn(entry, Act(OPT_OUT, 5, 5, ACTITO, "row"))
    learn_status(entry, USERS[0], OPT_IN, 80, arrival=90, rules=RULES)
    assert winner(entry, RULES).value is OPT_OUT


def test_a_status_of_our_own_making_is_no_act() -> None:
    """The status shows what our event said: nobody chose it."""
    entry = Entry()
    learn_event(entry, USERS[0], OPT_IN, 10, ours=True, arrival=90, rules=RULES)
    learn_status(entry, USERS[0], OPT_IN, 10, arrival=90, rules=RULES)
    assert not entry.acts


def test_a_timestamp_in_the_future_tells_nothing_of_the_order() -> None:
    """A12: an opt-in dated 2099 loses to an opt-out of today, and blocks nothing afterwards."""
    entry = Entry()
    learn_event(entry, USERS[0], OPT_IN, 10**9, ours=False, arrival=100, rules=RULES)
    learn(entry, Act(OPT_OUT, 90, 90, ACTITO, "row"))
    assert winner(entry, RULES).value is OPT_OUT
    learn_event(entry, USERS[0], OPT_OUT, 120, ours=False, arrival=200, rules=RULES)
    assert entry.acts[DIDOMI].value is OPT_OUT


def test_a_row_in_the_future_tells_nothing_of_the_order() -> None:
    """As for events: its window reaches from the beginning of time to its arrival."""
    entry = Entry()
    learn_row(entry, FIELD, OPT_IN, earliest=10**9, latest=10**9, arrival=100, rules=RULES)
    assert entry.acts[ACTITO] == Act(OPT_IN, BEGINNING, 100, ACTITO, "row")
