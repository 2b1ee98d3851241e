"""Changes in Actito that the ledger has numbered, as the streams emit them.

They stay in the ledger after they were emitted. So wherever a process is killed, the tap or the
target, they are emitted again from the number in STATE on; and several pipelines can read them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from actito_didomi.actito.changes import SubscriptionChange
from actito_didomi.consent.conflicts import to_datetime
from actito_didomi.plugin.source import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.looks import FoundChange

logger = logging.getLogger("tap-actito")

NUMBER = "emitted"
"""The key in STATE of the number of the last change that was emitted."""
_BATCH_SIZE = 1000

Numbered = tuple[int, "FoundChange"]


class FoundChanges:
    """Reads the numbered changes of one stream.

    Args:
        ledger: Where they stand.
        state: State of the stream, as the last run left it.
    """

    def __init__(self, ledger: Ledger, state: Mapping[str, Any]) -> None:
        self._ledger = ledger
        emitted = state.get(NUMBER)
        self._emitted = emitted if isinstance(emitted, int) and emitted > 0 else 0

    @property
    def state(self) -> dict[str, Any]:
        """The part of STATE that says how far they were emitted."""
        return {NUMBER: self._emitted}

    def check(self, late_days: int) -> None:
        """Log if changes were deleted before they were emitted.

        Args:
            late_days: The setting of this name.
        """
        first = self._ledger.found_after(self._emitted, 1)
        reached = first[0][0] - 1 if first else self._ledger.last_found()
        if 0 < self._emitted < reached:
            logger.warning(
                "%d changes that looks found before are no longer kept (late_days: %d). What is "
                "owed to Didomi stands in the ledger, and target-didomi writes it; another target "
                "misses them.",
                reached - self._emitted,
                late_days,
            )

    def batches(self) -> Iterator[Batch[SubscriptionChange]]:
        """Yield all that are there now and were not emitted."""
        limit = _BATCH_SIZE
        while found := self._ledger.found_after(self._emitted, limit):
            whole = found if len(found) < limit else whole_groups(found)
            if not whole:
                limit *= 2
                continue
            self._emitted = whole[-1][0]
            yield Batch([to_change(change) for _, change in whole], self.state)


def whole_groups(found: Sequence[Numbered]) -> list[Numbered]:
    """Return changes without those at the end that may belong to one event with later ones.

    So the same changes always make the same events, from whatever number on they are read.
    """
    last = _group(found[-1][1])
    end = len(found)
    while end and _group(found[end - 1][1]) == last:
        end -= 1
    return list(found[:end])


def _group(change: FoundChange) -> tuple[Any, ...]:
    return (change.profile_id, change.person, change.earliest, change.latest)


def to_change(found: FoundChange) -> SubscriptionChange:
    """Return a change in the form of those of exports."""
    profile_id = found.profile_id
    is_window = found.earliest < found.latest
    return SubscriptionChange(
        int(profile_id) if profile_id is not None and profile_id.isdecimal() else None,
        found.person or None,
        found.name,
        bool(found.seen_value),
        to_datetime(found.latest),
        to_datetime(found.earliest) if is_window else None,
        "api" if found.source == "look" else "export",
        "attribute" if found.kind == "attribute" else "subscription",
    )


def prune_found(ledger: Ledger, before: int) -> None:
    """Delete the changes that were found before a timestamp.

    Args:
        ledger: Where they stand.
        before: The timestamp, in microseconds.
    """
    number = 0
    while found := ledger.found_after(number, _BATCH_SIZE):
        kept = next((n for n, change in found if change.found_at >= before), None)
        if kept is not None:
            ledger.prune_found(kept)
            return
        number = found[-1][0]
    if number:
        ledger.prune_found(number + 1)
