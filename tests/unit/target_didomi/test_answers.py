"""How choices from Actito and Didomi are settled, for any history."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import assume, given
from hypothesis import strategies as st

from actito_didomi.consent.choices import ConsentChoices, read_choices, to_consents
from actito_didomi.consent.conflicts import Window
from actito_didomi.sandbox.didomi_state import empty_consents, merge_consents
from target_didomi.answers import (
    LONG_AGO,
    Past,
    Status,
    Verdict,
    differs,
    expand,
    merge,
    settle,
    timestamp_to_post,
)

START = datetime(2026, 10, 1, tzinfo=timezone.utc)
EMAIL = ("consents", "channels", "email", "enabled")
ids = st.sampled_from(["a", "b", "a_b", "é"])
timestamps = st.integers(0, 12).map(lambda hours: START + timedelta(hours=hours))
windows = st.tuples(timestamps, timestamps, st.booleans()).map(
    lambda w: Window(max(w[0], w[1]), min(w[0], w[1]) if w[2] and w[0] != w[1] else None)
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


def past_of(history: list[tuple[datetime, bool]]) -> tuple[Status, list[Past]]:
    """Make what Didomi holds of one choice; at equal timestamps the later entry counts."""
    past = [
        Past(str(n), timestamp, ConsentChoices({EMAIL: choice}))
        for n, (timestamp, choice) in enumerate(history)
    ]
    newest = max(history, key=lambda said: said[0], default=None)
    last = [c for m, c in history if newest and m == newest[0]]
    held = {EMAIL: last[-1]} if last else {}
    return Status(ConsentChoices(held), newest[0] if newest else LONG_AGO), past


histories = st.lists(st.tuples(timestamps, st.booleans()), max_size=6)


@given(history=histories, choice=st.booleans(), window=windows)
def test_settling_keeps_its_promises(history, choice, window) -> None:
    """Equal is left out, newer stays, and in doubt the opt-out wins: as told by an oracle."""
    status, past = past_of(history)
    verdict = settle(EMAIL, choice, window, status, past)
    if status.choices.says(EMAIL) is choice:
        assert verdict is Verdict.EQUAL
        return
    if not history:
        assert verdict is Verdict.WRITE
        return
    newest = max(timestamp for timestamp, _ in history)
    earliest = window.after or window.until
    certain = newest <= earliest if window.after else newest < earliest
    if newest > window.until:
        assert verdict is Verdict.NEWER
    elif certain or not choice:
        assert verdict is Verdict.WRITE
    elif any(not said for timestamp, said in history if timestamp == newest):
        assert verdict is Verdict.TIED


@given(history=histories, window=windows)
def test_an_opt_in_never_goes_over_an_opt_out_that_may_be_newer(history, window) -> None:
    """Whichever timestamp of the window was the true one."""
    status, past = past_of(history)
    if settle(EMAIL, True, window, status, past) is Verdict.WRITE and history:
        newest = max(timestamp for timestamp, _ in history)
        for timestamp, said in history:
            if not said and timestamp == newest:
                assert timestamp <= window.after if window.after else timestamp < window.until


@given(history=histories, window=windows)
def test_an_opt_out_is_left_out_only_for_a_newer_opt_in(history, window) -> None:
    """Or where it holds already."""
    status, past = past_of(history)
    if settle(EMAIL, False, window, status, past) is not Verdict.WRITE:
        assert status.choices.says(EMAIL) is False or max(m for m, _ in history) > window.until


@given(choices=all_choices, others=values)
def test_choices_are_read_as_they_are_written(choices, others) -> None:
    """Events say what was meant, in either form of values."""
    consents = to_consents(choices.single.items(), choices.answers.items())
    assert read_choices(consents) == choices
    assert read_choices(to_consents(others.items())).single == others


@given(state=all_choices, wanted=st.builds(lambda s, v: {**s, **v}, singles, values))
def test_what_is_written_holds_afterwards_and_nothing_else_changes(state, wanted) -> None:
    """In Didomi's own merging; and nothing is left to write then."""
    status = Status(state, START)
    written = {p: c for p, c in wanted.items() if differs(p, c, status)}
    before = merge_consents(
        empty_consents(), to_consents(state.single.items(), state.answers.items())
    )
    said = merge(written, status, frozenset())
    after = read_choices(
        merge_consents(before, to_consents(said.single.items(), said.answers.items()))
    )
    assert after == state.after(said)
    now = Status(after, START)
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
    status = Status(state, START)
    assume(differs(preference, choice, status))
    said = merge({preference: choice}, status, single)
    assert said.answers[preference[:-1]] == ((preference[-1],) if choice else ())


@given(state=all_choices, given_answers=answers)
def test_a_whole_answer_says_what_is_not_chosen_too(state, given_answers) -> None:
    """Written to its end, it is the answer that holds."""
    status = Status(state, START)
    wanted = expand(ConsentChoices({}, given_answers), status)
    written = {p: c for p, c in wanted.items() if differs(p, c, status)}
    after = state.after(merge(written, status, frozenset()))
    for path, answer in given_answers.items():
        assert set(after.answers.get(path, ())) == set(answer)


@given(window=windows, history=st.lists(timestamps, max_size=5))
def test_what_is_posted_has_a_moment_of_its_own(window, history) -> None:
    """So that Didomi applies it behind what it was settled against."""
    past = [Past("x", timestamp, ConsentChoices()) for timestamp in history]
    timestamp = timestamp_to_post(window, past)
    assert timestamp not in history
    assert window.until <= timestamp <= window.until + timedelta(milliseconds=len(history))
