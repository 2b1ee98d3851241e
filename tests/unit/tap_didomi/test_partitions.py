"""How far the bookmark of an export may move."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from actito_didomi.didomi.exports import Partition
from actito_didomi.files import ListedFile
from tap_didomi.partitions import Progress

START = date(2026, 10, 1)
LATE_DAYS = 5


def day_of(number: int) -> str:
    """Return a day."""
    return (START + timedelta(days=number)).isoformat()


steps = st.lists(
    st.tuples(
        st.integers(0, 12),  # day
        st.integers(0, 2),  # file
        st.integers(0, 2),  # its size; 0 is an empty file
        st.booleans(),  # whether _SUCCESS is there
        st.booleans(),  # whether a run follows
        st.booleans(),  # whether its STATE comes back
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(steps)
def test_whatever_comes_in_whatever_order_is_read_and_never_passed(
    history: list[tuple[int, int, int, bool, bool, bool]],
) -> None:
    """Of finished days that aren't older than `late_days`, every file is read in the end."""
    there: dict[str, dict[int, int]] = {}
    closed: set[str] = set()
    read: set[tuple[str, ListedFile]] = set()
    state: dict[str, dict[str, object]] = {}

    def partitions() -> list[Partition]:
        return [
            Partition(
                "e",
                day,
                tuple(
                    ListedFile(f"{day}/{name}", str(name), size, str(size))
                    for name, size in sorted(files.items())
                ),
                (),
                day in closed,
            )
            for day, files in sorted(there.items())
        ]

    def run(*, comes_back: bool) -> None:
        nonlocal state
        listed = partitions()
        progress = Progress.from_state(state, "e", LATE_DAYS, "")
        before = progress.bookmark
        for reading in progress.plan(listed, skips=False):
            read.update((reading.partition.date, file) for file in reading.files)
            progress.finish(reading, [])
        assert progress.bookmark >= before
        after = {"exports": {"e": progress.bookmark}, "files": {"e": dict(progress.marks)}}
        newest = max(there)
        floor = (date.fromisoformat(newest) - timedelta(days=LATE_DAYS)).isoformat()
        for partition in listed:
            if partition.complete and (partition.date >= floor or partition.date > before):
                wanted = {(partition.date, file) for file in partition.files if file.size}
                assert wanted <= read
            if before < partition.date <= progress.bookmark:
                assert partition.complete
                assert all(file.size for file in partition.files)
        days = {p.date for p in listed}
        passed = [day_of(n) for n in range(13) if before < day_of(n) <= progress.bookmark]
        assert all(day in days or day < max(floor, min(days)) for day in passed)
        again = Progress.from_state(after, "e", LATE_DAYS, "")
        assert not any(reading.files for reading in again.plan(listed, skips=False))
        if comes_back:
            state = after
        else:
            read.clear()
            read.update(known)

    known: set[tuple[str, ListedFile]] = set()
    for number, name, size, success, runs, comes_back in history:
        there.setdefault(day_of(number), {})[name] = size
        if success:
            closed.add(day_of(number))
        if runs:
            run(comes_back=comes_back)
            if comes_back:
                known = set(read)
