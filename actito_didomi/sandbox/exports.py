"""Write batch exports in Didomi's layout: `data/export-id=X/date=D/users/*.json.gz`."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actito_didomi.sandbox.database import dump

if TYPE_CHECKING:
    from actito_didomi.sandbox.didomi_consents import Consents

_LINES_PER_FILE = 5_000


def write_exports(
    consents: Consents,
    root: str,
    *,
    organization: str,
    export_id: str,
    days: list[str] | None = None,
    pending: bool = True,
    success: bool = True,
) -> dict[str, int]:
    """Write one partition per day: users with an organisation user id, each with the day's events.

    Guests and other regulations are left out, as documented.

    Args:
        consents: What to export.
        root: Folder; created if it does not exist.
        organization: Organisation id.
        export_id: Id of the export.
        days: Days as `yyyy-MM-dd`; None for all days with events.
        pending: Whether unapproved events are included.
        success: Whether `_SUCCESS` is written at the end; without it the partition is unfinished.

    Returns:
        Number of lines by day.
    """
    written = {}
    for day in days if days is not None else consents.dates(organization):
        folder = Path(root) / "data" / f"export-id={export_id}" / f"date={day}"
        users = folder / "users"
        users.mkdir(parents=True, exist_ok=True)
        lines = _lines(consents, organization, day, pending=pending)
        for start in range(0, max(len(lines), 1), _LINES_PER_FILE):
            path = users / f"part-{start // _LINES_PER_FILE:05d}.json.gz"
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines[start : start + _LINES_PER_FILE])
        if success:
            (folder / "_SUCCESS").touch()
        written[day] = len(lines)
    return written


def _lines(consents: Consents, organization: str, day: str, *, pending: bool) -> list[str]:
    by_user: dict[str, list[dict[str, Any]]] = {}
    for event in consents.events_of_day(organization, day):
        if pending or event["status"] == "confirmed":
            by_user.setdefault(event["user"]["id"], []).append(event)
    lines = []
    for user_id, events in by_user.items():
        found = consents.users(organization, regulations=["gdpr"], user_id=user_id)
        if found and found[0][1].get("organization_user_id"):
            lines.append(dump({"user": found[0][1], "events": events}))
    return lines
