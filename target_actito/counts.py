"""Counts what became of changes, and rejects what was refused."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from actito_didomi import codes
from actito_didomi.actito import Written
from actito_didomi.errors import RequestRejectedError
from actito_didomi.plugin.rejects import Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from actito_didomi.consent.coalesce import Field, ProfileChange
    from actito_didomi.errors import MistakeFoundError
    from actito_didomi.plugin.guards import Guards
    from actito_didomi.plugin.progress import Progress
    from actito_didomi.plugin.trial import Trial
    from target_actito.bulk import ImportResult
    from target_actito.single import WriteResult
    from target_actito.summary import ActitoSummary


class HasIntake(Protocol):
    """What a pipeline needs of its target."""

    summary: ActitoSummary
    trial: Trial | None
    guards: Guards
    mistake: MistakeFoundError | None
    arrival: datetime | None

    @property
    def has_ended(self) -> bool:
        """Whether the input has ended."""

    def on_idle(self) -> None:
        """Look at signals and at the clock."""

    def after_records(self) -> None:
        """See whether it is time to write."""

    def take_line(self, line: bytes) -> None:
        """Accept a line as a whole."""

    def take_record(self, stream: str, record: dict[str, Any], arrival: datetime | None) -> None:
        """Accept a record as a whole."""

    def count_lines(self, count: int) -> None:
        """Record that lines with a record were taken in."""

    def reject_line(self, line: bytes, reason: str) -> None:
        """Store a line that can't be decoded as a reject."""

    def reject(self, reject: Reject) -> None:
        """Store a reject."""

    def expect(self, first_records: Iterable[int]) -> None:
        """Record what is about to be written."""

    def acknowledge(self, *first_records: int) -> None:
        """Record that parts are written or rejected."""

    def note_unmatched(self, person: str) -> None:
        """Count a person who has no profile."""


class Counts:
    """Counts for the summary what became of changes.

    Args:
        target: The target.
        progress: Counts and logs what is settled.
        now: Returns the present time, by Actito's clock.
    """

    def __init__(self, target: HasIntake, progress: Progress, now: Callable[[], datetime]) -> None:
        self._target = target
        self._progress = progress
        self._now = now
        self._counted: set[str] = set()
        self.refused = 0
        """Changes that Actito refused as a whole."""

    def begin(self, changes: Sequence[ProfileChange]) -> None:
        """Begin to count a new plan, without a ledger; `changes` are all that it writes."""
        self._counted.clear()
        self.expect(changes)

    def expect(self, changes: Sequence[ProfileChange]) -> None:
        """Record what is about to be written, for the progress."""
        self._progress.begin(len(changes), sum(change.opt_out for change in changes))

    def on_import(self, imported: ImportResult) -> None:
        """Count the rows that an import has written or found without a profile.

        Where a person's change was spread over several imports, they count in the first one.
        """
        summary = self._target.summary
        summary.imports += 1
        rows = len(imported.changes)
        new = 0
        for change in imported.changes:
            new += change.person not in self._counted
            self._counted.add(change.person)
            self._progress.add(opt_out=change.opt_out)
        if imported.counts is None:
            summary.imported += new
        elif rows:
            created, updated = (round(count * new / rows) for count in imported.counts)
            summary.created += created
            summary.updated += updated
            summary.unmatched += new - created - updated
        self._count_written(imported.changes)
        self._target.acknowledge(*(change.first_record for change in imported.changes))

    def on_result(self, result: WriteResult) -> None:
        """Count what became of a change written by a single request; reject what was refused."""
        target, outcome = self._target, result.outcome
        if result.refused_attributes is not None:
            self._reject(result.refused_attributes.change, result.refused_attributes.error)
        if isinstance(outcome, RequestRejectedError):
            self.refused += 1
            self._reject(result.change, outcome)
            self._count_opt_out(result.change, "rejected")
        elif outcome is Written.UNMATCHED:
            target.note_unmatched(result.change.person)
            self._count_opt_out(result.change, "no_profile")
        elif outcome is Written.POSTPONED:
            target.summary.deferred += 1
            self._count_opt_out(result.change, "deferred")
            return
        else:
            target.summary.updated += outcome is Written.UPDATED
            target.summary.created += outcome is Written.CREATED
            if outcome is not Written.UNCHANGED:
                self._count_written([result.change])
        target.acknowledge(result.change.first_record)

    def _count_opt_out(self, change: ProfileChange, outcome: str) -> None:
        if change.opt_out:
            self._target.summary.count_opt_out(outcome)

    def _count_written(self, changes: Sequence[ProfileChange]) -> None:
        """Count choices that were written, and how long opt-outs took; quickly, for imports."""
        summary, now = self._target.summary, self._now()
        patterns: Counter[tuple[tuple[Field, ...], tuple[bool | None, ...]]] = Counter()
        seconds: list[float] = []
        for change in changes:
            choices = tuple([value[1] for value in change.values])
            patterns[change.fields, choices] += 1
            if not change.opt_out:
                continue
            first = None
            for _, choice, timestamp in change.values:
                # Most often all are of one time.
                if choice is False and timestamp is not None and timestamp is not first:
                    first = timestamp if first is None else min(first, timestamp)
            if first is not None:
                seconds.append((now - first).total_seconds())
        summary.opt_out_latency.extend(seconds)
        if opt_outs := sum([change.opt_out for change in changes]):
            summary.opt_outs["written"] += opt_outs
        for (fields, choices), count in patterns.items():
            for field, choice in zip(fields, choices, strict=True):
                if choice is not None:
                    summary.count_change(field.name, choice, count)

    def _reject(self, change: ProfileChange, error: RequestRejectedError) -> None:
        self._target.reject(
            Reject(
                code=codes.CHANGE_REFUSED,
                reason=error.message,
                person=change.person,
                opt_out=change.opt_out,
                change={"attributes": change.attributes, "subscriptions": change.subscriptions},
                status=error.status,
                response=error.body,
            ),
        )

    def on_unmatched(self, person: str, *, opt_out: bool) -> None:
        """Count a person who has no profile, and whether an opt-out was due."""
        self._target.note_unmatched(person)
        if opt_out:
            self._target.summary.count_opt_out("no_profile")

    def on_trial(self, changes: Sequence[ProfileChange], created: int) -> None:
        """Count changes that would be written, some of them by creating a profile."""
        self._target.summary.created += created
        self._target.summary.updated += len(changes) - created
        self._count_written(changes)

    def on_deferred(self, count: int) -> None:
        """Count changes that wait for an import."""
        self._target.summary.deferred += count
