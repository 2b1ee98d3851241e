"""Which records the last run emitted, and the next one would read again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_RECORDS = 2000
"""Records that are remembered; if there are more, all are emitted again."""


class EmittedRecords:
    """Remembers the records that are newer than the bookmark, so that each is emitted once.

    Bookmarks stay some minutes in the past, for what changes while a scan is running. A record
    emitted again would make an older choice look new to a target that doesn't know what came in
    between.

    Args:
        state: State of the stream. `emitted` holds what the last scan emitted, `emitting` what this
            scan did so far: by id, what distinguishes versions of the record, and its timestamp.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._last: Mapping[str, list[str]] = state.get("emitted") or {}
        self._now: dict[str, list[str]] = dict(state.get("emitting") or {})

    def is_new(self, record_id: str, version: str, timestamp: datetime, floor: datetime) -> bool:
        """Return whether a record is to be emitted, and remember it.

        Args:
            record_id: Its id.
            version: What distinguishes its versions.
            timestamp: When it changed; aware of its zone.
            floor: The bookmark of this scan will not be earlier.
        """
        if timestamp >= floor:
            self._now[record_id] = [version, timestamp.isoformat()]
            if len(self._now) > _MAX_RECORDS:
                self._now = _newer(self._now, floor)
        known = self._last.get(record_id)
        return known is None or known[0] != version

    def checkpoint(self) -> dict[str, Any]:
        """Return the keys of the state while the scan is running."""
        return {"emitting": dict(self._now)}

    def finish(self, bookmark: datetime | None) -> dict[str, Any]:
        """Return the keys of the state after the scan; a value of None removes a key."""
        if bookmark is None:
            return {"emitting": None}
        # This scan hasn't read everything again that was emitted before.
        known = {**self._last, **self._now}
        return {"emitting": None, "emitted": _newer(known, bookmark)}


def _newer(records: Mapping[str, list[str]], floor: datetime) -> dict[str, list[str]]:
    kept = {k: v for k, v in records.items() if datetime.fromisoformat(v[1]) >= floor}
    return kept if len(kept) <= _MAX_RECORDS else {}
