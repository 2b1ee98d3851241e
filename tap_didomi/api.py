"""Streams out of the Consents API."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from singer_sdk import metrics
from singer_sdk.helpers.types import Context, Record  # noqa: TC002 - the SDK reads annotations

from actito_didomi.consent.records import CONFIRMED, PENDING, parse_timestamp
from actito_didomi.didomi.lists import pages
from actito_didomi.errors import RequestRejectedError
from tap_didomi import schemas
from tap_didomi.emitted import EmittedRecords
from tap_didomi.streams import DidomiStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from actito_didomi.didomi.lists import Page

_OVERLAP = timedelta(minutes=5)
_LONG_AGO = datetime(1, 1, 1, tzinfo=timezone.utc)
_STALE_CURSOR = frozenset({400, 404, 410})
_PROGRESS_EVERY = 100


class ApiUsers(DidomiStream):
    """All users of the organisation, by a full scan; Didomi has no filter on `updated_at`.

    With a bookmark only users that changed since are given. The scan is taken up where it was left.
    The bookmark never passes five minutes before the start of the scan: a user that changed behind
    the scan is given by the next one.
    """

    name = "consent_users"
    primary_keys = ("id",)
    replication_key = "updated_at"
    schema = schemas.CONSENT_USERS

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give the users that changed, page by page, with a STATE after each page."""
        since = self.get_starting_timestamp(context)
        state = self.stream_state
        scan = self._scan = state.get("scan") or _new_scan()
        given = EmittedRecords(state)
        # A stream that is selected for the first time has given nothing yet.
        events = [s for s in self.child_streams if isinstance(s, ApiEvents) and s.selected]
        knows_all = all("emitted" in stream.stream_state for stream in events)
        read = 0
        for number, page in enumerate(self._pages(scan), start=1):
            for user in page.items:
                self.didomi.shutdown.check()
                timestamp = user.get("updated_at")
                if isinstance(timestamp, str):
                    changed = _read(timestamp)
                    scan["newest"] = _later(scan["newest"], timestamp)
                    if since and changed < since:
                        continue
                    version = f"{user.get('version')} {timestamp}"
                    is_new = given.is_new(user["id"], version, changed, _floor(scan))
                    if knows_all and not is_new:
                        continue
                yield user
            read += len(page.items)
            if number % _PROGRESS_EVERY == 0:
                self.logger.info("Users: %d pages, %d users read.", number, read)
            if page.next is not None:
                scan["next"] = page.next
                state["scan"] = scan
                self.emit_state()
        state.pop("scan", None)
        bookmark = _bookmark(scan)
        for stream_state in [state, *(stream.stream_state for stream in events)]:
            EmittedRecords(stream_state).finish(_read(bookmark) if bookmark else None)
        if bookmark:
            state["replication_key"] = self.replication_key
            state["replication_key_value"] = bookmark
        self.emit_state()

    def get_child_context(self, record: Record, context: Context | None) -> Context | None:
        """Hand on whose events to read, and from when on."""
        since = self.get_starting_timestamp(context)
        return {
            "user_id": record["id"],
            "since": since.isoformat() if since else None,
            "floor": _floor(self._scan).isoformat(),
        }

    def _pages(self, scan: dict[str, Any]) -> Iterator[Page]:
        params = {
            "organization_id": self.config["organization_id"],
            "regulation": self.config["regulation"],
        }
        found = pages(self.didomi.session, "/consents/users", params, start=scan["next"])
        if not scan["next"]:
            yield from found
            return
        self.logger.info("Users: the scan of %s is taken up again.", scan["started_at"])
        try:
            first = next(found)
        except RequestRejectedError as error:
            if error.status not in _STALE_CURSOR:
                raise
            self.logger.warning(
                "Users: Didomi no longer takes the place where the last scan was left; it starts "
                "anew."
            )
            scan.update(_new_scan())
            yield from pages(self.didomi.session, "/consents/users", params)
            return
        yield first
        yield from found


class ApiEvents(DidomiStream):
    """Consent events, a call a user; they follow the users that changed.

    Read only when a catalog selects them, since so many calls are practical for small organisations
    only.
    """

    name = "consent_events"
    parent_stream_type = ApiUsers
    ignore_parent_replication_key = False
    state_partitioning_keys = ()
    primary_keys = ("id",)
    schema = schemas.CONSENT_EVENTS
    off_without_catalog = True

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give one user's events that came or changed since the bookmark."""
        context = context or {}
        since = datetime.fromisoformat(context["since"]) if context.get("since") else None
        params = {
            "organization_id": self.config["organization_id"],
            "regulation": self.config["regulation"],
            "user_id": context["user_id"],
            "status[$in]": [CONFIRMED, PENDING],
        }
        given = EmittedRecords(self.stream_state)
        floor = datetime.fromisoformat(context["floor"])
        for page in pages(self.didomi.session, "/consents/events", params):
            for event in page.items:
                self.didomi.shutdown.check()
                timestamps = [event.get("updated_at"), event.get("created_at")]
                known = [_read(m) for m in timestamps if isinstance(m, str)]
                if since and known and max(known) < since:
                    continue
                if known and not given.is_new(event["id"], str(timestamps), max(known), floor):
                    continue
                yield event

    def post_process(self, row: Record, context: Context | None = None) -> Record | None:
        """Give the event as it came: the context names a user and is no part of it."""
        del context
        return {k: v for k, v in row.items() if k not in {"user_id", "since", "floor"}}

    def get_record_counter(self, **kwargs: Any) -> metrics.Counter:
        """Count in silence: the SDK would log a line a user, with the user in it."""
        del kwargs
        return _QuietCounter(metrics.Metric.RECORD_COUNT)

    def get_sync_timer(self) -> metrics.Timer:
        """Time in silence, as above."""
        return _QuietTimer(metrics.Metric.SYNC_DURATION)

    def log(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Say at debug level what the SDK says for each user."""
        kwargs["level"] = min(kwargs.get("level", 10), 10)
        super().log(message, *args, **kwargs)

    def _write_schema_message(self) -> None:
        """Write SCHEMA once, not once a user."""
        if not self._schema_written:
            self._schema_written = True
            super()._write_schema_message()

    def _write_state_message(self) -> None:
        """Leave STATE to the users' stream: a page of users is what can be taken up again."""

    _schema_written = False


class _QuietCounter(metrics.Counter):
    def with_context(self, value: Context | None) -> None:
        """Keep the user out of the tags."""

    def _pop(self) -> None:
        self.value = 0


class _QuietTimer(metrics.Timer):
    def with_context(self, value: Context | None) -> None:
        """Keep the user out of the tags."""

    def __exit__(self, *error: object) -> None:
        """Log nothing."""


def _new_scan() -> dict[str, Any]:
    return {"next": None, "started_at": datetime.now(timezone.utc).isoformat(), "newest": None}


def _floor(scan: dict[str, Any]) -> datetime:
    """Give a timestamp that the bookmark of this scan will not be before."""
    bookmark = _bookmark(scan)
    return _read(bookmark) if bookmark else _LONG_AGO


def _read(timestamp: str) -> datetime:
    return parse_timestamp(timestamp, "updated_at")


def _later(known: str | None, timestamp: str) -> str:
    return timestamp if known is None or _read(timestamp) > _read(known) else known


def _bookmark(scan: dict[str, Any]) -> str | None:
    """Give the newest `updated_at` seen, but at most five minutes before the scan began."""
    if scan["newest"] is None:
        return None
    latest = datetime.fromisoformat(scan["started_at"]) - _OVERLAP
    return scan["newest"] if _read(scan["newest"]) <= latest else latest.isoformat()
