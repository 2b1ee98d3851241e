"""The seams: time, threads, randomness, network, databases and streams, handed in by one object.

Nothing else reads a clock, starts a thread, draws a random name or opens a connection (ruff's
`TID251` holds that). A plugin has its runtime as the class attribute `runtime`; below the
plugin it is passed on as a parameter. Tests and simulations put in another one.
"""

from __future__ import annotations

import os
import platform
import secrets
import sys
import threading
import time
import uuid
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import NoReturn

    import sqlalchemy as sa
    from requests.adapters import BaseAdapter

__all__ = ["Event", "Future", "Pool", "ProcessLock", "Runtime", "ThreadPool"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class Event(Protocol):
    """A flag that one part of the process sets and others wait for."""

    def set(self) -> None:
        """Set the flag."""

    def is_set(self) -> bool:
        """Return whether the flag is set."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, at most `timeout` seconds; return whether it is set."""


class ProcessLock(Protocol):
    """A lock among processes; it ends with the process that holds it, however that ends."""

    def acquire(self) -> bool:
        """Acquire the lock if it is free; return whether it is held now."""

    def release(self) -> None:
        """Release the lock."""


class FileProcessLock:
    """A lock on a file, which is made with mode 0600 and stays.

    Args:
        path: The file, on a local file system.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock  # noqa: PLC0415 - slow

        # A lock that is a mere file would stay after a kill.
        self._lock = FileLock(
            path, mode=0o600, thread_local=False, fallback_to_soft=False, preserve_lock_file=True
        )

    def acquire(self) -> bool:
        """Acquire the lock if it is free; return whether it is held now."""
        from filelock import Timeout  # noqa: PLC0415

        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


class Pool(Protocol):
    """Runs tasks concurrently."""

    def submit(self, work: Callable[[Task], Result], task: Task, /) -> Future[Result]:
        """Begin a task; its result is in the future."""

    def first_done(self, futures: Sequence[Future[Result]], timeout: float) -> list[Future[Result]]:
        """Wait at most `timeout` seconds for a result; return all futures that have one."""

    def close(self) -> None:
        """Begin no more tasks, and do not wait for those that run."""


class ThreadPool:
    """A pool of threads.

    Args:
        workers: Maximum number of tasks at once.
    """

    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    def submit(self, work: Callable[[Task], Result], task: Task, /) -> Future[Result]:
        """Begin a task as soon as a thread is free."""
        return self._executor.submit(work, task)

    def first_done(self, futures: Sequence[Future[Result]], timeout: float) -> list[Future[Result]]:
        """Wait at most `timeout` seconds for a result; return all futures that have one."""
        wait(futures, timeout=timeout, return_when=FIRST_COMPLETED)
        return [future for future in futures if future.done()]

    def close(self) -> None:
        """Begin no more tasks, and do not wait for those that run."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Runtime:
    """The real machine. Override methods to run a plugin under another clock or network."""

    def now(self) -> datetime:
        """Return the present time, in UTC with its zone."""
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences have a meaning."""
        return time.monotonic()

    def event(self) -> Event:
        """Return a new flag; its `wait` is how the project sleeps."""
        return threading.Event()

    def lock(self) -> AbstractContextManager[Any]:
        """Return a new lock for a `with` statement."""
        return threading.Lock()

    def process_lock(self, path: Path) -> ProcessLock:
        """Return a lock among processes that is held by means of a file."""
        return FileProcessLock(path)

    def thread(self, run: Callable[[], None], name: str) -> None:
        """Start a thread that does not keep the process alive."""
        threading.Thread(target=run, name=name, daemon=True).start()

    def pool(self, workers: int) -> Pool:
        """Return a new pool for at most `workers` tasks at once."""
        return ThreadPool(workers)

    def adapter(self, connections: int) -> BaseAdapter:
        """Return the transport of an HTTP session that keeps at most `connections` open."""
        return HTTPAdapter(pool_connections=1, pool_maxsize=connections)

    def engine(self, url: sa.URL, options: Mapping[str, Any]) -> sa.Engine:
        """Return an engine for a database; `options` are those of its driver's `connect`."""
        import sqlalchemy as sa  # noqa: PLC0415 - a fifth of the start of a plugin without database

        return sa.create_engine(url, connect_args=dict(options))

    def token(self, size: int) -> str:
        """Return `size` random bytes as hexadecimal digits."""
        return secrets.token_hex(size)

    def process_name(self) -> str:
        """Return what this process is called for people: its host and number."""
        return f"{platform.node()}, process {os.getpid()}"

    def uuid(self) -> str:
        """Return a random UUID."""
        return str(uuid.uuid4())

    @property
    def stdin(self) -> TextIO:
        """Standard input."""
        return sys.stdin

    @property
    def stdout(self) -> TextIO:
        """Standard output."""
        return sys.stdout

    def leave(self, code: int) -> NoReturn:
        """End the process at once, without waiting for its threads."""
        os._exit(code)
