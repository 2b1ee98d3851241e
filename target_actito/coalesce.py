"""Coalescing: many choices of one person become one profile change.

Newest wins by the time of the choice; at equal times an opt-out beats an opt-in, and of two others
the later arrival wins. All of it is pure: no clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actito_didomi.mapping import Kind


class Target(NamedTuple):
    """Where a value goes: a subscription or an attribute, by name."""

    kind: Kind
    name: str


class Value(NamedTuple):
    """A value for one target.

    Attributes:
        moment: When the choice was made, in microseconds since 1970 UTC.
        value: In Actito's form, inverted already where the mapping says so.
        choice: What the person chose in Didomi; None where it isn't a yes or no of consent.
    """

    moment: int
    value: Any
    choice: bool | None

    @property
    def opt_out(self) -> bool:
        """Whether this is an opt-out."""
        return self.choice is False

    def beats(self, other: Value) -> bool:
        """Tell whether this value replaces one that arrived before it."""
        if self.moment != other.moment:
            return self.moment > other.moment
        if self.choice is not other.choice and other.choice is not None:
            return self.opt_out
        return True


@dataclass(frozen=True)
class ProfileChange:
    """What is to be written for one person.

    Attributes:
        person: Value of the key attribute.
        first_record: Number of the earliest record that it holds something of.
        values: By target.
    """

    person: str
    first_record: int
    values: dict[Target, Value]

    @property
    def opt_out(self) -> bool:
        """Whether it holds an opt-out."""
        return any(value.opt_out for value in self.values.values())

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes to write, by name."""
        return {t.name: v.value for t, v in self.values.items() if t.kind == "attribute"}

    @property
    def subscriptions(self) -> dict[str, bool]:
        """Subscriptions to set, by name."""
        return {t.name: v.value for t, v in self.values.items() if t.kind == "subscription"}


@dataclass
class _Person:
    first_record: int = 0
    waiting: dict[Target, Value] = field(default_factory=dict)
    written: dict[Target, Value] | None = None


class Collector:
    """Gathers the changes of a run, of all streams, by person.

    It remembers what it has handed out, so that an older choice which comes after a newer one was
    written is still the older one.
    """

    def __init__(self) -> None:
        self._people: dict[str, _Person] = {}
        self._waiting: dict[str, _Person] = {}
        self._people_changed = 0

    @property
    def people(self) -> int:
        """People seen in this run."""
        return len(self._people)

    @property
    def people_unchanged(self) -> int:
        """People seen in this run for whom nothing was to be written."""
        return len(self._people) - self._people_changed

    @property
    def waiting(self) -> int:
        """People whose changes wait to be written."""
        return len(self._waiting)

    @property
    def oldest(self) -> int | None:
        """Number of the earliest record that waits to be written; None when none does."""
        # People wait in the order in which their first records came.
        return next((p.first_record for p in self._waiting.values()), None)

    def add(self, person: str, record: int, values: Iterable[tuple[Target, Value]]) -> None:
        """Take in what one record says about one person.

        Args:
            person: Value of the key attribute.
            record: Number of the record.
            values: What it says; nothing for a record without any explicit choice.
        """
        known = self._people.get(person)
        if known is None:
            known = self._people[person] = _Person()
        for target, value in values:
            before = known.waiting.get(target)
            if before is None and known.written is not None:
                before = known.written.get(target)
            if before is not None and not value.beats(before):
                continue
            if not known.waiting:
                known.first_record = record
                self._waiting[person] = known
                self._people_changed += known.written is None
            known.waiting[target] = value

    def take(self) -> list[ProfileChange]:
        """Hand out all changes that wait: those with an opt-out first, then in order of arrival."""
        changes = []
        for person, known in self._waiting.items():
            changes.append(ProfileChange(person, known.first_record, known.waiting))
            known.written = {**(known.written or {}), **known.waiting}
            known.waiting = {}
        self._waiting = {}
        return sorted(changes, key=lambda change: (not change.opt_out, change.first_record))
