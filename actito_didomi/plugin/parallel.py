"""Work on several things at once, until all are done or the process is to stop."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

from actito_didomi.errors import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actito_didomi.plugin.shutdown import Shutdown

_TICK = 0.2
_PROGRESS_INTERVAL = 10.0
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_parallel(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    on_result: Callable[[Result], None],
    *,
    workers: int,
    shutdown: Shutdown,
    on_progress: Callable[[], None],
) -> None:
    """Work on tasks, begun in the order given.

    After a failure no more are begun; those that run come to their end first.

    Args:
        tasks: What to work on.
        work: Called in another thread for each task.
        on_result: Called in this thread with what `work` gave.
        workers: Tasks at once.
        shutdown: Seen between tasks; those that run may finish within its patience.
        on_progress: Called in this thread every 10 seconds.

    Raises:
        StoppedError: The process is to stop; what has no result was or wasn't done.
        Exception: What `work` or `on_result` raised first; likewise.
    """
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    failure: Exception | None = None
    announced = time.monotonic()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="writer")
    try:
        while True:
            while not failure and not shutdown.requested.is_set() and len(running) < 2 * workers:
                if (task := next(waiting, None)) is None:
                    break
                running.add(pool.submit(work, task))
            if not running or not shutdown.patience_left:
                break
            done, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    on_result(future.result())
                except Exception as error:  # noqa: BLE001 - raised below, after the others
                    failure = failure or error
            if time.monotonic() - announced > _PROGRESS_INTERVAL:
                announced = time.monotonic()
                on_progress()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure and not isinstance(failure, StoppedError):
        raise failure
    shutdown.check()
