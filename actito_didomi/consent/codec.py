"""The form on disk of what the ledger holds about a person. Pure.

A person is a msgpack array. What several choices have in common stands there once, with masks: a
bit for each choice (see `groups`). The bits, and so the names, are numbered once in the ledger
(`Names`) and keep their numbers for good.

Few choices of a person are looked at, so each is decoded when it is asked for, and the others are
written as they were read.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from actito_didomi.consent.conflicts import Act
from actito_didomi.consent.entries import Entry
from actito_didomi.consent.groups import (
    ACTS,
    Times,
    add_place,
    add_to_group,
    flatten,
    flatten_family,
    imports_of,
    keep,
    keep_family,
    new_family,
    read_place,
    read_times,
    regroup,
    regroup_family,
    union,
    union_of_family,
    unpack,
)
from actito_didomi.consent.masks import ACT_KINDS, Masks, end_imports
from actito_didomi.consent.person import AttributeState, Person, Retry, flags_of
from actito_didomi.consent.places import is_user, user_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.groups import Family, FlatFamily, Groups
    from actito_didomi.consent.masks import ImportEnd

    Name = tuple[str, ...]
    Endings = Sequence[ImportEnd]
    """Of each import that has ended, but stands as under way."""
    Layout = dict[Path, tuple[int, list[tuple[str, int]]]]
    """By path: its bit, and the places and bits of its fields in Actito."""

VERSION, WIDE_VERSION = 1, 2
"""Of the form on disk; the second has masks of more than 64 bits, as bytes."""
PATH, FIELD, ATTRIBUTE = "path", "field", "attribute"
"""Kinds of names. That of a field is the path of a choice, and after it the place in Actito."""

_ACT_NUMBERS = {kind: number for number, kind in enumerate(ACT_KINDS)}
_ACT_WIDTH = ACTS[0]
_PARTS, _ACTITO, PROFILE_ID = 9, 3, 7
_WORD_BITS = 64
_MOST_KEPT = 10_000
_FIELD = "a:"
THE_KEY = True
"""What stands for a spelling that is the person's key."""

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
        self._known: dict[Path, tuple[int, dict[str, int]]] = {}
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._consents: dict[int, int] = {}

    def forget(self) -> None:
        """Forget all numbers; to be called when new ones were not made durable."""
        self._known.clear()
        self._layouts.clear()
        self._consents.clear()

    # Encoding

    def encode(self, person: Person, key: str = "") -> bytes:
        """Return the form on disk of a person, without what is `owed`.

        Empty entries and places are left out. Equal people have the same form, whatever the order
        of their entries is.

        Args:
            person: The person.
            key: The person's key.

        Raises:
            ValueError: A place is neither a field in Actito nor a user in Didomi.
        """
        entries = person.entries
        if isinstance(entries, StoredEntries) and entries.is_as_read(person):
            return entries.data
        acts, actito, users = self._group(entries)
        times = Times()
        flat_acts = flatten(acts, times)
        flat_actito = flatten_family(actito, times)
        flat_users: list[Any] = []
        for user in sorted(users) if len(users) > 1 else users:
            if flat := flatten_family(users[user], times):
                flat_users += (user, flat)
        spelling = person.spelling
        parts = [
            self.version(),
            times.values,
            flat_acts,
            flat_actito,
            flat_users,
            self._flatten_attributes(person.attributes) if person.attributes else None,
            THE_KEY if key and spelling == key else spelling,
            person.profile_id,
            {side: msgspec.structs.astuple(retry) for side, retry in person.retries.items()}
            if person.retries
            else None,
        ]
        return pack_parts(parts)

    def _group(
        self, entries: MutableMapping[Path, Entry]
    ) -> tuple[Groups, Family, dict[int, Family]]:
        """Return acts, places in Actito, and places of users in Didomi, in groups."""
        acts: Groups = {}
        actito = new_family()
        users: dict[int, Family] = {}
        if isinstance(entries, StoredEntries):
            if entries.changed is not None:
                return entries.changed[:3]
            entries.add_unread(acts, actito, users)
            entries = entries.loaded
        if not entries:
            return acts, actito, users
        by_place: dict[str, Family] = {}
        known = self._known
        for path, entry in entries.items():
            bit, fields = known.get(path) or self._know(path)
            for act in entry.acts.values():
                key = (_ACT_NUMBERS[act.side, act.source], act.earliest, act.latest)
                add_to_group(acts, key, bit, act.value)
            for name, place in entry.places.items():
                if name.startswith(_FIELD):
                    add_place(actito, fields.get(name) or self.field_bit(path, name), place)
                    continue
                family = by_place.get(name)
                if family is None:
                    user = _read_user(name)
                    family = by_place[name] = users.setdefault(user, new_family())
                add_place(family, bit, place)
        return acts, actito, users

    def version(self) -> int:
        """Return the version of the form on disk, after all bits were asked for."""
        widest = max(len(self._names.known(PATH, 0)), len(self._names.known(FIELD, 0)))
        return WIDE_VERSION if widest > _WORD_BITS else VERSION

    def _flatten_attributes(self, attributes: Mapping[str, AttributeState]) -> list[Any]:
        flat: list[Any] = []
        numbered = [(self._names.number(ATTRIBUTE, (name,)), name) for name in attributes]
        for number, name in sorted(numbered):
            state = attributes[name]
            value = () if state.value is msgspec.UNSET else (state.value,)
            flat += (number, [state.timestamp, state.digest, *value])
        return flat

    # Decoding

    def decode(
        self,
        data: bytes,
        owed: int = 0,
        find_endings: Callable[[set[int]], Endings] | None = None,
        key: str = "",
    ) -> Person:
        """Return a person from their form on disk.

        Args:
            data: The form on disk.
            owed: What is owed, from its column.
            find_endings: Returns what is to be done for those of these imports that have ended.
            key: The person's key.

        Raises:
            ValueError: The form is of a newer version.
        """
        parts = _decode(data)
        if parts[0] != VERSION:
            _unpack_parts(parts)
        if len(parts) < _PARTS:
            parts += [None] * (_PARTS - len(parts))
        _, _, acts, actito, users, attributes, spelling, profile_id, retries = parts
        person = Person(
            {},
            self._read_attributes(attributes) if attributes else {},
            key if spelling is THE_KEY else spelling,
            profile_id,
            flags_of(owed),
            {side: Retry(*retry) for side, retry in retries.items()} if retries else {},
        )
        if acts or actito or users:
            imports = imports_of(actito) if actito else None
            endings = find_endings(imports) if imports and find_endings is not None else ()
            person.entries = StoredEntries(self, data, person, parts, endings)
        return person

    @staticmethod
    def profile_id(data: bytes) -> str | None:
        """Return the id of the profile from a form on disk; None if it isn't known."""
        parts = _decode(data)
        return parts[PROFILE_ID] if len(parts) > PROFILE_ID else None

    @staticmethod
    def is_in_import(data: bytes, number: int) -> bool:
        """Return whether an import may write to the person of a form on disk."""
        parts = _decode(data)
        return len(parts) > _ACTITO and number in imports_of(parts[_ACTITO])

    def _read_attributes(self, flat: Sequence[Any]) -> dict[str, AttributeState]:
        names = self._names.known(ATTRIBUTE, flat[-2] + 1)
        return {names[flat[at]][0]: AttributeState(*flat[at + 1]) for at in range(0, len(flat), 2)}

    # Numbers

    def number(self, kind: str, name: Name) -> int:
        """Return the number of a name, which gets one if it has none."""
        return self._names.number(kind, name)

    def bit(self, path: Path) -> int:
        """Return the bit of a choice, which gets one if it has none."""
        return (self._known.get(path) or self._know(path))[0]

    def field_bit(self, path: Path, place: str) -> int:
        """Return the bit of a field, which gets one if it has none."""
        fields = (self._known.get(path) or self._know(path))[1]
        bit = fields.get(place)
        if bit is None:
            bit = fields[place] = 1 << self._names.number(FIELD, (*path, place))
        return bit

    def _know(self, path: Path) -> tuple[int, dict[str, int]]:
        found = self._known[path] = 1 << self._names.number(PATH, path), {}
        return found

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
            if len(self._layouts) >= _MOST_KEPT:
                self._layouts.clear()
            self._layouts[paths, fields] = layout
        return layout

    def consents(self, paths: int) -> int:
        """Return those of these choices that stand in consents."""
        found = self._consents.get(paths)
        if found is None:
            names = self._names.known(PATH, paths.bit_length())
            found = sum(1 << n for n in _numbers(paths) if names[n][0] == "consents")
            if len(self._consents) >= _MOST_KEPT:
                self._consents.clear()
            self._consents[paths] = found
        return found


class StoredEntries(MutableMapping["Path", Entry]):
    """The entries of a person as they stand on disk; each is decoded when it is asked for.

    Args:
        codec: Numbers of names.
        data: The form on disk.
        person: The person, as read from there.
        parts: The same, decoded: timestamps, acts, Actito and users stand at 1 to 4.
        endings: What is to be done to each entry that is decoded.

    Attributes:
        data: The form on disk.
        loaded: Entries that were asked for or set.
        changed: What was put in place of all entries, by masks.
    """

    __slots__ = (
        "_actito", "_acts", "_as_read", "_codec", "_endings", "_is_changed", "_layout", "_masks",
        "_paths", "_taken", "_times", "_users", "changed", "data", "loaded",
    )  # fmt: skip

    def __init__(
        self, codec: Codec, data: bytes, person: Person, parts: Sequence[Any], endings: Endings
    ) -> None:
        self.data = data
        self.loaded: dict[Path, Entry] = {}
        self.changed: Masks | None = None
        self._masks: Masks | None = None
        self._is_changed = False
        self._codec = codec
        self._set(parts)
        self._endings = endings
        self._as_read = _header(person)
        self._taken: set[Path] = set()

    def _set(self, parts: Sequence[Any]) -> None:
        self._times = read_times(parts[1] or ())
        self._acts: Sequence[Any] = parts[2] or ()
        self._actito: FlatFamily = parts[3] or ()
        flat = parts[4] or ()
        self._users: list[tuple[int, FlatFamily, int]] = []
        paths = union(self._acts, ACTS)
        for at in range(0, len(flat), 2):
            mask = union_of_family(flat[at + 1])
            self._users.append((flat[at], flat[at + 1], mask))
            paths |= mask
        self._paths = paths
        self._layout = self._codec.layout(paths, union_of_family(self._actito))
        for bit, _ in self._layout.values():  # there may be nothing but places in Actito
            self._paths |= bit

    def is_as_read(self, person: Person) -> bool:
        """Return whether nothing of the person was asked for or set since they were read."""
        return (
            not self._is_changed
            and not self._taken
            and not self.loaded
            and self._as_read == _header(person)
        )

    def masks(self) -> Masks | None:
        """Return the entries in groups; None if they are not as they were read, or put."""
        if self.loaded or self._taken:
            return None
        if self._masks is None:
            times = self._times
            actito = regroup_family(self._actito, times)
            if self._endings:
                ended = end_imports(actito, self._endings)
                if ended is None:
                    return None
                actito = ended
            self._masks = Masks(
                regroup(self._acts, ACTS, times),
                actito,
                {user: regroup_family(flat, times) for user, flat, _ in self._users},
                self._codec.consents(self._paths),
            )
        return self._masks

    def put(self, masks: Masks) -> None:
        """Put groups in place of all entries, which are as they were read, or put."""
        self.changed = self._masks = masks
        self._is_changed = True

    def _settle(self) -> None:
        """Make groups that were put the form from which entries are decoded."""
        masks = self.changed
        if masks is None:
            return
        self.changed = None
        times = Times()
        acts = unpack(flatten(masks.acts, times))
        actito = [unpack(flat) for flat in flatten_family(masks.actito, times)]
        users: list[Any] = []
        for user, family in masks.users.items():
            users += (user, [unpack(flat) for flat in flatten_family(family, times)])
        self._set([VERSION, times.values, acts, actito, users])
        self._endings = ()

    def add_unread(self, acts: Groups, actito: Family, users: dict[int, Family]) -> None:
        """Add the entries that were not asked for to groups."""
        if len(self._taken) == len(self._layout):
            return
        paths = fields = 0
        for path in self._taken:
            bit, places = self._layout[path]
            paths |= bit
            for _, field in places:
                fields |= field
        keep(acts, self._acts, ACTS, ~paths, self._times)
        keep_family(actito, self._actito, ~fields, self._times)
        for user, family, mask in self._users:
            if mask & ~paths:
                users[user] = new_family()
                keep_family(users[user], family, ~paths, self._times)

    def get(self, path: Path, default: Any = None) -> Any:
        """Return the entry of a choice."""
        entry = self.loaded.get(path)
        if entry is not None:
            return entry
        if self.changed is not None:
            self._settle()
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
        self._settle()
        if path in self._layout:
            self._taken.add(path)
        self.loaded[path] = entry

    def __delitem__(self, path: Path) -> None:
        self._settle()
        if path in self._layout and path not in self._taken:
            self._taken.add(path)
        else:
            del self.loaded[path]

    def __iter__(self) -> Iterator[Path]:
        self._settle()
        for path in self._layout:
            self.get(path)
        return iter(self.loaded)

    def __len__(self) -> int:
        self._settle()
        return len(self.loaded) + len(self._layout) - len(self._taken)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _load(self, bit: int, fields: list[tuple[str, int]]) -> Entry:
        times, flat = self._times, self._acts
        entry = Entry()
        for at in range(0, len(flat), _ACT_WIDTH):
            kind, earliest, latest, opt_ins, opt_outs = flat[at : at + _ACT_WIDTH]
            if (opt_ins | opt_outs) & bit:
                side, source = ACT_KINDS[kind]
                entry.acts[side] = Act(
                    opt_ins & bit != 0, times[earliest], times[latest], side, source
                )
        for name, field in fields:
            entry.places[name] = read_place(self._actito, field, times)
        for user, family, mask in self._users:
            if mask & bit:
                entry.places[user_place(user)] = read_place(family, bit, times)
        for end in self._endings:
            end(entry)
        return entry


def masks_of(person: Person) -> Masks | None:
    """Return a person's entries in groups; None if they are not as they were read, or put."""
    entries = person.entries
    return entries.masks() if isinstance(entries, StoredEntries) else None


def put_masks(person: Person, masks: Masks) -> None:
    """Put groups in place of all entries of a person, of whom `masks_of` has returned some."""
    assert isinstance(person.entries, StoredEntries)  # noqa: S101 - for mypy
    person.entries.put(masks)


def pack_parts(parts: list[Any]) -> bytes:
    """Return the form on disk of the parts of a person; empty ones at the end are left out."""
    while parts and not parts[-1]:
        parts.pop()
    return _encode(parts)


def _unpack_parts(parts: list[Any]) -> None:
    """Make numbers of masks that stand as bytes.

    Raises:
        ValueError: The form is of a newer version.
    """
    if parts[0] != WIDE_VERSION:
        raise ValueError(f"Version {parts[0]} of the form on disk is not known.")
    if len(parts) > 2:  # noqa: PLR2004
        parts[2] = unpack(parts[2])
    if len(parts) > 3:  # noqa: PLR2004
        parts[3] = [unpack(flat) for flat in parts[3]]
    if len(parts) > 4:  # noqa: PLR2004
        parts[4] = [
            [unpack(flat) for flat in part] if isinstance(part, list) else part for part in parts[4]
        ]


def _numbers(mask: int) -> Iterator[int]:
    """Return the positions of the bits of a mask."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _header(person: Person) -> tuple[Any, ...]:
    attributes = dict(person.attributes) if person.attributes else None
    retries = dict(person.retries) if person.retries else None
    return (person.spelling, person.profile_id, retries, attributes)


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
