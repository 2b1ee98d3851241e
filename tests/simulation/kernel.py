"""Time and processes of a simulation: greenlets, and a clock that jumps to what comes next.

A process is killed by never continuing its greenlets again: no `finally` and no `__exit__` of it
runs, as with SIGKILL. What the operating system does for the dead (connections, locks and pipes are
closed) is done by `Process.kill`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn

from greenlet import getcurrent, greenlet

MOST_EVENTS = 400_000
"""Events of the clock in one story; more mean that something never comes to an end."""


class Dead(BaseException):
    """Unwinds the greenlets of the dead, once the verdict is in."""


class Violation(Exception):  # noqa: N818 - what a story has shown, not an error of ours
    """An invariant does not hold."""


class Hub:
    """The clock, and what happens when.

    Attributes:
        now: Seconds since the beginning of the story.
        current: The thread that runs; None while the hub itself does.
        failure: The first violation.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.current: Thread | None = None
        self.failure: Violation | None = None
        self.unwinding = False
        self._greenlet = getcurrent()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._events = 0
        self._graveyard: list[Thread] = []

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time, after what was scheduled for the same time before."""
        heapq.heappush(self._queue, (max(time, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in this many seconds."""
        self.at(self.now + seconds, action)

    def run(self, until: Callable[[], bool]) -> None:
        """Run until a condition holds.

        Raises:
            Violation: An invariant does not hold, or nothing is left that could happen.
        """
        while not until():
            if not self._queue:
                raise Violation("everything waits, and nothing can happen any more")
            self._events += 1
            if self._events > MOST_EVENTS:
                raise Violation("the story does not come to an end")
            time, _, action = heapq.heappop(self._queue)
            self.now = max(self.now, time)
            action()
            if self.failure is not None:
                raise self.failure

    def pass_time(self, seconds: float) -> None:
        """Run for an amount of time."""
        passed: list[bool] = []
        self.after(seconds, lambda: passed.append(True))
        self.run(lambda: bool(passed))

    def tick(self) -> None:
        """Pass a microsecond, so that what follows has a time of its own."""
        self.now += 0.000_001

    def fail(self, message: str) -> None:
        """Record a violation; the hub raises it as soon as it runs, past all code of plugins."""
        self.failure = self.failure or Violation(message)

    # For code inside a thread

    @property
    def thread(self) -> Thread:
        """The thread that runs."""
        if self.current is None:
            raise RuntimeError("only a thread of a process can do this")
        return self.current

    @property
    def process(self) -> Process:
        """The process that runs."""
        return self.thread.process

    def pause(self, seconds: float | None = None) -> None:
        """Pause until somebody wakes this thread, or this many seconds have passed."""
        if self.unwinding:
            raise Dead
        thread = self.thread
        thread.ticket += 1
        ticket = thread.ticket
        if seconds is not None:
            self.after(seconds, lambda: thread.resume(ticket))
        self._greenlet.switch()
        if self.unwinding:
            raise Dead

    def wake(self, thread: Thread, ticket: int) -> None:
        """Continue a thread soon, if it still waits with this ticket."""
        self.at(self.now, lambda: thread.resume(ticket))

    def stop_here(self) -> NoReturn:
        """Never continue: the process was killed."""
        self._greenlet.switch()
        raise Dead

    # Threads

    def start(self, process: Process, run: Callable[[], None]) -> Thread:
        """Start a thread of a process."""
        thread = Thread(self, process, run)
        process.threads.append(thread)
        self.at(self.now, lambda: thread.resume(0))
        return thread

    def bury(self, process: Process) -> None:
        """Keep the greenlets of a dead process until the end of the story."""
        self._graveyard += [t for t in process.threads if t.started and not t.greenlet.dead]

    def unwind(self) -> None:
        """End all greenlets that will never continue, once the verdict is in."""
        self.unwinding = True
        for thread in self._graveyard:
            self.current = thread
            for _ in range(10):
                if thread.greenlet.dead:
                    break
                try:
                    thread.greenlet.throw(Dead)
                except BaseException:  # noqa: BLE001, S112 - whatever the dead say
                    continue
        self.current = None
        self._graveyard.clear()


class Thread:
    """A thread of a process."""

    def __init__(self, hub: Hub, process: Process, run: Callable[[], None]) -> None:
        self.hub = hub
        self.process = process
        self.ticket = 0
        self.locks = 0
        self.started = False
        self.greenlet = greenlet(self._guarded(run), parent=hub._greenlet)

    def _guarded(self, run: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                run()
            except Dead:
                return

        return guarded

    def resume(self, ticket: int) -> None:
        """Continue, if it is this what it waits for and its process lives."""
        if ticket != self.ticket or not self.process.alive or self.greenlet.dead:
            return
        self.ticket += 1
        self.started = True
        self.hub.current = self
        self.greenlet.switch()
        self.hub.current = None


@dataclass
class Process:
    """A process: a plugin at work.

    Attributes:
        hub: The clock.
        job: Number of its job.
        name: Name of the plugin.
        skew: Seconds that its clock is ahead of the world's.
        alive: Whether it runs.
        exit_code: Once it has ended; -9 if it was killed.
        steps: Steps that it has taken.
        on_end: What the operating system does when it ends.
        log: Lines that it has logged.
        connections: To databases.
        unwritten: Output that is not flushed.
        stdout: Where its output goes.
        shutdown: What it asks whether it is to stop.
        on_signal: The thread that acts upon a signal.
    """

    hub: Hub
    job: int
    name: str
    skew: float = 0.0
    alive: bool = True
    exit_code: int | None = None
    steps: int = 0
    threads: list[Thread] = field(default_factory=list)
    on_end: list[Callable[[], None]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    connections: list[Any] = field(default_factory=list)
    unwritten: bytearray = field(default_factory=bytearray)
    stdout: Pipe | None = None
    shutdown: Any = None
    on_signal: Callable[[], None] | None = None

    def next_step(self) -> int:
        """Count a step; return its number."""
        self.steps += 1
        return self.steps

    def end(self, code: int) -> None:
        """End by itself, or by the system."""
        if not self.alive:
            return
        self.alive = False
        self.exit_code = code
        self.hub.bury(self)
        for action in self.on_end:
            action()
        for connection in self.connections:
            connection.abandon()

    def terminate(self) -> None:
        """Send SIGTERM: the plugin may end in peace."""
        if self.alive and self.shutdown is not None and self.on_signal is not None:
            run, self.on_signal = self.on_signal, None
            self.shutdown.request(15)
            self.hub.start(self, run)

    def kill(self) -> None:
        """Kill: nothing of it runs again."""
        self.end(-9)


class Pipe:
    """A pipe between two processes, or from one to the story."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._data = bytearray()
        self.whole = bytearray()
        self.writer_gone = False
        self.reader_gone = False
        self._waiting: tuple[Thread, int] | None = None

    def write(self, data: bytes) -> None:
        """Write, without waiting.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        if self.reader_gone:
            raise BrokenPipeError
        self._data += data
        self.whole += data
        self._wake()

    def read(self, tick: float) -> bytes | None:
        """Return what is there, waiting for it; None if nothing comes for a while."""
        if not self._data and not self.writer_gone:
            self._waiting = (self._hub.thread, self._hub.thread.ticket + 1)
            self._hub.pause(tick)
            self._waiting = None
        if self._data:
            found = bytes(self._data)
            self._data.clear()
            return found
        return b"" if self.writer_gone else None

    def close_writer(self) -> None:
        """End what is written: the reader comes to the end of the input."""
        self.writer_gone = True
        self._wake()

    def close_reader(self) -> None:
        """End reading: writing fails from now on."""
        self.reader_gone = True

    def _wake(self) -> None:
        if self._waiting is not None:
            self._hub.wake(*self._waiting)
