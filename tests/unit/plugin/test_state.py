"""State barriers, for any order in which records are acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.plugin.state import StateBarriers, Unacknowledged


@given(
    st.lists(st.sampled_from("RS"), max_size=30),
    st.randoms(use_true_random=False),
)
def test_each_state_leaves_once_in_order_and_only_after_its_records(script, rng) -> None:
    """Whatever is acknowledged first, no STATE passes a record before it, and none is lost."""
    barriers, records = StateBarriers(), 0
    expected: dict[int, int] = {}
    for number, kind in enumerate(script):
        if kind == "R":
            records += 1
        else:
            barriers.add(number, after=records)
            expected[number] = records
    order = list(range(1, records + 1))
    rng.shuffle(order)
    unacknowledged = Unacknowledged(range(1, records + 1))
    acknowledged: set[int] = set()
    printed = barriers.release(unacknowledged.oldest)
    assert all(expected[s] == 0 for s in printed)
    for record in order:
        unacknowledged.acknowledge(record)
        acknowledged.add(record)
        due = barriers.release(unacknowledged.oldest)
        assert all(set(range(1, expected[s] + 1)) <= acknowledged for s in due)
        printed += due
    assert printed == sorted(expected)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_numbers_that_occur_twice_are_acknowledged_twice(numbers, rng) -> None:
    """Two changes may begin with the same record; both must be acknowledged."""
    unacknowledged, left = Unacknowledged(numbers), sorted(numbers)
    rng.shuffle(numbers)
    for number in numbers:
        assert unacknowledged.oldest == left[0]
        unacknowledged.acknowledge(number)
        left.remove(number)
    assert unacknowledged.oldest is None
