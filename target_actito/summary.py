"""The counts of a run of target-actito."""

from __future__ import annotations

from dataclasses import dataclass, field

from actito_didomi.plugin.summary import Line, Summary


@dataclass
class ActitoSummary(Summary):
    """Counts of one run.

    Attributes:
        updated: Profiles changed. If a person's change was spread over several imports, the
            numbers of updated and unmatched people are estimated from the imports' counts.
        created: Profiles created.
        imported: People in imports for which Actito does not report the number of updates.
        deferred: Changes that wait for the next run, because no import is left.
        imports: Bulk imports that were carried out.
        new_subscriptions: Subscriptions that the table didn't have in earlier runs and that no
            mapping names.
    """

    updated: int = 0
    created: int = 0
    imported: int = 0
    deferred: int = 0
    imports: int = 0
    new_subscriptions: list[str] = field(default_factory=list)

    def outcome(self) -> list[Line]:
        """Return the lines about the people and their choices."""
        return [
            Line("  updated", self.updated),
            Line("  created", self.created),
            Line("  unmatched", self.unmatched),
            Line("  unchanged", self.unchanged, "nothing to write"),
            Line("  imported", self.imported, "result not reported by Actito", rare=True),
            Line("  deferred", self.deferred, "for the next run", rare=True),
        ]

    def remarks(self) -> list[str]:
        """Return the lines about mappings, and about subscriptions without one."""
        new = [f"new subscription {name}: no mapping names it" for name in self.new_subscriptions]
        return [*super().remarks(), *new]

    def effort(self) -> list[Line]:
        """Return the lines about requests and imports."""
        return [*super().effort(), Line("imports", self.imports, rare=True)]
