"""Coalescing: the choices of one person become one change of a profile.

The newest choice counts, and at equal timestamps the opt-out (`conflicts.rank`); of two values that
are no choices, such as a first name, the one that arrived later. Pure: no clock, no I/O.

What a record says is one number, a **mask**: for each mapped field a bit for a choice, another one
if it is an opt-out, and a bit for a value that is no choice. So masks that are joined by OR hold
the opt-out where one of them does. A person is a short list of what was said at which timestamp. It
is folded into the newest choices only when a change is taken, or when it grows long: so a record
costs the same however many fields are mapped.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from actito_didomi.consent.conflicts import resolve_ties, to_micros
from actito_didomi.consent.records import user_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from actito_didomi.consent.mapping import Kind

EVENT: Final = 0
"""Kind of a consent event of Didomi."""
OURS: Final = 1
"""Flag of an event that this project posted."""
STATUS: Final = 2
"""Flag of a whole status, whose choices are of unknown age."""
HELD: Final = 4
"""Flag of what is not to be written, nor anything older over it: what a delegate did."""
FUTURE: Final = 8
"""Flag of what is dated later than it can have been made: it says nothing of the order."""
_ARRIVAL = 4
"""Bits of flags; above them the kind of what is dated later than its arrival holds the arrival."""
Origin = str | tuple[str, int]
"""Where choices come from: the id of the Didomi user, empty if there is none, and the kind; the id
alone for an `EVENT`."""
Layer = tuple["datetime", int, "bytes | Extra | None", Origin]
"""What a record says at one timestamp: when the choices were made; its mask, 0 for a record without
any explicit choice; metadata as JSON, or that and values that are no choices; and where it comes
from, of no matter without a ledger."""
_Layer = tuple[Any, ...]
"""A `Layer`, or three parts of what is held: see `Collector`."""
_Folded = tuple[list[Any], int, "tuple[Value, ...]", bool]
"""What comes of folding a person: what is to be held, the bits of the slots of what is to be
written, its values by slot, and whether one is an opt-out."""
_FOLD_AT = frozenset(1 + 7 * 2**n for n in range(32))
"""Lengths at which a person's list is folded: at 7 layers, 14, 28, ..."""
_FOLD_HELD_AT = frozenset(1 + 3 * 7 * 2**n for n in range(32))
"""The same for what is held."""
_AT_ONCE = 8
"""Fields whose values are made together."""
_MOST_ROWS = 10_000
"""Sets of fields of which is remembered which they are."""
_NOBODY: tuple[Any, ...] = (False,)
"""What is held of a person of whom nothing was said."""
_SHORT = 7
"""Longest list that isn't folded."""
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
        value: In Actito's form, inverted already where the mapping says so.
        choice: What the person chose in Didomi; None where it is no yes or no of consent.
        timestamp: When the choice was made, aware of its zone; None without a ledger, where nothing
            depends on it once it is known which choice counts.
    """

    value: Any
    choice: bool | None
    timestamp: datetime | None = None

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


def _parts_of(origin: Origin) -> tuple[str, int]:
    return (origin, EVENT) if isinstance(origin, str) else origin


def late_origin(origin: Origin, arrival: datetime) -> Origin:
    """Return the origin of choices that are dated later than they had arrived.

    Args:
        origin: Their origin.
        arrival: When they had arrived at the latest; aware of its zone.
    """
    user_id, kind = _parts_of(origin)
    return user_id, kind | FUTURE | to_micros(arrival) << _ARRIVAL


def arrival_of(kind: int) -> int | None:
    """Return when choices of a kind had arrived, in microseconds; None if it doesn't say."""
    return kind >> _ARRIVAL or None


def _held_layers(held: tuple[Any, ...]) -> list[_Layer]:
    """Return what is held of a person, what was learned last first."""
    return [*zip(held[1::3], held[2::3], held[3::3], strict=True)][::-1]


def _in_order(row: dict[int, Value]) -> tuple[int, tuple[Value, ...]]:
    """Return the bits of the slots of values, and the values in the order of the slots."""
    if len(row) == 1:
        ((only, value),) = row.items()
        return 1 << only, (value,)
    return sum(1 << slot for slot in row), tuple([row[slot] for slot in sorted(row)])


def _in_future(origin: Origin) -> Origin:
    user_id, kind = _parts_of(origin)
    return user_id, kind | FUTURE


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
        size: How many fields there are. The lowest `size` bits of a mask are choices, the next ones
            say which of these are opt-outs, the next ones are values that are no choices.
        low: All bits of choices.
        both: Those, and the ones that say which are opt-outs.
        thrice: Times a bit for each field: their bits of all three kinds.
        limit: The least number that is no mask.
    """

    def __init__(self, fields: Sequence[MappedField]) -> None:
        self.fields = tuple(fields)
        self.size = len(fields)
        self.low = (1 << self.size) - 1
        self.both = (1 << 2 * self.size) - 1
        self.thrice = 1 | 1 << self.size | 1 << 2 * self.size
        self.limit = 1 << 3 * self.size
        self._pairs = [
            (Value(mapped.opt_in, choice=True), Value(mapped.opt_out, choice=False))
            for mapped in fields
        ]
        some = (1 << _AT_ONCE) - 1
        self._rows: list[tuple[int, dict[int, tuple[Value, ...]]]] = [
            ((some << start & self.low) * (1 | 1 << self.size), {})
            for start in range(0, self.size, _AT_ONCE)
        ]

    def choice(self, number: int, choice: bool) -> int:
        """Return the bits of a choice for a field."""
        return 1 << number if choice else 1 << number | 1 << (number + self.size)

    def value(self, number: int) -> int:
        """Return the bit of a value for a field that is no choice."""
        return 1 << (number + 2 * self.size)

    def numbers(self, mask: int) -> list[int]:
        """Return the numbers of the fields that a mask holds choices for."""
        return [number for number in range(self.size) if mask >> number & 1]

    def split(self, mask: int) -> tuple[int, int]:
        """Return the opt-ins and the opt-outs of a mask, a bit for each field."""
        return resolve_ties(mask & self.low, mask >> self.size & self.low)

    def values(self, mask: int) -> tuple[Value, ...]:
        """Return what the choices of a mask stand for, by number of the field."""
        # Some fields at a time, whose values are remembered: there are few different ones.
        found: tuple[Value, ...] = ()
        for part, known in self._rows:
            said = mask & part
            row = known.get(said)
            if row is None:
                row = known[said] = self._row(said)
            found += row
        return found

    def _row(self, said: int) -> tuple[Value, ...]:
        """Make the values of a few fields."""
        opt_outs = said >> self.size
        return tuple(
            pair[opt_outs >> number & 1]
            for number, pair in enumerate(self._pairs)
            if said >> number & 1
        )


class Extra(NamedTuple):
    """What a record says in addition to choices, where that isn't metadata alone.

    Attributes:
        metadata: Metadata as JSON.
        values: Numbers of fields, each once, with values that are no choices.
    """

    metadata: bytes | None
    values: tuple[tuple[int, Any], ...]


class _Spoken(NamedTuple):
    """What counts of what one person's records say with one timestamp.

    Attributes:
        timestamp: When the choices were made.
        masks: For each origin what it said then, and never later; of values that are no choices
            what nobody said later.
        metadata: Metadata as JSON, what arrived last first.
        values: Values that are no choices, by numbers of fields.
    """

    timestamp: datetime
    masks: list[tuple[Origin, int]]
    metadata: list[bytes]
    values: dict[int, Any]


class ChoiceLayer(NamedTuple):
    """Choices of one person that one Didomi user made at one timestamp.

    Attributes:
        timestamp: When they were made; of a status: when they were made at the latest. Microseconds
            since 1970, UTC.
        opt_ins: A bit for each mapped field that has an opt-in.
        opt_outs: A bit for each mapped field that has an opt-out; no field has both.
        user: Key of the Didomi user; 0 if the record named none.
        kind: `EVENT`, or of `OURS`, `STATUS`, `HELD`, `FUTURE` what applies; see `arrival_of`.
    """

    timestamp: int
    opt_ins: int
    opt_outs: int
    user: int
    kind: int


class PersonLayers(msgspec.Struct, frozen=True, gc=False):
    """All that waits of one person, for the ledger.

    Attributes:
        person: Value of the key attribute.
        first_record: Number of the earliest record that it may hold something of.
        layers: The choices, the newest first. Of each user and kind there is the newest choice for
            each field, once; what another user or kind said later takes nothing away.
        attributes: The newest values that are no choices, each with its timestamp, by name of the
            attribute. A choice of the same field that is newer, or as new, has removed them.
    """

    person: str
    first_record: int
    layers: tuple[ChoiceLayer, ...]
    attributes: dict[str, tuple[int, Any]]


class Attributes(Protocol):
    """Reads metadata, whose keys are names of attributes."""

    def convert_metadata(
        self, metadata: bytes, usable: dict[str, bool], *, count: bool
    ) -> list[tuple[str, Any, Any]]:
        """Convert what metadata says and newer metadata doesn't.

        Args:
            metadata: The metadata, as JSON.
            usable: Names that newer metadata holds, and whether their values could be converted; a
                name is only passed over if so. New names are added.
            count: Whether to count values that can't be converted, of each name the newest.

        Returns:
            Names that are new in `usable`, or became usable, with raw and converted value; the
            latter is None where it can't be converted.
        """


class Collector:
    """Gathers the changes of a run, of all streams, by person.

    It remembers what it has handed out, so that an older choice which arrives after a newer one was
    written is still the older one.

    Args:
        masks: The mapped fields.
        attributes: Converts metadata, for the newest values only.
        for_ledger: Whether `take_layers` is called, and never `take`. Then nothing is remembered of
            what was handed out: the ledger does that.

    Attributes:
        latest: What is dated later than this can't have been made then; None if nothing can.
        people: People seen in this run; with a ledger once for each call of `take_layers`.
        for_ledger: Whether it collects for a ledger.
    """

    # There may be a million people, and each record touches one. So a person is one list, and only
    # this class knows how it is made: the number of the earliest record that waits, then layers.
    # What is held, since it was handed out or came from Actito, is a tuple: whether something was
    # handed out, then for each layer three parts without origin, the third a tuple of names of
    # attributes.

    def __init__(self, masks: Masks, attributes: Attributes, *, for_ledger: bool = False) -> None:
        self.latest: datetime | None = None
        self.for_ledger = for_ledger
        self.people = 0
        self._masks = masks
        self._attributes = attributes
        self._waiting: dict[str, list[Any]] = {}
        self._held: dict[str, tuple[Any, ...]] = {}
        self._slots: dict[str, int] = {}
        self._fields: dict[int, tuple[Field, ...]] = {}
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._people_written = 0

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

    def put(self, record: int, said: Iterable[tuple[str, Layer]]) -> None:
        """Add what records say, one after the other, each about one person at one timestamp.

        Args:
            record: Number of the first record; the others have the next ones.
            said: For each record the value of the key attribute, and what it says.
        """
        waiting, held, get = self._waiting, self._held, self._waiting.get
        for number, (person, layer) in enumerate(said, record):
            entry = get(person)
            if not layer[1] and layer[2] is None:
                if entry is None and person not in held:
                    self.people += 1
                    held[person] = _NOBODY
            elif entry is None:
                self.people += person not in held
                waiting[person] = [number, layer]
            else:
                entry.append(layer)
                if len(entry) > _SHORT and len(entry) in _FOLD_AT:
                    self._fold(entry)

    def hold(
        self, person: str, timestamp: datetime, mask: int, record: int, origin: Origin = ""
    ) -> None:
        """Record that Actito holds these choices already.

        They need not be written, and nothing older is written over them. For the ledger they wait
        like all others, and are marked `HELD`.

        Args:
            person: Value of the key attribute.
            timestamp: When the choices were made.
            mask: The choices.
            record: Number of the record.
            origin: As for `put`.
        """
        if self.for_ledger:
            user, kind = _parts_of(origin)
            self.put(record, [(person, (timestamp, mask, None, (user, kind | HELD)))])
            return
        if person not in self._held:
            self.people += person not in self._waiting
        held = (*self._held.get(person, _NOBODY), timestamp, mask, ())
        if len(held) in _FOLD_HELD_AT:
            kept: list[Any] = [held[0]]
            for at, choices, group in self._newest(_held_layers(held)):
                names = tuple(name for _, _, more in group for name in more)
                if choices or names:
                    kept += (at, choices, names)
            held = tuple(kept)
        self._held[person] = held

    def take(self, *, is_last: bool = False) -> list[ProfileChange]:
        """Return all changes that wait: those with an opt-out first, then in order of arrival.

        Args:
            is_last: Whether nothing is gathered after this, so that nothing need be remembered.
        """
        opt_outs: list[ProfileChange] = []
        others: list[ProfileChange] = []
        for person, entry in self._waiting.items():
            change = self._change(person, entry, keeps=not is_last)
            del entry[1:]  # so that the next ones find room
            if change is not None:
                (opt_outs if change.opt_out else others).append(change)
        self._waiting = {}
        if is_last:
            self._held.clear()
        return opt_outs + others

    def take_layers(self) -> list[PersonLayers]:
        """Return all that waits, person by person in order of arrival, for the ledger."""
        waiting, self._waiting = self._waiting, {}
        self._held.clear()
        return [self._layers(person, entry) for person, entry in waiting.items()]

    # Folding

    def _layers(self, person: str, entry: list[Any]) -> PersonLayers:
        """Fold what waits of a person whose layers are of one origin: the usual case."""
        size, low = self._masks.size, self._masks.low
        found = entry[1:]
        if len(found) > 1:
            found.sort(key=_timestamp, reverse=True)
        if self.latest is not None and found[0][0] > self.latest:
            return self._layers_by_origin(person, entry)
        origin = found[0][3]
        user_id, kind = _parts_of(origin)
        user = user_key(user_id)
        layers: list[ChoiceLayer] = []
        attributes: dict[str, tuple[int, Any]] = {}
        usable: dict[str, bool] = {}
        seen = 0
        newer = last = None
        for timestamp, mask, more, own in found:
            if timestamp == newer or own != origin or more.__class__ is Extra:
                return self._layers_by_origin(person, entry)
            newer = timestamp
            new = mask & low & ~seen
            if not new and more == last:
                continue
            at = to_micros(timestamp)
            if new:
                seen |= new
                opt_ins, opt_outs = resolve_ties(new, mask >> size & new)
                layers.append(_new(ChoiceLayer, (at, opt_ins, opt_outs, user, kind)))
            if more is not None and more != last:
                last = more
                for name, _, value in self._attributes.convert_metadata(more, usable, count=True):
                    if value is not None:
                        attributes[name] = at, value
        return PersonLayers(person, entry[0], tuple(layers), attributes)

    def _layers_by_origin(self, person: str, entry: list[Any]) -> PersonLayers:
        """Fold what waits of a person, by users and kinds."""
        layers: list[ChoiceLayer] = []
        attributes: dict[str, tuple[int, Any]] = {}
        usable: dict[str, bool] = {}
        for timestamp, masks, metadata, values in self._newest_by_origin(entry):
            at = to_micros(timestamp)
            for origin, mask in masks:
                opt_ins, opt_outs = self._masks.split(mask)
                if opt_ins | opt_outs:
                    user_id, kind = _parts_of(origin)
                    said = at, opt_ins, opt_outs, user_key(user_id), kind
                    layers.append(_new(ChoiceLayer, said))
            for number, value in values.items():
                attributes[self._masks.fields[number].field.name] = at, value
            for raw in metadata:
                for name, _, value in self._attributes.convert_metadata(raw, usable, count=True):
                    if value is not None:
                        attributes[name] = at, value
        return PersonLayers(person, entry[0], tuple(layers), attributes)

    def _newest_by_origin(self, entry: list[Any]) -> Iterator[_Spoken]:
        """Yield what counts of all that waits of a person, the newest timestamp first."""
        size, low = self._masks.size, self._masks.low
        layers = entry[:0:-1]
        layers.sort(key=_timestamp, reverse=True)
        seen: dict[Origin, int] = {}
        by_any = 0
        for timestamp, group in groupby(layers, _timestamp):
            said: dict[Origin, int] = {}
            metadata: list[bytes] = []
            values: dict[int, Any] = {}
            is_future = self.latest is not None and timestamp > self.latest
            for _, mask, more, given in group:
                origin = _in_future(given) if is_future else given
                said[origin] = said.get(origin, 0) | mask
                raw = more
                if more.__class__ is Extra:
                    raw, own = more
                    values = {**dict(own), **values}
                if raw is not None:
                    metadata.append(raw)
            for mask in said.values():
                by_any |= mask & low
            masks: list[tuple[Origin, int]] = []
            for origin, mask in said.items():
                new = mask & low & ~seen.get(origin, 0)
                seen[origin] = seen.get(origin, 0) | new
                others = mask >> 2 * size & ~by_any
                if new or others:
                    masks.append((origin, mask & (new | new << size) | others << 2 * size))
            kept = {number: value for number, value in values.items() if not by_any >> number & 1}
            for mask in said.values():
                by_any |= mask >> 2 * size
            yield _Spoken(timestamp, masks, metadata, kept)

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
            timestamp, mask = layers[at][:2]
            start = at
            at += 1
            while at < end and layers[at][0] == timestamp:
                mask |= layers[at][1]
                at += 1
            named = mask & low
            new = named & ~seen
            values = mask >> 2 * size & ~named  # a choice goes before a value that is none
            mask = mask & (new | new << size) | (values & ~seen) << 2 * size
            seen |= named | values
            yield timestamp, mask, layers[start:at]

    def _change(self, person: str, entry: list[Any], *, keeps: bool) -> ProfileChange | None:
        """Fold what waits of a person with what is held, and return what is new."""
        held = self._held.get(person)
        folded = None
        if held is None or len(held) == 1:
            folded = self._fold_simple(entry, keeps=keeps)
        kept, slots, values, opt_out = folded or self._fold_all(entry, held or _NOBODY)
        was_handed_out = held is not None and held[0]
        if keeps:
            kept[0] = was_handed_out or slots != 0
            self._held[person] = tuple(kept)
        if not slots:
            return None
        if not was_handed_out:
            self._people_written += 1
        fields = self._fields.get(slots) or self._fields_of(slots)
        return ProfileChange(person, entry[0], fields, values, opt_out)

    def _fold_simple(self, entry: list[Any], *, keeps: bool) -> _Folded | None:
        """Fold layers of different timestamps: the usual case.

        Returns:
            The result, of what is to be held only if it is to be kept; None where `_fold_all` is
            needed.
        """
        masks = self._masks
        low, thrice = masks.low, masks.thrice
        layers = entry[1:]
        if len(layers) > 1:
            layers.sort(key=_timestamp, reverse=True)
        kept: list[Any] = [True]
        attributes: dict[int, Value] = {}
        usable: dict[str, bool] = {}
        blocked = written = 0
        newer = last = None
        for timestamp, said, more, _ in layers:
            if timestamp == newer:
                return None
            newer = timestamp
            new = said & ~blocked
            names: Sequence[str] = ()
            if more.__class__ is Extra:
                new = self._fill_values(new, more.values, attributes)
                blocked |= (new >> 2 * masks.size) * thrice
                more = more.metadata  # noqa: PLW2901
            if more is not None and more != last:
                last = more
                names = self._fill_attributes(more, attributes, usable)
            if new:
                written |= new
                blocked |= (new & low) * thrice
            if keeps and (new or names):
                kept += (timestamp, new, self._share(names))
        return kept, *self._row(written, attributes)

    def _fill_values(
        self, new: int, values: tuple[tuple[int, Any], ...], row: dict[int, Value]
    ) -> int:
        """Fill in, by slot, values that are no choices; return the mask of what counts."""
        size = self._masks.size
        counting = new >> 2 * size & ~new  # a choice goes before a value that is none
        for number, value in values:
            if counting >> number & 1:
                row[number] = _new(Value, (value, None, None))
        return new & self._masks.both | counting << 2 * size

    def _row(self, written: int, row: dict[int, Value]) -> tuple[int, tuple[Value, ...], bool]:
        """Return the bits of the slots of what is to be written, its values, and if any opts out.

        Args:
            written: The mask of what is to be written.
            row: By slot, values that are no choices.
        """
        masks = self._masks
        said = written & masks.both
        slots, values = said & masks.low, masks.values(said)
        if written > masks.both:  # slots of such values are among those of choices
            row.update(zip(masks.numbers(slots), values, strict=True))
            slots, values = _in_order(row)
        elif row:
            more_slots, more_values = _in_order(row)
            slots, values = slots | more_slots, values + more_values
        return slots, values, said > masks.low

    def _fold_all(self, entry: list[Any], held: tuple[Any, ...]) -> _Folded:
        """Fold any layers, with what is held."""
        masks = self._masks
        size, low = masks.size, masks.low
        row: dict[int, Value] = {}
        usable: dict[str, bool] = {}
        kept: list[Any] = [True]
        written = 0
        for timestamp, mask, group in self._newest([*entry[:0:-1], *_held_layers(held)]):
            said = 0
            names: list[str] = []
            for layer in group:
                own, more = layer[1:3]
                if more.__class__ is tuple:  # held
                    names += [name for name in more if not usable.get(name)]
                    usable.update(dict.fromkeys(more, True))
                    continue
                said |= own
                metadata = more
                if more.__class__ is Extra:
                    metadata, values = more
                    for number, value in values:
                        if mask & masks.value(number):
                            row.setdefault(number, Value(value, choice=None))
                if metadata is not None:
                    names += self._fill_attributes(metadata, row, usable)
            # Not to be written is an opt-in where an opt-out of that timestamp is held.
            written |= said & mask & ~((mask & ~said) >> size & low)
            if mask or names:
                kept += (timestamp, mask, self._share(names))
        return kept, *self._row(written, row)

    def _fold(self, entry: list[Any]) -> None:
        """Leave out of a person's layers what newer ones of the same origin say as well."""
        folded: list[Any] = [entry[0]]
        usable: dict[str, bool] = {}
        for timestamp, masks, raws, values in self._newest_by_origin(entry):
            metadata: dict[str, Any] = {}
            for raw in raws:
                found = self._attributes.convert_metadata(raw, usable, count=False)
                metadata |= {name: said for name, said, _ in found}
            more: Any = msgspec.json.encode(metadata) if metadata else None
            if values:
                more = Extra(more, tuple(values.items()))
            if more is not None and not masks:
                masks.append(("", 0))
            for origin, mask in masks:
                folded.append((timestamp, mask, more, origin))
                more = None
        entry[:] = folded

    # Filling rows

    def _fill_attributes(
        self, metadata: bytes, row: dict[int, Value], usable: dict[str, bool]
    ) -> list[str]:
        """Fill in, by slot, what metadata says and newer metadata doesn't; return its names."""
        names: list[str] = []
        slots = self._slots
        for name, _, value in self._attributes.convert_metadata(metadata, usable, count=True):
            if value is not None:
                names.append(name)
                slot = slots.get(name)
                if slot is None:
                    slot = slots[name] = self._masks.size + len(slots)
                row[slot] = _new(Value, (value, None, None))
        return names

    def _share(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return names of attributes as one object for all people who have the same."""
        found = tuple(names)
        return self._shared.setdefault(found, found)

    def _fields_of(self, slots: int) -> tuple[Field, ...]:
        """Return the fields of a set of slots: mapped ones by number, then attributes."""
        if len(self._fields) >= _MOST_ROWS:
            self._fields.clear()
        fields = [mapped.field for mapped in self._masks.fields]
        fields += [Field("attribute", name) for name in self._slots]
        found = tuple(field for slot, field in enumerate(fields) if slots >> slot & 1)
        self._fields[slots] = found
        return found
