"""Write planning, for any changes and limits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.actito.imports import ZIP_OVERHEAD, cell, row_bytes
from actito_didomi.consent.coalesce import Field, ProfileChange, Value
from target_actito.plan import Limits, WritePlan, plan_writes

SUBSCRIPTIONS = [Field("subscription", name) for name in ("A", "B", "C", "D")]
NAME = Field("attribute", "firstName")


def change(number: int, values: dict[Field, object]) -> ProfileChange:
    found = {t: Value(v, v if isinstance(v, bool) else None) for t, v in sorted(values.items())}
    return ProfileChange(
        f"person-{number}",
        number,
        tuple(found),
        tuple(found.values()),
        any(v.opt_out for v in found.values()),
    )


values = st.one_of(
    st.dictionaries(st.sampled_from(SUBSCRIPTIONS), st.booleans(), min_size=1),
    st.fixed_dictionaries(
        {NAME: st.sampled_from(["", "Zoé", 'a;"b"'])}, optional={SUBSCRIPTIONS[0]: st.booleans()}
    ),
)
changes = st.lists(values, max_size=60).map(
    lambda found: [change(n, v) for n, v in enumerate(found, start=1)]
)
limits = st.builds(
    Limits,
    mode=st.sampled_from(["auto", "single", "bulk"]),
    threshold=st.sampled_from([1, 5, 20]),
    calls_per_minute=st.just(10),
    imports_left=st.integers(min_value=0, max_value=6),
    max_bytes=st.sampled_from([1500, 100_000_000]),
    mixed_columns=st.booleans(),
    may_create=st.booleans(),
    max_single_minutes=st.sampled_from([0, 1, 60]),
)


def places(parts) -> Counter[tuple[str, Field, Value]]:
    return Counter((p.person, t, v) for p in parts for t, v in zip(p.fields, p.values, strict=True))


def parts(plan: WritePlan) -> list[ProfileChange]:
    rows = [c for file in plan.files for c in file.changes]
    return [*plan.opt_out_singles, *rows, *plan.other_singles, *plan.deferred]


@given(changes, limits)
def test_every_value_is_in_exactly_one_place(found, given_limits) -> None:
    """Nothing is forgotten, and nothing is written twice."""
    assert places(parts(plan_writes(found, given_limits))) == places(found)


@given(changes, limits)
def test_a_file_holds_one_set_of_columns_unless_told_otherwise(found, given_limits) -> None:
    """An empty cell may clear a value; an empty text never stands in a file."""
    for file in plan_writes(found, given_limits).files:
        sets = {c.fields for c in file.changes}
        if given_limits.mixed_columns:
            assert all(set(columns) <= set(file.columns) for columns in sets)
        else:
            assert sets == {file.columns}
        assert all(v.value != "" for c in file.changes for v in c.values)
        people = [c.person for c in file.changes]
        assert len(people) == len(set(people))


@given(changes, limits)
def test_no_plan_exceeds_the_limits(found, given_limits) -> None:
    """Not in imports, bytes, or minutes of single requests for want of imports."""
    plan = plan_writes(found, given_limits)
    assert len(plan.files) <= given_limits.imports_left
    if given_limits.mode == "single":
        assert not plan.files
        assert not plan.deferred
    for file in plan.files:
        size = ZIP_OVERHEAD + row_bytes([t.name for t in file.columns])
        size += sum(row_bytes([c.person, *(cell(v.value) for v in c.values)]) for c in file.changes)
        assert size <= given_limits.max_bytes or len(file.changes) == 1
    if plan.deferred:
        assert len(plan.deferred) > given_limits.max_single_minutes * given_limits.calls_per_minute
        assert not plan.other_singles


@given(changes, limits)
def test_opt_outs_never_wait_behind_others(found, given_limits) -> None:
    """Single requests with opt-outs go first, then files with opt-outs, whose rows go first too."""
    plan = plan_writes(found, given_limits)
    assert all(c.opt_out for c in plan.opt_out_singles)
    assert not any(c.opt_out for c in [*plan.other_singles, *plan.deferred])
    flags = [file.opt_out for file in plan.files]
    assert flags == sorted(flags, reverse=True)
    for file in plan.files:
        rows = [c.opt_out for c in file.changes]
        assert rows == sorted(rows, reverse=True)
        assert file.opt_out == any(rows)


@given(changes, limits)
def test_rows_that_may_create_stay_in_one_piece(found, given_limits) -> None:
    """A new profile needs all its values at once."""
    if given_limits.may_create:
        assert {p.person: p.values for p in parts(plan_writes(found, given_limits))} == {
            c.person: c.values for c in found
        }


@given(changes, limits)
def test_the_estimate_is_consistent(found, given_limits) -> None:
    """Calls are those of the plan, and more calls never take less time."""
    plan = plan_writes(found, given_limits)
    assert plan.requests == len(plan.opt_out_singles) + len(plan.other_singles) + 2 * len(
        plan.files
    )
    assert plan.seconds >= (plan.requests - plan.calls_per_minute) * 60 / plan.calls_per_minute
    assert (plan.seconds == 0) == (plan.requests <= plan.calls_per_minute and not plan.files)
    assert f"{plan.requests:,} request(s)" in plan.to_text()


@given(changes, limits)
def test_auto_never_costs_more_than_single_calls(found, given_limits) -> None:
    """With an import at `threshold` requests, the plan costs no more than single requests alone."""
    if given_limits.mode == "auto" and given_limits.max_bytes > 1500:
        plan = plan_writes(found, given_limits)
        cost = len(plan.files) * given_limits.threshold + plan.singles + len(plan.deferred)
        assert cost <= len(found)


def test_few_changes_go_by_single_calls_and_many_by_one_import() -> None:
    """The threshold decides."""
    found = [change(n, {SUBSCRIPTIONS[0]: True}) for n in range(201)]
    assert plan_writes(found[:200], Limits()).singles == 200
    assert [len(f.changes) for f in plan_writes(found, Limits()).files] == [201]


def test_many_sets_of_columns_are_spread_over_a_file_a_column() -> None:
    """Fifteen sets of four columns take four imports, and no single request."""
    found = [
        change(n, {s: True for bit, s in enumerate(SUBSCRIPTIONS) if (n % 15 + 1) >> bit & 1})
        for n in range(15_000)
    ]
    plan = plan_writes(found, Limits())
    assert (len(plan.files), plan.singles) == (4, 0)


def test_small_sets_of_columns_go_by_single_calls() -> None:
    """One import for the many; the few would cost imports."""
    found = [change(n, {SUBSCRIPTIONS[0]: True}) for n in range(5000)]
    found += [change(5000 + n, {NAME: "Ann", SUBSCRIPTIONS[1]: False}) for n in range(50)]
    plan = plan_writes(found, Limits())
    assert ([len(f.changes) for f in plan.files], len(plan.opt_out_singles)) == ([5000], 50)


def test_a_plan_is_quick_for_many_sets() -> None:
    """Hundreds of sets over many columns are planned, not enumerated."""
    targets = [Field("attribute", f"a{n}") for n in range(16)]
    found = [
        change(
            n, {t: "x" for bit, t in enumerate(targets) if n * 2654435761 >> bit & 1} or {NAME: "y"}
        )
        for n in range(3000)
    ]
    plan = plan_writes(found, Limits())
    assert places(parts(plan)) == places(found)
    assert len(plan.files) <= 24


def test_an_import_saves_more_requests_than_its_look_takes() -> None:
    """Of a table of 1,000,000 profiles, in which each single request has a look of its own."""
    found = [change(n, {SUBSCRIPTIONS[0]: False}) for n in range(501)]
    large = Limits(look_requests=1_001)
    assert plan_writes(found[:500], large).files == []
    assert len(plan_writes(found, large).files) == 1
    assert len(plan_writes(found[:201], Limits(look_requests=3)).files) == 1
