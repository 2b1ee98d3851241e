"""Run tasks concurrently, until all are done or the process is to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from actito_didomi.errors import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Future, Runtime

_TICK = 0.2
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_parallel(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    on_result: Callable[[Result], None],
    *,
    workers: int,
    shutdown: Shutdown,
    runtime: Runtime,
    on_progress: Callable[[], None],
) -> None:
    """Run tasks, begun in the order given.

    After a failure no more are begun; those that run come to their end first.

    Args:
        tasks: The tasks.
        work: Called in another thread for each task.
        on_result: Called in this thread with what `work` returned.
        workers: Maximum number of tasks at once.
        shutdown: Checked between tasks; those that run may finish within its grace period.
        runtime: Clock and threads.
        on_progress: Called in this thread several times a second.

    Raises:
        StoppedError: The process is to stop; what has no result was or wasn't done.
        Exception: What `work` or `on_result` raised first; likewise.
    """
    waiting = iter(tasks)
    running: list[Future[Result]] = []
    failure: Exception | None = None
    pool = runtime.pool(workers)
    try:
        while True:
            while not failure and not shutdown.requested.is_set() and len(running) < 2 * workers:
                if (task := next(waiting, None)) is None:
                    break
                running.append(pool.submit(work, task))
            if not running or not shutdown.patience_left:
                break
            done = pool.first_done(running, _TICK)
            running = [future for future in running if future not in done]
            for future in done:
                try:
                    on_result(future.result())
                except Exception as error:  # noqa: BLE001 - raised below, after the others
                    failure = failure or error
            on_progress()
    finally:
        pool.close()
    if failure and not isinstance(failure, StoppedError):
        raise failure
    shutdown.check()
