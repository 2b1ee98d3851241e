"""The form on disk of what the ledger holds about a person. Pure.

A person is a msgpack array. What several choices have in common (the bounds of an act, of what a
place holds, of a write) stands there once, with masks: a bit for each choice. The bits, and so the
names, are numbered once in the ledger (`Names`) and keep their numbers for good.

Few choices of a person are looked at, so each is decoded when it is asked for, and the others are
written as they were read.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from actito_didomi.consent.conflicts import BEGINNING, END, Act
from actito_didomi.consent.entries import (
    Entry,
    Held,
    Intent,
    Place,
    Write,
)
from actito_didomi.consent.person import AttributeState, Owed, Person, Retry
from actito_didomi.consent.places import is_user, user_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Micros, Side, Source

    Name = tuple[str, ...]
    Endings = Sequence[Callable[[Entry], None]]
    """What is to be done to an entry for each import that has ended."""
    Key = tuple[Any, ...]
    """What the members of a group have in common; the last two parts are timestamps."""
    Layout = dict[Path, tuple[int, list[tuple[str, int]]]]
    """By path: its bit, and the places and bits of its fields in Actito."""
    Groups = dict[Key, list[int]]
    """Masks of the members, by what they have in common: opt-ins, opt-outs (, nothing)."""

VERSION = 1
"""Of the form on disk."""
PATH, FIELD, ATTRIBUTE = "path", "field", "attribute"
"""Kinds of names. That of a field is the path of a choice, and after it the place in Actito."""

_ACTS: tuple[tuple[Side, Source], ...] = (
    ("didomi", "event"),
    ("didomi", "status"),
    ("actito", "look"),
    ("actito", "row"),
    ("actito", "baseline"),
)
"""By their number on disk: never reorder."""
_ACT_NUMBERS = {kind: number for number, kind in enumerate(_ACTS)}
_OURS, _DOUBTFUL = 1, 2
_NEVER, _FOREVER = -1, -2
"""What stands for the beginning and the end of time, in place of the index of a timestamp."""
_WORD = 2**64
_PARTS, _ACTITO, _PROFILE_ID = 9, 3, 7
_MOST_LAYOUTS = 10_000
_MOST_DIGITS = 17
_FIELD = "a:"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Names(Protocol):
    """Numbers of names: each kind from 0 up, without gaps; a number is never used again."""

    def number(self, kind: str, name: Name) -> int:
        """Return the number of a name, which gets one if it has none."""

    def known(self, kind: str, count: int) -> Sequence[Name]:
        """Return the names by their numbers, at least the first `count`."""


class Codec:
    """Encodes people, and decodes them.

    Args:
        names: Numbers of paths, fields and attributes.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._bits: dict[Path, int] = {}
        self._fields: dict[Path, dict[str, int]] = {}
        self._layouts: dict[tuple[int, int], Layout] = {}

    def forget(self) -> None:
        """Forget all numbers; to be called when new ones were not made durable."""
        self._bits.clear()
        self._fields.clear()
        self._layouts.clear()

    def encode(self, person: Person) -> bytes:
        """Return the form on disk of a person, without what is `owed`.

        Empty entries and places are left out. Equal people have the same form, whatever the order
        of their entries is.

        Raises:
            ValueError: A place is neither a field in Actito nor a user in Didomi.
        """
        entries = person.entries
        groups = _PersonGroups()
        if isinstance(entries, StoredEntries):
            if entries.is_as_read(person):
                return entries.data
            entries.add_unread(groups)
            entries = entries.loaded
        for path, entry in entries.items():
            bit = self.bit(path)
            for act in entry.acts.values():
                key = (_ACT_NUMBERS[act.side, act.source], act.earliest, act.latest)
                _masks(groups.acts, key)[not act.value] |= bit
            for name, place in entry.places.items():
                if name.startswith(_FIELD):
                    groups.actito.add(self.field_bit(path, name), place)
                else:
                    groups.user(_read_user(name)).add(bit, place)
        times = _Times()
        parts = [
            VERSION,
            times.values,
            _flatten(groups.acts, times),
            groups.actito.flatten(times),
            [
                part
                for user, family in sorted(groups.users.items())
                if (flat := family.flatten(times))
                for part in (user, flat)
            ],
            self._flatten_attributes(person.attributes),
            person.spelling,
            person.profile_id,
            {side: msgspec.structs.astuple(retry) for side, retry in person.retries.items()},
        ]
        return _encode(_trim(parts))

    def _flatten_attributes(self, attributes: Mapping[str, AttributeState]) -> list[Any]:
        flat: list[Any] = []
        numbered = [(self._names.number(ATTRIBUTE, (name,)), name) for name in attributes]
        for number, name in sorted(numbered):
            state = attributes[name]
            value = () if state.value is msgspec.UNSET else (state.value,)
            flat += (number, [state.timestamp, state.digest, *value])
        return flat

    def decode(
        self, data: bytes, owed: int = 0, find_endings: Callable[[set[int]], Endings] | None = None
    ) -> Person:
        """Return a person from their form on disk.

        Args:
            data: The form on disk.
            owed: What is owed, from its column.
            find_endings: Returns what is to be done for those of these imports that have ended.

        Raises:
            ValueError: The form is of a newer version.
        """
        parts = _decode(data)
        if parts[0] != VERSION:
            raise ValueError(f"Version {parts[0]} of the form on disk is not known.")
        if len(parts) < _PARTS:
            parts += [None] * (_PARTS - len(parts))
        _, values, acts, actito, users, attributes, spelling, profile_id, retries = parts
        person = Person(
            {},
            self._read_attributes(attributes) if attributes else {},
            spelling,
            profile_id,
            Owed(owed),
            {side: Retry(*retry) for side, retry in retries.items()} if retries else {},
        )
        if values or acts or actito or users:
            times = _read_times(values or ())
            groups = _PersonGroups()
            groups.acts = _read_groups(acts or (), 3, 2, times)
            if actito:
                groups.actito.read(actito, times)
            for at in range(0, len(users or ()), 2):
                groups.user(users[at]).read(users[at + 1], times)
            layout = self.layout(groups.mask(), groups.actito.mask())
            endings: Endings = ()
            if find_endings is not None and (imports := groups.actito.imports()):
                endings = find_endings(imports)
            person.entries = StoredEntries(layout, data, person, groups, endings)
        return person

    @staticmethod
    def profile_id(data: bytes) -> str | None:
        """Return the id of the profile from a form on disk; None if it isn't known."""
        parts = _decode(data)
        return parts[_PROFILE_ID] if len(parts) > _PROFILE_ID else None

    @staticmethod
    def names_import(data: bytes, number: int) -> bool:
        """Return whether an import may still write something of the person of a form on disk."""
        parts = _decode(data)
        if len(parts) <= _ACTITO or not parts[_ACTITO]:
            return False
        family = _Family()
        family.read(parts[_ACTITO], _read_times(parts[1]))
        return number in family.imports()

    def _read_attributes(self, flat: Sequence[Any]) -> dict[str, AttributeState]:
        names = self._names.known(ATTRIBUTE, flat[-2] + 1)
        return {names[flat[at]][0]: AttributeState(*flat[at + 1]) for at in range(0, len(flat), 2)}

    def bit(self, path: Path) -> int:
        """Return the bit of a choice, which gets one if it has none."""
        bit = self._bits.get(path)
        if bit is None:
            bit = self._bits[path] = 1 << self._names.number(PATH, path)
        return bit

    def field_bit(self, path: Path, place: str) -> int:
        """Return the bit of a field, which gets one if it has none."""
        fields = self._fields.setdefault(path, {})
        bit = fields.get(place)
        if bit is None:
            bit = fields[place] = 1 << self._names.number(FIELD, (*path, place))
        return bit

    def layout(self, paths: int, fields: int) -> Layout:
        """Return what the bits of two masks stand for: of choices, and of fields in Actito."""
        layout = self._layouts.get((paths, fields))
        if layout is None:
            names = self._names.known(PATH, paths.bit_length())
            layout = {names[n]: (1 << n, []) for n in _numbers(paths)}
            names = self._names.known(FIELD, fields.bit_length())
            for number in _numbers(fields):
                *path, place = names[number]
                known = layout.setdefault(tuple(path), (self.bit(tuple(path)), []))
                known[1].append((place, 1 << number))
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[paths, fields] = layout
        return layout


class StoredEntries(MutableMapping["Path", Entry]):
    """The entries of a person as they stand on disk; each is decoded when it is asked for.

    Args:
        layout: The choices that stand there.
        data: The form on disk.
        person: The person, as read from there.
        groups: The entries, in groups.
        endings: Imports that have ended.

    Attributes:
        data: The form on disk.
        loaded: Entries that were asked for or set.
    """

    __slots__ = ("_as_read", "_endings", "_groups", "_layout", "_taken", "data", "loaded")

    def __init__(
        self, layout: Layout, data: bytes, person: Person, groups: _PersonGroups, endings: Endings
    ) -> None:
        self.data = data
        self.loaded: dict[Path, Entry] = {}
        self._layout = layout
        self._groups = groups
        self._endings = endings
        self._as_read = _header(person)
        self._taken: set[Path] = set()

    def is_as_read(self, person: Person) -> bool:
        """Return whether nothing of the person was asked for or set since they were read."""
        return not self._taken and not self.loaded and self._as_read == _header(person)

    def add_unread(self, groups: _PersonGroups) -> None:
        """Add the entries that were not asked for to groups."""
        paths = fields = 0
        for path in self._taken:
            bit, places = self._layout[path]
            paths |= bit
            for _, field in places:
                fields |= field
        groups.add(self._groups, ~paths, ~fields)

    def get(self, path: Path, default: Any = None) -> Any:
        """Return the entry of a choice."""
        entry = self.loaded.get(path)
        if entry is not None:
            return entry
        found = self._layout.get(path)
        if found is None or path in self._taken:
            return default
        self._taken.add(path)
        entry = self.loaded[path] = self._load(*found)
        return entry

    def __getitem__(self, path: Path) -> Entry:
        entry: Entry | None = self.get(path)
        if entry is None:
            raise KeyError(path)
        return entry

    def __setitem__(self, path: Path, entry: Entry) -> None:
        if path in self._layout:
            self._taken.add(path)
        self.loaded[path] = entry

    def __delitem__(self, path: Path) -> None:
        if path in self._layout and path not in self._taken:
            self._taken.add(path)
        else:
            del self.loaded[path]
        self.loaded.pop(path, None)

    def __iter__(self) -> Iterator[Path]:
        for path in self._layout:
            self.get(path)
        return iter(self.loaded)

    def __len__(self) -> int:
        return len(self.loaded) + len(self._layout) - len(self._taken)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _load(self, bit: int, fields: list[tuple[str, int]]) -> Entry:
        entry = Entry()
        for (kind, earliest, latest), (opt_ins, opt_outs) in self._groups.acts.items():
            if (opt_ins | opt_outs) & bit:
                side, source = _ACTS[kind]
                entry.acts[side] = Act(bool(opt_ins & bit), earliest, latest, side, source)
        for name, field in fields:
            entry.places[name] = self._groups.actito.place(field)
        for user, family in self._groups.users.items():
            if family.mask() & bit:
                entry.places[user_place(user)] = family.place(bit)
        for end in self._endings:
            end(entry)
        return entry


class _Times:
    """The timestamps of one person, each once: the first, then differences from it."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._indexes = {BEGINNING: _NEVER, END: _FOREVER}

    def add(self, timestamp: Micros) -> int:
        """Return the index of a timestamp."""
        index = self._indexes.get(timestamp)
        if index is None:
            index = self._indexes[timestamp] = len(self.values)
            self.values.append(timestamp - self.values[0] if self.values else timestamp)
        return index


def _read_times(values: Sequence[int]) -> list[Micros]:
    """Return timestamps by their index."""
    if not values:
        return [END, BEGINNING]
    first = values[0]
    # Counted from the end: `_FOREVER`, `_NEVER`.
    return [first, *(first + value for value in values[1:]), END, BEGINNING]


class _Family:
    """Places of one person, each with a bit: the fields in Actito, or one user in Didomi."""

    __slots__ = ("held", "intents", "late", "writes")

    def __init__(self) -> None:
        self.held: Groups = {}
        self.intents: Groups = {}
        self.late: Groups = {}
        self.writes: Groups = {}

    def mask(self) -> int:
        """Return the bits of all places."""
        bits = 0
        for groups in (self.held, self.intents, self.late, self.writes):
            for masks in groups.values():
                for mask in masks:
                    bits |= mask
        return bits

    def add(self, bit: int, place: Place) -> None:
        """Add a place."""
        held = place.held
        if held is not None:
            flags = (_OURS if held.ours else 0) | (_DOUBTFUL if held.doubtful else 0)
            masks = _masks(self.held, (flags, held.began, held.ended), 3)
            masks[2 if held.value is None else not held.value] |= bit
        if place.intent is not None:
            _masks(self.intents, _intent_key(place.intent))[not place.intent.value] |= bit
        for position, late in enumerate(place.late):
            _masks(self.late, (position, *_intent_key(late)))[not late.value] |= bit
        for position, write in enumerate(place.writes):
            _masks(self.writes, (position, write.began, write.ended))[not write.value] |= bit

    def place(self, bit: int) -> Place:
        """Return the place of a bit."""
        place = Place()
        for (flags, began, ended), (opt_ins, opt_outs, nothing) in self.held.items():
            if (opt_ins | opt_outs | nothing) & bit:
                value = None if nothing & bit else bool(opt_ins & bit)
                place.held = Held(value, began, ended, bool(flags & _OURS), bool(flags & _DOUBTFUL))
        for (writer, number, began, until), (opt_ins, opt_outs) in self.intents.items():
            if (opt_ins | opt_outs) & bit:
                place.intent = Intent(bool(opt_ins & bit), began, str(writer), number, until)
        for (_, writer, number, began, until), (opt_ins, opt_outs) in self.late.items():
            if (opt_ins | opt_outs) & bit:
                late = Intent(bool(opt_ins & bit), began, str(writer), number, until)
                place.late.append(late)
        for (_, began, ended), (opt_ins, opt_outs) in self.writes.items():
            if (opt_ins | opt_outs) & bit:
                place.writes.append(Write(bool(opt_ins & bit), began, ended))
        return place

    def flatten(self, times: _Times) -> list[list[Any]]:
        """Return the form on disk."""
        return _trim(
            [_flatten(g, times) for g in (self.held, self.intents, self.late, self.writes)]
        )

    def read(self, flat: Sequence[Sequence[Any]], times: Sequence[Micros]) -> None:
        """Read the form on disk."""
        self.held = _read_groups(flat[0], 3, 3, times)
        if len(flat) > 1:
            self.intents = _read_groups(flat[1], 4, 2, times)
        if len(flat) > 2:  # noqa: PLR2004
            self.late = _read_groups(flat[2], 5, 2, times)
        if len(flat) > 3:  # noqa: PLR2004
            self.writes = _read_groups(flat[3], 3, 2, times)

    def imports(self) -> set[int]:
        """Return the numbers of the imports that may still write something."""
        if not self.intents and not self.late:
            return set()
        return {key[-3] for key in (*self.intents, *self.late)} - {None}

    def merge(self, other: _Family, keep: int) -> None:
        """Add the places of another family whose bits are in `keep`."""
        _merge(self.held, other.held, keep)
        _merge(self.intents, other.intents, keep)
        _merge(self.late, other.late, keep)
        _merge(self.writes, other.writes, keep)


class _PersonGroups:
    """The entries of one person, in groups."""

    __slots__ = ("actito", "acts", "users")

    def __init__(self) -> None:
        self.acts: Groups = {}
        self.actito = _Family()
        self.users: dict[int, _Family] = {}

    def user(self, number: int) -> _Family:
        """Return the places of a user in Didomi."""
        family = self.users.get(number)
        if family is None:
            family = self.users[number] = _Family()
        return family

    def mask(self) -> int:
        """Return the bits of the choices, but for those that have fields in Actito only."""
        bits = 0
        for opt_ins, opt_outs in self.acts.values():
            bits |= opt_ins | opt_outs
        for family in self.users.values():
            bits |= family.mask()
        return bits

    def add(self, other: _PersonGroups, paths: int, fields: int) -> None:
        """Add what has bits in the masks of choices and of fields."""
        _merge(self.acts, other.acts, paths)
        self.actito.merge(other.actito, fields)
        for user, family in other.users.items():
            self.user(user).merge(family, paths)


def _masks(groups: Groups, key: Key, count: int = 2) -> list[int]:
    masks = groups.get(key)
    if masks is None:
        masks = groups[key] = [0] * count
    return masks


def _merge(groups: Groups, others: Groups, keep: int) -> None:
    for key, masks in others.items():
        kept = [mask & keep for mask in masks]
        if any(kept):
            groups[key] = kept


def _flatten(groups: Groups, times: _Times) -> list[Any]:
    """Return groups as one list; equal ones always as the same."""
    if not groups:
        return []
    flat: list[Any] = []
    for key in sorted(groups, key=_order) if len(groups) > 1 else groups:
        masks = groups[key]
        flat += key[:-2]
        flat += (times.add(key[-2]), times.add(key[-1]))
        flat += masks if max(masks) < _WORD else map(_pack, masks)
    return flat


def _order(key: Key) -> tuple[Any, ...]:
    return tuple((isinstance(part, str), part is not None, part or 0) for part in key)


def _read_groups(flat: Sequence[Any], width: int, count: int, times: Sequence[Micros]) -> Groups:
    groups: Groups = {}
    for at in range(0, len(flat), width + count):
        *common, began, ended = flat[at : at + width]
        masks = flat[at + width : at + width + count]
        key = (*common, times[began], times[ended])
        groups[key] = [
            mask if type(mask) is int else int.from_bytes(mask, "little") for mask in masks
        ]
    return groups


def _numbers(mask: int) -> Iterator[int]:
    """Return the positions of the bits of a mask."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _header(person: Person) -> tuple[Any, ...]:
    attributes = dict(person.attributes) if person.attributes else None
    return (person.spelling, person.profile_id, dict(person.retries), attributes)


def _intent_key(intent: Intent) -> Key:
    return (_shorten(intent.writer), intent.import_number, intent.began, intent.until)


def _shorten(writer: str) -> str | int:
    """Return a number in place of a writer that is one."""
    if writer.isascii() and writer.isdigit() and len(writer) <= _MOST_DIGITS:
        number = int(writer)
        return number if str(number) == writer else writer
    return writer


def _pack(mask: int) -> int | bytes:
    """Return a mask as msgpack can have it, which has integers of 64 bits only."""
    return mask if mask < _WORD else mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _trim(parts: list[Any]) -> list[Any]:
    """Leave out empty parts at the end."""
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _read_user(place: str) -> int:
    """Return the key of a user from the name of their place.

    Raises:
        ValueError: It is not the name of a user's place.
    """
    digits = place[2:]
    key = int(digits, base=16) if is_user(place) else -1
    if user_place(key) != place:
        raise ValueError("A place must be a field in Actito (a:...) or a user in Didomi (d:...).")
    return key
