"""What the last run gave, and the next one would give again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

_MOST = 2000
"""Records that are remembered; beyond that all are given again, which does no harm by itself."""


class EmittedRecords:
    """Remembers the records behind the bookmark, so that each goes out once.

    Bookmarks stay some minutes behind, for what changes while reading. A record given again would
    make an older choice look new to a target that doesn't know what came in between.

    Args:
        state: Of the stream. Under `given` stands what the last scan gave, under `giving` what this
            one does: for each id what tells its versions apart, and its timestamp.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self._last: dict[str, list[str]] = state.get("emitted") or {}
        self._now: dict[str, list[str]] = state.setdefault("emitting", {})

    def is_new(self, record_id: str, version: str, timestamp: datetime, floor: datetime) -> bool:
        """Tell whether a record is to be given, and remember it.

        Args:
            record_id: Its id.
            version: What tells its versions apart.
            timestamp: When it changed.
            floor: No bookmark of this scan will be earlier.
        """
        if timestamp >= floor:
            self._now[record_id] = [version, timestamp.isoformat()]
            if len(self._now) > _MOST:
                self._keep(floor)
        known = self._last.get(record_id)
        return known is None or known[0] != version

    def finish(self, bookmark: datetime | None) -> None:
        """Take note that the scan has ended."""
        if bookmark is not None:
            # Not all that was given before has been looked at again.
            self._now.update({k: v for k, v in self._last.items() if k not in self._now})
            self._keep(bookmark)
            self._state["emitted"] = dict(self._now)
        self._state.pop("emitting", None)

    def _keep(self, floor: datetime) -> None:
        kept = {k: v for k, v in self._now.items() if datetime.fromisoformat(v[1]) >= floor}
        self._now.clear()
        if len(kept) <= _MOST:
            self._now.update(kept)
