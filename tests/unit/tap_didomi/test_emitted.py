"""What was emitted after the bookmark is not emitted again."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from tap_didomi.emitted import EmittedRecords

START = datetime(2026, 10, 1, tzinfo=timezone.utc)


def later(minutes: int) -> datetime:
    """Return a timestamp."""
    return START + timedelta(minutes=minutes)


def merged(state: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a state with changes, as a stream sets them."""
    return {k: v for k, v in {**state, **changes}.items() if v is not None}


def test_a_version_is_new_once() -> None:
    """The next scan knows it by its id; another version is new again."""
    first = EmittedRecords({})
    assert first.is_new("a", "1", later(10), floor=later(5))
    state = merged({}, first.finish(later(5)))
    assert set(state) == {"emitted"}
    second = EmittedRecords(state)
    assert not second.is_new("a", "1", later(10), floor=later(5))
    assert second.is_new("a", "2", later(11), floor=later(5))


def test_a_scan_that_is_resumed_remembers_its_first_part() -> None:
    """What it emitted before it stopped counts once the scan has ended."""
    first = EmittedRecords({})
    first.is_new("a", "1", later(10), floor=later(5))
    state = merged({}, first.checkpoint())
    resumed = EmittedRecords(state)
    resumed.is_new("b", "1", later(10), floor=later(5))
    state = merged(state, resumed.finish(later(5)))
    assert set(state["emitted"]) == {"a", "b"}
    assert "emitting" not in state


def test_what_is_older_than_the_bookmark_is_forgotten() -> None:
    """The bookmark holds it back already; without a bookmark nothing is forgotten."""
    first = EmittedRecords({})
    first.is_new("old", "1", later(1), floor=later(0))
    first.is_new("new", "1", later(10), floor=later(0))
    state = merged({}, first.finish(later(5)))
    assert set(state["emitted"]) == {"new"}
    assert merged(state, EmittedRecords(state).finish(None)) == state


def test_the_state_is_bounded() -> None:
    """Beyond 2,000 records all are emitted again, and the state stays small."""
    records = EmittedRecords({})
    for number in range(2500):
        assert records.is_new(str(number), "1", later(10), floor=later(5))
    assert len(records.finish(later(5))["emitted"]) <= 2000
