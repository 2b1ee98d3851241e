"""Where changes of subscriptions come from: export files, or looks at the table.

A source gets plain data and yields batches. It emits nothing and writes no state: streams do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from actito_didomi.actito.changes import BrokenRow, ChangeFile
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.looks import Look
from actito_didomi.errors import BadInputError
from actito_didomi.files import add_marks, keep_marks, unread
from actito_didomi.plugin.source import PROGRESS_INTERVAL, Batch, BrokenLine

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import TableStructure
    from actito_didomi.actito.changes import ChangeFolder, SubscriptionChange
    from actito_didomi.actito.listing import ProfilePage
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.files import ListedFile
    from actito_didomi.plugin.looks import LookLearner
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.source import BrokenLines
    from actito_didomi.runtime import Runtime
    from tap_actito.found import FoundChanges
    from tap_actito.rows import RowLearner

_UPDATE_OVERLAP = timedelta(minutes=5)
_LEARN_AT_ONCE = 1000
"""Rows that are learned in one transaction."""
_FILES = "files"
_NEWEST_UPDATE = "newest_update"


class ChangeSource(Protocol):
    """Another source of changes is another class with this method."""

    def read(self, state: Mapping[str, Any]) -> Iterator[Batch[SubscriptionChange]]:
        """Yield the changes that a state hasn't passed, in batches.

        Args:
            state: State of the stream, as the last run left it.
        """


@dataclass(frozen=True)
class TableAccess:
    """The profile table, and what it takes to read it.

    Attributes:
        session: Session with Actito.
        structure: Attributes and subscriptions of the table.
        key: The key attribute, `user_unique_key`.
        zone: Time zone of timestamps in Actito.
        shutdown: Checked between two profiles or lines.
        runtime: Actito's clock.
        logger: Where to log progress.
    """

    session: ActitoSession
    structure: TableStructure
    key: str
    zone: ZoneInfo
    shutdown: Shutdown
    runtime: Runtime
    logger: logging.Logger


# Exports


@dataclass(frozen=True)
class ExportSource:
    """Reads each new or grown file of Actito's export of profile changes once.

    The state holds a mark of each file that was read to the end. The order of the files has no
    meaning: of each choice the newest counts, in whatever order they are read. A file with a broken
    line makes the run fail at its end, and is read again, unless such lines are skipped.

    Attributes:
        table: The table.
        folder: Where the files arrive.
        columns: Names of columns that differ from the usual ones.
        min_age: Seconds since its last change after which a file counts as complete.
        broken_lines: What to do about them.
        runtime: Our own clock, by which files have changed.
        learner: Learns the rows into the ledger; None without one.
        max_cell_bytes: Maximum size of a cell.
        max_compression_ratio: How many times larger than a file its content may be.
    """

    table: TableAccess
    folder: ChangeFolder
    columns: Mapping[str, str]
    min_age: float
    broken_lines: BrokenLines
    runtime: Runtime
    learner: RowLearner | None
    max_cell_bytes: int
    max_compression_ratio: float

    def read(self, state: Mapping[str, Any]) -> Iterator[Batch[SubscriptionChange]]:
        """Yield the changes of each file that is new; a batch is a file, and then its state.

        Raises:
            SettingsError: The folder doesn't exist, or a file's columns aren't those expected.
        """
        table = self.table
        files = self.folder.files()
        known = state.get(_FILES)
        marks = keep_marks(known if isinstance(known, str) else "", files)
        new = unread(files, marks)
        table.logger.info("Exports: %d file(s), %d of them new or grown.", len(files), len(new))
        for file in new:
            if not self._is_stable(file.name):
                table.logger.info(
                    "Exports: %s may still be uploading; stopping here until the next run.",
                    file.name,
                )
                return
            changes = self._read_file(file.name)
            if self.learner is not None:
                changes = self._learn(self.learner, file, changes)
            failed = self.broken_lines.failed
            yield Batch(changes, None)
            if self.broken_lines.failed == failed:
                marks = add_marks(marks, [file])
            yield Batch([], {_FILES: marks})

    def _is_stable(self, name: str) -> bool:
        table = self.table
        stable = self.folder.is_stable(
            name, self.min_age, self.runtime.now(), table.shutdown.requested
        )
        table.shutdown.check()
        return stable

    def _read_file(self, name: str) -> Iterator[SubscriptionChange]:
        """Yield the changes of a file, and report what is broken."""
        table = self.table
        clock = table.runtime.monotonic
        file = ChangeFile(
            name,
            table.key,
            self.columns,
            table.structure.subscriptions,
            table.zone,
            max_cell_bytes=self.max_cell_bytes,
            max_compression_ratio=self.max_compression_ratio,
            facts=table.session.facts,
        )
        count, last = 0, clock()
        with self.folder.open(name) as raw:
            for change in _with_damage(file.read(raw)):
                table.shutdown.check()
                if isinstance(change, BrokenRow):
                    line = BrokenLine(name, change.line, change.raw, change.may_opt_out)
                    self.broken_lines.report(change.problem, line=line)
                    continue
                if isinstance(change, BadInputError):
                    self.broken_lines.report(change.message, change.code, BrokenLine(name, 0))
                    return
                count += 1
                yield change
                if clock() - last > PROGRESS_INTERVAL:
                    last = clock()
                    table.logger.info("Exports: %s: %d changes read.", name, count)
        self.broken_lines.finish(name)
        table.logger.info(
            "Exports: %s: done, %d changes, %d lines about something else.",
            name,
            count,
            file.other_lines,
        )

    def _learn(
        self, learner: RowLearner, file: ListedFile, changes: Iterator[SubscriptionChange]
    ) -> Iterator[SubscriptionChange]:
        """Learn the rows of a file before they are emitted."""
        arrived_at = self.folder.modified(file.name) or self.table.runtime.now()
        while part := list(islice(changes, _LEARN_AT_ONCE)):
            yield from learner.learn(part, arrived_at)


def _with_damage(
    changes: Iterator[SubscriptionChange | BrokenRow],
) -> Iterator[SubscriptionChange | BrokenRow | BadInputError]:
    """Yield what a file holds, and at its end what broke it off."""
    try:
        yield from changes
    except BadInputError as error:
        yield error


# Looks at the table


class TableLook:
    """A look at the table, learned into the ledger page by page; one per run.

    Args:
        table: The table.
        ledger: Where it is learned.
        learner: Learns pages.
        page_size: Profiles per request.
        is_mapped: Whether it looks at the fields of mappings, not only at the others.
    """

    def __init__(
        self,
        table: TableAccess,
        ledger: Ledger,
        learner: LookLearner,
        page_size: int,
        *,
        is_mapped: bool,
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._learner = learner
        self._page_size = page_size
        self._is_mapped = is_mapped
        self.newest_update: str | None = None
        """The newest `updateMoment` that was seen, once the look is complete, as Actito has it."""
        self.is_done = False

    @property
    def has_baseline(self) -> bool:
        """Whether a complete look has shown all fields before."""
        return self._learner.covers(self._ledger.last_look())

    def run(self, since: str | None = None) -> Iterator[None]:
        """Look at each page and learn it, unless this was done in this run already.

        Args:
            since: Only profiles updated since, in Actito's form; None for all.

        Yields:
            Nothing, after each page: what it shows can be emitted.

        Raises:
            ActitoDidomiError: The look is not complete.
        """
        if self.is_done:
            return
        table, last = self._table, self._ledger.last_look()
        clock = table.runtime.monotonic
        began = ended = to_micros(table.runtime.now())
        is_first = not self._learner.covers(last)
        newest, read, unknown, logged = since or "", 0, 0, clock()
        highest_id = last.highest_id if last else None
        for page in self._pages(None if is_first else since):
            table.shutdown.check()
            self._learner.learn_page(page, last)
            yield
            ended = to_micros(page.read_at)
            newest = max(
                [newest, *(str(p.attributes.get("updateMoment") or "") for p in page.profiles)]
            )
            read += len(page.profiles)
            unknown += page.unknown
            highest_id = page.highest_id(highest_id)
            if clock() - logged > PROGRESS_INTERVAL:
                logged = clock()
                table.logger.info("Look at the table: %d profiles read.", read)
        self.is_done = True
        if unknown:  # it has not shown all, so it is no complete one
            return
        if not self._learner.uncounted:  # who is written to just now must be looked at again
            self.newest_update = _earlier(newest) if newest else None
        names = self._learner.look_names
        if self._is_mapped or last is None or names >= last.places:
            self._ledger.record_look(Look(began, ended, names, read, highest_id))
        if is_first:
            table.logger.info(
                "Baseline: the first look at all %d profiles is complete; from now on changes are "
                "emitted.",
                read,
            )

    def _pages(self, since: str | None) -> Iterator[ProfilePage]:
        """Yield the profiles updated since, or all of them.

        The filter is inferred. The newest profile of the last run must pass it; where nothing does,
        Actito doesn't understand it.
        """
        table = self._table
        if since is not None:
            empty = True
            for page in list_profiles(
                table.session, table.structure, self._page_size, table.runtime, since
            ):
                empty = False
                yield page
            if not empty:
                return
            table.logger.warning(
                "trust_update_moment: Actito doesn't seem to understand the filter on "
                "updateMoment; reading the whole table instead."
            )
        yield from list_profiles(table.session, table.structure, self._page_size, table.runtime)


@dataclass(frozen=True)
class LookSource:
    """Looks at the whole table, and yields what people changed since the last look.

    The first look is the baseline: it yields nothing.

    Attributes:
        found: The changes that the ledger has numbered.
        look: The look of this run.
        trust_update_moment: Whether to request only profiles whose `updateMoment` moved.
    """

    found: FoundChanges
    look: TableLook
    trust_update_moment: bool

    def read(self, state: Mapping[str, Any]) -> Iterator[Batch[SubscriptionChange]]:
        """Yield the changes; first those that were found before and that no STATE has passed."""
        yield from self.found.batches()
        since = state.get(_NEWEST_UPDATE) if self.trust_update_moment else None
        for _ in self.look.run(since if isinstance(since, str) else None):
            yield from self.found.batches()
        yield from self.found.batches()
        newest = self.look.newest_update or since
        yield Batch([], {**self.found.state, _NEWEST_UPDATE: newest if since or newest else None})


@dataclass(frozen=True)
class LearnedExportSource:
    """Reads exports into the ledger, and yields what people changed, without our own writes.

    Attributes:
        exports: The exports; they learn what they read.
        found: The changes that the ledger has numbered.
        look: A look at the table, for the baseline.
        learner: Learns rows.
    """

    exports: ExportSource
    found: FoundChanges
    look: TableLook
    learner: RowLearner

    def read(self, state: Mapping[str, Any]) -> Iterator[Batch[SubscriptionChange]]:
        """Yield the changes; first those that were found before and that no STATE has passed."""
        yield from self.found.batches()
        if not self.look.has_baseline:
            for _ in self.look.run():
                yield from self.found.batches()
        self.learner.move_keyless()
        for batch in self.exports.read(state):
            rows = iter(batch.items)
            while list(islice(rows, _LEARN_AT_ONCE)):
                yield from self.found.batches()
            yield from self.found.batches()
            yield Batch([], {**(batch.state or {}), **self.found.state})
        yield from self.found.batches()
        yield Batch([], self.found.state)


def _earlier(timestamp: str) -> str:
    """Return a timestamp some minutes earlier, in Actito's form, for what changes while reading."""
    try:
        read = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return (read - _UPDATE_OVERLAP).strftime("%Y-%m-%d %H:%M:%S")
