"""Coalescing: rules of meaning 1 and 3, for any input."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.coalesce import Collector, Field, ProfileChange, Value

A = Field("subscription", "A")
B = Field("subscription", "B")
NAME = Field("attribute", "firstName")

MOMENTS = [datetime(2026, 10, day, tzinfo=timezone.utc) for day in range(1, 7)]
timestamps = st.sampled_from(MOMENTS)
choices = st.builds(lambda m, c: Value(m, c, c), timestamps, st.booleans())
arrivals = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cy"]), st.sampled_from([A, B]), choices), max_size=30
)


def collect(items: list[tuple[str, Field, Value]]) -> Collector:
    collector = Collector()
    for number, (person, target, value) in enumerate(items, start=1):
        collector.add(person, number, [(target, value)])
    return collector


def result(changes: list[ProfileChange]) -> dict[str, dict[Field, Value]]:
    return {change.person: by_target(change) for change in changes}


def by_target(change: ProfileChange) -> dict[Field, Value]:
    return dict(zip(change.fields, change.values, strict=True))


@given(arrivals, st.randoms(use_true_random=False))
def test_any_order_of_the_same_choices_gives_the_same_result(items, rng) -> None:
    """Order of arrival changes nothing for choices."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    assert result(collect(items).take()) == result(collect(shuffled).take())


@given(arrivals)
def test_newest_wins_and_opt_out_breaks_ties(items) -> None:
    """Each target ends with its newest choice, and with the opt-out where timestamps are equal."""
    expected: dict[str, dict[Field, Value]] = {}
    for person in {p for p, _, _ in items}:
        for target in {t for p, t, _ in items if p == person}:
            values = [v for p, t, v in items if (p, t) == (person, target)]
            newest = max(v.timestamp for v in values)
            chosen = all(v.choice for v in values if v.timestamp == newest)
            expected.setdefault(person, {})[target] = Value(newest, chosen, chosen)
    assert result(collect(items).take()) == expected


@given(arrivals, st.integers(min_value=0, max_value=30))
def test_writing_in_between_does_not_change_what_is_written_last(items, cut) -> None:
    """An older choice that comes after a newer one was written is still the older one."""
    whole = result(collect(items).take())
    collector = Collector()
    written: dict[str, dict[Field, Value]] = {}
    for number, (person, target, value) in enumerate(items, start=1):
        if number == cut:
            for change in collector.take():
                written.setdefault(change.person, {}).update(by_target(change))
        collector.add(person, number, [(target, value)])
    for change in collector.take():
        written.setdefault(change.person, {}).update(by_target(change))
    assert written == whole


@given(arrivals)
def test_opt_outs_are_handed_out_first(items) -> None:
    """No change with an opt-out waits behind one without."""
    opt_outs = [change.opt_out for change in collect(items).take()]
    assert opt_outs == sorted(opt_outs, reverse=True)


@given(arrivals)
def test_the_oldest_waiting_record_is_known(items) -> None:
    """`oldest` is the least number that any waiting change holds something of."""
    collector = collect(items)
    oldest = collector.oldest
    changes = collector.take()
    assert oldest == min((change.first_record for change in changes), default=None)
    assert collector.oldest is None
    assert collector.waiting == 0


def test_a_text_at_the_same_moment_is_the_one_that_came_last() -> None:
    """Of two values that are no choices the later arrival wins a tie."""
    items = [("ann", NAME, Value(MOMENTS[1], text, None)) for text in ("Ann", "Anna")]
    assert result(collect(items).take())["ann"][NAME].value == "Anna"


def test_people_without_any_choice_are_counted_as_unchanged() -> None:
    """A record without choices makes no change, but its person counts."""
    collector = Collector()
    collector.add("ann", 1, [])
    collector.add("bob", 2, [(A, Value(MOMENTS[1], True, True))])
    assert (collector.people, collector.people_unchanged) == (2, 1)
    assert [change.person for change in collector.take()] == ["bob"]


def test_what_is_written_already_is_not_handed_out() -> None:
    """Nor counted as changed, also where something was handed out before."""
    collector = Collector()
    target = Field("subscription", "A")
    timestamps = [datetime(2026, 10, 1, hour, tzinfo=timezone.utc) for hour in range(5)]
    collector.add("ann", 1, [(target, Value(timestamps[0], True, True))])
    collector.add("ann", 2, [(target, Value(timestamps[1], False, False))], written=True)
    assert (collector.waiting, collector.oldest, collector.people_unchanged) == (0, None, 1)
    assert collector.take() == []
    collector.add("ann", 3, [(target, Value(timestamps[2], True, True))])
    assert (collector.oldest, collector.people_unchanged) == (3, 0)
    assert [change.first_record for change in collector.take()] == [3]
    collector.add("ann", 4, [(target, Value(timestamps[3], False, False))])
    assert collector.oldest == 4
    collector.add("ann", 5, [(target, Value(timestamps[4], True, True))], written=True)
    assert (collector.waiting, collector.people_unchanged) == (0, 0)
    collector.add("ann", 6, [(target, Value(timestamps[0], False, False))])
    assert collector.take() == [], "it is older than what Actito holds"
