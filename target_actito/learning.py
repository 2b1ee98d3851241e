"""What the ledger learns from records, and the change of a profile that is due. No I/O.

Everything here reads or changes a `Person` that the caller has read in a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi.consent.coalesce import (
    EVENT,
    HELD,
    OURS,
    STATUS,
    Field,
    ProfileChange,
    Value,
    arrival_of,
)
from actito_didomi.consent.codec import masks_of, put_masks
from actito_didomi.consent.conflicts import ACTITO, OPT_OUT, to_datetime
from actito_didomi.consent.entries import (
    Entry,
    Intent,
    begin_write,
    doubt,
    drop_import,
    drop_intent,
    end_write,
    give_up_import,
    give_up_intent,
    is_seen,
    learn_event,
    learn_opt_out_of_unknown_age,
    learn_status,
    overtake_import,
)
from actito_didomi.consent.groups import shorten
from actito_didomi.consent.masks import begin_import, seen_fields
from actito_didomi.consent.masks import learn_event as learn_event_of
from actito_didomi.consent.owing import decide_quickly, find_due, flag
from actito_didomi.consent.person import AttributeState, digest_of
from actito_didomi.consent.places import user_place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.coalesce import PersonLayers
    from actito_didomi.consent.conflicts import Act, Rules
    from actito_didomi.consent.drafts import Draft
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.masks import FieldBits
    from actito_didomi.consent.person import Person
    from target_actito.guarding import ChangeGuard

_MOST_KEPT = 10_000
_new = tuple.__new__
"""Makes a named tuple in a third of the time."""


@dataclass(frozen=True)
class Learner:
    """Learns what Didomi says of people, and finds what is due to Actito.

    Attributes:
        fields: The mapped fields by the numbers of their mappings; None for one that holds other
            values than choices.
        rules: The rules of the ledger.
        key: Keys the digests of attributes.
        bits: The bits of the fields that hold choices.
        guard: Defers all but opt-outs once a limit is passed.
    """

    fields: Sequence[ChoiceField | None]
    rules: Rules
    key: bytes
    bits: FieldBits | None = None
    guard: ChangeGuard | None = None

    @cached_property
    def choice_fields(self) -> list[ChoiceField]:
        """The fields that hold choices."""
        return [field for field in self.fields if field is not None]

    @cached_property
    def paths(self) -> list[Path | None]:
        """The choice of each mapped field; None for one that holds other values."""
        return [None if field is None else field.path for field in self.fields]

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], ChoiceField]:
        return {(field.kind, field.name): field for field in self.choice_fields}

    # Learning

    def learn(self, person: Person, found: PersonLayers, arrival: int) -> None:
        """Learn what records say of a person.

        Args:
            person: The person's row, changed here.
            found: What the records say.
            arrival: When they had arrived at the latest, in microseconds; a layer may say better.
        """
        if person.spelling is None:
            person.spelling = found.person
        waits = ACTITO in person.retries
        before = self.change("", person) if waits else None
        layers = () if self._learn_quickly(person, found, arrival) else found.layers
        for timestamp, opt_ins, opt_outs, user_key, kind in layers:
            user = user_place(user_key)
            arrived = min(arrival_of(kind) or arrival, arrival)
            for mask, value in ((opt_ins, True), (opt_outs, False)):
                for path in self._paths(mask):
                    entry = person.entries.get(path)
                    if entry is None:
                        entry = person.entries[path] = Entry()
                    if kind & STATUS == 0:
                        learn_event(
                            entry,
                            user,
                            value,
                            timestamp,
                            ours=kind & (OURS | HELD) != 0,
                            arrival=arrived,
                            rules=self.rules,
                        )
                    else:
                        learn_status(
                            entry, user, value, timestamp, arrival=arrived, rules=self.rules
                        )
        for name, (timestamp, value) in found.attributes.items():
            self._learn_attribute(person, name, timestamp, value)
        if waits and self.change("", person) != before:
            del person.retries[ACTITO]  # what is owed now has not been refused yet
        self.flag(person)

    def _learn_quickly(self, person: Person, found: PersonLayers, arrival: int) -> bool:
        """Learn choices on masks, where they are newer than what is known.

        Returns:
            Whether it is done; else nothing has changed.
        """
        bits, masks = self.bits, masks_of(person)
        if bits is None or masks is None:
            return False
        for timestamp, opt_ins, opt_outs, user_key, kind in found.layers:
            if kind != EVENT or timestamp > arrival:
                return False
            ins, outs = self._choice_bits(opt_ins, bits), self._choice_bits(opt_outs, bits)
            if not ins | outs:
                continue
            learned = learn_event_of(
                masks, user_key, ins, outs, created=timestamp, consents=bits.consents(ins | outs)
            )
            if learned is None:
                return False
            masks = learned
        put_masks(person, masks)
        return True

    def _choice_bits(self, mask: int, bits: FieldBits) -> int:
        """Return the bits of choices of a mask of mappings."""
        known = self._choices_by_mask.get(mask)
        if known is None:
            known = 0
            for path in self._paths(mask):
                known |= bits.choice(path)
            if len(self._choices_by_mask) >= _MOST_KEPT:
                self._choices_by_mask.clear()
            self._choices_by_mask[mask] = known
        return known

    @cached_property
    def _choices_by_mask(self) -> dict[int, int]:
        return {}

    def _paths(self, mask: int) -> Iterable[Path]:
        """Return the paths of a mask, each once."""
        paths: dict[Path, None] = {}
        while mask:
            low = mask & -mask
            mask ^= low
            field = self.fields[low.bit_length() - 1]
            if field is not None:
                paths[field.path] = None
        return paths

    def _learn_attribute(self, person: Person, name: str, timestamp: int, value: Any) -> None:
        known = person.attributes.get(name)
        if known is not None and known.timestamp > timestamp:
            return
        digest = self.digest(value)
        if known is not None and known.timestamp == timestamp and known.digest == digest:
            return
        person.attributes[name] = AttributeState(timestamp, digest, value)

    def digest(self, value: Any) -> bytes:
        """Return what stands for the value of an attribute."""
        return digest_of(value, self.key)

    def flag(self, person: Person) -> None:
        """Set the flags of what is owed."""
        flag(person, self.choice_fields, self.rules, self.bits)

    # What is due

    def change(
        self, key: str, person: Person, *, only: Collection[Field] | None = None
    ) -> ProfileChange | None:
        """Return the change of the profile that is due; None where nothing is.

        Args:
            key: The person's key; the spelling known is used instead.
            person: The person's row.
            only: Fields to keep to.
        """
        values: dict[Field, Value] = {}
        for field, named, act in self._find_due(person):
            values[named] = Value(field.value(act.value), act.value, to_datetime(act.latest))
        for name, state in person.attributes.items():
            if state.value is not msgspec.UNSET:
                values[Field("attribute", name)] = Value(
                    state.value, None, to_datetime(state.timestamp)
                )
        if only is not None:
            values = {field: value for field, value in values.items() if field in only}
        if self.guard is not None and self.guard.guards.tripped:
            values = {f: value for f, value in values.items() if self.guard.allows(f, value)}
        if not values:
            return None
        return ProfileChange(
            person.spelling or key,
            0,
            tuple(values),
            tuple(values.values()),
            any(value.opt_out for value in values.values()),
        )

    def change_of(self, draft: Draft) -> ProfileChange:
        """Return the change of the profile that is due to a person, of choices alone."""
        opt_ins = opt_outs = 0
        for _, ins, outs in draft.due:
            opt_ins |= ins
            opt_outs |= outs
        known = self._fields_by_mask.get(opt_ins | opt_outs)
        fields, values_of = known or self._know_fields(opt_ins | opt_outs)
        if len(draft.due) == 1:
            at = to_datetime(draft.due[0][0])
            values = tuple(
                [
                    _new(Value, (yes, True, at) if own & opt_ins else (no, False, at))
                    for own, yes, no in values_of
                ]
            )
        else:
            times = [(to_datetime(due[0]), due[1] | due[2]) for due in draft.due]
            values = tuple(
                [
                    Value(yes, True, at) if own & opt_ins else Value(no, False, at)
                    for own, yes, no in values_of
                    for at, mask in times
                    if own & mask
                ]
            )
        return ProfileChange(draft.spelling, 0, fields, values, bool(opt_outs))

    def _know_fields(self, mask: int) -> tuple[tuple[Field, ...], list[tuple[int, Any, Any]]]:
        """Return the fields of a mask, and for each its bit and its values for both choices."""
        named = [(field, name, own) for field, name, own in self._named if own & mask]
        found = (
            tuple(name for _, name, _ in named),
            [(own, field.opt_in, field.opt_out) for field, _, own in named],
        )
        if len(self._fields_by_mask) >= _MOST_KEPT:
            self._fields_by_mask.clear()
        self._fields_by_mask[mask] = found
        return found

    @cached_property
    def _fields_by_mask(
        self,
    ) -> dict[int, tuple[tuple[Field, ...], list[tuple[int, Any, Any]]]]:
        return {}

    def is_due(self, person: Person) -> bool:
        """Return whether a change of the profile is due: whether `change` returns one."""
        if any(state.value is not msgspec.UNSET for state in person.attributes.values()):
            return True
        found = None if self.bits is None else decide_quickly(person, self.bits, self.rules)
        if found is not None:
            return bool(found.due)
        return bool(find_due(person, self.choice_fields, self.rules))

    def _find_due(self, person: Person) -> Iterable[tuple[ChoiceField, Field, Act]]:
        """Return the fields to be written, each with its name and the act it is to show."""
        found = None if self.bits is None else decide_quickly(person, self.bits, self.rules)
        if self.bits is None or found is None:
            return [
                (field, Field(field.kind, field.name), act)
                for field, act in find_due(person, self.choice_fields, self.rules)
            ]
        due = found.due
        return [
            (field, name, act)
            for field, name, own in self._named
            for act, fields in due
            if fields & own
        ]

    @cached_property
    def _named(self) -> list[tuple[ChoiceField, Field, int]]:
        """The fields that hold choices, with their names and bits."""
        bits = () if self.bits is None else self.bits.fields
        return [(field, Field(field.kind, field.name), own) for field, own in bits]

    def note_unseen(self, person: Person, change: ProfileChange, now: int) -> None:
        """Record that opt-outs are written without a look, which may hide the person's own."""
        for field, choice in self._choices(change):
            if choice is OPT_OUT:
                learn_opt_out_of_unknown_age(person.entries[field.path], field.place, now)

    def begin(
        self,
        person: Person,
        change: ProfileChange,
        *,
        now: int,
        run: str,
        import_number: int | None = None,
    ) -> None:
        """Record the intent to write a change."""
        if import_number is not None and self._begin_quickly(
            person, change, now=now, run=run, number=import_number
        ):
            return
        for field, value in self._choices(change):
            entry = person.entries[field.path]
            intent = Intent(value, now, run, import_number)
            begin_write(entry, field.place, intent, self.rules)
        self.flag(person)

    def _begin_quickly(
        self, person: Person, change: ProfileChange, *, now: int, run: str, number: int
    ) -> bool:
        """Record the intent to write a change by an import, on masks; return whether it is done."""
        bits, masks = self.bits, masks_of(person)
        if bits is None or masks is None:
            return False
        opt_ins = opt_outs = 0
        for field, value in zip(change.fields, change.values, strict=True):
            if value.choice is not None and (own := bits.find(field)) is not None:
                if value.choice:
                    opt_ins |= own
                else:
                    opt_outs |= own
        if opt_ins | opt_outs:
            begun = begin_import(
                masks, opt_ins, opt_outs, writer=shorten(run), number=number, began=now
            )
            if begun is None:
                return False
            put_masks(person, begun)
        self.flag(person)
        return True

    def end(self, person: Person, change: ProfileChange, now: int) -> None:
        """Record that a change was carried out."""
        for field, _ in self._choices(change):
            end_write(person.entries[field.path], field.place, now)
        self.end_attributes(person, change)
        person.retries.pop(ACTITO, None)
        self.flag(person)

    def end_attributes(self, person: Person, change: ProfileChange) -> None:
        """Record that the attributes of a change were written, if no newer ones are owed."""
        for field, value in zip(change.fields, change.values, strict=True):
            if field.kind != "attribute" or value.choice is not None:
                continue
            state = person.attributes.get(field.name)
            if state is not None and to_datetime(state.timestamp) == value.timestamp:
                person.attributes[field.name] = AttributeState(
                    state.timestamp, state.digest, msgspec.UNSET
                )

    def drop(self, person: Person, change: ProfileChange) -> None:
        """Record that a change certainly wasn't carried out."""
        for field, _ in self._choices(change):
            drop_intent(person.entries[field.path], field.place)
        self.flag(person)

    def give_up(self, person: Person, change: ProfileChange, now: int) -> None:
        """Record that it isn't known whether a change was carried out, or will be."""
        for field, _ in self._choices(change):
            give_up_intent(person.entries[field.path], field.place, now, self.rules)
            doubt(person.entries[field.path], field.place)
        self.flag(person)

    def seen(self, person: Person, change: ProfileChange, looked_at: int) -> set[Field]:
        """Return the fields of a change that may be written after a look at the table.

        An opt-in only where the look has shown the field for certain: else it could hide the
        person's own opt-out. A person who had no profile then is new.

        Args:
            person: The person's row.
            change: What is due.
            looked_at: When the look began, in microseconds.
        """
        opt_ins = [
            field for field, value in zip(change.fields, change.values, strict=True) if value.choice
        ]
        if not opt_ins or person.profile_id is None:
            return set(change.fields)
        bits, masks = self.bits, masks_of(person)
        if bits is not None and masks is not None:
            shown = seen_fields(masks, looked_at)
            unseen = {field for field in opt_ins if not shown & (bits.find(field) or 0)}
        else:
            unseen = {field for field in opt_ins if not self._is_seen(person, field, looked_at)}
        return set(change.fields) - unseen

    def _is_seen(self, person: Person, name: Field, looked_at: int) -> bool:
        field = self._by_name[name]
        entry = person.entries.get(field.path)
        place = None if entry is None else entry.places.get(field.place)
        if name.kind == "attribute" and (place is None or place.held is None):
            return True  # it has no value yet
        return is_seen(place, looked_at)

    def overtake_import(self, person: Person, number: int) -> None:
        """Record that opt-outs of an import that takes too long are written otherwise."""
        for field in list(self._in_import(person, number)):
            overtake_import(person.entries[field.path], field.place, number)
        self.flag(person)

    def drop_import(self, person: Person, number: int) -> None:
        """Record that an import certainly did not write this person's row."""
        for field in list(self._in_import(person, number)):
            drop_import(person.entries[field.path], field.place, number)
        self.flag(person)

    def give_up_import(self, person: Person, number: int, now: int) -> None:
        """Record that it isn't known whether an import wrote this person's row."""
        for field in list(self._in_import(person, number)):
            give_up_import(person.entries[field.path], field.place, number, now, self.rules)
        self.flag(person)

    def is_in_import(self, person: Person | None, number: int) -> bool:
        """Return whether an import is to write a person's row."""
        return person is not None and any(True for _ in self._in_import(person, number))

    def _in_import(self, person: Person, number: int) -> Iterable[ChoiceField]:
        """Yield the fields that an import may write, also those where it was overtaken."""
        for field in self.choice_fields:
            entry = person.entries.get(field.path)
            place = entry.places.get(field.place) if entry else None
            if place is not None and any(
                write is not None and write.import_number == number
                for write in (place.intent, *place.late)
            ):
                yield field

    def _choices(self, change: ProfileChange) -> Iterable[tuple[ChoiceField, bool]]:
        """Yield the fields of a change that hold choices, with the choices."""
        known = self._by_name
        for field, value in zip(change.fields, change.values, strict=True):
            own = known.get(field)
            if own is not None and value.choice is not None:
                yield own, value.choice
