"""From what a consent record says to values for a profile, by mappings and structure."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from actito_didomi import codes
from actito_didomi.actito import ConversionError, ValueType, convert
from actito_didomi.consent.choices import read_odd_boolean
from actito_didomi.consent.coalesce import Extra, Field, MappedField, Masks
from actito_didomi.consent.mapping import Mapping, Resolver, Unclear, odd_nodes, show_path
from actito_didomi.plugin.fields import check_fields
from actito_didomi.tolerant import decode_tolerantly, is_unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping as MappingABC
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import TableStructure
    from actito_didomi.codes import Code
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.records import ConsentRecord

logger = logging.getLogger("target-actito")
_ANY_LENGTH = 1 << 30
_MOST_NAMES = 10_000
"""Metadata keys without a matching attribute that are remembered at most: keys may be data."""
_METADATA = msgspec.json.Decoder(dict[str, Any])


class Said(NamedTuple):
    """What a value in a record says.

    Attributes:
        mask: It as bits.
        values: Numbers of fields, each with a value that is no choice.
    """

    mask: int
    values: tuple[tuple[int, Any], ...] = ()


@dataclass(frozen=True)
class Untranslatable:
    """A choice that has no form in Actito.

    Attributes:
        code: `invalid_value` or `ambiguous_value`.
        id: The subscription or attribute it was meant for.
        reason: Why, naming the mapping's `value`; holds no personal data.
        opt_out: Whether it may be an opt-out.
    """

    code: Code
    id: str
    reason: str
    opt_out: bool


class Translator:
    """Translates consent records for one table.

    Args:
        structure: The table.
        key: The key attribute; never written.
        mappings: The mappings, which must fit the table.
        zone: Time zone of timestamps in Actito.

    Attributes:
        resolver: Finds the choices that mappings name.
        masks: What the bits of masks stand for: fields have the numbers of their mappings.
        metadata_attributes: Attributes that metadata may set, by name.

    Raises:
        SettingsError: A mapping names a subscription or attribute that the table lacks, or
            one that may not be written; the message lists those that do.
    """

    def __init__(
        self, structure: TableStructure, key: str, mappings: tuple[Mapping, ...], zone: ZoneInfo
    ) -> None:
        check_fields(structure, key, mappings)
        self._structure = structure
        self._zone = zone
        self.resolver = Resolver(mappings)
        self._numbers = {mapping.id: number for number, mapping in enumerate(mappings)}
        values = [
            {choice: self._convert(mapping, mapping.path or (), choice) for choice in (True, False)}
            for mapping in mappings
        ]
        self._takes_choices = [
            not any(isinstance(value, Untranslatable) for value in found.values())
            for found in values
        ]
        self.masks = Masks(
            [
                MappedField(Field(mapping.type, mapping.id), found[False], found[True])
                for mapping, found in zip(mappings, values, strict=True)
            ]
        )
        mapped = {m.id for m in mappings if m.type == "attribute"}
        self.metadata_attributes = {
            name: attribute
            for name, attribute in structure.attributes.items()
            if attribute.writable and name != key and name not in mapped
        }
        self._texts = {
            name: _ANY_LENGTH if attribute.max_length is None else attribute.max_length
            for name, attribute in self.metadata_attributes.items()
            if attribute.type is ValueType.STRING
        }
        self._odd: set[str] = set()
        self.unknown_metadata: set[str] = set()
        self.unusable_metadata: Counter[str] = Counter()

    # Records

    def translate(
        self, record: ConsentRecord
    ) -> tuple[int, bytes | Extra | None, list[Untranslatable]]:
        """Return what a record says, as `Collector.put` takes it, and what can't be translated."""
        mask = 0
        values: dict[int, Any] = {}
        found, unclear = self.resolver.resolve(record.tree)
        failed: list[Untranslatable] = []
        for hit in found:
            said = self.translate_choice(self._numbers[hit.mapping.id], hit.path, hit.value)
            if isinstance(said, Untranslatable):
                failed.append(said)
            else:
                mask |= said.mask
                values.update(said.values)
        failed += [_unclear(item) for item in unclear]
        metadata = msgspec.json.encode(record.metadata) if record.metadata else None
        more = Extra(metadata, tuple(values.items())) if values else metadata
        return mask, more, failed

    def may_opt_out(self, consents: Any) -> bool:
        """Return whether consents that could not be read as a whole may hold a mapped opt-out.

        They may unless it is readable that they don't.
        """
        if not isinstance(consents, dict):
            return consents is not None
        if self.find_odd({"consents": consents}):
            return True
        found, unclear = self.resolver.resolve({"consents": consents})
        return bool(unclear) or any(hit.value is not True or hit.mapping.invert for hit in found)

    def find_odd(self, tree: MappingABC[str, Any]) -> list[Path]:
        """Find the nodes of a record that are not as documented and that a mapping may name.

        Args:
            tree: The record in the user form.
        """
        consents = tree.get("consents")
        found = list(odd_nodes(consents)) if isinstance(consents, dict) else []
        if is_unreadable(tree.get("metadata")):
            found.append(("metadata",))
        return [path for path in found if self.resolver.may_name_below(path)]

    # Choices

    def takes_choices(self, number: int) -> bool:
        """Return whether the field of a mapping has a value for an opt-in and for an opt-out."""
        return self._takes_choices[number]

    def translate_choice(self, number: int, path: Path, raw: Any) -> Said | Untranslatable:
        """Return what a value that stands at a path says to a mapping.

        Args:
            number: Number of the mapping.
            path: Where the value stands in the record.
            raw: The value; not null.
        """
        mapping = self.resolver.mappings[number]
        value = self._convert(mapping, path, raw)
        if isinstance(value, Untranslatable):
            return value
        choice = raw if isinstance(raw, bool) else None
        if choice is None and self._is_boolean(mapping):
            choice = value is not mapping.invert  # a text such as "false" is a yes or no as well
        if choice is None:
            return Said(self.masks.value(number), ((number, value),))
        return Said(self.masks.choice(number, choice))

    def _is_boolean(self, mapping: Mapping) -> bool:
        return (
            mapping.type == "subscription"
            or self._structure.attributes[mapping.id].type is ValueType.BOOLEAN
        )

    def _convert(self, mapping: Mapping, path: Path, raw: Any) -> Any:
        """Return a value in the form of a mapping's field."""
        choice = raw if isinstance(raw, bool) else None
        value = (not raw) if mapping.invert and choice is not None else raw
        if choice is None and (
            mapping.type == "subscription"
            or (self._is_boolean(mapping) and path[:1] == ("consents",))
        ):
            return self._convert_odd(mapping, path, raw)
        if mapping.type == "subscription":
            return value
        attribute = self._structure.attributes[mapping.id]
        try:
            converted = convert(value, attribute.type, self._zone, attribute.max_length)
        except ConversionError as error:
            return Untranslatable(
                codes.INVALID_VALUE,
                mapping.id,
                f"{mapping.value} ({show_path(path)}) can't become attribute {mapping.id!r}, "
                f"a {attribute.type.value}: {error}.",
                opt_out=choice is False,
            )
        if attribute.type is ValueType.BOOLEAN and choice is None and mapping.invert:
            return not converted
        return converted

    def _convert_odd(self, mapping: Mapping, path: Path, raw: Any) -> Any:
        """Return the value of a choice that is not a boolean: only an opt-out is read from it."""
        said = read_odd_boolean(raw)
        if said is not False:
            return Untranslatable(
                codes.INVALID_VALUE,
                mapping.id,
                f"{mapping.value} ({show_path(path)}) must be a boolean, but is a "
                f"{'value that cannot be read' if is_unreadable(raw) else type(raw).__name__}, so "
                f"{mapping.type} {mapping.id!r} can't be set from it.",
                opt_out=said is None or mapping.invert,
            )
        if mapping.id not in self._odd:
            self._odd.add(mapping.id)
            logger.warning(
                "%s: %s (%s) must be a boolean, but is a %s; only opt-outs are read so.",
                codes.ODD_BOOLEAN,
                mapping.value,
                show_path(path),
                type(raw).__name__,
            )
        return mapping.invert

    # Metadata

    def convert_metadata(
        self, metadata: bytes, usable: dict[str, bool], *, count: bool
    ) -> list[tuple[str, Any, Any]]:
        """Convert metadata; a value that can't be converted holds up nothing else."""
        try:
            found = _METADATA.decode(metadata)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = _decode_odd(metadata)
        texts = self._texts
        converted: list[tuple[str, Any, Any]] = []
        for name, raw in found.items():
            known = usable.get(name)
            if raw is None or known or name in self.unknown_metadata:
                continue
            if raw.__class__ is str and name in texts and len(raw) <= texts[name]:
                value: Any = raw
            else:
                value = self._convert_metadata(name, raw, count=count and known is None)
            usable[name] = value is not None
            if value is not None or known is None:
                converted.append((name, raw, value))
        return converted

    def _convert_metadata(self, name: str, raw: Any, *, count: bool) -> Any:
        """Convert one key of the metadata; return None where that is impossible."""
        attribute = self.metadata_attributes.get(name)
        if attribute is None:
            if name not in self._structure.attributes and len(self.unknown_metadata) < _MOST_NAMES:
                self.unknown_metadata.add(name)
            return None
        try:
            return convert(raw, attribute.type, self._zone, attribute.max_length)
        except ConversionError as error:
            if count:
                self._note_unusable(name, f"can't become a {attribute.type.value}: {error}")
            return None

    def _note_unusable(self, name: str, problem: str) -> None:
        if name not in self.unusable_metadata:
            logger.warning(
                "Metadata %r can't become the attribute of that name (%s). It is left out; all "
                "else of such records is written.",
                name,
                problem,
            )
        self.unusable_metadata[name] += 1


def _decode_odd(metadata: bytes) -> dict[str, Any]:
    """Decode metadata that can't be decoded strictly; what is odd in it is left out."""
    try:
        found = decode_tolerantly(metadata)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _unclear(item: Unclear) -> Untranslatable:
    return Untranslatable(codes.AMBIGUOUS_VALUE, item.mapping.id, item.reason, item.maybe_opt_out)
