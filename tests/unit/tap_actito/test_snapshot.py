"""The snapshot: what was found is stored before it is emitted, and one run moves it at a time."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from actito_didomi.actito.changes import SubscriptionChange
from actito_didomi.actito.listing import Profile
from actito_didomi.errors import SettingsError
from actito_didomi.runtime import Runtime
from tap_actito.snapshot import Snapshot

NOW = datetime(2026, 10, 1, 10, tzinfo=timezone.utc)
PROFILES = [Profile(1, {"key": "ann"}, {"News": True}, {}), Profile(2, {}, {"News": False}, {})]


def change(number: int) -> SubscriptionChange:
    """Make a change."""
    return SubscriptionChange(number, "ann", "News", subscribed=False, changed_at=NOW,
                              changed_after=None, source="api")  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own."""
    return f"sqlite:///{tmp_path / 'snapshot.db'}"


def open_snapshot(url: str) -> Snapshot:
    """Open the snapshot as another run does."""
    return Snapshot(url, "scope", Runtime())


def test_what_is_stored_is_pending_until_it_is_forgotten(url: str) -> None:
    """Also for a later run, which knows the states of the last look."""
    first = open_snapshot(url)
    rows = first.rows([*PROFILES, PROFILES[0]])
    assert [row.before for row in rows] == [None, None]
    numbered = first.store(rows, [{"News": True}, {"News": False}], [change(1), change(2)], NOW)
    assert [number for number, _ in numbered] == [1, 2]
    first.close()
    later = open_snapshot(url)
    assert later.pending(0) == numbered
    assert [(r.before, r.last_look) for r in later.rows(PROFILES)] == [
        ({"News": True}, NOW),
        ({"News": False}, NOW),
    ]
    later.forget(1)
    assert later.pending(0) == numbered[1:]


def test_what_was_read_and_not_stored_is_found_again(url: str) -> None:
    """A run that is killed between the two leaves the snapshot as it was."""
    killed = open_snapshot(url)
    killed.rows(PROFILES)
    later = open_snapshot(url)
    assert [row.before for row in later.rows(PROFILES)] == [None, None]
    assert later.pending(0) == []


@pytest.mark.parametrize("changes", [[], [change(1)]])
def test_of_two_runs_at_the_same_time_one_ends(url: str, changes: list[SubscriptionChange]) -> None:
    """It would compare with states that no longer hold; nothing of it is stored."""
    states = [{"News": True}, {"News": False}]
    first, second = open_snapshot(url), open_snapshot(url)
    rows, same_rows = first.rows(PROFILES), second.rows(PROFILES)
    first.store(rows, states, changes, NOW)
    with pytest.raises(SettingsError, match="snapshot_url: another run"):
        second.store(same_rows, [{"News": False}] * 2, [change(7)], NOW)
    third = open_snapshot(url)
    assert [c for _, c in third.pending(0)] == changes
    assert [row.before for row in third.rows(PROFILES)] == states
