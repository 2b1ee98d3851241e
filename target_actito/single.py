"""Write profile changes by concurrent single requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from actito_didomi import codes
from actito_didomi.actito import Written
from actito_didomi.errors import ApiError, RequestRejectedError
from actito_didomi.plugin.parallel import run_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from actito_didomi.actito import ProfileTable
    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.plugin.breaker import RefusalBreaker
    from actito_didomi.plugin.guards import Guards
    from actito_didomi.plugin.progress import Progress
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime

logger = logging.getLogger("target-actito")

_ACCEPTED = frozenset({Written.UPDATED, Written.CREATED})
"""Outcomes that show that Actito accepts changes."""


@dataclass(frozen=True)
class RefusedAttributes:
    """Attributes that were refused, and left out of what was written after that.

    Attributes:
        change: They alone.
        error: Why they were refused.
    """

    change: ProfileChange
    error: RequestRejectedError


@dataclass(frozen=True)
class WriteResult:
    """What became of a change that was written by a single request, or rejected.

    Attributes:
        change: The change.
        outcome: What became of it, or why it was rejected.
        began: When the request began, by our clock.
        refused_attributes: Attributes that were refused and left out; None where none were.
        repeats: Whether the same was refused the same way before.
    """

    change: ProfileChange
    outcome: Written | RequestRejectedError
    began: datetime
    refused_attributes: RefusedAttributes | None = None
    repeats: bool = False


class SingleWriter(Protocol):
    """Writes changes by single requests."""

    def write(
        self, changes: Sequence[ProfileChange], on_result: Callable[[WriteResult], None]
    ) -> None:
        """Write changes in the order given, as far as concurrent requests allow."""


def write_each(
    changes: Sequence[ProfileChange],
    write_one: Callable[[ProfileChange], WriteResult],
    on_result: Callable[[WriteResult], None],
    *,
    breaker: RefusalBreaker[WriteResult],
    progress: Progress,
    workers: int,
    shutdown: Shutdown,
    runtime: Runtime,
) -> None:
    """Write changes concurrently, begun in the order given, and log the progress.

    Args:
        changes: What to write.
        write_one: Called in another thread for each change.
        on_result: Called in this thread with what `write_one` returned; with a refusal once it is
            clear that it concerns one person.
        breaker: Holds refusals back until that is clear.
        progress: Counts and logs what is settled.
        workers: Maximum number of concurrent requests.
        shutdown: Checked between requests; those in flight may finish within its grace period.
        runtime: Clock and threads.

    Raises:
        StoppedError: The process is to stop; a change without a result may be written or not.
        ApiError: The API can't be used, or refuses all alike; likewise.
    """

    def handle_result(result: WriteResult) -> None:
        progress.add(opt_out=result.change.opt_out)
        outcome = result.outcome
        if not isinstance(outcome, RequestRejectedError):
            if outcome in _ACCEPTED:
                _each(breaker.accept())
            on_result(result)
        elif result.repeats:
            on_result(result)
        else:
            _each(breaker.refuse(result, outcome.status))

    def _each(refused: Iterable[WriteResult]) -> None:
        for result in refused:
            on_result(result)

    run_parallel(
        changes,
        write_one,
        handle_result,
        workers=workers,
        shutdown=shutdown,
        runtime=runtime,
        on_progress=progress.check,
    )
    progress.finish()
    _each(breaker.finish())


def all_refused(error: RequestRejectedError) -> ApiError:
    """Return the error that a refusal concerns all requests."""
    return ApiError(
        codes.ACCESS_REFUSED,
        f"{error.message} This concerns all requests, so the run stops; nothing is lost.",
    )


class Writer:
    """Write changes, one request per profile.

    Args:
        table: The profile table.
        create: Whether a missing profile may be created.
        guards: Stop writing if too many people are unknown, or would be created.
        breaker: Stops the run if all is refused alike.
        progress: Counts and logs what is settled.
        max_concurrency: Maximum number of concurrent requests.
        shutdown: Checked between requests; those in flight may finish within its grace period.
        runtime: Clock and threads.
    """

    def __init__(
        self,
        table: ProfileTable,
        *,
        create: bool,
        guards: Guards,
        breaker: RefusalBreaker[WriteResult],
        progress: Progress,
        max_concurrency: int,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._table = table
        self._create = create
        self._guards = guards
        self._people = self._unmatched = 0
        self._breaker = breaker
        self._progress = progress
        self._max_concurrency = max_concurrency
        self._shutdown = shutdown
        self._runtime = runtime

    def write(
        self, changes: Sequence[ProfileChange], on_result: Callable[[WriteResult], None]
    ) -> None:
        """Write changes in the order given, as far as concurrent requests allow.

        Args:
            changes: What to write.
            on_result: Called in this thread for each change that is written or rejected.

        Raises:
            StoppedError: The process is to stop; a change without a result may be written or not.
            ApiError: The API can't be used; likewise.
        """

        def handle_result(result: WriteResult) -> None:
            self._people += 1
            if result.outcome is Written.UNMATCHED:
                self._unmatched += 1
                self._guards.check_unmatched(self._unmatched, self._people)
                if self._guards.stops_lookups:
                    result = replace(result, outcome=Written.POSTPONED)
            on_result(result)

        write_each(
            changes,
            self._write_one,
            handle_result,
            breaker=self._breaker,
            progress=self._progress,
            workers=self._max_concurrency,
            shutdown=self._shutdown,
            runtime=self._runtime,
        )

    def _write(self, change: ProfileChange, *, create: bool) -> Written:
        return self._table.write(
            change.person, change.attributes, change.subscriptions, create=create
        )

    def _write_one(self, change: ProfileChange) -> WriteResult:
        began = self._runtime.now()
        if self._guards.stops_lookups:
            return WriteResult(change, Written.POSTPONED, began)
        # Only a limit on creating takes a second request for one who is missing.
        is_limited = self._guards.settings.max_creates is not None
        try:
            written = self._write(change, create=self._create and not is_limited)
            if written is Written.UNMATCHED and self._create:
                if not self._guards.may_create():
                    return WriteResult(change, Written.POSTPONED, began)
                written = self._write(change, create=True)
        except RequestRejectedError as error:
            if error.is_record_level:
                return WriteResult(change, error, began)
            raise all_refused(error) from None
        return WriteResult(change, written, began)
