"""What a run of target-didomi did."""

from __future__ import annotations

from dataclasses import dataclass

from actito_didomi.plugin.summary import Line, Summary


@dataclass
class DidomiSummary(Summary):
    """Counts of one run.

    Attributes:
        updated: People for whom something was posted.
        created: How many of these Didomi didn't know.
        written: Choices posted.
        written_opt_outs: How many of these are opt-outs.
        equal: Choices that Didomi holds already.
        newer: Choices not written since a newer one in Didomi stays.
        superseded: Choices not written since a newer one of the run stays.
        tied: Opt-ins not written since an opt-out in Didomi stays: the order can't be known.
        posted: Events posted.
        pending: How many of these wait for approval.
        existed: Events that Didomi held already.
        deferred: People of whom a guard deferred something.
    """

    updated: int = 0
    created: int = 0
    written: int = 0
    written_opt_outs: int = 0
    equal: int = 0
    newer: int = 0
    superseded: int = 0
    tied: int = 0
    posted: int = 0
    pending: int = 0
    existed: int = 0
    deferred: int = 0

    def outcome(self) -> list[Line]:
        """Return the lines about people, their choices, and events."""
        return [
            Line("  updated", self.updated),
            Line("  created", self.created, "Didomi didn't know them", rare=True),
            Line("  unmatched", self.unmatched),
            Line("  unchanged", self.unchanged, "nothing to write"),
            Line("  deferred", self.deferred, "by a guard", rare=True),
            Line("choices written", self.written, f"{self.written_opt_outs:,} opt-outs"),
            Line("  equal", self.equal, "already present in Didomi"),
            Line("  kept: newer", self.newer, "in Didomi", rare=True),
            Line("  superseded", self.superseded, "by a newer choice of the run", rare=True),
            Line("  kept: opt-out", self.tied, "in Didomi; the order can't be known", rare=True),
            Line("events posted", self.posted),
            Line("  pending", self.pending, "wait for approval", rare=True),
            Line("  present", self.existed, "in Didomi before", rare=True),
        ]
