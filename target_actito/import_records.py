"""What is recorded of imports, so that none is forgotten before its end is known."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.actito.imports import cell, row_bytes
from actito_didomi.consent.conflicts import ACTITO, to_datetime, to_micros
from actito_didomi.consent.drafts import Start
from actito_didomi.consent.groups import shorten
from actito_didomi.consent.person import Owed
from actito_didomi.errors import ApiError, RequestRejectedError, UnavailableError
from target_actito.bulk import FILE_PREFIX, Begun, ImportsUnavailable
from target_actito.checked import has_attributes, note_refusal
from target_actito.plan import ImportFile, most_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import Execution, Imports
    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.consent.drafts import Draft
    from actito_didomi.consent.imports import ImportRow
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.runtime import Runtime
    from target_actito.learning import Learner
    from target_actito.plan import Columns, Limits
    from target_actito.workspace import Workspace

logger = logging.getLogger("target-actito")

_AT_ONCE = 5_000
_DAY = 86_400.0
_FILE_NAME = re.compile(FILE_PREFIX + r"\d{8}T\d{6}-[0-9a-f]{12}")
_SURELY_SENT = 20_000_000
"""Microseconds after which a file whose sender was killed has arrived, or never will."""


class SessionRecords:
    """Records for a run without a ledger: nothing outlives it but what Actito lists.

    Args:
        imports: Bulk imports into the table.
        workspace: Where files are made.
        runtime: Clock.
        follow: Follows an execution to its end; called with its age in seconds.
    """

    holds_profiles_only = False

    def __init__(
        self,
        imports: Imports,
        workspace: Workspace,
        runtime: Runtime,
        follow: Callable[[str, float], Execution],
    ) -> None:
        self._imports = imports
        self._workspace = workspace
        self._runtime = runtime
        self._follow = follow
        self._starts: list[float] = []
        self._waited = False

    @property
    def folder(self) -> Path:
        """Where files are made."""
        return self._workspace.folder

    def started_today(self) -> int:
        """Count the imports that this run has started in the last 24 hours."""
        since = self._runtime.monotonic() - _DAY
        return sum(start > since for start in self._starts)

    def begin(self, file_name: str, columns: Columns, rows: Sequence[ProfileChange]) -> Begun:
        """Return the rows: nothing is recorded."""
        del file_name, columns
        return Begun(rows)

    def started(self, execution_id: str) -> None:
        """Count the import."""
        del execution_id
        self._starts.append(self._runtime.monotonic())

    def not_started(self, rows: Sequence[ProfileChange]) -> None:
        """Do nothing."""

    def failed(self, rows: Sequence[ProfileChange]) -> None:
        """Do nothing."""

    def overdue(self, rows: Sequence[ProfileChange]) -> None:
        """Do nothing."""

    def ended(self, rows: Sequence[ProfileChange], refused: Collection[int]) -> None:
        """Do nothing."""

    def settle_earlier(self) -> bool:
        """Wait, once, for imports of earlier runs, as far as Actito lists them.

        Raises:
            ApiError: One hasn't ended within the timeout.
        """
        if self._waited:
            return False
        for execution_id in sorted(set(self._imports.find_running(_FILE_NAME) or [])):
            logger.info("Waiting for import %s from an earlier run.", execution_id)
            try:
                self._follow(execution_id, 0)
            except RequestRejectedError:
                continue  # it ended long ago
            except ImportsUnavailable as error:
                raise ApiError(
                    codes.IMPORT_UNFINISHED,
                    f"{error} It belongs to an earlier run and could overwrite newer choices, so "
                    "nothing is written before it ends. Look it up in Actito, stop it there if it "
                    "hangs, and run again.",
                ) from None
        self._waited = True
        return False

    def await_earlier(self) -> None:
        """Do nothing: `settle_earlier` has waited."""


def flag_again(ledger: Ledger, learner: Learner, flag: Owed) -> None:
    """Find out again what is owed to all people who have a flag.

    Args:
        ledger: The ledger.
        learner: Finds what is owed.
        flag: The flag.
    """
    after: str | None = None
    while part := ledger.owed(flag, after=after, limit=_AT_ONCE):
        after = part[-1][0]
        ledger.change_each([key for key, _ in part], lambda _, person: learner.flag(person))


class ImportBatch:
    """The rows of one import, as they are found.

    Args:
        learner: Makes changes.
        limits: Limits of plans.
    """

    def __init__(self, learner: Learner, limits: Limits) -> None:
        self._learner = learner
        self._limits = limits
        self._rows: list[ProfileChange] = []
        self._columns: set[Columns] = set()
        self._bytes = 0
        fields = learner.choice_fields
        self._names = [field.name for field in fields]
        cells = [max(cell(field.opt_in), cell(field.opt_out), key=len) for field in fields]
        self._row_bytes = 2 * row_bytes(["", *cells])
        """Of a row without its key, at most."""

    def admit(self, drafts: list[Draft]) -> int:
        """Admit people to whom something is due; return how many, the first ones, have a row."""
        if not self._rows and len(drafts) <= self._limits.price:
            return 0
        most = most_bytes(self._names, self._limits)
        for count, draft in enumerate(drafts):
            self._bytes += self._row_bytes + 2 * len(draft.spelling.encode())
            if self._bytes > most:
                return count
            change = self._learner.change_of(draft)
            self._columns.add(change.fields)
            self._rows.append(change)
        return len(drafts)

    def file(self) -> ImportFile | None:
        """Return the file, rows with an opt-out first; None if it has no rows."""
        if not self._rows:
            return None
        rows = sorted(self._rows, key=lambda change: not change.opt_out)
        columns = tuple(sorted({field for fields in self._columns for field in fields}))
        return ImportFile(columns, rows, opt_out=rows[0].opt_out)


class LedgerRecords:
    """Records in the ledger: the intent is on disk before a file is sent.

    Args:
        ledger: The ledger.
        learner: Finds what is due.
        imports: Bulk imports into the table.
        workspace: Where files are made.
        runtime: Clock.
        zone: Time zone of Actito.
        run: Id of this run.
        key_of: Returns the key of a spelling.
        look: Looks at the table, where that was not done just now; returns when the look began, in
            microseconds.
        limits: Returns the limits of plans.
        follow: Follows an execution to its end; called with its age in seconds.
        pause: Waits for some seconds.
    """

    holds_profiles_only = True

    def __init__(
        self,
        *,
        ledger: Ledger,
        learner: Learner,
        imports: Imports,
        workspace: Workspace,
        runtime: Runtime,
        zone: ZoneInfo,
        run: str,
        key_of: Callable[[str], str],
        look: Callable[[], int],
        limits: Callable[[], Limits],
        follow: Callable[[str, float], Execution],
        pause: Callable[[float], None],
    ) -> None:
        self._ledger = ledger
        self._learner = learner
        self._imports = imports
        self._workspace = workspace
        self._runtime = runtime
        self._zone = zone
        self._run = run
        self._key_of = key_of
        self._look = look
        self._find_limits = limits
        self._follow = follow
        self._pause = pause
        self._number = 0
        self._unsettled: set[str] = set()
        self._has_flagged = False

    @property
    def folder(self) -> Path:
        """Where files are made."""
        return self._workspace.folder

    def started_today(self) -> int:
        """Count the imports of all runs today, by Actito's day.

        That the quota's day is one of Actito's time zone (`time_zone`) is inferred.
        """
        return self._ledger.imports_today(self._runtime.now().astimezone(self._zone))

    def _now(self) -> int:
        return to_micros(self._runtime.now())

    def begin(self, file_name: str, columns: Columns, rows: Sequence[ProfileChange]) -> Begun:
        """Look, decide again, and record the intent to write; return the rows still due."""
        looked_at = self._look()
        self._number = self._ledger.add_import(file_name, self._now())
        self._unsettled = set()
        wanted, is_mixed = frozenset(columns), self._find_limits().mixed_columns
        kept: list[ProfileChange] = []
        others: list[ProfileChange] = []
        for keys in self._chunks(rows):
            with self._ledger.change(keys) as change:
                for key in keys:
                    person = change.people[key]
                    if person.owed & Owed.NO_PROFILE:
                        continue
                    due = self._learner.change(key, person, only=wanted)
                    if due is not None:
                        seen = self._learner.seen(person, due, looked_at)
                        if len(seen) < len(due.fields):
                            due = self._learner.change(key, person, only=seen)
                    if due is None or not (is_mixed or wanted == set(due.fields)):
                        self._learner.flag(person)
                        if due is not None and due.opt_out:
                            others.append(due)
                        continue
                    self._learner.begin(
                        person, due, now=self._now(), run=self._run, import_number=self._number
                    )
                    if person.retries or has_attributes(due):
                        self._unsettled.add(key)
                    kept.append(due)
        if not kept:
            self._ledger.set_import(self._number, state="never_received")
        return Begun(sorted(kept, key=lambda due: not due.opt_out), others)

    def begin_at_once(
        self, file_name: str, write: Callable[[Start, Callable[[list[Draft]], int]], None]
    ) -> ImportFile | None:
        """Record the intent to write while people are learned, each of whom is written once.

        Args:
            file_name: Name of the file.
            write: Learns people, and calls its second argument with those to whom something is due,
                some at a time; it returns to how many of them, the first ones, the import writes.

        Returns:
            The file; None where too few rows are due for an import.
        """
        batch = ImportBatch(self._learner, self._find_limits())
        start = Start(file_name, shorten(self._run), self._now())
        write(start, batch.admit)
        self._number, self._unsettled = start.number, set()
        return batch.file()

    def started(self, execution_id: str) -> None:
        """Record the execution."""
        self._ledger.set_import(self._number, execution=execution_id, state="started")

    def not_started(self, rows: Sequence[ProfileChange]) -> None:
        """Record that nothing of this was written."""
        self._each(rows, self._learner.drop)
        self._ledger.set_import(self._number, state="never_received")

    def failed(self, rows: Sequence[ProfileChange]) -> None:
        """Record that each row may have been written, or may be written yet."""
        now = self._now()
        self._each(rows, lambda person, due: self._learner.give_up(person, due, now))
        self._ledger.set_import(self._number, state="unknown", ended=now)

    def overdue(self, rows: Sequence[ProfileChange]) -> None:
        """Record that the opt-outs are written otherwise, as the import doesn't end."""
        number = self._number
        self._each(rows, lambda person, _: self._learner.overtake_import(person, number))

    def ended(self, rows: Sequence[ProfileChange], refused: Collection[int]) -> None:
        """Record what was written; what was refused comes first, so that no kill makes it done."""
        now = self._now()

        def refuse(person: Person, due: ProfileChange) -> None:
            self._learner.drop(person, due)
            note_refusal(person, codes.CHANGE_REFUSED.name, now)

        self._each([rows[at] for at in sorted(refused)], refuse)
        self._ledger.set_import(self._number, state="ended", ended=now)

        def end(person: Person, due: ProfileChange) -> None:
            self._learner.end_attributes(person, due)
            person.retries.pop(ACTITO, None)
            self._learner.flag(person)

        if self._unsettled:  # of all others the row of the import says enough
            written = [row for at, row in enumerate(rows) if at not in refused]
            self._each([row for row in written if self._key_of(row.person) in self._unsettled], end)
        flag_again(self._ledger, self._learner, Owed.IN_IMPORT)

    def _each(
        self,
        rows: Sequence[ProfileChange],
        work: Callable[[Person, ProfileChange], None],
    ) -> None:
        """Change the rows of people in the ledger, many at a time."""
        by_key = {self._key_of(row.person): row for row in rows}
        self._ledger.change_each(sorted(by_key), lambda key, person: work(person, by_key[key]))

    def _chunks(self, rows: Sequence[ProfileChange]) -> Iterator[list[str]]:
        for start in range(0, len(rows), _AT_ONCE):
            yield sorted({self._key_of(row.person) for row in rows[start : start + _AT_ONCE]})

    # Imports of earlier runs

    def settle_earlier(self) -> bool:
        """Record the ends of imports of earlier runs; return whether one may be under way."""
        under_way = False
        for found in self._ledger.open_imports():
            under_way = not self._settle(found) or under_way
        if not self._has_flagged:  # a run may have been killed between an end and its flags
            self._has_flagged = True
            flag_again(self._ledger, self._learner, Owed.IN_IMPORT)
        return under_way

    def await_earlier(self) -> None:
        """Wait for imports under way to end, each until `bulk_timeout` after it began.

        The opt-outs of one that doesn't end are written otherwise.
        """
        for found in self._ledger.open_imports():
            if found.execution is not None:
                logger.info("Waiting for import %s from an earlier run.", found.execution)
                try:
                    self._follow(found.execution, (self._now() - found.began) / 1_000_000)
                except (ImportsUnavailable, RequestRejectedError, UnavailableError) as error:
                    logger.warning("%s", error)
            elif (rest := found.began + _SURELY_SENT - self._now()) >= 0:
                self._pause(rest / 1_000_000 + 0.1)
            if not self._settle(found):
                self._for_import(found, self._learner.overtake_import)

    def _settle(self, found: ImportRow) -> bool:
        """Find out how an import ended; return whether that is known now, or it was given up."""
        try:
            return self._find_end(found)
        except UnavailableError as error:  # of one import: it holds up nobody else
            logger.warning("%s", error)
            return False

    def _find_end(self, found: ImportRow) -> bool:
        if found.execution is not None:
            return self._settle_sent(found, found.execution)
        listed = self._imports.find_by_file(found.file_name)
        if not listed:
            return self._settle_unsent(found)
        if len(listed) > 1:  # which of them says how it ended?
            self._give_up(found)
            return True
        self._ledger.set_import(found.number, execution=listed[0], state="started")
        return self._settle_sent(found, listed[0])

    def _settle_sent(self, found: ImportRow, execution_id: str) -> bool:
        """Find out how an execution ended; return whether that is known now, or it was given up."""
        try:
            execution = self._imports.get_execution(execution_id)
        except RequestRejectedError as error:
            logger.warning(
                "Import %s of an earlier run can't be read (status %s): its people are looked at "
                "again.",
                execution_id,
                error.status,
            )
            self._give_up(found)
            return True
        if not execution.finished:
            return False
        refused = None if execution.failure is not None else self._refused(found, execution)
        if refused is None:
            self._give_up(found)
        else:
            self._end_of(found, refused)
        return True

    def _refused(self, found: ImportRow, execution: Execution) -> set[str] | None:
        """Return the keys of the rows that failed; None if not all of them are known."""
        if not execution.has_errors:
            return set()
        errors = self._imports.errors(execution.id) or []
        refused = {self._key_of(error.key) for error in errors if error.key is not None}
        people = self._ledger.read(refused)
        if len(refused) < max(1, len(errors), execution.errors or 0) or any(
            not self._learner.is_in_import(people.get(key), found.number) for key in refused
        ):
            return None
        return refused

    def _settle_unsent(self, found: ImportRow) -> bool:
        """Record as unknown the end of an import that isn't shown, if it must have arrived.

        That a list doesn't show it is no proof: it may be carried out yet.
        """
        if self._now() - found.began > _SURELY_SENT:
            self._give_up(found)
            return True
        logger.warning(
            "It isn't known yet whether the import of %s was received by Actito; its people wait.",
            to_datetime(found.began).isoformat(timespec="seconds"),
        )
        return False

    def _give_up(self, found: ImportRow) -> None:
        """Record that it isn't known what an import wrote, or may write yet."""
        now = self._now()
        self._for_import(
            found, lambda person, number: self._learner.give_up_import(person, number, now)
        )
        self._ledger.set_import(found.number, state="unknown", ended=now)

    def _end_of(self, found: ImportRow, refused: Collection[str]) -> None:
        """Record the end of an import; rows that were refused come first."""
        now = self._now()

        def refuse(_: str, person: Person) -> None:
            self._learner.drop_import(person, found.number)
            note_refusal(person, codes.CHANGE_REFUSED.name, now)

        self._ledger.change_each(sorted(refused), refuse)
        self._ledger.set_import(found.number, state="ended", ended=now)
        flag_again(self._ledger, self._learner, Owed.IN_IMPORT)

    def _for_import(self, found: ImportRow, work: Callable[[Person, int], None]) -> None:
        """Change the rows of all people to whom an import may write."""
        keys = self._ledger.in_import(found.number)
        self._ledger.change_each(keys, lambda _, person: work(person, found.number))
