"""What the sources of taps have in common: batches with their state, and broken lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from actito_didomi import codes
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Mapping

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
    """

    items: Iterable[Item]
    state: Mapping[str, Any] | None


class BrokenLines:
    """Applies the setting `on_bad_line`, and counts what it skipped.

    Args:
        on_bad_line: `fail` ends the run at a broken line, `skip` logs and counts it.
        logger: Where to log what is skipped.

    Attributes:
        skipped: How many broken lines or files were skipped.
    """

    def __init__(self, on_bad_line: Literal["fail", "skip"], logger: logging.Logger) -> None:
        self._skips = on_bad_line == "skip"
        self._logger = logger
        self.skipped = 0

    def handle(self, problem: str) -> None:
        """Log and count a broken line, or end the run.

        Args:
            problem: File, line and what is broken; nothing of what the line holds.

        Raises:
            BadInputError: The settings don't say to skip it.
        """
        if not self._skips:
            raise BadInputError(
                codes.INVALID_LINE,
                f"{problem} Set on_bad_line to `skip` to continue without it; skipped lines are "
                "counted.",
            )
        self.skipped += 1
        self._logger.error("Skipped: %s: %s", codes.INVALID_LINE, problem)
