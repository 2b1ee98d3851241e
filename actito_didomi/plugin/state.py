"""STATE messages as barriers: each is emitted once everything before it is acknowledged.

A record is acknowledged when what it says is written, rejected durably or skipped. Records are
numbered from 1 in the order of their arrival.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


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
