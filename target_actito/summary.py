"""What a run of target-actito did."""

from __future__ import annotations

from dataclasses import dataclass

from actito_didomi.plugin.summary import Line, Summary


@dataclass
class ActitoSummary(Summary):
    """Counts of one run.

    Attributes:
        updated: Profiles changed. Of people whose change was spread over several imports, how many
            are updated and how many unmatched is reckoned from what the imports count.
        created: Profiles created.
        imported: People in imports of which Actito doesn't tell how many were updated.
        deferred: Changes that wait for the next run, for want of imports.
        imports: Bulk imports that were carried out.
        newer: Choices left out for newer ones that people made in Actito, as tap-actito found.
    """

    updated: int = 0
    created: int = 0
    imported: int = 0
    deferred: int = 0
    imports: int = 0
    newer: int = 0

    def outcome(self) -> list[Line]:
        """Give the lines about what became of the people."""
        return [
            Line("  updated", self.updated),
            Line("  created", self.created),
            Line("  unmatched", self.unmatched),
            Line("  unchanged", self.unchanged, "nothing but null or unmapped choices"),
            Line("  imported", self.imported, "Actito doesn't tell what became of them", rare=True),
            Line("choices left", self.newer, "people's own in Actito are newer", rare=True),
            Line("  deferred", self.deferred, "the next run writes them", rare=True),
        ]

    def effort(self) -> list[Line]:
        """Give the lines about what it took."""
        return [*super().effort(), Line("imports", self.imports, rare=True)]
