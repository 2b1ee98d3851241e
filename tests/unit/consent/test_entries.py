"""What the ledger learns and decides, held against the executable specification."""

from __future__ import annotations

import itertools
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
    give_up_import,
    give_up_intent,
    is_deferred,
    learn,
    learn_event,
    learn_look,
    learn_opt_out_of_unknown_age,
    learn_row,
    learn_status,
    newest_act,
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


def status(entry, user, value, updated, arrival=10**6) -> None:
    """Learn the status of a user."""
    learn_status(entry, user, value, updated, arrival=arrival, rules=RULES)


def event(entry, user, value, created, *, ours=False, arrival=10**6) -> None:
    """Learn an event of a user."""
    learn_event(entry, user, value, created, ours=ours, arrival=arrival, rules=RULES)


@pytest.mark.parametrize("value", [OPT_IN, OPT_OUT])
def test_a_status_says_by_when_and_the_event_when(value) -> None:
    """In either order the event counts, and a touch of the user later makes nothing newer."""
    for first_event in (True, False):
        entry = Entry()
        for is_event in (first_event, not first_event):
            if is_event:
                event(entry, USERS[0], value, 10)
            else:
                status(entry, USERS[0], value, 80)
        status(entry, USERS[0], value, 85)
        assert newest_act(entry, DIDOMI) == Act(value, 10, 10, DIDOMI, "event")


def test_a_status_is_an_act_of_unknown_age() -> None:
    """Until its event is known; one that shows the same later is no new act."""
    entry = Entry()
    status(entry, USERS[0], OPT_OUT, 80)
    status(entry, USERS[0], OPT_OUT, 95)
    assert winner(entry, RULES) == Act(OPT_OUT, BEGINNING, 80, DIDOMI, "status")
    learn(entry, Act(OPT_IN, 90, 90, ACTITO, "row"))
    assert winner(entry, RULES).value is OPT_IN


def test_an_event_of_one_user_hides_no_opt_out_of_another() -> None:
    """The event of the second user doesn't explain the status of the first."""
    for flip in (False, True):
        entry = Entry()
        steps = [
            lambda entry: status(entry, USERS[0], OPT_OUT, 80),
            lambda entry: event(entry, USERS[1], OPT_OUT, 10),
        ]
        for step in steps[::-1] if flip else steps:
            step(entry)
        learn(entry, Act(OPT_IN, 50, 50, ACTITO, "row"))
        assert winner(entry, RULES).value is OPT_OUT


def test_an_event_that_a_later_status_contradicts_did_not_make_the_choice() -> None:
    """Off at 80, opt-out at 10, opt-in at 15: another opt-out came after 15, and isn't known."""
    for order in itertools.permutations(range(3)):
        entry = Entry()
        steps = [
            lambda entry: status(entry, USERS[0], OPT_OUT, 80),
            lambda entry: event(entry, USERS[0], OPT_OUT, 10),
            lambda entry: event(entry, USERS[0], OPT_IN, 15),
        ]
        for number in order:
            steps[number](entry)
        learn(entry, Act(OPT_IN, 50, 50, ACTITO, "row"))
        assert winner(entry, RULES).value is OPT_OUT
        event(entry, USERS[0], OPT_OUT, 40)  # it is known now, and older than the row
        assert winner(entry, RULES).value is OPT_IN


def test_a_status_is_kept_until_something_newer_counts() -> None:
    """An opt-in of unknown age after it doesn't count, an event does."""
    entry = Entry()
    status(entry, USERS[0], OPT_OUT, 80)
    status(entry, USERS[0], OPT_IN, 90)
    assert winner(entry, RULES).value is OPT_OUT
    event(entry, USERS[0], OPT_IN, 85)
    assert winner(entry, RULES).value is OPT_IN


def test_an_older_status_says_nothing_new() -> None:
    """It was read before what is known since: an event of ours, or of the person."""
    for ours in (False, True):
        entry = Entry()
        event(entry, USERS[0], OPT_IN, 90, ours=ours)
        learn(entry, Act(OPT_IN, 70, 70, ACTITO, "row"))
        status(entry, USERS[0], OPT_OUT, 80)
        assert winner(entry, RULES).value is OPT_IN
        assert entry.place(USERS[0]).held == Held(OPT_IN, 90, 90, ours)


@pytest.mark.parametrize("flip", [False, True])
def test_of_two_events_of_one_time_the_opt_out_is_held(flip) -> None:
    """In either order; the user is not owed it then."""
    entry = Entry()
    for value in (OPT_OUT, OPT_IN) if flip else (OPT_IN, OPT_OUT):
        event(entry, USERS[0], value, 10)
    assert entry.place(USERS[0]).held == Held(OPT_OUT, 10, 10)
    assert due_didomi(entry, USERS[:1], RULES) == []


def test_a_status_counts_though_an_event_was_dated_in_the_future() -> None:
    """A client's wrong clock hides no later opt-out."""
    entry = Entry()
    event(entry, USERS[0], OPT_IN, 10**9, arrival=100)
    status(entry, USERS[0], OPT_OUT, 90, arrival=100)
    assert winner(entry, RULES) == Act(OPT_OUT, BEGINNING, 90, DIDOMI, "status")


clicks = st.lists(
    st.tuples(st.integers(0, 1), values), min_size=1, max_size=5
)  # (user, choice); the number is the time


@settings(max_examples=300)
@given(
    clicks=clicks, rows=st.lists(st.tuples(st.integers(0, 60), values), max_size=2), data=st.data()
)
def test_statuses_change_nothing_once_all_events_are_known(clicks, rows, data) -> None:
    """Read first or last, and touched since: as the events alone, whatever their order."""
    times = {10 * number: click for number, click in enumerate(clicks, 1)}
    entries = [Entry(), Entry(), Entry(), Entry()]
    for entry in entries:
        for second, value in rows:
            learn(entry, Act(value, second, second, ACTITO, "row"))

    def show(entry: Entry, until: int) -> None:
        """Learn the status of both users at a time."""
        for user, place in enumerate(USERS):
            shown = [time for time, click in times.items() if click[0] == user and time <= until]
            if shown:
                status(entry, place, times[shown[-1]][1], data.draw(st.integers(shown[-1], until)))

    show(entries[1], 60)
    for time in data.draw(st.permutations(list(times))):
        user, value = times[time]
        for entry in entries:
            event(entry, USERS[user], value, time)
        # Read all along: it may say "out" where the events say "in", never the reverse.
        show(entries[3], data.draw(st.sampled_from(list(times))))
    show(entries[2], 60)
    alone, first, last, between = (winner(entry, RULES).value for entry in entries)
    assert first is last is alone
    assert between is OPT_OUT or alone is OPT_IN


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
    assert winner(entry, RULES) is None


@pytest.mark.parametrize("baseline", [None, "didomi", "opt_out"])
def test_a_copy_of_an_opt_out_dates_an_opt_out_of_unknown_age(baseline) -> None:
    """An opt-in from before the copy never wins over it, whatever `baseline` says.

    So it is after a lost ledger: our event in Didomi is all that is left of the unsubscribe.
    """
    rules = Rules(clock_tolerance=0, baseline=baseline)
    for opt_in, wins in ((10, False), (30, baseline == "didomi")):
        for other_first in (False, True):
            entry = Entry()
            events = [(USERS[0], OPT_IN, opt_in, False), (USERS[1], OPT_OUT, 20, True)]
            for user, value, created, ours in reversed(events) if other_first else events:
                learn_event(entry, user, value, created, ours=ours, arrival=90, rules=rules)
            learn_look(entry, FIELD, OPT_OUT, began=90, ended=91, rules=rules)
            won = winner(entry, rules)
            assert (won is not None and won.value is OPT_IN) is wins
            assert (won is None) is (baseline is None and opt_in > 20)


def test_a_timestamp_in_the_future_tells_nothing_of_the_order() -> None:
    """A12: an opt-in dated 2099 loses to an opt-out of today, and blocks nothing afterwards."""
    entry = Entry()
    learn_event(entry, USERS[0], OPT_IN, 10**9, ours=False, arrival=100, rules=RULES)
    learn(entry, Act(OPT_OUT, 90, 90, ACTITO, "row"))
    assert winner(entry, RULES).value is OPT_OUT
    learn_event(entry, USERS[0], OPT_OUT, 120, ours=False, arrival=200, rules=RULES)
    assert entry.acts[DIDOMI].value is OPT_OUT


@pytest.mark.parametrize("arrival", [101, 99, 96])
def test_an_event_a_little_ahead_of_its_arrival_keeps_its_place(arrival: int) -> None:
    """Didomi's clock may be ahead by the tolerance: an opt-out isn't made older than an opt-in."""
    rules, entry = Rules(clock_tolerance=5), Entry()
    learn_event(entry, USERS[0], OPT_IN, 100, ours=False, arrival=200, rules=rules)
    learn_event(entry, USERS[0], OPT_OUT, 101, ours=False, arrival=arrival, rules=rules)
    assert winner(entry, rules).value is OPT_OUT


def test_an_event_in_the_future_is_learned_once() -> None:
    """Read again at each run, it doesn't become the opt-out of each run."""
    entry = Entry()
    for arrival in (100, 200):
        event(entry, USERS[0], OPT_OUT, 10**9, arrival=arrival)
    learn(entry, Act(OPT_IN, 150, 150, ACTITO, "row"))
    assert winner(entry, RULES).value is OPT_IN


def test_a_row_in_the_future_tells_nothing_of_the_order() -> None:
    """As for events: its window reaches from the beginning of time to its arrival."""
    entry = Entry()
    learn_row(entry, FIELD, OPT_IN, earliest=10**9, latest=10**9, arrival=100, rules=RULES)
    assert entry.acts[ACTITO] == Act(OPT_IN, BEGINNING, 100, ACTITO, "row")
    learn_look(entry, FIELD, OPT_IN, began=110, ended=120, rules=RULES)
    learn_row(entry, FIELD, OPT_OUT, earliest=10**9, latest=10**9, arrival=130, rules=RULES)
    assert due_actito(entry, FIELD, RULES).value is OPT_OUT
    # And looks go on to count.
    learn_look(entry, FIELD, OPT_OUT, began=140, ended=150, rules=RULES)
    assert learn_look(entry, FIELD, OPT_IN, began=160, ended=170, rules=RULES)


def test_an_opt_out_in_a_row_of_ours_may_be_the_persons() -> None:
    """They unsubscribe while we write the same: one row. An older opt-in comes later, and loses."""
    entry = Entry()
    learn_look(entry, FIELD, OPT_IN, began=1, ended=2, rules=RULES)
    begin_write(entry, FIELD, Intent(OPT_OUT, 100, "run", 7), RULES)
    end_import(entry, FIELD, 7, 200)
    own = {"earliest": 150, "latest": 150, "arrival": 300, "rules": RULES}
    assert not learn_row(entry, FIELD, OPT_OUT, **own)
    assert entry.acts[ACTITO] == Act(OPT_OUT, 150, 150, ACTITO, "row")
    learn_row(entry, FIELD, OPT_IN, earliest=90, latest=90, arrival=300, rules=RULES)
    event(entry, USERS[0], OPT_IN, 149)
    assert winner(entry, RULES).value is OPT_OUT
    event(entry, USERS[0], OPT_IN, 151)
    assert winner(entry, RULES).value is OPT_IN


def test_a_doubtful_opt_out_hides_no_newer_one() -> None:
    """Two rows within the tolerance, off and on: an opt-out that a look shows came after both."""
    rules = Rules(clock_tolerance=60)
    entry = Entry()
    learn_look(entry, FIELD, OPT_IN, began=1, ended=2, rules=rules)
    for second, value in ((100, OPT_OUT), (110, OPT_IN)):
        learn_row(entry, FIELD, value, earliest=second, latest=second, arrival=300, rules=rules)
    assert entry.acts[ACTITO].value is OPT_IN
    assert learn_look(entry, FIELD, OPT_OUT, began=400, ended=401, rules=rules)
    assert winner(entry, rules).value is OPT_OUT


def test_an_opt_in_in_a_row_of_ours_is_ours() -> None:
    """As an act it would be newer than an opt-out of the person that it has overwritten."""
    entry = Entry()
    learn_look(entry, FIELD, OPT_OUT, began=1, ended=2, rules=RULES)
    begin_write(entry, FIELD, Intent(OPT_IN, 100, "run"), RULES)
    end_write(entry, FIELD, 101)
    before = dict(entry.acts)
    assert not learn_row(entry, FIELD, OPT_IN, earliest=100, latest=100, arrival=300, rules=RULES)
    assert entry.acts == before


def test_an_opt_out_without_a_look_may_hide_one_of_the_person() -> None:
    """Didomi's opt-in of before is no reason to turn it back; one of after is."""
    entry = Entry()
    learn_look(entry, FIELD, OPT_IN, began=1, ended=2, rules=RULES)
    event(entry, USERS[0], OPT_OUT, 10)
    learn_opt_out_of_unknown_age(entry, FIELD, 100)
    assert due_actito(entry, FIELD, RULES).value is OPT_OUT
    begin_write(entry, FIELD, Intent(OPT_OUT, 100, "run"), RULES)
    end_write(entry, FIELD, 110)
    assert due_actito(entry, FIELD, RULES) is None
    learn_opt_out_of_unknown_age(
        entry, FIELD, 300
    )  # nothing is to be written, so nothing is hidden
    event(entry, USERS[0], OPT_IN, 85)
    assert due_actito(entry, FIELD, RULES) is None
    event(entry, USERS[0], OPT_IN, 101)
    assert due_actito(entry, FIELD, RULES).value is OPT_IN


@pytest.mark.parametrize("baseline", ["opt_out", "didomi", None])
def test_an_opt_out_without_any_look_is_of_the_baseline(baseline) -> None:
    """A field never seen before: the setting decides, as it would after a first look."""
    rules = Rules(clock_tolerance=0, baseline=baseline)
    entry = Entry()
    event(entry, USERS[0], OPT_OUT, 10)
    learn_opt_out_of_unknown_age(entry, FIELD, 100)
    event(entry, USERS[0], OPT_IN, 85)
    won = winner(entry, rules)
    assert (won and won.value) is {"opt_out": OPT_OUT, "didomi": OPT_IN, None: None}[baseline]


def test_an_import_given_up_no_longer_explains_rows() -> None:
    """Its end can't be known: overtaken or not, it is over after the bound."""
    rules = Rules(clock_tolerance=0, late_bound=50)
    for is_overtaken in (False, True):
        entry = Entry()
        learn_look(entry, FIELD, OPT_IN, began=1, ended=2, rules=rules)
        begin_write(entry, FIELD, Intent(OPT_OUT, 10, "run", 7), rules)
        if is_overtaken:
            begin_write(entry, FIELD, Intent(OPT_OUT, 20, "run"), rules)
            end_write(entry, FIELD, 21)
        give_up_import(entry, FIELD, 7, 30, rules)
        place = entry.place(FIELD)
        assert place.late == [Intent(OPT_OUT, 10, "run", None, 80)]
        for second, is_act in ((80, False), (81, True)):
            assert is_act is learn_row(
                entry, FIELD, OPT_OUT, earliest=second, latest=second, arrival=90, rules=rules
            )


# Several fields of one choice

SECOND_FIELD = "a:attribute:emailOptIn"


class Fields:
    """Two fields in Actito that a person toggles, and looks at pages with one or both."""

    def __init__(self) -> None:
        self.now = 10
        self.shown = {FIELD: OPT_IN, SECOND_FIELD: OPT_IN}
        self.entry = Entry()
        self.acts: list[tuple[int, bool]] = []
        self.samples: list[tuple[int, dict[str, bool]]] = []

    def toggle(self, field: str) -> None:
        """Change one field, as the person does."""
        self.now += 1
        self.shown[field] = not self.shown[field]
        self.acts.append((self.now, self.shown[field]))

    def look(self, before: int, after: int, fields: tuple[str, ...]) -> None:
        """Read a page, and learn it."""
        began = self.now + 1
        self.now = began + before
        page = dict(self.shown)
        self.now += after
        for field in fields:
            learn_look(self.entry, field, page[field], began=began, ended=self.now, rules=RULES)
        if len(fields) == len(page):
            self.samples.append((began + before, page))


pages = st.sampled_from([(FIELD, SECOND_FIELD), (SECOND_FIELD, FIELD), (FIELD,), (SECOND_FIELD,)])
moves = st.one_of(
    st.tuples(st.just("toggle"), st.sampled_from([FIELD, SECOND_FIELD])),
    st.tuples(st.just("look"), st.integers(0, 2), st.integers(0, 2), pages),
)


@settings(max_examples=1000)
@given(history=st.lists(moves, max_size=12), end=pages.filter(lambda page: len(page) == 2))
def test_an_opt_in_at_one_field_hides_no_later_opt_out_at_another(history, end) -> None:
    """Whatever the order in which pages and fields are learned.

    A toggle that is taken back before any page shows it leaves no trace, so it is no act here.
    """
    fields = Fields()
    fields.look(0, 0, end)
    seen = {field: [(fields.now, OPT_IN)] for field in fields.shown}
    newest_change = {}
    for move in [*history, ("look", 0, 0, end)]:
        if move[0] == "toggle":
            fields.toggle(move[1])
            newest_change[move[1]] = fields.now
            continue
        fields.look(*move[1:])
        for field in move[3]:
            if fields.shown[field] is not seen[field][-1][1]:
                seen[field].append((newest_change[field], fields.shown[field]))
    changes = [change for found in seen.values() for change in found[1:]]
    won = winner(fields.entry, RULES)
    if changes and max(changes)[1] is OPT_OUT:
        assert won.value is OPT_OUT
    elif not changes:
        assert won is None


def test_in_one_page_an_opt_out_counts_whichever_field_is_learned_first() -> None:
    """One field went off and the other on since the page before: nobody knows in which order."""
    for first, second in ((FIELD, SECOND_FIELD), (SECOND_FIELD, FIELD)):
        entry = Entry()
        learn_look(entry, FIELD, OPT_IN, began=1, ended=2, rules=RULES)
        learn_look(entry, SECOND_FIELD, OPT_IN, began=1, ended=2, rules=RULES)
        learn_look(entry, SECOND_FIELD, OPT_OUT, began=3, ended=4, rules=RULES)
        begin_write(entry, FIELD, Intent(OPT_OUT, 5, "run"), RULES)
        end_write(entry, FIELD, 6)
        now = {FIELD: OPT_IN, SECOND_FIELD: OPT_OUT}
        event(entry, USERS[0], OPT_IN, 8)
        begin_write(entry, SECOND_FIELD, Intent(OPT_IN, 9, "run"), RULES)
        end_write(entry, SECOND_FIELD, 10)
        for field in (first, second):
            learn_look(entry, field, now[field], began=20, ended=21, rules=RULES)
        assert winner(entry, RULES).value is OPT_OUT


def test_an_opt_in_at_another_field_counts_if_it_is_later_for_certain() -> None:
    """Two pages apart: the order is known, so the newest act counts."""
    entry = Entry()
    for field in (FIELD, SECOND_FIELD):
        learn_look(entry, field, OPT_IN, began=1, ended=2, rules=RULES)
    learn_look(entry, FIELD, OPT_OUT, began=5, ended=6, rules=RULES)
    learn_look(entry, SECOND_FIELD, OPT_OUT, began=7, ended=8, rules=RULES)
    learn_look(entry, FIELD, OPT_OUT, began=7, ended=8, rules=RULES)
    learn_look(entry, SECOND_FIELD, OPT_IN, began=10, ended=11, rules=RULES)
    assert winner(entry, RULES) == Act(OPT_IN, 7, 11, ACTITO, "look")


def test_a_late_row_of_one_field_is_not_judged_by_a_look_at_another() -> None:
    """The look saw an opt-in at the second field, made at some time since 3; the row says 5."""
    entry = Entry()
    learn_look(entry, FIELD, OPT_OUT, began=1, ended=2, rules=RULES)
    learn_look(entry, SECOND_FIELD, OPT_OUT, began=1, ended=2, rules=RULES)
    learn_look(entry, SECOND_FIELD, OPT_IN, began=8, ended=9, rules=RULES)
    assert winner(entry, RULES).value is OPT_IN
    learn_row(entry, FIELD, OPT_OUT, earliest=5, latest=5, arrival=20, rules=RULES)
    assert winner(entry, RULES).value is OPT_OUT
    # But a row of the second field itself, of before the look, has been seen through.
    entry.acts[ACTITO] = Act(OPT_IN, 2, 9, ACTITO, "look")
    learn_row(entry, SECOND_FIELD, OPT_OUT, earliest=5, latest=5, arrival=20, rules=RULES)
    assert winner(entry, RULES).value is OPT_IN


def test_an_opt_in_of_ours_hides_no_row_of_before() -> None:
    """With two fields: the person's opt-out came after the act that we copied over it."""
    entry = Entry()
    for field in (FIELD, SECOND_FIELD):
        learn_look(entry, field, OPT_OUT, began=1, ended=2, rules=RULES)
    learn_look(entry, SECOND_FIELD, OPT_IN, began=8, ended=9, rules=RULES)
    begin_write(entry, FIELD, Intent(OPT_IN, 10, "run"), RULES)
    end_write(entry, FIELD, 11)
    learn_row(entry, FIELD, OPT_OUT, earliest=9, latest=9, arrival=20, rules=RULES)
    assert winner(entry, RULES).value is OPT_OUT


def test_an_opt_out_seen_after_an_opt_in_during_an_import_is_the_persons() -> None:
    """However long the import takes, nothing of ours takes the opt-in back."""
    rules, entry = Rules(), Entry()
    learn_event(entry, USERS[0], OPT_IN, 5, ours=False, arrival=5, rules=rules)
    learn_look(entry, FIELD, OPT_OUT, began=6, ended=7, rules=Rules(baseline="didomi"))
    entry.acts.pop(ACTITO)
    begin_write(entry, FIELD, Intent(OPT_IN, 8, "run", 1), rules)
    assert not learn_look(entry, FIELD, OPT_OUT, began=10, ended=11, rules=rules)
    assert not learn_look(entry, FIELD, OPT_IN, began=20, ended=21, rules=rules)
    assert due_actito(entry, FIELD, rules) is None
    assert learn_look(entry, FIELD, OPT_OUT, began=10**9, ended=10**9 + 1, rules=rules)
    assert entry.acts[ACTITO] == Act(OPT_OUT, 20, 10**9 + 1, ACTITO, "look")
    assert due_actito(entry, FIELD, rules) == entry.acts[ACTITO]
    end_import(entry, FIELD, 1, 2 * 10**9)
    assert due_actito(entry, FIELD, rules) == entry.acts[ACTITO]  # the row may have come after it
