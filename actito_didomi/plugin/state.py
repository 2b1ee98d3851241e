"""STATE messages as barriers: each is emitted once everything before it is acknowledged.

A record is acknowledged when what it says is written, rejected durably or skipped. Records are
numbered from 1 in the order of their arrival.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable


LEDGER = "ledger"
"""The key under which our taps put the id of their ledger into the state of a stream."""


def ledger_ids(state: Any) -> set[str]:
    """Return the ids of ledgers that a state names, wherever they stand in it."""
    if isinstance(state, list):
        return {found for item in state for found in ledger_ids(item)}
    if not isinstance(state, dict):
        return set()
    found = {inner for value in state.values() for inner in ledger_ids(value)}
    if isinstance(own := state.get(LEDGER), str):
        found.add(own)
    return found


def check_ledger(state: Any, ledger_id: str | None) -> None:
    """Check that a state belongs to the ledger that is used.

    Args:
        state: Value of a STATE message.
        ledger_id: Id of the ledger; None if there is none.

    Raises:
        SettingsError: It belongs to another one, which may have been lost.
    """
    others = ledger_ids(state) - {ledger_id}
    if others:
        found = "there is none" if ledger_id is None else f"{ledger_id} is there"
        raise SettingsError(
            codes.LEDGER_MISSING,
            f"ledger_url: STATE belongs to the ledger {min(others)}, but {found}. What was "
            "owed and who chose what stands in the lost one. Restore it, or set `ledger_url` to "
            "where it is. If it is lost for good, set `on_lost_ledger: baseline` for one run of "
            "each direction, and `baseline: opt_out` from now on: then everything is read again.",
        )


class StateBarriers:
    """Hold STATE back until the records before it are acknowledged."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, Any]] = deque()

    def add(self, state: Any, after: int) -> None:
        """Add a state.

        Args:
            state: Value of the STATE message.
            after: Number of the last record before it; 0 if there is none.
        """
        self._held.append((after, state))

    def release(self, oldest: int | None) -> list[Any]:
        """Return the states that may be emitted, in order; each is returned once.

        Args:
            oldest: Number of the first record that isn't acknowledged; None if all are.
        """
        due = []
        while self._held and (oldest is None or self._held[0][0] < oldest):
            due.append(self._held.popleft()[1])
        return due

    def __len__(self) -> int:
        return len(self._held)


class Unacknowledged:
    """Find the earliest record of a set of changes while they are acknowledged in any order.

    Args:
        first_records: For each change the number of the earliest record it holds something of.
    """

    def __init__(self, first_records: Iterable[int]) -> None:
        self._order = deque(sorted(first_records))
        self._acknowledged: Counter[int] = Counter()

    def acknowledge(self, first_record: int) -> None:
        """Record that one change with this number is written, rejected or skipped."""
        self._acknowledged[first_record] += 1
        while self._order and self._acknowledged[self._order[0]]:
            self._acknowledged[self._order.popleft()] -= 1

    @property
    def oldest(self) -> int | None:
        """The earliest number that isn't acknowledged; None if all are."""
        return self._order[0] if self._order else None
