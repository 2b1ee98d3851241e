"""What a plugin does on SIGTERM and SIGINT: stop soon, never pretend that all went well."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from actito_didomi.errors import StoppedError

_TICK = 0.1
_MARGIN = 0.8
"""Share of the grace that calls in flight may use; the rest is for printing what is due."""


class Shutdown:
    """A request to stop, seen by all parts of a plugin.

    The signal handler only takes note: it may come in the middle of printing a line, or of holding
    a lock that setting an event would need. A thread of its own sees the note, sets `requested` so
    that all waiting ends, and ends the process when the grace is over.

    Args:
        grace: Seconds after which the process ends whatever it is doing.
    """

    def __init__(self, grace: float = 30) -> None:
        self.requested = threading.Event()
        self.grace = grace
        self._signal = 0
        self._deadline = 0.0

    def request(self, signum: int) -> None:
        """Take note of a signal; safe to call from a signal handler, any number of times."""
        if self._signal:
            return
        self._deadline = time.monotonic() + self.grace * _MARGIN
        self._signal = signum

    def watch(self) -> None:
        """Start the thread that acts upon a signal; for a plugin that runs as a process."""
        threading.Thread(target=self._act, name="shutdown", daemon=True).start()

    def _act(self) -> None:
        while not self._signal:
            time.sleep(_TICK)
        self.requested.set()
        time.sleep(self.grace)
        os._exit(self.exit_code)

    def check(self) -> None:
        """Go on unless the process is to stop.

        Raises:
            StoppedError: It is.
        """
        if self._signal:
            self.requested.set()
            raise StoppedError("Stopped; what isn't done comes again in the next run.")

    @property
    def signal_name(self) -> str:
        """Name of the signal that came, such as SIGTERM."""
        return signal.Signals(self._signal).name

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells have it: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self._signal

    @property
    def patience_left(self) -> float:
        """Seconds that calls in flight may still take; without limit while no one asks to stop."""
        if not self._signal:
            return float("inf")
        return max(0.0, self._deadline - time.monotonic())

    def finish(self) -> NoReturn:
        """End the process now, without waiting for threads whose calls were given up."""
        sys.stdout.flush()
        logging.shutdown()
        sys.stderr.flush()
        os._exit(self.exit_code)
