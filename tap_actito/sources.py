"""Where changes of subscriptions come from: export files, or comparing the table with a snapshot.

A source gets plain data and yields batches. It emits nothing and writes no state: streams do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from actito_didomi.actito import ConversionError, ValueType, convert
from actito_didomi.actito.changes import ChangeFile, SubscriptionChange
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.ledger import Entry, PersonField
from actito_didomi.errors import BadInputError
from actito_didomi.plugin.source import PROGRESS_INTERVAL, Batch

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import TableStructure
    from actito_didomi.actito.changes import ChangeFolder
    from actito_didomi.actito.listing import Profile, ProfilePage
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.mapping import Mapping as ConsentMapping
    from actito_didomi.consent.reverse_mapping import ReverseMapping
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.source import BrokenLines
    from actito_didomi.runtime import Runtime
    from tap_actito.snapshot import Numbered, Snapshot, SnapshotRow, States

_UPDATE_OVERLAP = timedelta(minutes=5)
_LEDGER_BATCH = 1000
"""Changes whose ledger entries are read and written together."""
_CLOCK_TOLERANCE = timedelta(minutes=1)
"""By how much Actito's clock and ours may differ."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When a profile may have changed that was never looked at before."""
_ATTRIBUTE = "@"
"""Marks attributes among states; no subscription begins so."""


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
        runtime: Clock.
        logger: Where to log progress.
    """

    session: ApiSession
    structure: TableStructure
    key: str
    zone: ZoneInfo
    shutdown: Shutdown
    runtime: Runtime
    logger: logging.Logger


# Exports


@dataclass(frozen=True)
class ExportSource:
    """Reads each new file of Actito's export of profile changes once, in order of their names.

    The state lists the names of the files that were read to the end.

    Attributes:
        table: The table.
        folder: Where the files arrive.
        columns: Names of columns that differ from the usual ones.
        min_age: Seconds since its last change after which a file counts as complete.
        broken_lines: What to do about them.
        ledger: Where to record people's opt-outs; None where there is none.
        reverse_mappings: What subscriptions stand for.
    """

    table: TableAccess
    folder: ChangeFolder
    columns: Mapping[str, str]
    min_age: float
    broken_lines: BrokenLines
    ledger: Ledger | None
    reverse_mappings: Mapping[tuple[str, str], ReverseMapping]

    def read(self, state: Mapping[str, Any]) -> Iterator[Batch[SubscriptionChange]]:
        """Yield the changes of each file that is new; a batch is a file.

        Raises:
            SettingsError: The folder doesn't exist, or a file's columns aren't those expected.
            BadInputError: A file or line is broken.
        """
        table = self.table
        found = self.folder.names()
        known = set(state.get("files") or [])
        # Names of files that are gone need not be remembered.
        done = [name for name in state.get("files") or [] if name in found]
        new = [name for name in found if name not in known]
        table.logger.info("Exports: %d file(s), %d of them new.", len(found), len(new))
        # Where target-actito records nothing it reads nothing either.
        ledger = self.ledger if self.ledger is not None and self.ledger.has("pipeline") else None
        for name in new:
            if not self._is_stable(name):
                table.logger.info(
                    "Exports: %s may still be uploading; stopping here until the next run.", name
                )
                return
            changes = self._read_file(name)
            if ledger is not None:
                changes = self._learn_opt_outs(ledger, changes)
            done = [*done, name]
            yield Batch(changes, {"files": done})

    def _is_stable(self, name: str) -> bool:
        table = self.table
        stable = self.folder.is_stable(
            name, self.min_age, table.runtime.now(), table.shutdown.requested
        )
        table.shutdown.check()
        return stable

    def _read_file(self, name: str) -> Iterator[SubscriptionChange]:
        table = self.table
        clock = table.runtime.monotonic
        file = ChangeFile(name, table.key, self.columns, table.structure.subscriptions, table.zone)
        count, last = 0, clock()
        with self.folder.open(name) as raw:
            for change in file.read(raw):
                table.shutdown.check()
                if isinstance(change, BadInputError):
                    self.broken_lines.handle(change.message)
                    continue
                count += 1
                yield change
                if clock() - last > PROGRESS_INTERVAL:
                    last = clock()
                    table.logger.info("Exports: %s: %d changes read.", name, count)
        table.logger.info(
            "Exports: %s: done, %d changes, %d lines about something else.",
            name,
            count,
            file.other_lines,
        )

    def _learn_opt_outs(
        self, ledger: Ledger, changes: Iterator[SubscriptionChange]
    ) -> Iterator[SubscriptionChange]:
        """Record people's opt-outs before they are emitted."""
        inverted = inverted_fields(found.mapping for found in self.reverse_mappings.values())
        while part := list(islice(changes, _LEDGER_BATCH)):
            opt_outs = list(read_opt_outs(part, self.reverse_mappings))
            written = ledger.read("pipeline", {field.person for field, _ in opt_outs})
            ledger.learn(
                [(f, entry) for f, entry in opt_outs if not is_written(entry, written.get(f))],
                inverted,
            )
            yield from part


def inverted_fields(mappings: Iterable[ConsentMapping]) -> frozenset[tuple[str, str]]:
    """Return kind and name of each field for which true in Actito is an opt-out."""
    return frozenset((mapping.type, mapping.id) for mapping in mappings if mapping.invert)


def read_opt_outs(
    changes: Iterable[SubscriptionChange],
    reverse_mappings: Mapping[tuple[str, str], ReverseMapping],
) -> Iterator[tuple[PersonField, Entry]]:
    """Yield the opt-outs of known people in mapped fields, in the order of the changes."""
    for change in changes:
        mapping = reverse_mappings.get((change.kind, change.subscription))
        if change.person is None or mapping is None or mapping.choice(change.subscribed):
            continue
        yield (
            PersonField(change.person, change.kind, change.subscription),
            Entry(change.subscribed, change.changed_after or change.changed_at, change.changed_at),
        )


def is_written(found: Entry, written: Entry | None) -> bool:
    """Return whether a change in an export is one that target-actito wrote.

    Actito's timestamps are whole seconds of its own clock.
    """
    return (
        written is not None
        and written.value is found.value
        and found.latest >= written.earliest - _CLOCK_TOLERANCE
        and found.earliest <= written.latest + _CLOCK_TOLERANCE
    )


# The API


@dataclass(frozen=True)
class Comparison:
    """What a page of profiles shows next to the snapshot.

    Attributes:
        states: The states now, one entry for each row of the snapshot.
        changes: What changed since the last look.
        own: What people changed themselves, for the ledger.
    """

    states: list[States] = field(default_factory=list)
    changes: list[SubscriptionChange] = field(default_factory=list)
    own: dict[PersonField, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotSource:
    """Compares the whole table with a snapshot.

    The state holds the id of the snapshot, and the number of the last change that was emitted.

    Attributes:
        table: The table.
        snapshot: What the table looked like when it was last read.
        ledger: Holds what target-actito wrote; gets what people changed themselves.
        inverted: Kind and name of each field for which true in Actito is an opt-out.
        attributes: Boolean attributes that are compared as well.
        page_size: Profiles per request.
        emit_initial: Whether the first read yields all subscriptions as changes.
        trust_update_moment: Whether to request only profiles whose `updateMoment` moved.
    """

    table: TableAccess
    snapshot: Snapshot
    ledger: Ledger
    inverted: frozenset[tuple[str, str]]
    attributes: Sequence[str]
    page_size: int
    emit_initial: bool
    trust_update_moment: bool

    def read(self, state: Mapping[str, Any]) -> Iterator[Batch[SubscriptionChange]]:
        """Yield the changes between the snapshot and the table; a batch is a page of profiles.

        First come those that were found before and that no STATE has passed.
        """
        snapshot, logger = self.snapshot, self.table.logger
        clock = self.table.runtime.monotonic
        emitted = int(state.get("emitted") or 0) if state.get("snapshot") == snapshot.id else 0
        snapshot.forget(emitted)
        while pending := snapshot.pending(emitted):
            logger.info("Found before and not acknowledged: %d changes.", len(pending))
            emitted = pending[-1][0]
            yield self._batch(pending, emitted)
        first = not snapshot.complete
        emits_new = not first or self.emit_initial
        since = snapshot.newest_update if self.trust_update_moment and not first else None
        newest, read, last = since, 0, clock()
        for page in self._pages(since):
            self.table.shutdown.check()
            if found := self._changes(page, first=first, emits_new=emits_new):
                emitted = found[-1][0]
                yield self._batch(found, emitted)
            timestamps = [str(p.attributes.get("updateMoment") or "") for p in page.profiles]
            newest = max([newest or "", *timestamps])
            read += len(page.profiles)
            if clock() - last > PROGRESS_INTERVAL:
                last = clock()
                logger.info("Changes: %d profiles compared.", read)
        snapshot.finish(_earlier(newest) if newest else None)
        if first and not emits_new:
            logger.info(
                "Changes: the snapshot of %d profiles is complete; the next run emits what "
                "changed since.",
                read,
            )
        yield self._batch([], emitted)

    def _batch(self, found: list[Numbered], emitted: int) -> Batch[SubscriptionChange]:
        changes = [change for _, change in found]
        return Batch(changes, {"snapshot": self.snapshot.id, "emitted": emitted or None})

    def _changes(self, page: ProfilePage, *, first: bool, emits_new: bool) -> list[Numbered]:
        """Compare a page with the snapshot, record what was found, and move the snapshot.

        The ledger comes first: if this is killed before the snapshot has moved, the next run finds
        the same changes again.
        """
        rows = self.snapshot.rows(page.profiles)
        people = {person for row in rows if (person := person_of(row.profile, self.table.key))}
        since = min((row.last_look or _LONG_AGO for row in rows), default=_LONG_AGO)
        written = self.ledger.read("pipeline", people, since=since)
        found = self._compare(page, rows, written, first=first, emits_new=emits_new)
        self.ledger.learn(found.own.items(), self.inverted)
        return self.snapshot.store(rows, found.states, found.changes, page.asked_at)

    def _compare(
        self,
        page: ProfilePage,
        rows: Iterable[SnapshotRow],
        written: Mapping[PersonField, Entry],
        *,
        first: bool,
        emits_new: bool,
    ) -> Comparison:
        """Find what changed, and what of it people changed themselves.

        What target-actito wrote since the last look is no change of the person's: it had happened
        by the end of the writing. If something else holds now, the person changed it after that,
        also where it is what held before.
        """
        found = Comparison()
        for row in rows:
            states, before = self._states(row), row.before
            found.states.append(states)
            if before is None and not emits_new:
                continue
            last_look = row.last_look or _LONG_AGO
            person = person_of(row.profile, self.table.key)
            for name, state in states.items():
                where = PersonField(person or "", _kind(name), name.removeprefix(_ATTRIBUTE))
                write = written.get(where)
                if write is not None and write.latest < last_look:
                    write = None
                if before is None:
                    changed = state or first
                else:
                    # A subscription that is new in the table begins as not subscribed.
                    changed = before.get(name) is not state and (state or name in before)
                window, source = (last_look, page.read_at), "api"
                if write is not None and write.value is state:
                    window, source = (last_look, min(write.latest, page.read_at)), "target-actito"
                elif write is not None and write.latest <= page.asked_at:
                    changed, window = True, (write.earliest, page.read_at)
                if changed:
                    change = SubscriptionChange(
                        row.profile.id,
                        person,
                        where.name,
                        state,
                        changed_at=window[1],
                        changed_after=window[0],
                        source=source,
                        kind=_kind(name),
                    )
                    found.changes.append(change)
                    if person is not None and source == "api":
                        found.own[where] = Entry(state, *window)
        return found

    def _states(self, row: SnapshotRow) -> States:
        """Return the subscriptions of a profile, and the attributes that are compared.

        Where its subscriptions are unknown, they are as they were.
        """
        profile = row.profile
        known = profile.subscriptions
        states: States = dict(row.before or {}) if known is None else dict(known)
        for name in self.attributes:
            value = profile.attributes.get(name)
            if value is not None:
                try:
                    found = convert(value, ValueType.BOOLEAN, self.table.zone)
                except ConversionError:
                    continue
                states[_ATTRIBUTE + name] = bool(found)
        return states

    def _pages(self, since: str | None) -> Iterator[ProfilePage]:
        """Yield the profiles updated since, or all of them.

        The filter is inferred. The newest profile of the last run must pass it; where nothing does,
        Actito doesn't understand it.
        """
        table = self.table
        if since is not None:
            empty = True
            for page in list_profiles(
                table.session, table.structure, self.page_size, table.runtime, since
            ):
                empty = False
                yield page
            if not empty:
                return
            table.logger.warning(
                "trust_update_moment: Actito doesn't seem to understand the filter on "
                "updateMoment; reading the whole table instead."
            )
        yield from list_profiles(table.session, table.structure, self.page_size, table.runtime)


def person_of(profile: Profile, key: str) -> str | None:
    """Return the value of a profile's key attribute; None where it is absent or empty."""
    person = profile.attributes.get(key)
    return None if person is None or person == "" else str(person)


def _kind(name: str) -> Literal["subscription", "attribute"]:
    return "attribute" if name.startswith(_ATTRIBUTE) else "subscription"


def _earlier(timestamp: str) -> str:
    """Return a timestamp some minutes earlier, in Actito's form, for what changes while reading."""
    try:
        read = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return (read - _UPDATE_OVERLAP).strftime("%Y-%m-%d %H:%M:%S")
