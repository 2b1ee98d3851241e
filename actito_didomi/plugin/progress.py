"""How far a flush has come: a line in the log now and then, or a bar on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from actito_didomi.runtime import Runtime

_SOON = 10.0
"""Seconds between two lines where something has changed."""
_LATE = 60.0
"""Seconds between two lines where nothing has."""


class Progress:
    """Counts what is written of one flush, and logs it.

    Used by one thread. With structured logs the counts are the field `progress`.

    Args:
        logger: Logs the lines.
        system: What is written to, such as `Actito`.
        runtime: The clock.
        waits_since: Returns since when requests wait for the limit, by the monotonic clock; None
            while they don't.
    """

    def __init__(
        self,
        logger: logging.Logger,
        system: str,
        runtime: Runtime,
        waits_since: Callable[[], float | None],
    ) -> None:
        self._logger = logger
        self._system = system
        self._runtime = runtime
        self._waits_since = waits_since
        self._bar: tuple[Bar, TaskID] | None = None
        self.begin(0, 0)

    def begin(self, total: int, opt_outs: int) -> None:
        """Begin a flush.

        Args:
            total: How many changes are to be written.
            opt_outs: How many of them hold an opt-out.
        """
        self.finish()
        self._total, self._opt_outs = total, opt_outs
        self._done = self._done_opt_outs = self._logged = 0
        self._began = self._logged_at = self._runtime.monotonic()

    def add(self, *, opt_out: bool) -> None:
        """Count a change that is settled: written, or rejected."""
        self._done += 1
        self._done_opt_outs += opt_out

    @property
    def left(self) -> int:
        """How many changes of the flush are not settled."""
        return max(0, self._total - self._done)

    def check(self) -> None:
        """Log how far it is, if it is time; call it several times a second."""
        since = self._runtime.monotonic() - self._logged_at
        if self._total and sys.stderr.isatty():
            self._show_bar()
        elif self._total and since >= (_SOON if self._done != self._logged else _LATE):
            self._logged_at += since
            self._logged = self._done
            self._logger.info("%s", self.to_text(), extra={"progress": self.to_dict()})

    def finish(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the counts as JSON has them; times in seconds."""
        now = self._runtime.monotonic()
        since, elapsed = self._waits_since(), now - self._began
        left = None
        if self._done:
            left = round(elapsed / self._done * self.left, 1)
        return {
            "done": self._done,
            "total": self._total,
            "done_opt_outs": self._done_opt_outs,
            "total_opt_outs": self._opt_outs,
            "waiting_seconds": None if since is None else round(now - since, 1),
            "seconds_left": left,
        }

    def to_text(self) -> str:
        """Return the counts as a line of the log."""
        counts = self.to_dict()
        percent = 100 * self._done // self._total if self._total else 100
        opt_outs = f"{self._done_opt_outs:,}/{self._opt_outs:,}"
        parts = [f"Writing: opt-outs {opt_outs}, all {self._done:,}/{self._total:,} ({percent} %)"]
        if (waiting := counts["waiting_seconds"]) is not None and waiting >= 1:
            parts.append(f"waiting {waiting:.0f} s for {self._system}'s limit")
        if (left := counts["seconds_left"]) is not None:
            parts.append(f"about {left / 60:.0f} min left" if left >= 60 else "under 1 min left")  # noqa: PLR2004
        return "; ".join(parts)

    def _show_bar(self) -> None:
        """Show a bar, or bring it up to date."""
        if self._bar is None:
            from rich.console import Console  # noqa: PLC0415 - takes a while
            from rich.progress import Progress as Bar  # noqa: PLC0415

            bar = Bar(console=Console(stderr=True), transient=True)
            self._bar = bar, bar.add_task("Writing", total=self._total)
            bar.start()
        bar, task = self._bar
        bar.update(task, completed=self._done)
