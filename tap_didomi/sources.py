"""Where consent events and consent users come from: batch exports, or the Consents API.

A source gets plain data and yields batches. It emits nothing and writes no state: streams do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from actito_didomi import codes
from actito_didomi.clocks import to_server_time
from actito_didomi.consent.records import (
    CONFIRMED,
    PENDING,
    events_of_line,
    parse_timestamp,
    raw_events,
)
from actito_didomi.didomi.exports import Line, decode_line
from actito_didomi.didomi.lists import pages, with_id
from actito_didomi.errors import BadInputError, RequestRejectedError
from actito_didomi.plugin.source import PROGRESS_INTERVAL, Batch, BrokenLine
from tap_didomi.partitions import Progress, is_day

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from actito_didomi.didomi.exports import ExportFolder, Partition
    from actito_didomi.didomi.lists import Page
    from actito_didomi.files import ListedFile
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.source import BrokenLines
    from actito_didomi.runtime import Runtime
    from tap_didomi.partitions import Reading

Item = TypeVar("Item")

_OVERLAP = timedelta(minutes=5)
_LARGEST_ERROR = timedelta(days=1)
"""By how much our clock may be wrong: a later bookmark is a mistake."""
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
    """Reads finished partitions in order of their dates, and what comes late.

    The state holds, by export id, the day up to which everything was read (`exports`), and marks of
    the files of later days and of the last `late_days` (`files`); see `Progress`. So a run that is
    killed reads its partition again.

    What is missing or can't be read is reported and makes the run fail at its end; everything else
    is read, and the bookmark stays before it, so that it is read once it is there.

    Attributes:
        folder: The root of batch exports.
        export_ids: Only these exports; None for all.
        start_date: First day to read, as `yyyy-MM-dd`; empty for all days.
        late_days: Number of days before the newest one of which late files are read.
        broken_lines: What to do about them.
        shutdown: Checked between two lines.
        runtime: Clock.
        logger: Where to log progress.
    """

    folder: ExportFolder
    export_ids: Sequence[str] | None
    start_date: str
    late_days: int
    broken_lines: BrokenLines
    shutdown: Shutdown
    runtime: Runtime
    logger: logging.Logger

    def events(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the events of each partition that has something new."""
        return self._batches(
            state,
            lambda reading, broken: (
                event for line in self._decoded(reading, broken) for event in events_of_line(line)
            ),
        )

    def raw_events(self, state: Mapping[str, Any]) -> Iterator[Batch[Any]]:
        """Yield the same events, with their parts not decoded."""
        return self._batches(state, self._raw_events)

    def users(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the users, each with the whole status of that day."""
        return self._batches(
            state,
            lambda reading, broken: (line["user"] for line in self._decoded(reading, broken)),
        )

    def lines(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the lines: a user with the events of a day."""
        return self._batches(state, self._decoded)

    def files(self, state: Mapping[str, Any]) -> Iterator[Batch[str]]:
        """Yield the URLs of the files."""
        return self._batches(
            state, lambda reading, _: [self.folder.url(file.path) for file in reading.files]
        )

    def _batches(
        self,
        state: Mapping[str, Any],
        read: Callable[[Reading, list[ListedFile]], Iterable[Item]],
    ) -> Iterator[Batch[Item]]:
        """Yield what is new, partition by partition, and the state after each.

        Args:
            state: State of the stream.
            read: Reads a partition, and adds the files that are broken to a list.
        """
        found = self.folder.partitions(self.export_ids)
        progress = {name: self._progress(state, name) for name in found}
        for export_id, partitions in found.items():
            export = progress[export_id]
            readings = export.plan(partitions, skips=self.broken_lines.skips)
            self._report(export_id, partitions, export, readings)
            for reading in readings:
                self.shutdown.check()
                for problem in reading.problems:
                    self.broken_lines.report(problem, codes.INCOMPLETE_EXPORT)
                broken: list[ListedFile] = []
                if reading.files:
                    yield Batch(
                        read(reading, broken), None, arrived_at=reading.partition.arrived_at
                    )
                export.finish(reading, broken)
                yield Batch([], _state_of(state, progress))

    def _progress(self, state: Mapping[str, Any], export_id: str) -> Progress:
        """Return what was read of an export; a bookmark that can't be true doesn't count."""
        progress = Progress.from_state(state, export_id, self.late_days, self.start_date)
        today = self.runtime.now().date().isoformat()
        if progress.bookmark and (not is_day(progress.bookmark) or progress.bookmark > today):
            self.logger.warning(
                "Export %s: the bookmark in --state is not a day of the past; everything is read "
                "again.",
                export_id,
            )
            progress.bookmark = ""
        return progress

    def _report(
        self,
        export_id: str,
        partitions: Sequence[Partition],
        progress: Progress,
        readings: Sequence[Reading],
    ) -> None:
        """Log what is there, and what isn't."""
        self.logger.info(
            "Export %s: %d partition(s), %d of them with new files.",
            export_id,
            len(partitions),
            sum(1 for reading in readings if reading.files),
        )
        wanted = [p for p in partitions if p.date >= self.start_date]
        for partition in wanted:
            if not partition.complete:
                self.logger.warning(
                    "Export %s: the partition of %s has no _SUCCESS yet; the bookmark stays before "
                    "it.",
                    export_id,
                    partition.date,
                )
        if missing := progress.missing(wanted):
            self.logger.warning(
                "%s: export %s has no partition of %s (%d day(s)). One that comes within %d days "
                "is read; ask Didomi where it is.",
                codes.MISSING_DAY,
                export_id,
                ", ".join(missing[-3:]),
                len(missing),
                self.late_days,
            )

    def _lines(self, reading: Reading) -> Iterator[tuple[ListedFile, int, bytes | Line]]:
        """Yield file, number and content of each line, not decoded."""
        clock, partition = self.runtime.monotonic, reading.partition
        lines, last = 0, clock()
        for at, file in enumerate(reading.files, start=1):
            line: bytes | Line = b""
            for number, line in self.folder.raw_lines(file.path):
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
                        len(reading.files),
                        lines,
                    )
            if isinstance(line, bytes):  # else the rest of the file can't be read
                self.broken_lines.finish(file.path)
        self.logger.info(
            "Export %s, %s: done, %d lines in %d file(s).",
            partition.export_id,
            partition.date,
            lines,
            len(reading.files),
        )

    def _decode(
        self, file: ListedFile, number: int, line: bytes | Line, broken: list[ListedFile]
    ) -> dict[str, Any] | None:
        """Decode a line; report what is broken, and return None where nothing can be read."""
        decoded = line if isinstance(line, Line) else decode_line(file.path, number, line)
        if decoded.problem is not None:
            self.broken_lines.report(
                decoded.problem, line=BrokenLine(file.path, number, decoded.raw.rstrip(b"\r"))
            )
            if not self.broken_lines.skips and file not in broken:
                broken.append(file)
        return decoded.value

    def _decoded(self, reading: Reading, broken: list[ListedFile]) -> Iterator[dict[str, Any]]:
        for file, number, line in self._lines(reading):
            if (decoded := self._decode(file, number, line, broken)) is not None:
                yield decoded

    def _raw_events(
        self, reading: Reading, broken: list[ListedFile]
    ) -> Iterator[Mapping[str, Any]]:
        for file, number, line in self._lines(reading):
            events = raw_events(line) if isinstance(line, bytes) else None
            if events is not None:
                yield from events
            elif (decoded := self._decode(file, number, line, broken)) is not None:
                yield from events_of_line(decoded)


def _state_of(state: Mapping[str, Any], progress: Mapping[str, Progress]) -> dict[str, Any]:
    """Return the keys of the state; exports that weren't read keep theirs."""
    exports, files = dict(state.get("exports") or {}), dict(state.get("files") or {})
    for export_id, export in progress.items():
        if export.bookmark:
            exports[export_id] = export.bookmark
        if export.marks:
            files[export_id] = dict(export.marks)
    return {"exports": exports or None, "files": files or None}


# The API


@dataclass(frozen=True)
class ApiSource:
    """Reads all users of the organisation, since Didomi has no filter on `updated_at`.

    A scan yields what changed since the bookmark, and is resumed at the page where it stopped. The
    bookmark never passes five minutes before the start of the scan, by Didomi's clock: a user that
    changes after its page was read is yielded by the next scan. So what is newer than the bookmark
    comes again; targets know an event by its id.

    The state holds the bookmark (`replication_key_value`), and a scan that is not finished
    (`scan`).

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
        for scan, users in self._changed_users(state):
            yield Batch(users, scan.state(), arrived_at=self.session.now())

    def events(self, state: Mapping[str, Any]) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the events of the users that changed, with one request per user.

        Only events that came or changed since the bookmark are yielded. Reading resumes after a
        page of users.
        """
        since = self._since(state)
        for scan, users in self._changed_users(state):
            for user in users:
                (known,) = with_id([user], "/consents/users")
                yield from self._events_of(known["id"], since)
            yield Batch([], scan.state())

    def raw_events(self, state: Mapping[str, Any]) -> Iterator[Batch[Any]]:
        """Yield the events as `events` does: the API's responses are decoded already."""
        return self.events(state)

    def _events_of(self, user_id: str, since: _Since) -> Iterator[Batch[dict[str, Any]]]:
        """Yield the events of a user; a batch is a page."""
        params = {
            "organization_id": self.organization_id,
            "regulation": self.regulation,
            "user_id": user_id,
            "status[$in]": [CONFIRMED, PENDING],
        }
        for page in pages(self.session, "/consents/events", params):
            self.shutdown.check()
            with_id(page.items, "/consents/events")  # one odd event is for the target to reject
            events = [event for event in page.items if since.is_passed_by(event)]
            yield Batch(events, None, arrived_at=self.session.now())

    def _changed_users(
        self, state: Mapping[str, Any]
    ) -> Iterator[tuple[_Scan, list[dict[str, Any]]]]:
        """Yield the users of each page that changed since the bookmark, and the scan after it."""
        since, read = self._since(state), 0
        scan = _Scan(**(state.get("scan") or {"next": None, "started_at": None, "newest": None}))
        for number, page in enumerate(self._pages(scan), start=1):
            changed = []
            with_id(page.items, "/consents/users")
            for user in page.items:
                self.shutdown.check()
                scan.newest = _later(scan.newest, user.get("updated_at"))
                if since.is_passed_by(user):
                    changed.append(user)
            scan.next = page.next
            yield scan, changed
            read += len(page.items)
            if number % _PAGES_PER_LOG_LINE == 0:
                self.logger.info("Users: %d pages, %d users read.", number, read)

    def _pages(self, scan: _Scan) -> Iterator[Page]:
        """Yield the pages that a scan hasn't read; start again if Didomi refuses its place."""
        params = {"organization_id": self.organization_id, "regulation": self.regulation}
        if scan.next:
            self.logger.info("Users: resuming the scan of %s.", scan.started_at)
            found = pages(self.session, "/consents/users", params, start=scan.next)
            try:
                first = next(found)
            except RequestRejectedError as error:
                if error.status not in _STALE_CURSOR:
                    raise
                self.logger.warning(
                    "Users: Didomi no longer accepts the page where the last scan stopped; "
                    "starting again from the first page."
                )
                scan.newest = None
            else:
                yield first
                yield from found
                return
        asked = self.runtime.now()
        found = pages(self.session, "/consents/users", params)
        first = next(found)
        # Known by now: how far Didomi's clock is ahead of ours.
        scan.started_at = to_server_time(asked, self.session.skew).isoformat()
        yield first
        yield from found

    def _since(self, state: Mapping[str, Any]) -> _Since:
        text = state.get("replication_key_value")
        bookmark = _timestamp(text)
        if text and (bookmark is None or bookmark > self.runtime.now() + _LARGEST_ERROR):
            self.logger.warning(
                "The bookmark in --state is not a timestamp of the past; everything is read again."
            )
            bookmark = None
        return _Since(bookmark, self.start_date)


@dataclass(frozen=True)
class _Since:
    """What to leave out of a scan.

    Attributes:
        bookmark: What changed up to here was read; None where nothing was.
        start_date: What changed before is left out; None for nothing.
    """

    bookmark: datetime | None
    start_date: datetime | None

    def is_passed_by(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record changed since.

        Only Didomi's own `updated_at` says so: the program that posts an event sets its
        `created_at`, which may lie long ago. A record without it may have changed.
        """
        updated = _timestamp(record.get("updated_at"))
        if updated is None:
            return True
        if self.bookmark is not None and updated <= self.bookmark:
            return False
        return self.start_date is None or updated >= self.start_date


@dataclass
class _Scan:
    """How far a scan of all users has come.

    Attributes:
        next: Query parameters of the next page; None on the first and after the last one.
        started_at: When it began by Didomi's clock, in ISO 8601; None before its first page.
        newest: The newest `updated_at` that was read, as Didomi writes it.
    """

    next: dict[str, Any] | None
    started_at: str | None
    newest: str | None

    @property
    def bookmark(self) -> str | None:
        """The newest `updated_at`, but at most five minutes before the start of the scan."""
        newest = _timestamp(self.newest)
        if newest is None or self.started_at is None:
            return None
        latest = datetime.fromisoformat(self.started_at) - _OVERLAP
        return self.newest if newest <= latest else latest.isoformat()

    def state(self) -> dict[str, Any]:
        """Return the keys of the state after the page that was read last."""
        if self.next is not None:
            return {"scan": dict(self.__dict__)}
        if (bookmark := self.bookmark) is None:
            return {"scan": None}
        return {
            "scan": None,
            "replication_key": "updated_at",
            "replication_key_value": bookmark,
        }


def _timestamp(value: Any) -> datetime | None:
    """Read a timestamp; None for anything else."""
    if value is None:
        return None
    try:
        return parse_timestamp(value, "updated_at")
    except BadInputError:
        return None


def _later(known: str | None, timestamp: Any) -> str | None:
    """Return the later one of two timestamps; what isn't readable doesn't count."""
    before, after = _timestamp(known), _timestamp(timestamp)
    if after is None or not isinstance(timestamp, str):
        return known
    return timestamp if before is None or after > before else known
