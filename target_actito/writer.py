"""Writes profile changes, several calls at once, until all are done or the run is to stop."""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actito_didomi.errors import ApiError, RefusedError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actito_didomi.actito import ProfileTable, Written
    from actito_didomi.singer.shutdown import Shutdown
    from target_actito.coalesce import ProfileChange

logger = logging.getLogger("target-actito")

_TICK = 0.2
_PROGRESS_INTERVAL = 10.0
REJECTABLE = frozenset({400, 403, 404, 406, 409, 410, 413, 414, 415, 422})
"""Refusals that concern one change only; others, such as a refused key, end the run."""


@dataclass(frozen=True)
class Result:
    """A change that is settled on Actito's side.

    Attributes:
        change: The change.
        outcome: What became of it, or why it was refused.
    """

    change: ProfileChange
    outcome: Written | RefusedError


class Writer:
    """Writes changes one profile a call.

    Args:
        table: The profile table.
        create: Whether a missing profile may be created.
        max_concurrency: Calls at once.
        shutdown: Seen between calls; calls in flight may finish within its patience.
    """

    def __init__(
        self, table: ProfileTable, *, create: bool, max_concurrency: int, shutdown: Shutdown
    ) -> None:
        self._table = table
        self._create = create
        self._max_concurrency = max_concurrency
        self._shutdown = shutdown

    def write(self, changes: Sequence[ProfileChange], on_result: Callable[[Result], None]) -> None:
        """Write changes in the order given, as far as calls at once allow.

        Args:
            changes: What to write.
            on_result: Called in this thread for each change that is settled.

        Raises:
            StoppedError: The process is to stop; what is not settled was or wasn't written.
            ApiError: The API can't be used; likewise.
        """
        waiting = iter(changes)
        running: set[Future[Result]] = set()
        failure: Exception | None = None
        settled, announced = 0, time.monotonic()
        pool = ThreadPoolExecutor(self._max_concurrency, thread_name_prefix="actito")
        try:
            while True:
                while (
                    not failure and not self._stopping and len(running) < 2 * self._max_concurrency
                ):
                    if (change := next(waiting, None)) is None:
                        break
                    running.add(pool.submit(self._write_one, change))
                if not running or not self._shutdown.patience_left:
                    break
                done, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        on_result(future.result())
                        settled += 1
                    except Exception as error:  # noqa: BLE001 - raised below, after the others
                        failure = failure or error
                if time.monotonic() - announced > _PROGRESS_INTERVAL:
                    announced = time.monotonic()
                    logger.info("Written so far: %d of %d.", settled, len(changes))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failure and not isinstance(failure, StoppedError):
            raise failure
        self._shutdown.check()

    @property
    def _stopping(self) -> bool:
        return self._shutdown.requested.is_set()

    def _write_one(self, change: ProfileChange) -> Result:
        try:
            written = self._table.write(
                change.person, change.attributes, change.subscriptions, create=self._create
            )
        except RefusedError as error:
            if error.status in REJECTABLE:
                return Result(change, error)
            raise ApiError(
                f"{error} This concerns all calls, so the run stops; nothing is lost."
            ) from None
        return Result(change, written)
