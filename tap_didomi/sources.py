"""Where consent events and consent users come from: batch exports, or the Consents API.

A source gets plain data and yields batches. It emits nothing and writes no state: streams do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Protocol

from actito_didomi.consent.records import (
    CONFIRMED,
    PENDING,
    events_of_line,
    parse_timestamp,
    raw_events,
)
from actito_didomi.didomi.exports import Line, decode_line
from actito_didomi.didomi.lists import pages
from actito_didomi.errors import RequestRejectedError
from actito_didomi.plugin.source import PROGRESS_INTERVAL, Batch
from tap_didomi.emitted import EmittedRecords

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping, Sequence

    from actito_didomi.didomi.exports import ExportFolder, Partition
    from actito_didomi.didomi.lists import Page
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.source import BrokenLines
    from actito_didomi.runtime import Runtime

_OVERLAP = timedelta(minutes=5)
_LONG_AGO = datetime(1, 1, 1, tzinfo=timezone.utc)
_STALE_CURSOR = frozenset({400, 404, 410})
_PAGES_PER_LOG_LINE = 100


class ConsentSource(Protocol):
    """Another source of consents is another class with these methods.

    `state` is the state of the stream that reads, as the last run left it.
    """

    def events(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the consent events that the state hasn't passed, each with its user."""

    def raw_events(self, state: Mapping[str, Any]) -> Iterator[Batch[Any]]:
        """Yield the same events in the form that is encoded fastest."""

    def users(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the consent users that the state hasn't passed."""


# Batch exports


@dataclass(frozen=True)
class ExportSource:
    """Reads finished partitions in order of their dates, each once.

    The state holds, by export id, the date of the last partition that was read to the end. So a run
    that is killed reads its partition again.

    Attributes:
        folder: The root of batch exports.
        export_ids: Only these exports; None for all.
        start_date: First day to read, as `yyyy-MM-dd`; empty for all days.
        broken_lines: What to do about them.
        shutdown: Checked between two lines.
        runtime: Clock.
        logger: Where to log progress.
    """

    folder: ExportFolder
    export_ids: Sequence[str] | None
    start_date: str
    broken_lines: BrokenLines
    shutdown: Shutdown
    runtime: Runtime
    logger: logging.Logger

    def events(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the events of each new partition."""
        for partition, after in self._new_partitions(state):
            lines = self._decoded(partition)
            yield Batch((event for line in lines for event in events_of_line(line)), after)

    def raw_events(self, state: Mapping[str, Any]) -> Iterator[Batch[Any]]:
        """Yield the events of each new partition, with their parts not decoded."""
        for partition, after in self._new_partitions(state):
            yield Batch(self._raw_events(partition), after)

    def users(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the users of each new partition, each with the whole status of that day."""
        for partition, after in self._new_partitions(state):
            yield Batch((line["user"] for line in self._decoded(partition)), after)

    def lines(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the lines of each new partition: a user with the events of a day."""
        for partition, after in self._new_partitions(state):
            yield Batch(self._decoded(partition), after)

    def files(self, state: Mapping[str, Any]) -> Iterator[Batch[str]]:
        """Yield the URLs of the files of each new partition."""
        for partition, after in self._new_partitions(state):
            self.shutdown.check()
            yield Batch([self.folder.url(file) for file in partition.files], after)

    def _new_partitions(
        self, state: Mapping[str, Any]
    ) -> Iterator[tuple[Partition, dict[str, Any]]]:
        """Yield the partitions that are new and complete, and the state after each."""
        bookmarks: dict[str, str] = dict(state.get("exports") or {})
        for export_id, partitions in self.folder.partitions(self.export_ids).items():
            done = bookmarks.get(export_id, "")
            new = [p for p in partitions if p.date > done and p.date >= self.start_date]
            self.logger.info(
                "Export %s: %d partition(s), %d of them new.", export_id, len(partitions), len(new)
            )
            for partition in new:
                if not partition.complete:
                    self.logger.info(
                        "Export %s: the partition of %s has no _SUCCESS yet; stopping here until "
                        "the next run, so that no day is skipped.",
                        export_id,
                        partition.date,
                    )
                    break
                bookmarks = {**bookmarks, export_id: partition.date}
                yield partition, {"exports": bookmarks}

    def _lines(self, partition: Partition) -> Iterator[tuple[str, int, bytes | Line]]:
        """Yield file, number and content of each line, not decoded."""
        clock = self.runtime.monotonic
        lines, last = 0, clock()
        for at, file in enumerate(partition.files, start=1):
            for number, line in self.folder.raw_lines(file):
                self.shutdown.check()
                lines += 1
                yield file, number, line
                if clock() - last > PROGRESS_INTERVAL:
                    last = clock()
                    self.logger.info(
                        "Export %s, %s: file %d of %d, %d lines read.",
                        partition.export_id,
                        partition.date,
                        at,
                        len(partition.files),
                        lines,
                    )
        self.logger.info(
            "Export %s, %s: done, %d lines in %d file(s).",
            partition.export_id,
            partition.date,
            lines,
            len(partition.files),
        )

    def _decode(self, file: str, number: int, line: bytes | Line) -> dict[str, Any] | None:
        """Decode a line; return None for a broken one, where the settings say to skip it."""
        decoded = line if isinstance(line, Line) else decode_line(file, number, line)
        if decoded.value is None:
            self.broken_lines.handle(decoded.problem or "")
        return decoded.value

    def _decoded(self, partition: Partition) -> Iterator[dict[str, Any]]:
        for file, number, line in self._lines(partition):
            if (decoded := self._decode(file, number, line)) is not None:
                yield decoded

    def _raw_events(self, partition: Partition) -> Iterator[Mapping[str, Any]]:
        for file, number, line in self._lines(partition):
            events = raw_events(line) if isinstance(line, bytes) else None
            if events is not None:
                yield from events
            elif (decoded := self._decode(file, number, line)) is not None:
                yield from events_of_line(decoded)


# The API


@dataclass(frozen=True)
class ApiSource:
    """Reads all users of the organisation, since Didomi has no filter on `updated_at`.

    A scan yields what changed since the bookmark, and is resumed at the page where it stopped. The
    bookmark never passes five minutes before the start of the scan: a user that changes after its
    page was read is yielded by the next scan.

    The state holds the bookmark (`replication_key_value`), a scan that is not finished (`scan`),
    and what was emitted after the bookmark (see `EmittedRecords`).

    Attributes:
        session: Session with Didomi.
        organization_id: The organisation.
        regulation: The regulation to read consents of.
        start_date: Earlier changes are left out, aware of its zone; None for all.
        shutdown: Checked between two records.
        runtime: Clock.
        logger: Where to log progress.
    """

    session: ApiSession
    organization_id: str
    regulation: str
    start_date: datetime | None
    shutdown: Shutdown
    runtime: Runtime
    logger: logging.Logger

    def users(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the users that changed; a batch is a page."""
        emitted = EmittedRecords(state)
        for scan, users in self._changed_users(state):
            floor = scan.floor
            found = [user for user in users if _is_new_user(user, emitted, floor)]
            yield Batch(found, scan.state(emitted))

    def events(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the events of the users that changed, with one request per user.

        Only events that came or changed since the bookmark are yielded. Reading resumes after a
        page of users.
        """
        emitted = EmittedRecords(state)
        since = self._since(state)
        for scan, users in self._changed_users(state):
            for user in users:
                yield Batch(self._events_of(user["id"], since, emitted, scan.floor), None)
            yield Batch([], scan.state(emitted))

    def raw_events(self, state: Mapping[str, Any]) -> Iterator[Batch[Any]]:
        """Yield the events as `events` does: the API's responses are decoded already."""
        return self.events(state)

    def _events_of(
        self, user_id: str, since: datetime | None, emitted: EmittedRecords, floor: datetime
    ) -> Iterator[dict[str, Any]]:
        params = {
            "organization_id": self.organization_id,
            "regulation": self.regulation,
            "user_id": user_id,
            "status[$in]": [CONFIRMED, PENDING],
        }
        for page in pages(self.session, "/consents/events", params):
            for event in page.items:
                self.shutdown.check()
                timestamps = [event.get("updated_at"), event.get("created_at")]
                known = [_parse(text) for text in timestamps if isinstance(text, str)]
                if since and known and max(known) < since:
                    continue
                if known and not emitted.is_new(event["id"], str(timestamps), max(known), floor):
                    continue
                yield event

    def _changed_users(
        self, state: Mapping[str, Any]
    ) -> Iterator[tuple[_Scan, list[dict[str, Any]]]]:
        """Yield the users of each page that changed since the bookmark, and the scan after it."""
        since = self._since(state)
        new_scan = {"next": None, "started_at": self.runtime.now().isoformat(), "newest": None}
        scan = _Scan(**(state.get("scan") or new_scan))
        read = 0
        for number, page in enumerate(self._pages(scan), start=1):
            changed = []
            for user in page.items:
                self.shutdown.check()
                timestamp = user.get("updated_at")
                if isinstance(timestamp, str):
                    scan.newest = _later(scan.newest, timestamp)
                    if since and _parse(timestamp) < since:
                        continue
                changed.append(user)
            scan.next = page.next
            yield scan, changed
            read += len(page.items)
            if number % _PAGES_PER_LOG_LINE == 0:
                self.logger.info("Users: %d pages, %d users read.", number, read)
        if scan.next is not None:  # the list ended although it named another page
            scan.next = None
            yield scan, []

    def _pages(self, scan: _Scan) -> Iterator[Page]:
        """Yield the pages that a scan hasn't read; start again if Didomi refuses its place."""
        params = {"organization_id": self.organization_id, "regulation": self.regulation}
        found = pages(self.session, "/consents/users", params, start=scan.next)
        if not scan.next:
            yield from found
            return
        self.logger.info("Users: resuming the scan of %s.", scan.started_at)
        try:
            first = next(found)
        except RequestRejectedError as error:
            if error.status not in _STALE_CURSOR:
                raise
            self.logger.warning(
                "Users: Didomi no longer accepts the page where the last scan stopped; starting "
                "again from the first page."
            )
            scan.started_at, scan.newest = self.runtime.now().isoformat(), None
            yield from pages(self.session, "/consents/users", params)
            return
        yield first
        yield from found

    def _since(self, state: Mapping[str, Any]) -> datetime | None:
        bookmark = state.get("replication_key_value")
        known = [_parse(bookmark)] if bookmark else []
        if self.start_date is not None:
            known.append(self.start_date)
        return max(known, default=None)


@dataclass
class _Scan:
    """How far a scan of all users has come.

    Attributes:
        next: Query parameters of the next page; None on the first and after the last one.
        started_at: When it began, in ISO 8601.
        newest: The newest `updated_at` that was read, as Didomi writes it.
    """

    next: dict[str, Any] | None
    started_at: str
    newest: str | None

    @property
    def bookmark(self) -> str | None:
        """The newest `updated_at`, but at most five minutes before the start of the scan."""
        if self.newest is None:
            return None
        latest = datetime.fromisoformat(self.started_at) - _OVERLAP
        return self.newest if _parse(self.newest) <= latest else latest.isoformat()

    @property
    def floor(self) -> datetime:
        """A timestamp that the bookmark of this scan will not be before."""
        return _parse(self.bookmark) if self.bookmark else _LONG_AGO

    def state(self, emitted: EmittedRecords) -> dict[str, Any]:
        """Return the keys of the state after the page that was read last."""
        if self.next is not None:
            return {"scan": dict(self.__dict__), **emitted.checkpoint()}
        if (bookmark := self.bookmark) is None:
            return {"scan": None, **emitted.finish(None)}
        return {
            "scan": None,
            **emitted.finish(_parse(bookmark)),
            "replication_key": "updated_at",
            "replication_key_value": bookmark,
        }


def _is_new_user(user: Mapping[str, Any], emitted: EmittedRecords, floor: datetime) -> bool:
    timestamp = user.get("updated_at")
    if not isinstance(timestamp, str):
        return True
    version = f"{user.get('version')} {timestamp}"
    return emitted.is_new(user["id"], version, _parse(timestamp), floor)


def _parse(timestamp: str) -> datetime:
    return parse_timestamp(timestamp, "updated_at")


def _later(known: str | None, timestamp: str) -> str:
    return timestamp if known is None or _parse(timestamp) > _parse(known) else known
