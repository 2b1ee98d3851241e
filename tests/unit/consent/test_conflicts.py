"""The one rule of two choices, held against the executable specification."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone
from functools import reduce

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
    certainly_later,
    newest,
    prevails,
    rank,
    resolve_tie,
    to_datetime,
    to_micros,
    winner,
)

START = to_micros(datetime(2026, 10, 1, tzinfo=timezone.utc))
TICK = 250_000
DAY = 86_400_000_000
SIDES = (ACTITO, DIDOMI)
BASELINES = ("opt_out", "didomi", None)


def at(tick: float) -> int:
    """Return the timestamp of a tick of the model."""
    return BEGINNING if tick == model.NEVER else START + int(tick * TICK)


def to_product(act: model.Act | None) -> Act | None:
    """Return the same act for the product."""
    if act is None:
        return None
    return Act(act.value, at(act.earliest), at(act.latest), act.side, act.source)


def act(
    value: bool, earliest: float, latest: float, side: str = DIDOMI, name: str = ""
) -> model.Act:
    """Return an act of the model that is no look."""
    source = "event" if side == DIDOMI else "row"
    return model.Act(value, earliest, latest, side, source, name or f"{side}:{value}:{earliest}")


# Few ticks, so that ties and windows that touch are frequent.
ticks = st.integers(0, 12)
tolerances = st.integers(0, 4)
windows = st.one_of(
    ticks.map(lambda t: (t, t)),
    st.tuples(ticks, ticks).map(lambda w: (min(w), max(w))),
    ticks.map(lambda t: (model.NEVER, t)),
)
sources = {ACTITO: ["row", "look", "baseline"], DIDOMI: ["event"]}


@st.composite
def any_acts(draw: st.DrawFn, side: str | None = None) -> model.Act:
    """Draw an act of any kind."""
    side = side or draw(st.sampled_from(SIDES))
    source = draw(st.sampled_from(sources[side]))
    value = OPT_OUT if source == "baseline" else draw(st.booleans())
    earliest, latest = draw(windows)
    if source == "baseline":
        earliest = model.NEVER
    return model.Act(value, earliest, latest, side, source, draw(st.sampled_from("abcdefgh")))


@st.composite
def event_lists(draw: st.DrawFn, side: str, *, exact: bool = False) -> list[model.Act]:
    """Draw events, or rows, of one side; each has an id of its own."""
    drawn = draw(st.lists(st.tuples(st.booleans(), windows), min_size=1, max_size=4))
    return [
        act(value, latest if exact else earliest, latest, side, f"{side}{number}")
        for number, (value, (earliest, latest)) in enumerate(drawn)
    ]


@st.composite
def row_lists(draw: st.DrawFn) -> list[model.Act]:
    """Draw rows of Actito's export of changes: their timestamps are whole seconds."""
    drawn = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=4))
    return [
        act(value, second * model.SECOND, (second + 1) * model.SECOND - 1, ACTITO, f"row{number}")
        for number, (value, second) in enumerate(drawn)
    ]


@st.composite
def look_lists(draw: st.DrawFn) -> list[model.Act]:
    """Draw what looks found, in their sequence: from the start of one to the end of the next."""
    drawn = draw(st.lists(st.tuples(st.booleans(), ticks, ticks), max_size=3))
    acts, began, ended = [], 0, 0
    for number, (value, wait, length) in enumerate(drawn):
        earliest, began = began, ended + 1 + wait
        ended = began + length
        acts.append(model.Act(value, earliest, ended, ACTITO, "look", f"look{number}"))
    return acts


exact_lists = st.sampled_from(SIDES).flatmap(lambda side: event_lists(side, exact=True))


def fold(acts: list[model.Act]) -> Act | None:
    """Return the newest act of a side, learned in this order."""
    learned: Act | None = None
    for one in acts:
        learned = newest(learned, to_product(one))
    return learned


def interleavings(first: list[model.Act], second: list[model.Act]) -> list[list[model.Act]]:
    """Return all orders of both, in which each keeps its own."""
    orders = []
    size = len(first) + len(second)
    for places in itertools.combinations(range(size), len(first)):
        ones, others = iter(first), iter(second)
        orders.append([next(ones) if n in places else next(others) for n in range(size)])
    return orders


# The specification


@pytest.mark.parametrize("tolerance", range(3))
def test_two_acts_compare_as_specified(tolerance) -> None:
    """All pairs over four ticks, of one side or both: windows, unknown ages, ties."""
    rules = model.Rules(clock_tolerance=tolerance)
    bounds = [(e, t) for t in range(4) for e in (model.NEVER, *range(t + 1))]
    acts = [
        model.Act(value, *window, side, source, "x")
        for side, source in ((ACTITO, "row"), (ACTITO, "look"), (DIDOMI, "event"))
        for value in (OPT_IN, OPT_OUT)
        for window in bounds
    ]
    acts += [model.Act(OPT_OUT, model.NEVER, t, ACTITO, "baseline", "x") for t in range(4)]
    for new, old in itertools.product(acts, acts):
        ours = (to_product(new), to_product(old), tolerance * TICK)
        assert certainly_later(*ours) is model.certainly_later(new, old, tolerance)
        assert prevails(*ours) is model.prevails(new, old, rules)


@settings(max_examples=500)
@given(
    acts=st.lists(any_acts(), max_size=8), tolerance=tolerances, baseline=st.sampled_from(BASELINES)
)
def test_any_history_is_learned_as_specified(acts, tolerance, baseline) -> None:
    """The newest act of each side, and the winner, after each act: repeated and merged ones too."""
    rules = model.Rules(clock_tolerance=tolerance, baseline=baseline)
    entry = model.Entry()
    sides: dict[str, Act | None] = dict.fromkeys(SIDES)
    for one in acts:
        model.learn(entry, one, rules)
        sides[one.side] = newest(sides[one.side], to_product(one))
        assert sides == {side: to_product(entry.acts.get(side)) for side in SIDES}
        won = winner(sides[ACTITO], sides[DIDOMI], tolerance * TICK, baseline)
        assert won == to_product(model.winner(entry, rules))


# Orders of arrival


@given(acts=st.sampled_from(SIDES).flatmap(event_lists))
def test_events_and_rows_of_one_side_may_come_in_any_order(acts) -> None:
    """What counts, and what it is compared by, is the same for all orders."""
    greatest = max(to_product(one).rank for one in acts)
    for order in itertools.permutations(acts):
        learned = fold(list(order))
        assert learned.rank == greatest
        assert learned.value is not greatest[1]


@given(
    acts=st.sampled_from(SIDES).flatmap(lambda side: event_lists(side, exact=True)), data=st.data()
)
def test_repetition_makes_no_difference(acts, data) -> None:
    """An input that is read again, in part or whole, changes nothing."""
    learned = fold(acts)
    again = data.draw(st.lists(st.sampled_from(acts), max_size=8))
    repeated = fold([*acts, *again])
    assert (repeated.value, repeated.rank) == (learned.value, learned.rank)


@given(actito=event_lists(ACTITO), didomi=event_lists(DIDOMI), tolerance=tolerances)
def test_the_winner_is_the_same_for_all_orders_of_both_sides(actito, didomi, tolerance) -> None:
    """On if both sides end on, or if one does, later than the other's opt-out for certain."""
    (one_time, one_out), (other_time, other_out) = sorted(
        (max(to_product(one).rank for one in acts) for acts in (actito, didomi)),
        key=lambda found: found[1],
    )
    expected = not one_out and (not other_out or one_time - other_time > tolerance * TICK)
    for first in itertools.permutations(actito):
        for second in itertools.permutations(didomi):
            won = winner(fold(list(first)), fold(list(second)), tolerance * TICK)
            assert won.value is expected


@settings(max_examples=300)
@given(rows=row_lists(), looks=look_lists())
def test_rows_may_come_at_any_time_between_looks(rows, looks) -> None:
    """Looks come in their sequence; what counts in the end is the same wherever the rows come."""
    values = {
        fold(order).value
        for some in itertools.permutations(rows)
        for order in interleavings(list(some), looks)
    }
    assert len(values) == 1


@given(acts=exact_lists)
def test_exact_timestamps_need_one_number(acts) -> None:
    """The later one counts, and at equal timestamps the opt-out; a fold by `rank` is enough."""
    newest_time = max(one.latest for one in acts)
    last = [one.value for one in acts if one.latest == newest_time]
    ranked = max(rank(one.value, at(one.latest), at(one.latest)) for one in acts)
    assert fold(acts).value is reduce(resolve_tie, last, None) is all(last)
    assert ranked == (at(newest_time), not all(last))


# Promises


@given(acts=st.lists(any_acts(), min_size=1, max_size=6), tolerance=tolerances, data=st.data())
def test_an_opt_in_wins_only_if_it_is_later_for_certain(acts, tolerance, data) -> None:
    """Whatever the true times within the windows are, no opt-out of the other side is as new."""
    sides = {side: fold([one for one in acts if one.side == side]) for side in SIDES}
    won = winner(sides[ACTITO], sides[DIDOMI], tolerance * TICK)
    if won is None or won.value is OPT_OUT:
        return
    other = sides[DIDOMI if won.side == ACTITO else ACTITO]
    if other is not None and other.value is OPT_OUT:
        share = data.draw(st.floats(0, 1))
        true_time = won.earliest + share * (won.latest - won.earliest)
        assert true_time > other.latest + tolerance * TICK


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_two_opt_ins_the_later_start_counts(order) -> None:
    """Minimal: compared by their ends, the opt-in in 5..10 could hide the one at 8."""
    acts = [act(OPT_IN, 8, 8), act(OPT_OUT, 4, 4), act(OPT_IN, 5, 10)]
    learned = fold([acts[n] for n in order])
    assert (learned.value, learned.earliest) == (OPT_IN, at(8))
    # Just 4 ticks after an opt-out of the other side, by the one at 8.
    other = to_product(act(OPT_OUT, 4, 4, ACTITO))
    assert winner(other, learned, 3 * TICK) is learned
    assert winner(other, learned, 4 * TICK) is other


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_tolerance_is_kept_between_the_sides_alone(order) -> None:
    """Minimal: with one winner for both sides, an opt-in 3 after an opt-out could win."""
    acts = [act(OPT_OUT, 2, 5, ACTITO), act(OPT_IN, 8, 11, DIDOMI), act(OPT_OUT, 6, 7, DIDOMI)]
    arrived = [acts[n] for n in order]
    sides = [fold([one for one in arrived if one.side == side]) for side in SIDES]
    assert sides[1].value is OPT_IN
    assert winner(*sides, 3 * TICK) == to_product(acts[0])
    assert winner(*sides, 2 * TICK) == sides[1]


def test_a_change_of_mind_on_one_side_counts_within_the_tolerance() -> None:
    """One clock gives the order there; between the sides the same two acts leave the opt-out."""
    out = to_product(act(OPT_OUT, 1, 1))
    back = to_product(act(OPT_IN, 2, 2))
    assert prevails(back, out, 10 * TICK)
    assert not prevails(back, to_product(act(OPT_OUT, 1, 1, ACTITO)), 10 * TICK)


def test_unknown_age_never_wins_for_an_opt_in() -> None:
    """Since the beginning of time: no arithmetic fails there, and an opt-out of any time stands."""
    unknown = Act(OPT_IN, BEGINNING, START, DIDOMI, "event")
    for earliest in (BEGINNING, START - 4000 * DAY):
        old = Act(OPT_OUT, earliest, earliest, ACTITO, "row")
        assert winner(old, unknown, 400 * DAY) is old


def test_a_baseline_decides_what_waits() -> None:
    """An opt-out of unknown age and an earlier opt-in in Didomi: as configured, or deferred."""
    off = Act(OPT_OUT, BEGINNING, START, ACTITO, "baseline")
    earlier = Act(OPT_IN, START - TICK, START - TICK, DIDOMI, "event")
    later = Act(OPT_IN, START + TICK, START + TICK, DIDOMI, "event")
    assert winner(off, earlier, 0, "opt_out") is off
    assert winner(off, earlier, 0, "didomi") is earlier
    assert winner(off, earlier, 0) is None
    assert winner(off, later, 0) is later


@given(st.datetimes(timezones=st.just(timezone.utc)))
def test_timestamps_come_back_as_they_were(timestamp) -> None:
    """To microseconds and back; what no datetime can hold becomes the nearest."""
    assert to_datetime(to_micros(timestamp)) == timestamp
    assert to_datetime(BEGINNING) == datetime.min.replace(tzinfo=timezone.utc)
    assert to_datetime(END) == datetime.max.replace(tzinfo=timezone.utc)


def test_a_repeated_act_never_loosens_bounds() -> None:
    """An opt-in in 1..1 and one in 0..2 are on from 1, also where the second is read again."""
    out = Act(OPT_OUT, START, START, DIDOMI, "event")
    first = Act(OPT_IN, START + TICK, START + TICK, DIDOMI, "event")
    second = Act(OPT_IN, START - TICK, START + 2 * TICK, DIDOMI, "event")
    learned: Act | None = None
    for one in (out, first, second, second, out):
        learned = newest(learned, one)
    assert learned == Act(OPT_IN, START + TICK, START + 2 * TICK, DIDOMI, "event")


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_the_baseline_decides_nothing_about_an_opt_out_that_is_known(order) -> None:
    """A row says that the person opted out; the first look sees it too, before or after."""
    acts = [
        Act(OPT_OUT, START, START + TICK, ACTITO, "row"),
        Act(OPT_OUT, BEGINNING, START + 9 * TICK, ACTITO, "baseline"),
    ]
    learned: Act | None = None
    for number in order:
        learned = newest(learned, acts[number])
    assert learned == Act(OPT_OUT, START, START + 9 * TICK, ACTITO, "row")
    earlier = Act(OPT_IN, START - TICK, START - TICK, DIDOMI, "event")
    assert winner(learned, earlier, 0, "didomi") is learned
