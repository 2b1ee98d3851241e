"""The guards on changes of profiles: what counts as an opt-in, and what is deferred. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actito_didomi.consent.coalesce import ProfileChange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from actito_didomi.consent.coalesce import Field, Value
    from actito_didomi.plugin.guards import Guards


@dataclass(frozen=True)
class ChangeGuard:
    """Checks changes of profiles, and defers all but opt-outs once a limit is passed.

    Attributes:
        guards: The limits.
        turns_on: By field, the choice whose value turns it on.
    """

    guards: Guards
    turns_on: Mapping[Field, bool]

    def is_opt_in(self, field: Field, value: Value) -> bool:
        """Return whether a value is an opt-in where it is written: whether it turns a field on."""
        return value.choice is not None and value.choice is self.turns_on.get(field)

    def allows(self, field: Field, value: Value) -> bool:
        """Return whether a value may be written: anything, or once a guard has tripped, opt-outs.

        A value that turns a field on is none, even if it stands for an opt-out in Didomi.
        """
        if not self.guards.tripped:
            return True
        may = self.guards.settings.guards_allow_opt_outs
        return may and value.opt_out and not self.is_opt_in(field, value)

    def check(
        self,
        changes: Sequence[ProfileChange],
        turned_off: Callable[[str, int], int],
        people: Callable[[], int],
    ) -> tuple[list[ProfileChange], list[ProfileChange]]:
        """Check what is about to be written.

        Args:
            changes: The changes.
            turned_off: Returns how many profiles a field is turned off in, by its name; it may stop
                counting at the number given.
            people: Returns how many people are known.

        Returns:
            What may be written, and the changes of which something is deferred.
        """
        opt_ins: Counter[str] = Counter()
        for change in changes:
            for field, value in zip(change.fields, change.values, strict=True):
                if self.is_opt_in(field, value):
                    opt_ins[field.name] += 1
        self.guards.check_plan(opt_ins, turned_off, changed=len(changes), people=people)
        if not self.guards.tripped:
            return list(changes), []
        kept: list[ProfileChange] = []
        deferred_changes: list[ProfileChange] = []
        for change in changes:
            rest = self._rest(change)
            if rest is not None:
                kept.append(rest)
            if rest is None or len(rest.fields) < len(change.fields):
                deferred_changes.append(change)
        return kept, deferred_changes

    def _rest(self, change: ProfileChange) -> ProfileChange | None:
        """Return what of a change may be written."""
        pairs = zip(change.fields, change.values, strict=True)
        kept = {field: value for field, value in pairs if self.allows(field, value)}
        if not kept:
            return None
        return ProfileChange(
            change.person, change.first_record, tuple(kept), tuple(kept.values()), opt_out=True
        )
