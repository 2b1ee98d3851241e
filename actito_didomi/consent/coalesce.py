"""Coalescing: the choices of one person become one change of a profile.

The newest choice counts, and at equal timestamps the opt-out (`conflicts.rank`); of two values that
are no choices, such as a first name, the one that arrived later. Pure: no clock, no I/O.

What a record says is one number, a **mask**: for each mapped field a bit for an opt-in, a bit for
an opt-out and a bit for a value that is no choice. A person is a short list of what was said at
which timestamp. It is folded into the newest choices only when a change is taken, or when it grows
long: so a record costs the same however many fields are mapped.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from actito_didomi.consent.conflicts import resolve_ties

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from actito_didomi.consent.mapping import Kind

_Layer = tuple[Any, int, Any]
"""Timestamp, mask, and more: see `Collector`."""
_FOLD_AT = frozenset(1 + 3 * 7 * 2**n for n in range(32))
"""Lengths at which a person's list is folded: at 7 layers, 14, 28, ..."""
_BYTE = 255
_NUMBERS = [[number for number in range(8) if byte >> number & 1] for byte in range(_BYTE + 1)]
"""For each byte the numbers of its bits."""
_MOST_ROWS = 10_000
"""Sets of fields of which is remembered which they are."""
_NOBODY: tuple[Any, ...] = (False,)
"""What is held of a person of whom nothing was said."""
_timestamp = itemgetter(0)
_new = tuple.__new__
"""Makes a named tuple in a third of the time."""


class Field(NamedTuple):
    """A subscription or attribute of a profile, by name."""

    kind: Kind
    name: str


class Value(NamedTuple):
    """A value for one field.

    Attributes:
        timestamp: When the choice was made; aware of its zone.
        value: In Actito's form, inverted already where the mapping says so.
        choice: What the person chose in Didomi; None where it is no yes or no of consent.
    """

    timestamp: datetime
    value: Any
    choice: bool | None

    @property
    def opt_out(self) -> bool:
        """Whether this is an opt-out."""
        return self.choice is False


class ProfileChange(msgspec.Struct, frozen=True, gc=False):
    """All fields to write for one person.

    Attributes:
        person: Value of the key attribute.
        first_record: Number of the earliest record that it may hold something of.
        fields: The fields; one object for all changes of the same fields.
        values: In the order of `fields`.
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
        return {field.name: value.value for field, value in pairs if field.kind == kind}


class MappedField(NamedTuple):
    """A field that a mapping names.

    Attributes:
        field: The field.
        opt_out: Its value for an opt-out.
        opt_in: Its value for an opt-in.
    """

    field: Field
    opt_out: Any
    opt_in: Any


class Masks:
    """What the bits of a mask stand for.

    Args:
        fields: The mapped fields, by their numbers.

    Attributes:
        fields: The mapped fields.
        others: Those that aren't just true for an opt-in and false for an opt-out, by number.
        size: How many fields there are. Opt-ins are the lowest `size` bits of a mask, the next ones
            are opt-outs, the next ones values that are no choices.
        low: All bits of opt-ins.
        thrice: Times a bit for each field: their bits of all three kinds.
        limit: The least number that is no mask.
    """

    def __init__(self, fields: Sequence[MappedField]) -> None:
        self.fields = tuple(fields)
        self.others = tuple(
            (number, mapped)
            for number, mapped in enumerate(fields)
            if mapped.opt_in is not True or mapped.opt_out is not False
        )
        self.size = len(fields)
        self.low = (1 << self.size) - 1
        self.thrice = 1 | 1 << self.size | 1 << 2 * self.size
        self.limit = 1 << 3 * self.size

    def choice(self, number: int, choice: bool) -> int:
        """Return the bit of a choice for a field."""
        return 1 << (number if choice else number + self.size)

    def value(self, number: int) -> int:
        """Return the bit of a value for a field that is no choice."""
        return 1 << (number + 2 * self.size)

    def named(self, mask: int) -> int:
        """Return a bit for each field of which a mask says something."""
        return (mask | mask >> self.size | mask >> 2 * self.size) & self.low


class Extra(NamedTuple):
    """What a record says in addition to choices, where that isn't metadata alone.

    Attributes:
        metadata: Metadata as JSON.
        values: Values that are no choices, by numbers of fields.
    """

    metadata: bytes | None
    values: Mapping[int, Any]


class Attributes(Protocol):
    """Reads metadata, whose keys are names of attributes."""

    def read_metadata(self, metadata: bytes) -> Mapping[str, Any]:
        """Decode metadata from JSON; return nothing for what can't be decoded."""

    def convert_metadata(self, name: str, raw: Any, *, count: bool) -> Any:
        """Return the value for the attribute of that name; None where there is none.

        Args:
            name: Key of the metadata.
            raw: Its value.
            count: Whether to count a value that can't be converted.
        """


class Collector:
    """Gathers the changes of a run, of all streams, by person.

    It remembers what it has handed out, so that an older choice which arrives after a newer one was
    written is still the older one.

    Args:
        masks: The mapped fields.
        attributes: Converts metadata, for the newest values only.
    """

    # There may be a million people, and each record touches one. So a person is one flat list, and
    # only this class knows how it is made: the number of the earliest record that waits, then
    # layers of three: a timestamp, the mask of what was said then, and more (None, metadata, or
    # `Extra`). What is held, since it was handed out or came from Actito, is a tuple: whether
    # something was handed out, then layers whose third part is a tuple of names of attributes.

    def __init__(self, masks: Masks, attributes: Attributes) -> None:
        self._masks = masks
        self._attributes = attributes
        self._waiting: dict[str, list[Any]] = {}
        self._held: dict[str, tuple[Any, ...]] = {}
        self._slots: dict[str, int] = {}
        self._numbers: dict[int, tuple[int, ...]] = {}
        self._rows: dict[int, tuple[tuple[int, ...], tuple[Field, ...]]] = {}
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._people_written = 0

    @property
    def people(self) -> int:
        """People seen in this run."""
        return len(self._held) + sum(person not in self._held for person in self._waiting)

    @property
    def people_unchanged(self) -> int:
        """People seen in this run for whom nothing was handed out, and nothing waits."""
        new = sum(not self._held.get(person, _NOBODY)[0] for person in self._waiting)
        return self.people - self._people_written - new

    @property
    def waiting(self) -> int:
        """People of whom something waits to be written."""
        return len(self._waiting)

    @property
    def oldest(self) -> int | None:
        """Number of the earliest record that waits to be written; None when none does."""
        # People wait in the order in which their first records came.
        return next((entry[0] for entry in self._waiting.values()), None)

    def put(
        self,
        person: str,
        record: int,
        timestamp: datetime,
        mask: int,
        more: bytes | Extra | None = None,
    ) -> None:
        """Add what one record says about one person at one timestamp; the hottest of all calls.

        Args:
            person: Value of the key attribute.
            record: Number of the record.
            timestamp: When the choices were made.
            mask: What it says; 0 for a record without any explicit choice.
            more: Metadata as JSON, or that and values that are no choices.
        """
        entry = self._waiting.get(person)
        if entry is None:
            if mask or more is not None:
                self._waiting[person] = [record, timestamp, mask, more]
            else:
                self._held.setdefault(person, _NOBODY)
        elif mask or more is not None:
            if more == entry[-1]:
                more = entry[-1]  # one object for metadata that stays the same
            entry += (timestamp, mask, more)
            if len(entry) in _FOLD_AT:
                self._fold(entry)

    def hold(self, person: str, timestamp: datetime, mask: int) -> None:
        """Record that Actito holds these choices already.

        They need not be written, and nothing older is written over them.
        """
        held = (*self._held.get(person, _NOBODY), timestamp, mask, ())
        if len(held) in _FOLD_AT:
            kept: list[Any] = [held[0]]
            for at, choices, group in self._newest(_layers(held)):
                names = tuple(name for _, _, more in group for name in more)
                if choices or names:
                    kept += (at, choices, names)
            held = tuple(kept)
        self._held[person] = held

    def take(self) -> list[ProfileChange]:
        """Return all changes that wait: those with an opt-out first, then in order of arrival."""
        opt_outs: list[ProfileChange] = []
        others: list[ProfileChange] = []
        for person, entry in self._waiting.items():
            change = self._change(person, entry)
            if change is not None:
                (opt_outs if change.opt_out else others).append(change)
        self._waiting = {}
        return opt_outs + others

    # Folding

    def _newest(self, layers: list[_Layer]) -> Iterator[tuple[Any, int, list[_Layer]]]:
        """Yield what counts of layers, the newest timestamp first.

        Yields:
            A timestamp, the mask of what was said then and never later, and its layers: what waits
            before what is held, and what arrived last first.
        """
        size, low = self._masks.size, self._masks.low
        layers.sort(key=_timestamp, reverse=True)
        seen, at, end = 0, 0, len(layers)
        while at < end:
            timestamp, mask, _ = layers[at]
            start = at
            at += 1
            while at < end and layers[at][0] == timestamp:
                mask |= layers[at][1]
                at += 1
            opt_ins, opt_outs = resolve_ties(mask & low, mask >> size & low)
            named = opt_ins | opt_outs
            values = mask >> 2 * size & ~named  # a choice goes before a value that is none
            mask = opt_ins & ~seen | (opt_outs & ~seen) << size | (values & ~seen) << 2 * size
            seen |= named | values
            yield timestamp, mask, layers[start:at]

    def _change(self, person: str, entry: list[Any]) -> ProfileChange | None:
        """Fold what waits of a person with what is held, and return what is new."""
        held = self._held.get(person, _NOBODY)
        found: dict[int, Value] = {}
        names: set[str] = set()
        unusable: set[str] = set()
        if len(held) > 1:
            layers = [*_layers(entry), *_layers(held)]
            kept, written = self._fold_all(layers, found, names, unusable)
        elif simple := self._fold_simple(entry, found, names, unusable):
            kept, written = simple
        else:
            found.clear()
            names.clear()
            kept, written = self._fold_all(_layers(entry), found, names, unusable)
        kept[0] = held[0] or bool(found)
        self._held[person] = tuple(kept)
        if not found:
            return None
        self._people_written += not held[0]
        slots = self._masks.named(written)
        for name in names:
            if (slot := self._slots[name]) in found:
                slots |= 1 << slot
        order, fields = self._rows.get(slots) or self._row(slots)
        opt_out = written >> self._masks.size & self._masks.low != 0
        return ProfileChange(
            person, entry[0], fields, tuple([found[slot] for slot in order]), opt_out
        )

    def _fold_simple(
        self, entry: list[Any], found: dict[int, Value], names: set[str], unusable: set[str]
    ) -> tuple[list[Any], int] | None:
        """Fold layers in which nothing is said twice at one timestamp: the usual case.

        Args:
            entry: What waits of a person.
            found: Filled with values by their slots.
            names: Filled with names of attributes.
            unusable: Filled with names whose newest value can't be converted, which is counted.

        Returns:
            What is to be held, and the mask of what is to be written; None where `_fold_all` is
            needed.
        """
        masks = self._masks
        size, low, thrice = masks.size, masks.low, masks.thrice
        layers = _layers(entry)
        if len(layers) > 1:
            layers.sort(key=_timestamp, reverse=True)
        kept: list[Any] = [True]
        blocked = written = 0
        newer = last = None
        for timestamp, said, more in layers:
            if timestamp == newer or said & low & said >> size or more.__class__ is Extra:
                return None
            newer = timestamp
            mask = said & ~blocked
            here: tuple[str, ...] = ()
            if more is not None and more != last:
                last = more
                here = self._take_metadata(more, timestamp, found, names, unusable)
            if mask:
                written |= mask
                blocked |= ((mask | mask >> size) & low) * thrice
                self._fill(found, timestamp, mask)
            elif not here:
                continue
            kept += (timestamp, mask, self._shared.setdefault(here, here))
        return kept, written

    def _fold_all(
        self,
        layers: list[_Layer],
        found: dict[int, Value],
        names: set[str],
        unusable: set[str],
    ) -> tuple[list[Any], int]:
        """Fold any layers; arguments and result as `_fold_simple`."""
        size = self._masks.size
        kept: list[Any] = [True]
        written = 0
        for timestamp, mask, group in self._newest(layers):
            said = 0
            here: tuple[str, ...] = ()
            for _, own, more in group:
                if more.__class__ is tuple:  # held
                    here += tuple([name for name in more if name not in names])
                    names.update(more)
                    continue
                said |= own
                metadata = more
                if more.__class__ is Extra:
                    metadata, values = more
                    for number, value in values.items():
                        if mask & 1 << number + 2 * size and number not in found:
                            found[number] = _new(Value, (timestamp, value, None))
                if metadata is not None:
                    here += self._take_metadata(metadata, timestamp, found, names, unusable)
            if new := said & mask:
                written |= new
                self._fill(found, timestamp, new)
            if mask or here:
                kept += (timestamp, mask, self._shared.setdefault(here, here))
        return kept, written

    def _take_metadata(
        self,
        metadata: bytes,
        timestamp: datetime,
        found: dict[int, Value],
        names: set[str],
        unusable: set[str],
    ) -> tuple[str, ...]:
        """Fill in what metadata says of attributes that newer metadata doesn't name.

        Returns:
            Names of these attributes.
        """
        here: tuple[str, ...] = ()
        attributes = self._attributes
        for name, raw in attributes.read_metadata(metadata).items():
            if raw is None or name in names:
                continue
            value = attributes.convert_metadata(name, raw, count=name not in unusable)
            if value is not None:
                names.add(name)
                here += (name,)
                slot = self._slots.get(name)
                if slot is None:
                    slot = self._slots[name] = self._masks.size + len(self._slots)
                found[slot] = _new(Value, (timestamp, value, None))
            else:
                unusable.add(name)
        return here

    def _fold(self, entry: list[Any]) -> None:
        """Leave out of a person's layers what newer ones say as well."""
        size = self._masks.size
        folded: list[Any] = [entry[0]]
        names: set[str] = set()
        unusable: set[str] = set()
        for timestamp, mask, group in self._newest(_layers(entry)):
            values: dict[int, Any] = {}
            metadata: dict[str, Any] = {}
            for _, _, more in group:
                raw = more
                if more.__class__ is Extra:
                    raw, own = more
                    for number, value in own.items():
                        if mask & 1 << number + 2 * size:
                            values.setdefault(number, value)
                if raw is not None:
                    metadata |= self._newest_metadata(raw, names, unusable)
            if mask or metadata:
                kept = msgspec.json.encode(metadata) if metadata else None
                folded += (timestamp, mask, Extra(kept, values) if values else kept)
        entry[:] = folded

    def _newest_metadata(
        self, metadata: bytes, names: set[str], unusable: set[str]
    ) -> dict[str, Any]:
        """Return what metadata says that newer metadata doesn't.

        Of a value that can't be converted the newest is kept, to be reported.
        """
        kept: dict[str, Any] = {}
        for name, raw in self._attributes.read_metadata(metadata).items():
            if raw is None or name in names:
                continue
            if self._attributes.convert_metadata(name, raw, count=False) is not None:
                names.add(name)
            elif name in unusable:
                continue
            else:
                unusable.add(name)
            kept[name] = raw
        return kept

    # Fields and their slots

    def _fill(self, found: dict[int, Value], timestamp: datetime, mask: int) -> None:
        """Fill in the values that the choices of a mask stand for."""
        masks, numbers = self._masks, self._numbers
        size, low = masks.size, masks.low
        if bits := mask & low:
            value = _new(Value, (timestamp, True, True))
            for number in numbers.get(bits) or self._count(bits):
                found[number] = value
        if bits := mask >> size & low:
            value = _new(Value, (timestamp, False, False))
            for number in numbers.get(bits) or self._count(bits):
                found[number] = value
        for number, mapped in masks.others:
            if mask & 1 << number:
                found[number] = _new(Value, (timestamp, mapped.opt_in, True))
            elif mask >> size & 1 << number:
                found[number] = _new(Value, (timestamp, mapped.opt_out, False))

    def _count(self, bits: int) -> tuple[int, ...]:
        """Return the numbers of the fields of some bits."""
        if len(self._numbers) >= _MOST_ROWS:
            self._numbers.clear()
        numbers: list[int] = []
        left, at = bits, 0
        while left:
            numbers += [at + number for number in _NUMBERS[left & _BYTE]]
            left >>= 8
            at += 8
        self._numbers[bits] = found = tuple(numbers)
        return found

    def _row(self, slots: int) -> tuple[tuple[int, ...], tuple[Field, ...]]:
        """Return the slots of a set of bits, and their fields."""
        fields = [mapped.field for mapped in self._masks.fields]
        fields += [Field("attribute", name) for name in self._slots]
        order = tuple(slot for slot in range(len(fields)) if slots >> slot & 1)
        if len(self._rows) >= _MOST_ROWS:
            self._rows.clear()
        row = self._rows[slots] = order, tuple(fields[slot] for slot in order)
        return row


def _layers(entry: Sequence[Any]) -> list[_Layer]:
    """Return the layers of a person, the one that arrived last first."""
    return list(zip(entry[-3::-3], entry[-2::-3], entry[:0:-3], strict=True))
