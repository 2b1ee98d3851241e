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

_MARGIN = 0.8
"""Share of the grace that calls in flight may use; the rest is for printing what is due."""


class Shutdown:
    """A request to stop, seen by all parts of a plugin.

    The first signal sets `requested` and starts a watchdog; later ones change nothing. Nothing is
    raised from the signal handler: it may come in the middle of printing a line.

    Args:
        grace: Seconds after which the process ends whatever it is doing.
    """

    def __init__(self, grace: float) -> None:
        self.requested = threading.Event()
        self._grace = grace
        self._signal = 0
        self._deadline = 0.0

    def request(self, signum: int) -> None:
        """Take note of a signal; safe to call from a signal handler, any number of times."""
        if self._signal:
            return
        self._signal = signum
        self._deadline = time.monotonic() + self._grace * _MARGIN
        self.requested.set()
        watchdog = threading.Timer(self._grace, os._exit, [self.exit_code])
        watchdog.daemon = True
        watchdog.start()

    def check(self) -> None:
        """Go on unless the process is to stop.

        Raises:
            StoppedError: It is.
        """
        if self.requested.is_set():
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
