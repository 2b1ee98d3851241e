"""Carries out a write plan: single calls, imports, and what is done when an import fails.

Opt-outs come first everywhere. A file that fails is cut in two until the rows at fault are found;
when no import is left, single calls take over as far as they may.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.actito.imports import cell, write_file
from actito_didomi.errors import (
    ApiError,
    ImportQuotaExceededError,
    RequestRejectedError,
    UnavailableError,
)
from target_actito.plan import File, WritePlan, minutes_for, plan_writes
from target_actito.single import Result, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from actito_didomi.actito import Execution, Imports
    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.plugin.shutdown import Shutdown
    from target_actito.config import Settings
    from target_actito.plan import Columns
    from target_actito.workspace import Workspace

logger = logging.getLogger("target-actito")

_FILE_NAME = re.compile(r"actito-didomi-\d{8}T\d{6}-[0-9a-f]{12}")
_NOT_ALLOWED = frozenset({403, 404, 405, 501})
"""Refusals of an import that speak of the key or the API, not of the file."""
_PAUSES = (5.0, 20.0, 60.0)
"""Seconds between tries of a call that starts an import."""
_LONGEST_POLL = 30.0
_POLL_GROWTH = 1.5
_ANNOUNCE = 30.0


@dataclass(frozen=True)
class Imported:
    """Rows that an import has settled.

    Attributes:
        changes: The rows that were not refused; people without a profile among them.
        counts: Profiles created and updated; None where Actito doesn't tell.
        began: When the import was begun.
    """

    changes: Sequence[ProfileChange]
    counts: tuple[int, int] | None
    began: datetime


class _ImportFailed(Exception):  # noqa: N818 - what happened to a file, not an error of ours
    """An import failed as a whole, or Actito doesn't tell which of its rows did."""


class _ImportsUnavailable(Exception):  # noqa: N818 - as above
    """No import can be made for now."""


class BulkWriter:
    """Writes changes by the cheapest means that the limits allow.

    Args:
        imports: Bulk imports into the table.
        writer: Single calls.
        workspace: Where files are made.
        settings: Limits of plans, and how imports are made.
        shutdown: Seen while waiting.
    """

    def __init__(
        self,
        imports: Imports,
        writer: Writer,
        workspace: Workspace,
        settings: Settings,
        shutdown: Shutdown,
    ) -> None:
        self._imports = imports
        self._writer = writer
        self._workspace = workspace
        self._settings = settings
        self._shutdown = shutdown
        self._waited = False
        self._no_imports: str | None = None
        self._later: list[ProfileChange] = []

    def plan(self, changes: Sequence[ProfileChange]) -> WritePlan:
        """Plan how to write changes, with the imports that are left today."""
        limits = self._settings.limits
        left = 0
        if not self._no_imports:
            left = max(0, limits.imports_left - self._workspace.started_today())
        return plan_writes(changes, replace(limits, imports_left=left))

    def write(
        self,
        plan: WritePlan,
        on_result: Callable[[Result], None],
        on_imported: Callable[[Imported], None],
    ) -> None:
        """Carry out a plan.

        Args:
            plan: The plan.
            on_result: Called for each change that is settled by a single call, or refused.
            on_imported: Called for the rows of an import that are settled.

        Raises:
            StoppedError: The process is to stop; what is not settled was or wasn't written.
            ImportQuotaExceededError: No import is left and single calls would take too long.
                Opt-outs are written.
            ApiError: The API can't be used.
        """
        self._wait_for_earlier_imports()
        self._later = list(plan.later)
        written = _Tally(on_result, on_imported)
        self._writer.write(plan.urgent, written.result)
        for file in plan.files:
            self._load(file, written)
        deferred = list(plan.deferred)
        limits = self._settings.limits
        if not self._no_imports or limits.affords_singles(len(self._later)):
            self._writer.write(self._later, written.result)
        else:
            deferred += self._later
        if deferred:
            reason = self._no_imports or "The day's bulk imports are used up."
            raise ImportQuotaExceededError(
                f"{reason} {written.count:,} change(s) are written, all opt-outs among them. "
                f"{len(deferred):,} without an opt-out are not: by single calls they would take "
                f"{minutes_for(len(deferred), limits.calls_per_minute)} minutes, and "
                f"max_single_minutes is {limits.max_single_minutes:g}. Nothing is lost: STATE "
                "stays behind them, and the next run writes them, by an import as soon as Actito "
                "takes one. Raise max_single_minutes to have them written at once.",
                deferred=len(deferred),
            )

    # One file, and its parts

    def _load(self, file: File, written: _Tally) -> None:
        """Load a file; where it fails, its halves, until the rows at fault are found."""
        limits = self._settings.limits
        waiting = deque([file.changes])
        while waiting:
            rows = waiting.popleft()
            if self._no_imports:
                self._by_single_calls(rows, written)
                continue
            try:
                self._import(file.columns, rows, written)
            except _ImportsUnavailable as error:
                self._no_imports = str(error)
                logger.error("%s Single calls take over, opt-outs first.", error)  # noqa: TRY400
                self._by_single_calls(rows, written)
            except _ImportFailed as error:
                if len(rows) == 1:
                    written.result(
                        Result(
                            rows[0],
                            RequestRejectedError(str(error), status=None, body=str(error)),
                            datetime.now(timezone.utc),
                        )
                    )
                elif limits.mode == "auto" and len(rows) <= limits.threshold:
                    self._find_bad_rows(rows, written, str(error))
                else:
                    logger.warning(
                        "An import of %d rows failed: %s It is tried again in two halves, to find "
                        "the rows at fault.",
                        len(rows),
                        error,
                    )
                    half = len(rows) // 2
                    waiting.extendleft([rows[half:], rows[:half]])

    def _find_bad_rows(self, rows: Sequence[ProfileChange], written: _Tally, reason: str) -> None:
        """Write the rows of a failed import by single calls, each of which says what is wrong.

        Should none be wrong, the fault isn't in the rows, and there is no use in more imports.
        """
        logger.warning(
            "An import of %d rows failed: %s They go by single calls.", len(rows), reason
        )
        before = written.refused
        self._writer.write(rows, written.result)
        if written.refused == before:
            self._no_imports = (
                f"Imports fail although their rows are right: {reason} Look at "
                "bulk_definition or bulk_etl_id."
            )
            logger.error("%s", self._no_imports)

    def _by_single_calls(self, rows: Sequence[ProfileChange], written: _Tally) -> None:
        """Write the opt-outs at once; the rest waits until it is known how much it is."""
        self._writer.write([change for change in rows if change.opt_out], written.result)
        self._later += [change for change in rows if not change.opt_out]

    def _import(self, columns: Columns, rows: Sequence[ProfileChange], written: _Tally) -> None:
        """Make a file of rows, send it, and follow the execution to its end.

        Raises:
            _ImportsUnavailable: No import can be made for now.
            _ImportFailed: The file was refused or failed.
        """
        limits, workspace = self._settings.limits, self._workspace
        if workspace.started_today() >= limits.imports_left:
            raise _ImportsUnavailable(
                f"The {limits.imports_left} bulk imports of a day (bulk_calls_per_day) are used up."
            )
        began = datetime.now(timezone.utc)
        stamp = began.strftime("%Y%m%dT%H%M%S")
        path = workspace.folder / f"actito-didomi-{stamp}-{secrets.token_hex(6)}.zip"
        names = [self._settings.actito.user_unique_key, *(target.name for target in columns)]
        try:
            write_file(path, names, file_rows(columns, rows))
            logger.info(
                "Sending a file of %d rows (%d bytes) with the columns %s.",
                len(rows),
                path.stat().st_size,
                ", ".join(names),
            )
            execution_id = self._start(path, names)
        finally:
            path.unlink(missing_ok=True)
        workspace.note(execution_id)
        execution = self._follow(execution_id)
        self._settle(execution, rows, written, began)
        workspace.settled()

    def _start(self, path: Path, columns: Sequence[str]) -> str:
        pauses = iter(_PAUSES)
        while True:
            try:
                found = self._imports.start(path, columns)
            except RequestRejectedError as error:
                if error.status in _NOT_ALLOWED:
                    raise _ImportsUnavailable(
                        f"Actito refuses imports with status {error.status}: the key may not "
                        "import, or the API is another one."
                    ) from None
                raise _ImportFailed(
                    f"Actito refuses the file with status {error.status}."
                ) from None
            except UnavailableError as error:
                refused = error.status == 429  # noqa: PLR2004 - too many a day, or at once
                started = None if refused else self._imports.find_by_file(path.name)
                if started is not None:
                    logger.info("The import was started all the same; it is followed.")
                    self._workspace.count_start()
                    return started
                pause = next(pauses, None)
                if pause is None:
                    if not refused:
                        raise
                    raise _ImportsUnavailable(
                        "Actito takes no more imports today (status 429 each time)."
                    ) from None
                pause = min(pause, self._settings.client.retry_max_wait)
                logger.warning("%s Next attempt in %g s.", error, pause)
                self._sleep(pause)
            else:
                self._workspace.count_start()
                return found

    def _follow(self, execution_id: str) -> Execution:
        """Look at an execution until it has ended.

        Raises:
            UnavailableError: It hasn't within the timeout.
        """
        pause, started = self._settings.bulk.bulk_poll_interval, time.monotonic()
        announced = started
        while True:
            self._sleep(pause)
            execution = self._imports.get_execution(execution_id)
            if execution.finished:
                return execution
            now = time.monotonic()
            if now - started > self._settings.bulk.bulk_timeout:
                raise _ImportsUnavailable(
                    f"Import {execution_id} has not ended within bulk_timeout "
                    f"({self._settings.bulk.bulk_timeout:g} s)."
                )
            if now - announced > _ANNOUNCE:
                announced = now
                logger.info("Import %s is under way for %.0f s.", execution_id, now - started)
            pause = min(pause * _POLL_GROWTH, _LONGEST_POLL)

    def _settle(
        self,
        execution: Execution,
        rows: Sequence[ProfileChange],
        written: _Tally,
        began: datetime,
    ) -> None:
        """Take note of what became of each row.

        Raises:
            _ImportFailed: The file failed as a whole, or nobody tells which rows did.
        """
        if execution.failure is not None:
            raise _ImportFailed(f"{execution.failure.rstrip('.')}.")
        refused: dict[int, str] = {}
        if execution.has_errors:
            places = {change.person: at for at, change in enumerate(rows)}
            for error in self._imports.errors(execution.id) or []:
                at = places.get(error.key) if error.key is not None else None
                if at is None and error.line is not None and 0 < error.line <= len(rows):
                    at = error.line - 1
                if at is None:
                    raise _ImportFailed("Rows are in error, and Actito doesn't tell which.")
                refused[at] = error.reason
            if not refused:
                raise _ImportFailed("Rows are in error, and Actito doesn't tell which.")
        logger.info(
            "Import %s has ended: %d rows, %d in error.", execution.id, len(rows), len(refused)
        )
        written.imported(
            Imported(
                [change for at, change in enumerate(rows) if at not in refused],
                execution.counts,
                began,
            )
        )
        for at, reason in refused.items():
            refusal = RequestRejectedError(
                "Actito refuses the row of an import.", status=None, body=reason
            )
            written.result(Result(rows[at], refusal, began))

    # Waiting

    def _wait_for_earlier_imports(self) -> None:
        """Wait, once, for imports that a killed run left under way: they may write older choices.

        Raises:
            ApiError: One hasn't ended within the timeout.
        """
        if self._waited:
            return
        running = set(self._workspace.left_behind) | set(
            self._imports.find_running(_FILE_NAME) or []
        )
        for execution_id in sorted(running):
            logger.info("Import %s of an earlier run is awaited first.", execution_id)
            try:
                self._follow(execution_id)
            except RequestRejectedError:
                continue  # long gone
            except _ImportsUnavailable as error:
                raise ApiError(
                    codes.IMPORT_UNFINISHED,
                    f"{error} It belongs to an earlier run and could overwrite newer choices with "
                    "older ones, so nothing is written before it ends. Look it up in Actito, stop "
                    "it there if it hangs, and run again.",
                ) from None
        self._workspace.forget_left_behind()
        self._waited = True

    def _sleep(self, seconds: float) -> None:
        self._shutdown.requested.wait(seconds)
        self._shutdown.check()


class _Tally:
    """Hands results on, and counts them."""

    def __init__(
        self, on_result: Callable[[Result], None], on_imported: Callable[[Imported], None]
    ) -> None:
        self._on_result = on_result
        self._on_imported = on_imported
        self.count = 0
        self.refused = 0

    def result(self, result: Result) -> None:
        if isinstance(result.outcome, RequestRejectedError):
            self.refused += 1
        else:
            self.count += 1
        self._on_result(result)

    def imported(self, imported: Imported) -> None:
        self.count += len(imported.changes)
        self._on_imported(imported)


def file_rows(columns: Columns, changes: Sequence[ProfileChange]) -> Iterator[list[str]]:
    """Give the rows of a file, without its header."""
    for change in changes:
        if change.fields == columns:
            yield [change.person, *[cell(value.value) for value in change.values]]
        else:
            values = dict(zip(change.fields, change.values, strict=True))
            yield [
                change.person,
                *[cell(values[target].value) if target in values else "" for target in columns],
            ]
