"""What plugins see of a simulation: its clock, threads, network, databases and streams."""

from __future__ import annotations

import io
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol

import sqlalchemy as sa
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from actito_didomi.runtime import Runtime
from simulation.kernel import Dead, Hub, Pipe, Process, Thread

EPOCH = datetime(2026, 11, 2, 8, tzinfo=timezone.utc)
"""When stories begin."""
QUIET = 2.0
"""Seconds after which a reader looks at its clock while nothing comes."""


def to_datetime(seconds: float) -> datetime:
    """Return a time of the story as a date and time in UTC."""
    return EPOCH + timedelta(microseconds=round(seconds * 1_000_000))


class Steps(Protocol):
    """What happens at the steps of processes."""

    def request(self, process: Process, request: PreparedRequest, timeout: float) -> Response:
        """Carry out a request of the process that runs."""

    def commit(
        self, process: Process, effect: Callable[[], None], connection: StepConnection
    ) -> None:
        """Carry out the end of a transaction."""

    def flush(self, process: Process, pipe: Pipe | None, data: bytes) -> None:
        """Carry out an output."""


class SimRuntime(Runtime):
    """The machine of the process that runs.

    Args:
        hub: Clock.
        steps: What happens at steps.
        draw: Returns `n` random bytes.
    """

    def __init__(self, hub: Hub, steps: Steps, draw: Callable[[int], bytes]) -> None:
        self.hub = hub
        self.steps = steps
        self._draw = draw
        self._locks: dict[str, ProcessLock] = {}

    def now(self) -> datetime:
        """Return the time by the clock of the process that runs."""
        skew = self.hub.current.process.skew if self.hub.current else 0.0
        return to_datetime(self.hub.now + skew)

    def monotonic(self) -> float:
        """Return seconds since the beginning."""
        return self.hub.now

    def event(self) -> Event:
        """Return a new flag."""
        return Event(self.hub)

    def lock(self) -> AbstractContextManager[Any]:
        """Return a new lock."""
        return Lock(self.hub)

    def process_lock(self, path: Path) -> ProcessLock:
        """Return a lock among the processes of the story."""
        return ProcessLock(self.hub, self._locks, str(path))

    def thread(self, run: Callable[[], None], name: str) -> None:
        """Note the thread that acts upon signals, which starts with the first; start any other."""
        if name == "shutdown":
            process = self.hub.process
            process.shutdown = getattr(run, "__self__", None)
            process.on_signal = run
            return
        self.hub.start(self.hub.process, run)

    def pool(self, workers: int) -> Pool:
        """Return a new pool."""
        return Pool(self.hub, workers)

    def adapter(self, connections: int) -> Adapter:
        """Return the way to the sandbox."""
        del connections
        return Adapter(self.hub, self.steps)

    def engine(self, url: sa.URL, options: Mapping[str, Any]) -> sa.Engine:
        """Return an engine for a SQLite database whose commits are steps."""
        del options
        name = str(url.database)

        def connect() -> sqlite3.Connection:
            process = self.hub.process
            connection = sqlite3.connect(
                name, timeout=0, factory=StepConnection, check_same_thread=False
            )
            assert isinstance(connection, StepConnection)
            connection.belong(process, self.steps)
            process.connections.append(connection)
            return connection

        return sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool)

    def token(self, size: int) -> str:
        """Return drawn bytes in hexadecimal form."""
        return self._draw(size).hex()

    def uuid(self) -> str:
        """Return a drawn UUID."""
        digits = self._draw(16).hex()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"

    def process_name(self) -> str:
        """Return the name of the process that runs."""
        process = self.hub.process
        return f"simulation, {process.name} of job {process.job}"

    @property
    def stdin(self) -> Any:
        """Not used: plugins are handed what they read."""
        raise NotImplementedError

    @property
    def stdout(self) -> Any:
        """Standard output of the process that runs."""
        return STDOUT

    def leave(self, code: int) -> NoReturn:
        """End the process that runs, at once."""
        self.hub.process.end(code)
        self.hub.stop_here()


class Event:
    """A flag."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._set = False
        self._waiting: list[tuple[Thread, int]] = []

    def set(self) -> None:
        """Set it, and wake those that wait."""
        self._set = True
        for thread, ticket in self._waiting:
            self._hub.wake(thread, ticket)
        self._waiting.clear()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or the time has passed."""
        if not self._set:
            thread = self._hub.thread
            place = (thread, thread.ticket + 1)
            self._waiting.append(place)
            self._hub.pause(timeout)
            if place in self._waiting:
                self._waiting.remove(place)
        return self._set


class Lock:
    """A lock among the threads of a process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held = False
        self._waiting: deque[tuple[Thread, int]] = deque()

    def __enter__(self) -> None:
        while self._held:
            thread = self._hub.thread
            self._waiting.append((thread, thread.ticket + 1))
            self._hub.pause()
        self._held = True
        if self._hub.current is not None:
            self._hub.current.locks += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held = False
        if self._hub.current is not None:
            self._hub.current.locks -= 1
        if self._waiting:
            self._hub.wake(*self._waiting.popleft())

    def acquire(self) -> bool:
        """Acquire it."""
        self.__enter__()
        return True

    def release(self) -> None:
        """Release it."""
        self.__exit__(None, None, None)


class ProcessLock:
    """A lock among processes, which ends with its process."""

    def __init__(self, hub: Hub, held: dict[str, ProcessLock], name: str) -> None:
        self._hub = hub
        self._held = held
        self._name = name

    def acquire(self) -> bool:
        """Acquire it if it is free; return whether it is held."""
        holder = self._held.setdefault(self._name, self)
        if holder is self:
            self._hub.process.on_end.append(self.release)
        return holder is self

    def release(self) -> None:
        """Release it."""
        if self._held.get(self._name) is self:
            del self._held[self._name]


class Pool:
    """Threads that work on tasks."""

    def __init__(self, hub: Hub, workers: int) -> None:
        self._hub = hub
        self._workers = workers
        self._tasks: deque[tuple[Callable[[Any], Any], Any, Future[Any]]] = deque()
        self._running = 0
        self._waiting: tuple[Thread, int] | None = None
        self._closed = False

    def submit(self, work: Callable[[Any], Any], task: Any, /) -> Future[Any]:
        """Begin a task as soon as a thread is free."""
        future: Future[Any] = Future()
        self._tasks.append((work, task, future))
        if self._running < self._workers:
            self._running += 1
            self._hub.start(self._hub.process, self._work)
        return future

    def _work(self) -> None:
        while self._tasks and not self._closed:
            work, task, future = self._tasks.popleft()
            try:
                result = work(task)
            except Dead:
                raise
            except BaseException as error:  # noqa: BLE001 - the future raises it again
                future.set_exception(error)
            else:
                future.set_result(result)
            if self._waiting is not None:
                self._hub.wake(*self._waiting)
        self._running -= 1

    def first_done(self, futures: Sequence[Future[Any]], timeout: float) -> list[Future[Any]]:
        """Wait for a result; return all that are there."""
        if not any(future.done() for future in futures):
            thread = self._hub.thread
            self._waiting = (thread, thread.ticket + 1)
            self._hub.pause(max(timeout, QUIET))
            self._waiting = None
        return [future for future in futures if future.done()]

    def close(self) -> None:
        """Begin no more tasks."""
        self._closed = True


class Adapter(BaseAdapter):
    """The way of requests to the sandbox."""

    def __init__(self, hub: Hub, steps: Steps) -> None:
        super().__init__()
        self._hub = hub
        self._steps = steps

    def send(  # type: ignore[override]
        self,
        request: PreparedRequest,
        timeout: float | tuple[float, float] = 60.0,
        **more: Any,
    ) -> Response:
        """Send a request."""
        del more
        seconds = timeout[1] if isinstance(timeout, tuple) else timeout
        response = self._steps.request(self._hub.process, request, seconds)
        response.raw = HTTPResponse(io.BytesIO(response.content), preload_content=False)
        return response

    def close(self) -> None:
        """Do nothing."""


class StepConnection(sqlite3.Connection):
    """A connection whose commits are steps of its process."""

    _process: Process
    _steps: Steps
    _gone = False

    def belong(self, process: Process, steps: Steps) -> None:
        """Set whose it is."""
        self._process, self._steps = process, steps

    def commit(self) -> None:
        """Commit: what is written is there, whatever happens to the process."""
        if self.in_transaction:
            self._steps.commit(self._process, super().commit, self)

    def abandon(self) -> None:
        """Close, as the system does when a process ends: an open transaction is lost."""
        self._gone = True
        self.close()


class Stdout:
    """Standard output: it belongs to the process that runs."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.hub: Hub | None = None
        self.steps: Steps | None = None
        self.buffer = self

    def write(self, data: str | bytes) -> int:
        """Write."""
        process = self._process()
        process.unwritten += data.encode() if isinstance(data, str) else data
        return len(data)

    def flush(self) -> None:
        """Pass on what is written."""
        process = self._process()
        if data := bytes(process.unwritten):
            process.unwritten.clear()
            assert self.steps is not None
            self.steps.flush(process, process.stdout, data)

    def _process(self) -> Process:
        assert self.hub is not None, "output outside of a simulation"
        return self.hub.process

    def fileno(self) -> int:
        """There is none.

        Raises:
            OSError: Always.
        """
        raise OSError


STDOUT = Stdout()


class Stdin:
    """Standard input: the end of a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.buffer = self

    def read(self, size: int = -1) -> bytes | None:
        """Return what is there."""
        del size
        return self._pipe.read(QUIET)
