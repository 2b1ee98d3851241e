"""What the sources of taps have in common: batches with their state, and broken lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from actito_didomi import codes
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from actito_didomi.codes import Code

Item = TypeVar("Item")

PROGRESS_INTERVAL = 30.0
"""Seconds between two log lines on how far a source has been read."""


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """A part of what a source holds, and where reading resumes after it.

    A source yields batches. The stream emits the items of one, writes its state, and only then
    requests the next.

    Attributes:
        items: What to emit, in order. They may be read only once.
        state: Keys of the stream's state to set once all items are emitted; a key whose value is
            None is removed. None where reading can't resume after this batch.
        arrived_at: When the items had come into being at the latest, by the clock of their source;
            aware of its zone. None for the time at which the batch is emitted.
    """

    items: Iterable[Item]
    state: Mapping[str, Any] | None
    arrived_at: datetime | None = None


class BrokenLines:
    """Applies the setting `on_bad_line`, and counts what can't be read.

    Args:
        on_bad_line: `fail` makes the run fail, `skip` logs and counts what is broken.
        logger: Where to log it.

    Attributes:
        skips: Whether what is broken is skipped.
        skipped: How many broken lines or files were skipped.
        failed: How many make the run fail at its end.
    """

    def __init__(self, on_bad_line: Literal["fail", "skip"], logger: logging.Logger) -> None:
        self.skips = on_bad_line == "skip"
        self._logger = logger
        self.skipped = 0
        self.failed = 0

    def handle(self, problem: str) -> None:
        """Log and count a broken line, or end the run.

        Args:
            problem: File, line and what is broken; nothing of what the line holds.

        Raises:
            BadInputError: The settings don't say to skip it.
        """
        if not self.skips:
            raise BadInputError(codes.INVALID_LINE, f"{problem} {_HOW}")
        self.report(problem)

    def report(self, problem: str, code: Code = codes.INVALID_LINE) -> None:
        """Log and count what is broken; reading continues, and the run fails at its end.

        Args:
            problem: As for `handle`.
            code: Its code.
        """
        if self.skips:
            self.skipped += 1
        else:
            self.failed += 1
        count = self.skipped + self.failed
        if count <= _MAX_LOGGED:
            word = "Skipped" if self.skips else "Not read"
            self._logger.error("%s: %s: %s", word, code, problem)
        if count == _MAX_LOGGED:
            self._logger.error("Further broken lines are counted, and not logged.")

    def check(self) -> None:
        """Fail if anything was broken that the settings don't say to skip.

        Raises:
            BadInputError: The run ends with it.
        """
        if self.failed:
            raise BadInputError(
                codes.INVALID_LINE,
                f"{self.failed} broken line(s) or file(s), see above; the bookmark stays before "
                f"them, everything else was read. {_HOW}",
            )


_HOW = "Set on_bad_line to `skip` to continue without what is broken; skipped lines are counted."
_MAX_LOGGED = 20
