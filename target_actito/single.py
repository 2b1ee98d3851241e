"""Write profile changes by concurrent single requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from actito_didomi import codes
from actito_didomi.errors import ApiError, RequestRejectedError
from actito_didomi.plugin.parallel import run_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from actito_didomi.actito import ProfileTable, Written
    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime

logger = logging.getLogger("target-actito")


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
    """

    change: ProfileChange
    outcome: Written | RequestRejectedError
    began: datetime
    refused_attributes: RefusedAttributes | None = None


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
    workers: int,
    shutdown: Shutdown,
    runtime: Runtime,
) -> None:
    """Write changes concurrently, begun in the order given, and log the progress.

    Args:
        changes: What to write.
        write_one: Called in another thread for each change.
        on_result: Called in this thread with what `write_one` returned.
        workers: Maximum number of concurrent requests.
        shutdown: Checked between requests; those in flight may finish within its grace period.
        runtime: Clock and threads.

    Raises:
        StoppedError: The process is to stop; a change without a result may be written or not.
        ApiError: The API can't be used; likewise.
    """
    done = 0

    def handle_result(result: WriteResult) -> None:
        nonlocal done
        done += 1
        on_result(result)

    run_parallel(
        changes,
        write_one,
        handle_result,
        workers=workers,
        shutdown=shutdown,
        runtime=runtime,
        on_progress=lambda: logger.info("Progress: %d of %d written.", done, len(changes)),
    )


class Writer:
    """Write changes, one request per profile.

    Args:
        table: The profile table.
        create: Whether a missing profile may be created.
        max_concurrency: Maximum number of concurrent requests.
        shutdown: Checked between requests; those in flight may finish within its grace period.
        runtime: Clock and threads.
    """

    def __init__(
        self,
        table: ProfileTable,
        *,
        create: bool,
        max_concurrency: int,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._table = table
        self._create = create
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
        write_each(
            changes,
            self._write_one,
            on_result,
            workers=self._max_concurrency,
            shutdown=self._shutdown,
            runtime=self._runtime,
        )

    def _write_one(self, change: ProfileChange) -> WriteResult:
        began = self._runtime.now()
        try:
            written = self._table.write(
                change.person, change.attributes, change.subscriptions, create=self._create
            )
        except RequestRejectedError as error:
            if error.is_record_level:
                return WriteResult(change, error, began)
            raise ApiError(
                codes.ACCESS_REFUSED,
                f"{error.message} This concerns all requests, so the run stops; nothing is lost.",
            ) from None
        return WriteResult(change, written, began)
