"""Writes profile changes, several calls at once, until all are done or the run is to stop."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
class Result:
    """A change that is settled on Actito's side.

    Attributes:
        change: The change.
        outcome: What became of it, or why it was refused.
        began: When the call began.
    """

    change: ProfileChange
    outcome: Written | RequestRejectedError
    began: datetime


class Writer:
    """Writes changes one profile a call.

    Args:
        table: The profile table.
        create: Whether a missing profile may be created.
        max_concurrency: Calls at once.
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

    def write(self, changes: Sequence[ProfileChange], on_result: Callable[[Result], None]) -> None:
        """Write changes in the order given, as far as calls at once allow.

        Args:
            changes: What to write.
            on_result: Called in this thread for each change that is settled.

        Raises:
            StoppedError: The process is to stop; what is not settled was or wasn't written.
            ApiError: The API can't be used; likewise.
        """
        settled = 0

        def settle(result: Result) -> None:
            nonlocal settled
            settled += 1
            on_result(result)

        run_parallel(
            changes,
            self._write_one,
            settle,
            workers=self._max_concurrency,
            shutdown=self._shutdown,
            runtime=self._runtime,
            on_progress=lambda: logger.info("Written so far: %d of %d.", settled, len(changes)),
        )

    def _write_one(self, change: ProfileChange) -> Result:
        began = self._runtime.now()
        try:
            written = self._table.write(
                change.person, change.attributes, change.subscriptions, create=self._create
            )
        except RequestRejectedError as error:
            if error.is_record_level:
                return Result(change, error, began)
            raise ApiError(
                codes.ACCESS_REFUSED,
                f"{error.message} This concerns all calls, so the run stops; nothing is lost.",
            ) from None
        return Result(change, written, began)
