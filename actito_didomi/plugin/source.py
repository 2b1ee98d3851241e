"""What the sources of taps have in common: batches with their state, and broken lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from actito_didomi import codes
from actito_didomi.consent.conflicts import END, to_micros
from actito_didomi.consent.rejects import NewReject, RejectDetails
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from actito_didomi.codes import Code
    from actito_didomi.consent.leases import Direction
    from actito_didomi.consent.ledger import Ledger

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


@dataclass(frozen=True)
class BrokenLine:
    """A line of a file that can't be read, or the rest of a file.

    Attributes:
        file: The file, as messages name it.
        number: Number of the line, from 1.
        raw: What it holds, as it came; nothing where the rest of the file can't be read.
        may_opt_out: Whether it may hold an opt-out.
    """

    file: str
    number: int
    raw: bytes = b""
    may_opt_out: bool = True


class BrokenLines:
    """Applies the setting `on_bad_line`, and counts what can't be read.

    With a ledger all broken lines are kept there as rejects, before STATE passes them. They are
    settled once their file could be read.

    Args:
        on_bad_line: `fail` makes the run fail, `skip` logs and counts what is broken.
        logger: Where to log it.
        now: Returns the present time.

    Attributes:
        skips: Whether what is broken is skipped.
        skipped: How many broken lines or files were skipped.
        failed: How many make the run fail at its end.
    """

    def __init__(
        self,
        on_bad_line: Literal["fail", "skip"],
        logger: logging.Logger,
        now: Callable[[], datetime],
    ) -> None:
        self._now = now
        self.skips = on_bad_line == "skip"
        self._logger = logger
        self.skipped = 0
        self.failed = 0
        self._ledger: Ledger | None = None
        self._direction: Direction | None = None
        self._run = ""
        self._unstored: list[NewReject] = []
        self._read: list[str] = []
        self._known: set[str] = set()

    def use_ledger(self, ledger: Ledger, direction: Direction, run: str) -> None:
        """Keep what is broken in a ledger.

        Args:
            ledger: The ledger.
            direction: Of the sync.
            run: Id of the run.

        Raises:
            SettingsError: The database fails.
        """
        self._ledger, self._direction, self._run = ledger, direction, run
        rejects = ledger.list_rejects(code=codes.INVALID_LINE.name, limit=_ALL)
        self._known = {reject.details.file for reject in rejects}

    def report(
        self, problem: str, code: Code = codes.INVALID_LINE, line: BrokenLine | None = None
    ) -> None:
        """Log and count what is broken; reading continues, and the run may fail at its end.

        Args:
            problem: File, line and what is broken; nothing of what the line holds.
            code: Its code.
            line: The line, to be kept; None where it is no line.

        Raises:
            SettingsError: The ledger fails.
        """
        if line is not None and self._ledger is not None:
            self._keep(problem, code, line)
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

    def _keep(self, problem: str, code: Code, line: BrokenLine) -> None:
        details = RejectDetails(
            problem,
            run=self._run,
            first_at=to_micros(self._now()),
            raw=line.raw[:_MOST_KEPT],
            file=line.file,
            line=line.number,
        )
        self._unstored.append(
            NewReject(
                code=code.name,
                opt_out=line.may_opt_out,
                due=END,
                direction=self._direction,
                details=details,
            )
        )
        if len(self._unstored) >= _STORED_TOGETHER:
            self.store()

    def finish(self, file: str) -> None:
        """Record that a file was read to its end: what was broken there before is settled."""
        if file in self._known:
            self._read.append(file)

    def store(self) -> None:
        """Store what is broken, and settle what isn't any more; before STATE passes it.

        Raises:
            SettingsError: The ledger fails.
        """
        if self._ledger is None:
            return
        if self._unstored:
            self._ledger.add_rejects(self._unstored)
            self._unstored.clear()
        while self._read:
            self._ledger.settle_lines(self._read.pop(), self._run)

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
_MOST_KEPT = 1 << 16
"""Bytes of a line; longer ones stand in their file."""
_STORED_TOGETHER = 200
_ALL = 2**31
