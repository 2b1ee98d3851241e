"""What a plugin does on SIGTERM and SIGINT: stop soon, never pretend that all went well."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from actito_didomi.errors import StoppedError

if TYPE_CHECKING:
    from actito_didomi.runtime import Runtime

_TICK = 0.1
_MARGIN = 0.8
"""Share of the grace period for requests in flight; the rest is for writing what is due."""


class Shutdown:
    """A request to stop, seen by all parts of a plugin.

    The signal handler only records the signal: it may come in the middle of printing a line, or
    while a lock is held that setting an event would need. A separate thread sees the record, sets
    `requested` so that all waiting ends, and ends the process when the grace period is over.

    Args:
        runtime: Clock and threads.
        grace: Seconds after which the process ends whatever it is doing.
    """

    def __init__(self, runtime: Runtime, grace: float = 30) -> None:
        self._runtime = runtime
        self._tick = runtime.event()
        self.requested = runtime.event()
        self.grace = grace
        self._signal = 0
        self._deadline = 0.0

    def request(self, signum: int) -> None:
        """Record a signal; safe to call from a signal handler, any number of times."""
        if self._signal:
            return
        self._deadline = self._runtime.monotonic() + self.grace * _MARGIN
        self._signal = signum

    def watch(self) -> None:
        """Start the thread that acts upon a signal; for a plugin that runs as a process."""
        self._runtime.thread(self._act, "shutdown")

    def _act(self) -> None:
        while not self._signal:
            self._tick.wait(_TICK)
        self.requested.set()
        self._tick.wait(self.grace)
        self._runtime.leave(self.exit_code)

    def check(self) -> None:
        """Raise an error if the process is to stop.

        Raises:
            StoppedError: It is to stop.
        """
        if self._signal:
            self.requested.set()
            raise StoppedError("Stopped. The next run continues with what is not done.")

    @property
    def signal_name(self) -> str:
        """Name of the signal received, such as SIGTERM."""
        return signal.Signals(self._signal).name

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells have it: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self._signal

    @property
    def patience_left(self) -> float:
        """Seconds that requests in flight may still take; infinite while no stop is requested."""
        if not self._signal:
            return float("inf")
        return max(0.0, self._deadline - self._runtime.monotonic())

    def finish(self) -> NoReturn:
        """End the process now, without waiting for threads whose requests were cancelled."""
        sys.stdout.flush()
        logging.shutdown()
        sys.stderr.flush()
        self._runtime.leave(self.exit_code)
