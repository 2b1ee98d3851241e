"""Which choices from Actito are written over what Didomi holds, for any history."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import assume, given
from hypothesis import strategies as st

from actito_didomi.consent.choices import ConsentChoices, read_choices, to_consents
from actito_didomi.consent.conflicts import (
    ACTITO,
    DIDOMI,
    Act,
    certainly_later,
    newest,
    to_micros,
    winner,
)
from actito_didomi.sandbox.didomi_state import empty_consents, merge_consents
from target_didomi.answers import (
    Decision,
    HeldEvent,
    HeldStatus,
    decide,
    differs,
    expand,
    latest_user,
    merge,
    read_status,
)
from target_didomi.events import timestamp_to_post

START = datetime(2026, 10, 1, tzinfo=timezone.utc)
EMAIL = ("consents", "channels", "email", "enabled")
ids = st.sampled_from(["a", "b", "a_b", "é"])
timestamps = st.integers(0, 12).map(lambda hours: START + timedelta(hours=hours))
windows = st.one_of(
    timestamps.map(lambda t: (t, t)),
    st.tuples(timestamps, timestamps).map(lambda w: (min(w), max(w))),
)
single_paths = st.one_of(
    ids.map(lambda i: ("consents", "channels", i, "enabled")),
    st.tuples(ids, st.sampled_from(["enabled", "enabled_li"])).map(
        lambda p: ("consents", "purposes", *p)
    ),
    st.tuples(ids, ids).map(
        lambda p: ("consents", "purposes", p[0], "preferences", p[1], "enabled")
    ),
    st.tuples(ids, ids).map(lambda p: ("consents", "purposes", p[0], "channels", p[1], "enabled")),
    st.tuples(ids, st.sampled_from(["enabled", "enabled_li"])).map(
        lambda p: ("consents", "vendors", *p)
    ),
)
value_paths = st.tuples(ids, ids, ids).map(
    lambda p: ("consents", "purposes", p[0], "values", p[1], p[2])
)
singles = st.dictionaries(single_paths, st.booleans(), max_size=5)
values = st.dictionaries(value_paths, st.booleans(), max_size=5)
answers = st.dictionaries(
    value_paths.map(lambda p: p[:-1]),
    st.lists(ids, unique=True).map(tuple),
    max_size=3,
)
all_choices = st.builds(ConsentChoices, singles, answers)


def act_of(choice: bool, window: tuple[datetime, datetime]) -> Act:
    """Return a choice made in Actito."""
    return Act(choice, *map(to_micros, window), ACTITO, "row")


def held_of(history: list[tuple[datetime, bool]]) -> tuple[HeldStatus, list[HeldEvent]]:
    """Return what Didomi holds of one choice; at equal timestamps the later entry counts."""
    events = [
        HeldEvent(str(n), timestamp, ConsentChoices({EMAIL: choice}))
        for n, (timestamp, choice) in enumerate(history)
    ]
    newest_entry = max(history, key=lambda entry: entry[0], default=None)
    last = [c for t, c in history if newest_entry and t == newest_entry[0]]
    held = {EMAIL: last[-1]} if last else {}
    return HeldStatus(ConsentChoices(held), newest_entry and newest_entry[0]), events


histories = st.lists(st.tuples(timestamps, st.booleans()), max_size=6)


@given(history=histories, choice=st.booleans(), window=windows)
def test_decisions_keep_their_promises(history, choice, window) -> None:
    """Present is left out, newer stays, and in doubt the opt-out counts: as an oracle says."""
    status, events = held_of(history)
    decision = decide(EMAIL, act_of(choice, window), status, events)
    if status.choices.says(EMAIL) is choice:
        assert decision is Decision.PRESENT
        return
    if not history:
        assert decision is Decision.WRITE
        return
    last = max(timestamp for timestamp, _ in history)
    earliest, latest = window
    if last > latest:
        assert decision is Decision.NEWER
    elif last < earliest or not choice:
        assert decision is Decision.WRITE
    elif any(not said for timestamp, said in history if timestamp == last):
        assert decision is Decision.OPT_OUT


@given(history=histories, choice=st.booleans(), window=windows)
def test_what_is_written_is_what_wins(history, choice, window) -> None:
    """By the one rule, over all that both sides hold; what differs is written if it wins."""
    status, events = held_of(history)
    act = act_of(choice, window)
    held = None
    for event in events:
        said, when = event.choices.single[EMAIL], to_micros(event.timestamp)
        held = newest(held, Act(said, when, when, DIDOMI, "event"))
    decision = decide(EMAIL, act, status, events)
    won = winner(act, held, 0)
    if decision is Decision.WRITE:
        assert won.value is choice
    elif decision is not Decision.PRESENT:
        assert won is held
        assert (decision is Decision.NEWER) is (
            held.value is choice or certainly_later(held, act, 0)
        )


@given(history=histories, window=windows)
def test_an_opt_in_never_goes_over_an_opt_out_that_may_be_newer(history, window) -> None:
    """Whichever timestamp of the window was the true one."""
    status, events = held_of(history)
    decision = decide(EMAIL, act_of(True, window), status, events)
    if decision is Decision.WRITE and history:
        last = max(timestamp for timestamp, _ in history)
        for timestamp, said in history:
            if not said and timestamp == last:
                assert timestamp < window[0]


@given(history=histories, window=windows)
def test_an_opt_out_is_left_out_only_for_a_newer_opt_in(history, window) -> None:
    """Or where it holds already."""
    status, events = held_of(history)
    if decide(EMAIL, act_of(False, window), status, events) is not Decision.WRITE:
        assert status.choices.says(EMAIL) is False or max(t for t, _ in history) > window[1]


@given(held=st.booleans(), window=windows, changed=st.one_of(st.none(), timestamps))
def test_a_status_without_an_event_is_of_unknown_age(held, window, changed) -> None:
    """An opt-out goes over it at any time, an opt-in only if it is later than its last change."""
    status = HeldStatus(ConsentChoices({EMAIL: held}), changed)
    decision = decide(EMAIL, act_of(not held, window), status, [])
    if held or (changed is not None and changed < window[0]):
        assert decision is Decision.WRITE
    else:
        assert decision is Decision.OPT_OUT


def test_the_user_that_changed_last_says_what_holds() -> None:
    """One without a timestamp comes before all others; without a user nothing is held."""
    times = ["2026-10-02T00:00:00Z", None, "2026-10-03T00:00:00Z", "2026-10-01T00:00:00Z"]
    users = [{"id": n, **({"updated_at": time} if time else {})} for n, time in enumerate(times)]
    assert latest_user(users)["id"] == 2
    assert latest_user(users[1:2])["id"] == 1
    assert latest_user([]) == {}
    assert read_status({}) == HeldStatus(ConsentChoices(), None)


@given(choices=all_choices, others=values)
def test_choices_are_read_as_they_are_written(choices, others) -> None:
    """Events say what was meant, in either form of values."""
    consents = to_consents(choices.single.items(), choices.answers.items())
    assert read_choices(consents) == choices
    assert read_choices(to_consents(others.items())).single == others


@given(state=all_choices, wanted=st.builds(lambda s, v: {**s, **v}, singles, values))
def test_what_is_written_holds_afterwards_and_nothing_else_changes(state, wanted) -> None:
    """In Didomi's own merging; and nothing is left to write then."""
    status = HeldStatus(state, START)
    written = {p: c for p, c in wanted.items() if differs(p, c, status)}
    before = merge_consents(
        empty_consents(), to_consents(state.single.items(), state.answers.items())
    )
    said = merge(written, status, frozenset())
    after = read_choices(
        merge_consents(before, to_consents(said.single.items(), said.answers.items()))
    )
    assert after == state.after(said)
    now = HeldStatus(after, START)
    assert not any(differs(path, choice, now) for path, choice in wanted.items())
    for path, choice in state.single.items():
        assert after.single[path] is wanted.get(path, choice)
    for path, answer in state.answers.items():
        for value in answer:
            assert (value in after.answers[path]) is wanted.get((*path, value), True)


@given(state=all_choices, preference=value_paths, choice=st.booleans())
def test_where_one_value_may_be_chosen_there_is_never_another(state, preference, choice) -> None:
    """A new one takes the place of the old."""
    single = frozenset({preference[4]})
    assume(len(state.answers.get(preference[:-1], ())) <= 1)
    status = HeldStatus(state, START)
    assume(differs(preference, choice, status))
    said = merge({preference: choice}, status, single)
    assert said.answers[preference[:-1]] == ((preference[-1],) if choice else ())


@given(state=all_choices, given_answers=answers)
def test_a_whole_answer_says_what_is_not_chosen_too(state, given_answers) -> None:
    """Written to its end, it is the answer that holds."""
    status = HeldStatus(state, START)
    wanted = expand(ConsentChoices({}, given_answers), status)
    written = {p: c for p, c in wanted.items() if differs(p, c, status)}
    after = state.after(merge(written, status, frozenset()))
    for path, answer in given_answers.items():
        assert set(after.answers.get(path, ())) == set(answer)


@given(latest=timestamps, history=st.sets(timestamps, max_size=5))
def test_what_is_posted_has_a_timestamp_of_its_own(latest, history) -> None:
    """So that Didomi applies it after the events that it was compared with."""
    steps = {latest + timedelta(milliseconds=n) for n in range(len(history))}
    for held in (history, history | steps):
        timestamp = timestamp_to_post(latest, held)
        assert timestamp not in held
        assert latest <= timestamp <= latest + timedelta(milliseconds=len(held))
