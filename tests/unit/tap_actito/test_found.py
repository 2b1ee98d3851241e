"""Numbered changes, as the streams emit them."""

from __future__ import annotations

from actito_didomi.consent.looks import FoundChange
from tap_actito.found import to_change, whole_groups


def found(person: str, name: str = "Newsletter", earliest: int = 1, latest: int = 2) -> FoundChange:
    """Return a change."""
    path = ("consents", "channels", name, "enabled")
    return FoundChange(person, "7", "subscription", name, path, True, earliest, latest, True)


def test_changes_that_may_be_one_event_with_later_ones_wait() -> None:
    """So the same changes make the same events, from whatever number on they are read."""
    changes = [(1, found("ann")), (2, found("bob")), (3, found("bob", "Surveys"))]
    assert whole_groups(changes) == changes[:1]
    assert whole_groups(changes[1:]) == []


def test_a_window_has_both_ends_and_a_point_one() -> None:
    """`changed_after` stands only where a window is known."""
    window, point = to_change(found("ann")), to_change(found("", earliest=2))
    assert window.changed_after is not None
    assert window.changed_after < window.changed_at
    assert (point.changed_after, point.person, point.profile_id) == (None, None, 7)
