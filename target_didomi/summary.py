"""What a run of target-didomi did."""

from __future__ import annotations

from dataclasses import dataclass

from actito_didomi.plugin.summary import Line, Summary


@dataclass
class DidomiSummary(Summary):
    """Counts of one run.

    Attributes:
        updated: People for whom something was posted, or was there already.
        created: How many of these Didomi didn't know.
        written: Choices posted.
        written_opt_outs: How many of these are opt-outs.
        equal: Choices left out since they hold in Didomi already.
        newer: Choices left out for newer ones in Didomi.
        tied: Opt-ins left out for an opt-out in Didomi, where the order can't be told.
        posted: Events posted.
        pending: How many of these wait for approval.
        existed: Events that Didomi held already.
    """

    updated: int = 0
    created: int = 0
    written: int = 0
    written_opt_outs: int = 0
    equal: int = 0
    newer: int = 0
    tied: int = 0
    posted: int = 0
    pending: int = 0
    existed: int = 0

    def outcome(self) -> list[Line]:
        """Give the lines about what became of the people, and of their choices."""
        return [
            Line("  updated", self.updated),
            Line("  created", self.created, "Didomi didn't know them", rare=True),
            Line("  unmatched", self.unmatched),
            Line("  unchanged", self.unchanged, "nothing to write"),
            Line("choices written", self.written, f"{self.written_opt_outs:,} opt-outs"),
            Line("  equal", self.equal, "hold in Didomi already"),
            Line("  newer there", self.newer, "left as they are", rare=True),
            Line("  opt-out there", self.tied, "order unknown, so it stays", rare=True),
            Line("events posted", self.posted),
            Line("  pending", self.pending, "wait for approval", rare=True),
            Line("  done before", self.existed, rare=True),
        ]
