"""The short way for consent records: typed decoding, and routes in place of whole trees.

The full way decodes a record into dictionaries, flattens its consents and compares names. That is
right for any record and slow. Here only the parts that mappings can name are decoded, by their
types, and for each id the way to its target is worked out once. A record that isn't made as
expected (another type, a name that reads two ways, a moment without a zone) takes the full way, so
that there is one meaning; the first records of a run take both, and are compared.
"""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET

from actito_didomi.actito import ValueType
from actito_didomi.didomi.records import (
    CONFIRMED,
    DEFAULT_REGULATION,
    read_record,
    split_record,
)
from actito_didomi.errors import BadInputError
from actito_didomi.mapping import Found, split_answer
from actito_didomi.target import BY_DELEGATE
from target_actito.coalesce import NO_CHOICES, Choices, Target, Value
from target_actito.translate import Untranslatable
from target_actito.typed import ABSENT, consents_type, is_covered, record_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from actito_didomi.mapping import Path
    from actito_didomi.target import Scope, Summary
    from target_actito.coalesce import Collector
    from target_actito.translate import Translator

logger = logging.getLogger("target-actito")

_MOST_KEPT = 20_000
"""Different consents whose meaning is kept."""
_ANY_MOMENT = datetime.min.replace(tzinfo=timezone.utc)
"""Stands for the moment while consents are read: what they say doesn't depend on it."""
_ANY_LENGTH = 1 << 30
_new = tuple.__new__


class _Route(NamedTuple):
    """Where a choice goes.

    Attributes:
        at: Number of the mapping.
        exact: Whether the path is named as it is, not by another spelling.
        slot: Place of the target in an entry.
        invert: Whether true and false change places.
        plain: Whether a boolean is written as it is (but for `invert`).
        path: Path of the choice.
    """

    at: int
    exact: bool
    slot: int
    invert: bool
    plain: bool
    path: Path


_Hit = tuple[_Route, Any]


_Part = Any
"""What a record says at one moment: that, the choices, and values of attributes where there are
some; or the reason why it is skipped."""


class _FullWayError(Exception):
    """This record must be read in full."""


def _changed(owner: Any) -> Any:
    """Give the moment when a user last changed."""
    return owner.created_at if owner.updated_at is UNSET else owner.updated_at


class ShortWay:
    """Reads typed records into a collector.

    Args:
        translator: Knows mappings and table.
        collector: Takes the values.
        summary: Takes the counts.
        scope: Tells which records count.
        compare_first: So many records at the beginning are read both ways.
    """

    def __init__(
        self,
        translator: Translator,
        collector: Collector,
        summary: Summary,
        *,
        scope: Scope,
        compare_first: int,
    ) -> None:
        self._translator = translator
        self._resolver = translator.resolver
        self._collector = collector
        self._summary = summary
        self._scope = scope
        self._mappings = tuple(translator.resolver.mappings)
        self._slots = [collector.slot(Target(m.type, m.id)) for m in self._mappings]
        self._attributes = translator.metadata_attributes
        # Filled as names come, so that a person's entry is no longer than it must be.
        self._metadata_slots: dict[str, int] = {}
        self._plain_texts: dict[str, tuple[int, int]] = {}
        self._to_compare = compare_first
        self.usable = all(is_covered(m.value, m.path) for m in self._mappings)
        names = [m.value if m.path is None else "_".join(m.path) for m in self._mappings]
        self._reads_values = any("_values_" in name for name in names)
        self._maps_metadata = any(name.startswith("metadata_") for name in names)
        consents = consents_type(names, values=self._reads_values)
        self._consents = msgspec.json.Decoder(consents | None)
        self.record_type = record_type()
        self._channels: dict[str, tuple[_Route, ...]] = {}
        self._purposes: dict[str, tuple[tuple[_Route, ...], tuple[_Route, ...]]] = {}
        self._nested: dict[Path, tuple[_Route, ...]] = {}
        self._metadata: dict[str, tuple[_Route, ...]] = {}
        self._answers: dict[tuple[str, str, str | None], list[tuple[int, int, Any, Path]]] = {}
        self._values: dict[bytes, Choices] = {}
        self._version = -1
        self._ignored: set[str] = set()

    # Records

    def can_tell(self, keys: Iterable[str]) -> bool:
        """Tell whether it can be seen from a typed record that these properties are there."""
        return all(key in self.record_type.__struct_fields__ for key in keys)

    @staticmethod
    def first_without(records: Sequence[Any], keys: Iterable[str], at: int, end: int) -> int:
        """Find the first record that isn't of the type or lacks one of these properties."""
        for key in keys:
            for place in range(at, end):
                value = getattr(records[place], key, UNSET)
                if value is UNSET or value is ABSENT:
                    end = place
                    break
        return end

    def take_many(self, records: Sequence[Any], at: int, end: int, number: int) -> int:
        """Take in records up to the first that must be read in full.

        Args:
            records: Of `record_type`, or None for one that isn't.
            at: Where to begin.
            end: Where to end at the latest.
            number: Number of the first record.

        Returns:
            How many were taken.
        """
        take, read_metadata, put = self.take, self._read_metadata, self._collector.put
        known, regulation = self._values, self._scope.regulation
        current = self._version == self._resolver.version
        for place in range(at, end):
            record = records[place]
            if record is None or record is UNSET:
                return place - at
            user = record.user
            # Most records are such events: the same as `take` does, without its detours.
            if (
                current
                and user is not UNSET
                and record.events is UNSET
                and record.status == CONFIRMED
                and record.regulation == regulation
                and record.delegate is None
            ):
                person, moment = user.organization_user_id, record.created_at
                values = known.get(bytes(record.consents))
                if values and person and person.__class__ is str and moment is not UNSET:
                    try:
                        attributes = read_metadata(user.metadata, moment) if user.metadata else ()
                    except _FullWayError:
                        return place - at
                    put(person, number + place - at, moment, values, attributes)
                    continue
            if not take(record, number + place - at):
                return place - at
            current = self._version == self._resolver.version
        return end - at

    def take(self, record: Any, number: int) -> bool:
        """Take in one record, unless it must be read in full.

        Args:
            record: Of `record_type`.
            number: Number of the record.

        Returns:
            False where nothing was done: the record must take the full way.
        """
        try:
            person, parts = self._read_record(record)
        except _FullWayError:
            return False
        # All fits; from here on nothing fails, since there is no way back.
        for part in parts:
            if part.__class__ is str:
                self._summary.skipped[part] += 1
            else:
                self._collector.put(person, number, *part)
        return True

    def _read_record(self, record: Any) -> tuple[str, list[_Part]]:
        """Split a record as the full way does, and read what it says.

        Metadata is the same in all parts of a record, so only the newest of them gets it.

        Returns:
            The person, and the parts.

        Raises:
            _FullWayError: The record must be read in full.
        """
        owner, events = record.user, record.events
        if events is UNSET:
            if owner is not UNSET:
                person = owner.organization_user_id
                parts = [self._read_event(person, record)]
            else:
                owner = record
                person = owner.organization_user_id
                reason = self._scope.reason_to_skip(person, None, owner.regulation, None)
                parts = [self._read_part(reason, person, _changed(owner), bytes(owner.consents))]
        elif owner is not UNSET:
            person = owner.organization_user_id
            parts = [self._read_event(person, event) for event in events]
            if any([event.user is not ABSENT for event in events]):  # noqa: C419 - hot
                raise _FullWayError
            if owner.metadata:
                reason = self._scope.reason_to_skip(person, None, None, None)
                parts.append(self._read_part(reason, person, _changed(owner), b"null"))
        else:
            raise _FullWayError
        if owner.metadata:
            found = [(part[0], at) for at, part in enumerate(parts) if part.__class__ is not str]
            if found:
                moment, at = max(found)
                parts[at] = *parts[at], self._read_metadata(owner.metadata, moment)
        return str(person), parts

    def _read_event(self, person: Any, event: Any) -> _Part:
        delegate = None if event.delegate is None else event.delegate.id
        regulation = event.regulation or DEFAULT_REGULATION
        reason = self._scope.reason_to_skip(person, event.status, regulation, delegate)
        return self._read_part(reason, person, event.created_at, bytes(event.consents))

    def _read_part(self, reason: str | None, person: Any, moment: Any, consents: bytes) -> _Part:
        """Read a part of a record: one moment.

        Raises:
            _FullWayError: The record must be read in full.
        """
        if not consents or moment is UNSET or person == 0:
            raise _FullWayError
        if reason is BY_DELEGATE:
            raise _FullWayError  # rare, and it isn't just left out
        return reason or (moment, self._look_up(consents))

    # Choices

    def _look_up(self, consents: bytes) -> Choices:
        """Give what consents say; the same consents are read once.

        Raises:
            _FullWayError: They must be read in full.
        """
        version = self._resolver.version
        if version != self._version or len(self._values) > _MOST_KEPT:
            self._values.clear()
            self._answers.clear()
            self._version = version
        values = self._values.get(consents)
        if values is None:
            try:
                values = self._read(self._consents.decode(consents))
            except msgspec.MsgspecError:
                raise _FullWayError from None
            self._values[consents] = values
        return values

    def _read(self, consents: Any) -> Choices:
        """Read consents.

        Raises:
            _FullWayError: They must be read in full.
        """
        if consents is None:
            return NO_CHOICES
        hits: list[_Hit] = []
        if channels := consents.channels:
            known = self._channels
            for choice in channels:
                routes = known.get(choice.id)
                if routes is None:
                    routes = known[choice.id] = self._routes(
                        ("consents", "channels", choice.id, "enabled")
                    )
                if routes and choice.enabled is not UNSET:
                    hits += [(route, choice.enabled) for route in routes]
        if purposes := consents.purposes:
            known_purposes = self._purposes
            for purpose in purposes:
                both = known_purposes.get(purpose.id)
                if both is None:
                    start = ("consents", "purposes", purpose.id)
                    both = known_purposes[purpose.id] = (
                        self._routes((*start, "enabled")),
                        self._routes((*start, "enabled_li")),
                    )
                if both[0] and purpose.enabled is not UNSET:
                    hits += [(route, purpose.enabled) for route in both[0]]
                if both[1] and purpose.enabled_li is not UNSET:
                    hits += [(route, purpose.enabled_li) for route in both[1]]
                if purpose.nested:
                    self._read_nested(purpose, hits)
        values: list[tuple[int, Value]] = []
        self._settle(hits, _ANY_MOMENT, values)
        if self._reads_values and purposes:
            self._read_answers(purposes, hits, _ANY_MOMENT, values)
        return Choices.of(values)

    def _settle(self, hits: list[_Hit], moment: datetime, values: list[tuple[int, Value]]) -> None:
        """Turn hits into values: a name as it is goes before another spelling of it."""
        seen = 0
        for route, choice in hits:
            if route.exact:
                bit = 1 << route.at
                if seen & bit:
                    raise _FullWayError
                seen |= bit
                if choice is None:
                    continue
                if route.plain and (choice is True or choice is False):
                    value = _new(Value, (moment, choice is not route.invert, choice))
                else:
                    value = self._convert(route.at, route.path, choice, moment)
                values.append((route.slot, value))
        if seen.bit_count() == len(hits):
            return
        others = 0
        for route, choice in hits:
            bit = 1 << route.at
            if route.exact or seen & bit:
                continue
            if others & bit:
                raise _FullWayError
            others |= bit
            if choice is not None:
                self._announce(route.at, route.path)
                values.append((route.slot, self._convert(route.at, route.path, choice, moment)))

    def _announce(self, at: int, path: Path) -> None:
        self._resolver.announce(self._mappings[at], path)

    def _convert(self, at: int, path: Path, choice: Any, moment: datetime) -> Value:
        result = self._translator.convert_choice(Found(self._mappings[at], path, choice), moment)
        if isinstance(result, Untranslatable):
            raise _FullWayError
        return result

    def _read_nested(self, purpose: Any, hits: list[_Hit]) -> None:
        """Read the choices below a purpose: its channels, preferences, and theirs."""
        start: Path = ("consents", "purposes", purpose.id)
        found: list[tuple[Path, Any]] = []
        if purpose.channels:
            found += [((*start, "channels", c.id, "enabled"), c.enabled) for c in purpose.channels]
        for preference in purpose.preferences or ():
            below = (*start, "preferences", preference.id)
            found.append(((*below, "enabled"), preference.enabled))
            if preference.channels:
                found += [
                    ((*below, "channels", c.id, "enabled"), c.enabled) for c in preference.channels
                ]
        for path, choice in found:
            routes = self._nested.get(path)
            if routes is None:
                routes = self._nested[path] = self._routes(path)
            if routes and choice is not UNSET:
                hits += [(route, choice) for route in routes]

    def _read_metadata(self, metadata: dict[str, Any], moment: datetime) -> list[tuple[int, Value]]:
        """Read metadata: attributes of the table by their names, and what mappings name.

        Raises:
            _FullWayError: The record must be read in full.
        """
        values: list[tuple[int, Value]] = []
        hits: list[_Hit] = []
        for name, raw in metadata.items():
            if raw is not None:
                if raw.__class__ is str and name in self._plain_texts:
                    place, longest = self._plain_texts[name]
                    if len(raw) <= longest:
                        values.append((place, _new(Value, (moment, raw, None))))
                        continue
                slot = self._metadata_slots.get(name)
                if slot is None and name in self._attributes:
                    slot = self._learn(name)
                if slot is not None:
                    converted = self._translator.convert_metadata(name, raw)
                    if converted is not None:
                        values.append((slot, Value(moment, converted, None)))
                elif name not in self._ignored:
                    self._ignored.add(name)
                    self._translator.note_unknown(name)
            if self._maps_metadata:
                if isinstance(raw, (dict, list)):
                    raise _FullWayError
                routes = self._metadata.get(name)
                if routes is None:
                    routes = self._metadata[name] = self._routes(("metadata", name))
                hits += [(route, raw) for route in routes]
        if hits:
            self._settle(hits, moment, values)
        return values

    def _learn(self, name: str) -> int:
        """Give an attribute that metadata names its place."""
        slot = self._metadata_slots[name] = self._collector.slot(Target("attribute", name))
        attribute = self._attributes[name]
        if attribute.type is ValueType.STRING and not self._maps_metadata:
            longest = attribute.max_length if attribute.max_length is not None else _ANY_LENGTH
            self._plain_texts[name] = slot, longest
        return slot

    def _read_answers(
        self,
        purposes: list[Any],
        hits: list[_Hit],
        moment: datetime,
        values: list[tuple[int, Value]],
    ) -> None:
        """Read answers to preferences of the current format.

        What an answer means to each mapping depends on what the resolver has seen, so it is kept
        for as long as the resolver learns nothing new.
        """
        taken = 0
        for route, _ in hits:
            taken |= 1 << route.at
        found: dict[int, tuple[int, Any, Path]] = {}
        for purpose in purposes:
            if not purpose.values:
                continue
            for preference, answer in purpose.values.items():
                if answer.value is UNSET:
                    continue
                key = (purpose.id, preference, answer.value)
                meanings = self._answers.get(key)
                if meanings is None:
                    meanings = self._answers[key] = self._mean(key)
                for at, rank, value, path in meanings:
                    if taken & 1 << at:
                        if rank < _READING:
                            raise _FullWayError
                        continue
                    before = found.get(at)
                    if before is None or rank < before[0]:
                        found[at] = rank, value, path
                    elif rank == before[0]:
                        raise _FullWayError
        for at, (_, value, path) in found.items():
            if value is not None:
                self._announce(at, path)
                values.append((self._slots[at], self._convert(at, path, value, moment)))

    def _mean(self, key: tuple[str, str, str | None]) -> list[tuple[int, int, Any, Path]]:
        """Work out what one answer says: for each mapping its rank (the least counts) and value."""
        purpose, preference, text = key
        path: Path = ("consents", "purposes", purpose, "values", preference, "value")
        meanings: list[tuple[int, int, Any, Path]] = []
        for at, mapping in enumerate(self._mappings):
            rank = self._resolver.rank(mapping, path)
            if rank is not None:
                meanings.append((at, rank, text, path))
            elif mapping.path is not None:
                if mapping.path[:-1] == path[:-1] and text is not None:
                    chosen = mapping.path[-1] in split_answer(text)
                    meanings.append((at, 0, chosen, mapping.path))
            elif text is not None:
                if not self._resolver.knows(mapping, path, text):
                    raise _FullWayError  # the full way learns it
                meanings += [
                    (at, _READING, chosen, where)
                    for where, chosen in self._resolver.read_answer(mapping, path, text)
                ]
        return meanings

    def _routes(self, path: Path) -> tuple[_Route, ...]:
        """Work out where the choice at a path goes."""
        routes = []
        for at, mapping in enumerate(self._mappings):
            rank = self._resolver.rank(mapping, path)
            if rank is not None:
                plain = mapping.type == "subscription" or self._translator.is_boolean(mapping.id)
                routes.append(_Route(at, rank == 0, self._slots[at], mapping.invert, plain, path))
        return tuple(routes)

    # Comparing both ways

    @property
    def compares(self) -> bool:
        """Whether records are still read both ways."""
        return self._to_compare > 0

    def compare(self, record: Any, whole: dict[str, Any]) -> None:
        """Compare the two ways for one record; on any difference give the short one up.

        Args:
            record: Of `record_type`.
            whole: The same record, decoded in full.
        """
        self._to_compare -= 1
        try:
            _, parts = self._read_record(record)
            if any(part.__class__ is str for part in parts):
                return
            consents = [read_record(part) for part in split_record(whole)]
        except (_FullWayError, BadInputError):
            return
        translated = [self._translator.translate(consent) for consent in consents]
        if any(failed for _, failed in translated):
            return
        found: list[tuple[int, Value]] = []
        for moment, choices, *attributes in parts:
            found += [*choices.values(moment), *(pair for pairs in attributes for pair in pairs)]
        short = _newest((self._collector.target(slot), value) for slot, value in found)
        if short != _newest(pair for values, _ in translated for pair in values):
            self.usable = False
            self._to_compare = 0
            logger.info(
                "A mapping names something outside of channels, purposes and preferences; records "
                "are read in full, which takes longer."
            )


def _newest(pairs: Iterable[tuple[Target, Value]]) -> dict[Target, Value]:
    """Give what is left of values in order of arrival."""
    found: dict[Target, Value] = {}
    for target, value in pairs:
        if target not in found or value.beats(found[target]):
            found[target] = value
    return found


_READING = 2
"""Rank of a value of a preference that is read out of a mapping's name."""
