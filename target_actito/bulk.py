"""Carry out a write plan: single requests, imports, and what is done when an import fails.

Opt-outs come first everywhere. A file that fails is cut in two until the rows at fault are found;
when no import is left, single requests take over as far as they may.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from actito_didomi.actito.imports import cell, write_file
from actito_didomi.errors import (
    ImportQuotaExceededError,
    RequestRejectedError,
    UnavailableError,
)
from actito_didomi.reasons import reason_of, with_reason
from target_actito.plan import ImportFile, WritePlan, minutes_for, plan_writes
from target_actito.single import WriteResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from actito_didomi.actito import Execution, Imports
    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime
    from target_actito.config import Settings
    from target_actito.plan import Columns
    from target_actito.single import SingleWriter

logger = logging.getLogger("target-actito")

FILE_PREFIX = "actito-didomi-"
"""How the names of import files begin."""
_IMPORTS_REFUSED = frozenset({403, 404, 405, 501})
"""HTTP statuses that refuse imports as such, because of the key or the API, not the file."""
_PAUSES = (5.0, 20.0, 60.0)
"""Seconds between attempts to start an import."""
_MAX_POLL_INTERVAL = 30.0
_POLL_GROWTH = 1.5
_ANNOUNCE_INTERVAL = 30.0


@dataclass(frozen=True)
class ImportResult:
    """Rows that an import has written or found without a profile.

    Attributes:
        changes: The rows that were not refused; people without a profile among them.
        counts: Profiles created and updated; None if Actito doesn't report them.
        began: When the import began, by our clock.
    """

    changes: Sequence[ProfileChange]
    counts: tuple[int, int] | None
    began: datetime


@dataclass(frozen=True)
class Begun:
    """What is to be written of the rows of an import.

    Attributes:
        rows: Those that are due.
        others: Changes with an opt-out that don't fit the columns of the file any more.
    """

    rows: Sequence[ProfileChange]
    others: Sequence[ProfileChange] = ()


class _ImportLost(Exception):  # noqa: N818 - what happened to a file, not an error of ours
    """It isn't known whether Actito has received a file."""


class _ImportFailed(Exception):  # noqa: N818 - what happened to a file, not an error of ours
    """An import failed as a whole, or Actito doesn't report which of its rows did."""


class ImportsUnavailable(Exception):  # noqa: N818 - as above
    """No import can be made for now."""


class ImportRecords(Protocol):
    """What must be known of imports after a crash. One import is made at a time.

    Attributes:
        holds_profiles_only: Whether a look has shown the profile of each row just before.
    """

    holds_profiles_only: bool

    @property
    def folder(self) -> Path:
        """Where files are made; nobody else can read it."""

    def started_today(self) -> int:
        """Count the imports of the last 24 hours."""

    def begin(self, file_name: str, columns: Columns, rows: Sequence[ProfileChange]) -> Begun:
        """Record durably that rows are about to be sent; return those that are still due."""

    def started(self, execution_id: str) -> None:
        """Record that Actito has accepted the file."""

    def not_started(self, rows: Sequence[ProfileChange]) -> None:
        """Record that the file was certainly not accepted."""

    def failed(self, rows: Sequence[ProfileChange]) -> None:
        """Record that it isn't known which rows were written, if any."""

    def overdue(self, rows: Sequence[ProfileChange]) -> None:
        """Record that an import takes too long; its opt-outs are to be written otherwise."""

    def ended(self, rows: Sequence[ProfileChange], refused: Collection[int]) -> None:
        """Record that all rows were written but those at these places."""

    def settle_earlier(self) -> bool:
        """Record the ends of imports of earlier runs; return whether one may still be under way."""

    def await_earlier(self) -> None:
        """Wait for imports of earlier runs, at most for `bulk_timeout`."""


class BulkWriter:
    """Write changes by the cheapest means that the limits allow.

    Args:
        imports: Bulk imports into the table.
        writer: Single requests.
        records: What must be known of imports after a crash.
        settings: Limits of plans, and how imports are made.
        shutdown: Checked while waiting.
        runtime: Clock and random names.
    """

    def __init__(
        self,
        imports: Imports,
        writer: SingleWriter,
        records: ImportRecords,
        settings: Settings,
        *,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._imports = imports
        self._writer = writer
        self._records = records
        self._settings = settings
        self._shutdown = shutdown
        self._runtime = runtime
        self._no_imports: str | None = None
        self._others: list[ProfileChange] = []

    def plan(self, changes: Sequence[ProfileChange], look_requests: int = 0) -> WritePlan:
        """Plan how to write changes, with the imports that are left today.

        Args:
            changes: One per person.
            look_requests: Requests of the look that goes before each import.
        """
        limits = self._settings.limits
        left = 0
        if not self._no_imports:
            left = max(0, limits.imports_left - self._records.started_today())
        return plan_writes(changes, replace(limits, imports_left=left, look_requests=look_requests))

    def write(
        self,
        plan: WritePlan,
        on_result: Callable[[WriteResult], None],
        on_import: Callable[[ImportResult], None],
    ) -> None:
        """Carry out a plan.

        Args:
            plan: The plan.
            on_result: Called for each change that was handled by a single request, or rejected.
            on_import: Called for the rows that an import has handled.

        Raises:
            StoppedError: The process is to stop; a change without a result may be written or not.
            ImportQuotaExceededError: No import is left and single requests would take too long.
                Opt-outs are written.
            ApiError: The API can't be used.
        """
        self._others = list(plan.other_singles)
        written = _Results(on_result, on_import)
        self._writer.write(plan.opt_out_singles, written.on_result)
        for file in plan.files:
            self._load(file, written)
        deferred = list(plan.deferred)
        limits = self._settings.limits
        if not self._no_imports or limits.affords_singles(len(self._others)):
            self._writer.write(self._others, written.on_result)
        else:
            deferred += self._others
        if deferred:
            reason = self._no_imports or "All bulk imports of the day are used."
            raise ImportQuotaExceededError(
                f"{reason} {written.count:,} change(s) are written, including all opt-outs. "
                f"{len(deferred):,} without an opt-out are deferred: single requests would take "
                f"{minutes_for(len(deferred), limits.calls_per_minute)} minutes, and "
                f"max_single_minutes is {limits.max_single_minutes:g}. Nothing is lost: STATE does "
                "not pass them, and the next run writes them, by an import as soon as Actito "
                "accepts one. Raise max_single_minutes to write them at once.",
                deferred=len(deferred),
            )

    # One file, and its parts

    @property
    def can_import(self) -> bool:
        """Whether an import may be made now, as far as is known."""
        limits = self._settings.limits
        return (
            limits.mode != "single"
            and not self._no_imports
            and self._records.started_today() < limits.imports_left
        )

    def load(
        self,
        begin: Callable[[str], ImportFile | None],
        on_result: Callable[[WriteResult], None],
        on_import: Callable[[ImportResult], None],
    ) -> None:
        """Make one import of rows that are chosen, and recorded, by the caller.

        Args:
            begin: Called with the name of the file; records durably that rows are about to be sent,
                and returns them; None where no import is worth it.
            on_result: As for `write`.
            on_import: As for `write`.

        Raises:
            StoppedError: The process is to stop; a change without a result may be written or not.
            ApiError: The API can't be used.
        """
        path = self._new_path()
        file = begin(path.name)
        if file is not None:
            logger.info("%s", WritePlan(files=[file]).to_text())
            self._others = []  # what can't be imported stays owed
            self._load(file, _Results(on_result, on_import), path)

    def _new_path(self) -> Path:
        """Return where the next file is made; its name is found again in Actito."""
        stamp = self._runtime.now().strftime("%Y%m%dT%H%M%S")
        name = f"{FILE_PREFIX}{stamp}-{self._runtime.token(6)}.zip"
        return self._records.folder / name

    def _load(self, file: ImportFile, written: _Results, begun: Path | None = None) -> None:
        """Import a file; if it fails, its halves, until the faulty rows are found.

        Args:
            file: The file.
            written: Counts what became of its rows.
            begun: Where it is made, if it is recorded already that it is about to be sent.
        """
        limits = self._settings.limits
        waiting, pauses = deque([file.changes]), iter(_PAUSES)
        while waiting:
            rows = waiting.popleft()
            if self._no_imports:
                self._write_opt_outs_first(rows, written)
                continue
            try:
                path, begun = begun, None
                self._import(file.columns, rows, written, path)
            except _ImportLost as error:
                pause = next(pauses, None)
                if pause is None:
                    self._no_imports = str(error)
                    logger.error("%s Continuing with single requests, opt-outs first.", error)  # noqa: TRY400
                    self._write_opt_outs_first(rows, written)
                    continue
                logger.warning("%s Another import is made of it.", error)
                self._sleep(min(pause, self._settings.client.retry_max_wait))
                waiting.appendleft(rows)
            except ImportsUnavailable as error:
                self._no_imports = str(error)
                logger.error("%s Continuing with single requests, opt-outs first.", error)  # noqa: TRY400
                self._write_opt_outs_first(rows, written)
            except _ImportFailed as error:
                if len(rows) == 1:
                    written.on_result(
                        WriteResult(
                            rows[0],
                            RequestRejectedError(str(error), status=None, body=str(error)),
                            self._runtime.now(),
                        )
                    )
                elif limits.mode == "auto" and len(rows) <= limits.threshold:
                    self._find_faulty_rows(rows, written, str(error))
                else:
                    logger.warning(
                        "An import of %d rows failed: %s Importing its halves, to find the faulty "
                        "rows.",
                        len(rows),
                        error,
                    )
                    half = len(rows) // 2
                    waiting.extendleft([rows[half:], rows[:half]])

    def _find_faulty_rows(
        self, rows: Sequence[ProfileChange], written: _Results, reason: str
    ) -> None:
        """Write the rows of a failed import by single requests, each of which shows its fault.

        If none is faulty, the import failed for another reason, and more imports would fail too.
        """
        logger.warning(
            "An import of %d rows failed: %s Writing them by single requests.", len(rows), reason
        )
        before = written.refused
        self._writer.write(rows, written.on_result)
        if written.refused == before:
            self._no_imports = (
                f"Imports fail although their rows are valid: {reason} Check "
                "bulk_definition or bulk_etl_id."
            )
            logger.error("%s", self._no_imports)

    def _write_opt_outs_first(self, rows: Sequence[ProfileChange], written: _Results) -> None:
        """Write the opt-outs now; defer the others until their number is known."""
        self._writer.write([change for change in rows if change.opt_out], written.on_result)
        self._others += [change for change in rows if not change.opt_out]

    def _import(
        self,
        columns: Columns,
        rows: Sequence[ProfileChange],
        written: _Results,
        path: Path | None = None,
    ) -> None:
        """Make a file of rows, send it, and follow its execution to the end.

        Raises:
            ImportsUnavailable: No import can be made for now.
            _ImportFailed: The file was refused or failed.
        """
        limits, records = self._settings.limits, self._records
        began = self._runtime.now()
        if path is None:
            if records.started_today() >= limits.imports_left:
                raise ImportsUnavailable(
                    f"All {limits.imports_left} bulk imports of the day (bulk_calls_per_day) are "
                    "used."
                )
            path = self._new_path()
            begun = records.begin(path.name, columns, rows)
            if begun.others:
                self._writer.write(begun.others, written.on_result)
            rows = begun.rows
            if not rows:
                return
        names = [self._settings.actito.user_unique_key, *(column.name for column in columns)]
        try:
            write_file(path, names, file_rows(columns, rows))
            logger.info(
                "Sending a file of %d rows (%d bytes) with the columns %s.",
                len(rows),
                path.stat().st_size,
                ", ".join(names),
            )
            execution_id = self._start(path, names, rows)
        finally:
            path.unlink(missing_ok=True)
        records.started(execution_id)
        try:
            execution = self.follow(execution_id)
        except (ImportsUnavailable, UnavailableError) as error:
            records.overdue(rows)
            raise ImportsUnavailable(str(error)) from None
        except RequestRejectedError as error:
            records.failed(rows)
            raise ImportsUnavailable(
                f"Import {execution_id} can't be read (status {error.status}), so its end can't be "
                "known."
            ) from None
        self._handle_rows(execution, rows, written, began)

    def _start(self, path: Path, columns: Sequence[str], rows: Sequence[ProfileChange]) -> str:
        pauses = iter(_PAUSES)
        while True:
            try:
                found = self._imports.start(path, columns)
            except RequestRejectedError as error:
                self._records.not_started(rows)
                if error.status in _IMPORTS_REFUSED:
                    raise ImportsUnavailable(
                        f"Actito refuses imports with status {error.status}: the key may lack the "
                        "right, or this API isn't the expected one."
                    ) from None
                raise _ImportFailed(
                    f"Actito refuses the file with status {error.status}."
                ) from None
            except UnavailableError as error:
                if error.status != 429:  # noqa: PLR2004 - else too many a day, or at once
                    return self._find_started(path.name, rows, error)
                pause = next(pauses, None)
                if pause is None:
                    self._records.not_started(rows)
                    raise ImportsUnavailable(
                        "Actito accepts no more imports today (status 429 each time)."
                    ) from None
                pause = min(pause, self._settings.client.retry_max_wait)
                logger.warning("%s Next attempt in %g s.", error, pause)
                self._sleep(pause)
            else:
                return found

    def _find_started(
        self, file_name: str, rows: Sequence[ProfileChange], error: UnavailableError
    ) -> str:
        """Return the execution that has started although the request failed.

        Raises:
            _ImportLost: It can't be found; it may have started all the same, so the rows are never
                sent again under the same name.
        """
        logger.warning("%s", error)
        pauses = iter(_PAUSES if self._imports.lists_executions else ())
        while True:
            try:
                found = self._imports.find_by_file(file_name)
            except UnavailableError:
                found = []
            if len(found) == 1:
                logger.info("The import has started although the request failed; following it.")
                return found[0]
            pause = next(pauses, None) if self._imports.lists_executions else None
            if found or pause is None:
                self._records.failed(rows)
                raise _ImportLost("It isn't known whether Actito has received the file.") from None
            self._sleep(min(pause, self._settings.client.retry_max_wait))

    def follow(self, execution_id: str, age: float = 0) -> Execution:
        """Poll an execution until it has ended.

        Args:
            execution_id: Actito's id of it.
            age: For how many seconds it has been running.

        Raises:
            ImportsUnavailable: It hasn't ended within `bulk_timeout`.
        """
        pause, announced = self._settings.bulk.bulk_poll_interval, self._runtime.monotonic()
        started = announced - age
        while True:
            self._sleep(pause)
            execution = self._imports.get_execution(execution_id)
            if execution.finished:
                return execution
            now = self._runtime.monotonic()
            if now - started > self._settings.bulk.bulk_timeout:
                raise ImportsUnavailable(
                    f"Import {execution_id} has not ended within bulk_timeout "
                    f"({self._settings.bulk.bulk_timeout:g} s)."
                )
            if now - announced > _ANNOUNCE_INTERVAL:
                announced = now
                logger.info("Import %s has been running for %.0f s.", execution_id, now - started)
            pause = min(pause * _POLL_GROWTH, _MAX_POLL_INTERVAL)

    def _handle_rows(
        self,
        execution: Execution,
        rows: Sequence[ProfileChange],
        written: _Results,
        began: datetime,
    ) -> None:
        """Handle the result of each row.

        Raises:
            _ImportFailed: The file failed as a whole, or Actito doesn't report which rows did.
        """
        if execution.failure is not None:
            self._records.failed(rows)
            raise _ImportFailed(f"{execution.failure.rstrip('.')}.")
        wrote_nothing = execution.counts == (0, 0) and not execution.has_errors
        if self._records.holds_profiles_only and wrote_nothing:
            self._records.failed(rows)
            raise ImportsUnavailable(
                f"Import {execution.id} has ended without an error, and Actito says that it wrote "
                "no row, although all have a profile."
            )
        refused: dict[int, str] = {}
        if execution.has_errors:
            places = {change.person: at for at, change in enumerate(rows)}
            listed = self._imports.errors(execution.id) or []
            for error in listed:
                at = places.get(error.key) if error.key is not None else None
                if at is None and error.line is not None and 0 < error.line <= len(rows):
                    at = error.line - 1
                if at is None:
                    self._records.failed(rows)
                    raise _ImportFailed("Some rows failed, but Actito did not report which.")
                refused[at] = error.reason
            if len(refused) < max(1, execution.errors or 0):
                self._records.failed(rows)
                raise _ImportFailed("Some rows failed, but Actito did not report which.")
        logger.info(
            "Import %s has ended: %d rows, %d rejected.", execution.id, len(rows), len(refused)
        )
        self._records.ended(rows, refused)
        written.on_import(
            ImportResult(
                [change for at, change in enumerate(rows) if at not in refused],
                execution.counts,
                began,
            )
        )
        apart = self._write_apart([rows[at] for at in refused], written)
        for at, reason in refused.items():
            if rows[at].person in apart:
                continue
            refusal = RequestRejectedError(
                with_reason(
                    "Actito rejected this row of an import.",
                    reason_of(reason, [rows[at].person, rows[at].attributes]),
                ),
                status=None,
                body=reason,
            )
            written.on_result(WriteResult(rows[at], refusal, began))

    def _write_apart(self, refused: Sequence[ProfileChange], written: _Results) -> set[str]:
        """Write refused rows by single requests, where an attribute may be what is wrong.

        Such a request is followed by one without the attributes: these must not block a choice.

        Returns:
            The keys of the people; opt-outs are always among them, all others if they are few.
        """
        apart = [row for row in refused if row.attributes and row.subscriptions]
        if not self._settings.limits.affords_singles(len(apart)):
            apart = [row for row in apart if row.opt_out]
        if apart:
            logger.warning(
                "Rows with attributes and choices that the import refused: %d. Writing them by "
                "single requests.",
                len(apart),
            )
            self._writer.write(apart, written.on_result)
        return {row.person for row in apart}

    # Waiting

    def _sleep(self, seconds: float) -> None:
        self._shutdown.requested.wait(seconds)
        self._shutdown.check()


class _Results:
    """Pass results on, and count them."""

    def __init__(
        self, on_result: Callable[[WriteResult], None], on_import: Callable[[ImportResult], None]
    ) -> None:
        self._on_result = on_result
        self._on_import = on_import
        self.count = 0
        self.refused = 0

    def on_result(self, result: WriteResult) -> None:
        if isinstance(result.outcome, RequestRejectedError):
            self.refused += 1
        else:
            self.count += 1
        self._on_result(result)

    def on_import(self, result: ImportResult) -> None:
        self.count += len(result.changes)
        self._on_import(result)


def file_rows(columns: Columns, changes: Sequence[ProfileChange]) -> Iterator[list[str]]:
    """Yield the rows of a file, without its header: the key, then a cell per column."""
    for change in changes:
        if change.fields == columns:
            yield [change.person, *[cell(value.value) for value in change.values]]
        else:
            values = dict(zip(change.fields, change.values, strict=True))
            yield [
                change.person,
                *[cell(values[column].value) if column in values else "" for column in columns],
            ]
