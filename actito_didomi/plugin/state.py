"""STATE messages as barriers: each leaves once everything before it is settled."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class StateBarriers:
    """Holds STATE back until the records before it are written, rejected durably or skipped.

    Records are numbered from 1 in the order of their arrival.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Any]] = deque()

    def add(self, state: Any, after: int) -> None:
        """Record a state.

        Args:
            state: Value of the STATE message.
            after: Number of the last record before it; 0 when there is none.
        """
        self._waiting.append((after, state))

    def release(self, oldest_unsettled: int | None) -> list[Any]:
        """Return the states that are due, in order; each is returned once.

        Args:
            oldest_unsettled: Number of the first record that isn't settled; None when all are.
        """
        due = []
        while self._waiting and (
            oldest_unsettled is None or self._waiting[0][0] < oldest_unsettled
        ):
            due.append(self._waiting.popleft()[1])
        return due

    def __len__(self) -> int:
        return len(self._waiting)


class Unsettled:
    """Keeps track of the earliest record of a set of changes while they settle in any order.

    Args:
        first_records: For each change the number of the earliest record it holds something of.
    """

    def __init__(self, first_records: Iterable[int]) -> None:
        self._order = deque(sorted(first_records))
        self._settled: Counter[int] = Counter()

    def settle(self, first_record: int) -> None:
        """Record that one change with this number is settled."""
        self._settled[first_record] += 1
        while self._order and self._settled[self._order[0]]:
            self._settled[self._order.popleft()] -= 1

    @property
    def oldest(self) -> int | None:
        """The earliest number that isn't settled; None when all are."""
        return self._order[0] if self._order else None
