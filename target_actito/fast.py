"""The short way for consent records: typed decoding, and routes in place of whole trees.

The full way decodes a record into dictionaries, flattens its consents and compares names. That is
right for any record and slow. Here only the parts that mappings can name are decoded, by their
types, and for each id the way to its target is worked out once. A record that isn't made as
expected (another type, an ambiguous name, a timestamp without a zone) takes the full way, so
that there is one meaning; the first records of a run take both, and are compared.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from actito_didomi import codes
from actito_didomi.actito import ValueType
from actito_didomi.codes import Code
from actito_didomi.consent.coalesce import Field, Value
from actito_didomi.consent.records import (
    CONFIRMED,
    DEFAULT_REGULATION,
    read_record,
    split_record,
)
from actito_didomi.errors import BadInputError
from target_actito.routes import FullWayError, Routes
from target_actito.typed import ABSENT, record_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from actito_didomi.consent.coalesce import Collector
    from actito_didomi.consent.scope import Scope
    from actito_didomi.plugin.summary import Summary
    from target_actito.routes import Hit, Route
    from target_actito.translate import Translator

logger = logging.getLogger("target-actito")

_ANY_LENGTH = 1 << 30
_new = tuple.__new__


_Part = Any
"""What a record says at one timestamp: that, the choices, and values of attributes where there are
some; or the reason why it is skipped."""


def _changed(owner: Any) -> Any:
    """Give the timestamp when a user last changed."""
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
        self._collector = collector
        self._summary = summary
        self._scope = scope
        self._choices = Routes(translator, collector)
        self._attributes = translator.metadata_attributes
        # Filled as names come, so that a person's entry is no longer than it must be.
        self._metadata_slots: dict[str, int] = {}
        self._plain_texts: dict[str, tuple[int, int]] = {}
        self._to_compare = compare_first
        self.usable = self._choices.usable
        self.record_type = record_type()
        self._metadata: dict[str, tuple[Route, ...]] = {}
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
        routes, regulation = self._choices, self._scope.regulation
        known = routes.known
        current = routes.current
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
                person, timestamp = user.organization_user_id, record.created_at
                values = known.get(bytes(record.consents))
                if values and person and person.__class__ is str and timestamp is not UNSET:
                    try:
                        attributes = (
                            read_metadata(user.metadata, timestamp) if user.metadata else ()
                        )
                    except FullWayError:
                        return place - at
                    put(person, number + place - at, timestamp, values, attributes)
                    continue
            if not take(record, number + place - at):
                return place - at
            current = routes.current
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
        except FullWayError:
            return False
        # All fits; from here on nothing fails, since there is no way back.
        for part in parts:
            if part.__class__ is Code:
                self._summary.skip(part)
            else:
                self._collector.put(person, number, *part)
        return True

    def _read_record(self, record: Any) -> tuple[str, list[_Part]]:
        """Split a record as the full way does, and read what it says.

        Metadata is the same in all parts of a record, so only the newest of them gets it.

        Returns:
            The person, and the parts.

        Raises:
            FullWayError: The record must be read in full.
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
                raise FullWayError
            if owner.metadata:
                reason = self._scope.reason_to_skip(person, None, None, None)
                parts.append(self._read_part(reason, person, _changed(owner), b"null"))
        else:
            raise FullWayError
        if owner.metadata:
            found = [(part[0], at) for at, part in enumerate(parts) if part.__class__ is not Code]
            if found:
                timestamp, at = max(found)
                parts[at] = *parts[at], self._read_metadata(owner.metadata, timestamp)
        return str(person), parts

    def _read_event(self, person: Any, event: Any) -> _Part:
        delegate = None if event.delegate is None else event.delegate.id
        regulation = event.regulation or DEFAULT_REGULATION
        reason = self._scope.reason_to_skip(person, event.status, regulation, delegate)
        return self._read_part(reason, person, event.created_at, bytes(event.consents))

    def _read_part(
        self, reason: Code | None, person: Any, timestamp: Any, consents: bytes
    ) -> _Part:
        """Read a part of a record: one timestamp.

        Raises:
            FullWayError: The record must be read in full.
        """
        if not consents or timestamp is UNSET or person == 0:
            raise FullWayError
        if reason is codes.DELEGATE:
            raise FullWayError  # rare, and it isn't just left out
        return reason or (timestamp, self._choices.look_up(consents))

    def _read_metadata(
        self, metadata: dict[str, Any], timestamp: datetime
    ) -> list[tuple[int, Value]]:
        """Read metadata: attributes of the table by their names, and what mappings name.

        Raises:
            FullWayError: The record must be read in full.
        """
        values: list[tuple[int, Value]] = []
        hits: list[Hit] = []
        for name, raw in metadata.items():
            if raw is not None:
                if raw.__class__ is str and name in self._plain_texts:
                    place, longest = self._plain_texts[name]
                    if len(raw) <= longest:
                        values.append((place, _new(Value, (timestamp, raw, None))))
                        continue
                slot = self._metadata_slots.get(name)
                if slot is None and name in self._attributes:
                    slot = self._learn(name)
                if slot is not None:
                    converted = self._translator.convert_metadata(name, raw)
                    if converted is not None:
                        values.append((slot, Value(timestamp, converted, None)))
                elif name not in self._ignored:
                    self._ignored.add(name)
                    self._translator.note_unknown(name)
            if self._choices.maps_metadata:
                if isinstance(raw, (dict, list)):
                    raise FullWayError
                routes = self._metadata.get(name)
                if routes is None:
                    routes = self._metadata[name] = self._choices.routes(("metadata", name))
                hits += [(route, raw) for route in routes]
        if hits:
            self._choices.settle(hits, timestamp, values)
        return values

    def _learn(self, name: str) -> int:
        """Give an attribute that metadata names its place."""
        slot = self._metadata_slots[name] = self._collector.slot(Field("attribute", name))
        attribute = self._attributes[name]
        if attribute.type is ValueType.STRING and not self._choices.maps_metadata:
            longest = attribute.max_length if attribute.max_length is not None else _ANY_LENGTH
            self._plain_texts[name] = slot, longest
        return slot

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
            if any(part.__class__ is Code for part in parts):
                return
            consents = [read_record(part) for part in split_record(whole)]
        except (FullWayError, BadInputError):
            return
        translated = [self._translator.translate(consent) for consent in consents]
        if any(failed for _, failed in translated):
            return
        found: list[tuple[int, Value]] = []
        for timestamp, choices, *attributes in parts:
            found += [*choices.values(timestamp), *(pair for pairs in attributes for pair in pairs)]
        short = _newest((self._collector.target(slot), value) for slot, value in found)
        if short != _newest(pair for values, _ in translated for pair in values):
            self.usable = False
            self._to_compare = 0
            logger.info(
                "A mapping names something outside of channels, purposes and preferences; records "
                "are read in full, which takes longer."
            )


def _newest(pairs: Iterable[tuple[Field, Value]]) -> dict[Field, Value]:
    """Give what is left of values in order of arrival."""
    found: dict[Field, Value] = {}
    for target, value in pairs:
        if target not in found or value.beats(found[target]):
            found[target] = value
    return found
