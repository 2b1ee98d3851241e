"""Coalescing: many choices of one person become one profile change.

Newest wins by the time of the choice; at equal times an opt-out beats an opt-in, and of two others
the later arrival wins. All of it is pure: no clock, no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from actito_didomi.consent.mapping import Kind

FIRST_RECORD = 0
CHANGED = 1
NEWEST = 2
LAST = 3
FIRST_SLOT = 4
"""What stands where in an entry: see `Collector`."""
_new = tuple.__new__
"""Makes a named tuple in a third of the time."""


class Field(NamedTuple):
    """Where a value goes: a subscription or an attribute, by name."""

    kind: Kind
    name: str


class Value(NamedTuple):
    """A value for one target.

    Attributes:
        timestamp: When the choice was made; aware of its zone.
        value: In Actito's form, inverted already where the mapping says so.
        choice: What the person chose in Didomi; None where it isn't a yes or no of consent.
    """

    timestamp: datetime
    value: Any
    choice: bool | None

    @property
    def opt_out(self) -> bool:
        """Whether this is an opt-out."""
        return self.choice is False

    def beats(self, other: Value) -> bool:
        """Tell whether this value replaces one that arrived before it."""
        if self.timestamp != other.timestamp:
            return self.timestamp > other.timestamp
        if self.choice is not other.choice and other.choice is not None:
            return self.opt_out
        return True


class Choices(NamedTuple):
    """Choices for several targets, made at one timestamp, by the slots of a collector.

    Attributes:
        plain: True and False, each with the slots whose value and choice it is.
        others: Slots with value and choice, where these differ.
        bits: A bit for each of the slots.
    """

    plain: tuple[tuple[bool, tuple[int, ...]], ...]
    others: tuple[tuple[int, tuple[Any, bool | None]], ...]
    bits: int

    @staticmethod
    def of(values: Iterable[tuple[int, Value]]) -> Choices:
        """Take them from values; the timestamp of these is left out."""
        slots: dict[bool, list[int]] = {True: [], False: []}
        others: list[tuple[int, tuple[Any, bool | None]]] = []
        bits = 0
        for slot, (_, value, choice) in values:
            bits |= 1 << slot
            if value is choice and choice is not None:
                slots[choice].append(slot)
            else:
                others.append((slot, (value, choice)))
        plain = tuple((choice, tuple(found)) for choice, found in slots.items() if found)
        return Choices(plain, tuple(others), bits)

    def values(self, timestamp: datetime) -> list[tuple[int, Value]]:
        """Give the values by their slots."""
        found: list[tuple[int, Value]] = []
        for choice, slots in self.plain:
            value = _new(Value, (timestamp, choice, choice))
            found += [(slot, value) for slot in slots]
        found += [(slot, Value(timestamp, *pair)) for slot, pair in self.others]
        return found


NO_CHOICES = Choices.of(())


class ProfileChange(msgspec.Struct, frozen=True, gc=False):
    """What is to be written for one person.

    Attributes:
        person: Value of the key attribute.
        first_record: Number of the earliest record that it holds something of.
        fields: What it writes to; one object for all changes of the same targets.
        values: In the order of `targets`.
        opt_out: Whether it holds an opt-out.
    """

    person: str
    first_record: int
    fields: tuple[Field, ...]
    values: tuple[Value, ...]
    opt_out: bool

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes to write, by name."""
        return self._of("attribute")

    @property
    def subscriptions(self) -> dict[str, bool]:
        """Subscriptions to set, by name."""
        return self._of("subscription")

    def _of(self, kind: Kind) -> dict[str, Any]:
        pairs = zip(self.fields, self.values, strict=True)
        return {target.name: value.value for target, value in pairs if target.kind == kind}


class Collector:
    """Gathers the changes of a run, of all streams, by person.

    It remembers what it has handed out, so that an older choice which comes after a newer one was
    written is still the older one.

    A person is one flat list, since there may be a million of them and each record touches one: at
    `FIRST_RECORD` the number of the earliest record that waits (0 when none ever did, negative when
    something was handed out before), at `CHANGED` a bit for each slot that waits, at `NEWEST` a
    timestamp that no choice is newer than, at `LAST` the `Choices` of that time where they aren't
    laid out in their slots yet, else None, and from `FIRST_SLOT` on the newest value of each
    target. Choices are laid out late, since mostly others take their place before they are needed.
    """

    def __init__(self) -> None:
        self.entries: dict[str, list[Any]] = {}
        self._slots: dict[Field, int] = {}
        self._targets: list[Field] = []
        self._waiting: dict[str, list[Any]] = {}
        self._sets: dict[int, tuple[tuple[int, ...], tuple[Field, ...]]] = {}
        self._people_written = 0

    @property
    def people(self) -> int:
        """People seen in this run."""
        return len(self.entries)

    @property
    def people_unchanged(self) -> int:
        """People seen in this run for whom nothing was to be written."""
        waiting: int = sum(entry[FIRST_RECORD] > 0 for entry in self._waiting.values())
        return len(self.entries) - self._people_written - waiting

    @property
    def waiting(self) -> int:
        """People whose changes wait to be written."""
        return len(self._waiting)

    @property
    def oldest(self) -> int | None:
        """Number of the earliest record that waits to be written; None when none does."""
        # People wait in the order in which their first records came.
        return next((abs(entry[FIRST_RECORD]) for entry in self._waiting.values()), None)

    def slot(self, target: Field) -> int:
        """Give the place of a target in an entry."""
        slot = self._slots.get(target)
        if slot is None:
            slot = self._slots[target] = FIRST_SLOT + len(self._targets)
            self._targets.append(target)
            for entry in self.entries.values():
                entry.append(None)
        return slot

    def target(self, slot: int) -> Field:
        """Give the target whose place this is."""
        return self._targets[slot - FIRST_SLOT]

    def entry(self, person: str) -> list[Any]:
        """Give a person's entry, a new one where there is none."""
        entry = self.entries.get(person)
        if entry is None:
            entry = self.entries[person] = [0, 0, None, None, *[None] * len(self._targets)]
        return entry

    def add(
        self,
        person: str,
        record: int,
        values: Iterable[tuple[Field, Value]],
        *,
        written: bool = False,
    ) -> None:
        """Take in what one record says about one person.

        Args:
            person: Value of the key attribute.
            record: Number of the record.
            values: What it says; nothing for a record without any explicit choice.
            written: Whether Actito holds these values already: what is older isn't written over
                them, and they need not be written.
        """
        entry = self.entry(person)
        if entry[LAST] is not None:
            _lay_out(entry)
        changed = 0
        for target, value in values:
            slot = self.slot(target)
            before = entry[slot]
            if before is None or value.beats(before):
                entry[slot] = value
                changed |= 1 << slot
                if entry[NEWEST] is None or value.timestamp > entry[NEWEST]:
                    entry[NEWEST] = value.timestamp
        if written:
            self._drop(person, entry, changed)
        elif changed:
            self._note(person, entry, record, changed)

    def put(
        self,
        person: str,
        record: int,
        timestamp: datetime,
        choices: Choices,
        values: Sequence[tuple[int, Value]] = (),
    ) -> None:
        """Take in what one record says about one person at one timestamp; the hottest of all calls.

        Args:
            person: Value of the key attribute.
            record: Number of the record.
            timestamp: When the choices were made.
            choices: The choices.
            values: Values by their slots, of that timestamp too; of slots that no choices hold.
        """
        entry = self.entries.get(person)
        if entry is None:
            entry = self.entry(person)
        newest, last = entry[NEWEST], entry[LAST]
        changed = 0
        if not choices.bits:
            pass
        elif newest is None or timestamp > newest:
            if last is not None and last.bits & ~choices.bits:
                _lay_out(entry)
            entry[NEWEST], entry[LAST] = timestamp, choices
            changed = choices.bits
        elif last is None or timestamp == newest or choices.bits & ~last.bits:
            if last is not None:
                _lay_out(entry)
            values = [*choices.values(timestamp), *values]
        # Else all of it has been said since.
        for slot, value in values:
            before = entry[slot]
            if before is None or value.beats(before):
                entry[slot] = value
                changed |= 1 << slot
        if changed:
            self._note(person, entry, record, changed)

    def _note(self, person: str, entry: list[Any], record: int, changed: int) -> None:
        """Take note of what a record has changed."""
        if entry[CHANGED]:
            entry[CHANGED] |= changed
            return
        entry[FIRST_RECORD] = -record if entry[FIRST_RECORD] else record
        entry[CHANGED] = changed
        self._waiting[person] = entry

    def _drop(self, person: str, entry: list[Any], settled: int) -> None:
        """Take note that slots need not be written any more."""
        entry[CHANGED] &= ~settled
        if not entry[CHANGED] and self._waiting.pop(person, None) is not None:
            entry[FIRST_RECORD] = min(0, entry[FIRST_RECORD])

    def take(self) -> list[ProfileChange]:
        """Hand out all changes that wait: those with an opt-out first, then in order of arrival."""
        opt_outs: list[ProfileChange] = []
        others: list[ProfileChange] = []
        for person, entry in self._waiting.items():
            if entry[LAST] is not None:
                _lay_out(entry)
            slots, targets = self._set(entry[CHANGED])
            values = tuple([entry[slot] for slot in slots])
            opt_out = any([value.choice is False for value in values])  # noqa: C419 - a hot loop
            first = entry[FIRST_RECORD]
            self._people_written += first > 0
            change = ProfileChange(person, abs(first), targets, values, opt_out)
            (opt_outs if opt_out else others).append(change)
            entry[CHANGED] = 0
        self._waiting = {}
        return opt_outs + others

    def _set(self, changed: int) -> tuple[tuple[int, ...], tuple[Field, ...]]:
        """Give the slots of a set of bits, and their targets."""
        found = self._sets.get(changed)
        if found is None:
            slots = tuple(slot for slot in self._slots.values() if changed >> slot & 1)
            targets = tuple(self._targets[slot - FIRST_SLOT] for slot in slots)
            found = self._sets[changed] = slots, targets
        return found


def _lay_out(entry: list[Any]) -> None:
    """Put the last choices into their slots: nothing there is newer."""
    timestamp, last = entry[NEWEST], entry[LAST]
    for choice, slots in last.plain:
        value = Value(timestamp, choice, choice)
        for slot in slots:
            entry[slot] = value
    for slot, pair in last.others:
        entry[slot] = Value(timestamp, *pair)
    entry[LAST] = None
