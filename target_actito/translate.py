"""From what a consent record says to values for a profile, by mappings and structure."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import ConversionError, ValueType, convert
from actito_didomi.consent.coalesce import Field, Value
from actito_didomi.consent.mapping import Found, Mapping, Resolver, Unclear, show_path
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import TableStructure
    from actito_didomi.codes import Code
    from actito_didomi.consent.records import ConsentRecord

logger = logging.getLogger("target-actito")


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

    Raises:
        SettingsError: A mapping names a subscription or attribute that the table lacks, or
            one that may not be written; the message lists those that do.
    """

    def __init__(
        self, structure: TableStructure, key: str, mappings: tuple[Mapping, ...], zone: ZoneInfo
    ) -> None:
        _check(structure, key, mappings)
        self._structure = structure
        self._zone = zone
        self.resolver = Resolver(mappings)
        mapped = {m.id for m in mappings if m.type == "attribute"}
        self.metadata_attributes = {
            name: attribute
            for name, attribute in structure.attributes.items()
            if attribute.writable and name != key and name not in mapped
        }
        self.unknown_metadata: Counter[str] = Counter()
        self.unusable_metadata: Counter[str] = Counter()

    def translate(
        self, record: ConsentRecord
    ) -> tuple[list[tuple[Field, Value]], list[Untranslatable]]:
        """Give the values that a record asks for, and the choices that can't be translated."""
        values: list[tuple[Field, Value]] = []
        failed: list[Untranslatable] = []
        for name, raw in record.metadata.items():
            if (value := self.convert_metadata(name, raw)) is not None:
                values.append((Field("attribute", name), Value(record.timestamp, value, None)))
        found, unclear = self.resolver.resolve(record.tree)
        for hit in found:
            result = self.convert_choice(hit, record.timestamp)
            if isinstance(result, Untranslatable):
                failed.append(result)
            else:
                values.append((Field(hit.mapping.type, hit.mapping.id), result))
        failed += [_unclear(item) for item in unclear]
        return values, failed

    def may_opt_out(self, consents: Any) -> bool:
        """Tell whether consents that could not be read as a whole hold a mapped opt-out."""
        if not isinstance(consents, dict):
            return False
        found, unclear = self.resolver.resolve({"consents": consents})
        return any(hit.value is False for hit in found) or any(u.maybe_opt_out for u in unclear)

    def convert_metadata(self, name: str, raw: Any) -> Any:
        """Convert one key of the metadata; one that can't be holds up nothing else."""
        if raw is None:
            return None
        attribute = self.metadata_attributes.get(name)
        if attribute is None:
            self.note_unknown(name)
            return None
        try:
            return convert(raw, attribute.type, self._zone, attribute.max_length)
        except ConversionError as error:
            if name not in self.unusable_metadata:
                logger.warning(
                    "Metadata %r can't become the attribute of that name, a %s: %s. It is left "
                    "out; all else of such records is written.",
                    name,
                    attribute.type.value,
                    error,
                )
            self.unusable_metadata[name] += 1
            return None

    def note_unknown(self, name: str) -> None:
        """Take note of a key of metadata that isn't written."""
        if name not in self._structure.attributes:
            self.unknown_metadata[name] += 1

    def is_boolean(self, attribute: str) -> bool:
        """Tell whether an attribute is a boolean."""
        return self._structure.attributes[attribute].type is ValueType.BOOLEAN

    def convert_choice(self, hit: Found, timestamp: datetime) -> Value | Untranslatable:
        """Convert a choice for the target of its mapping."""
        mapping, raw = hit.mapping, hit.value
        choice = raw if isinstance(raw, bool) else None
        value = (not raw) if mapping.invert and choice is not None else raw
        if mapping.type == "subscription":
            if choice is None:
                return Untranslatable(
                    codes.INVALID_VALUE,
                    mapping.id,
                    f"{mapping.value} ({show_path(hit.path)}) is no boolean but a "
                    f"{type(raw).__name__}, so subscription {mapping.id!r} can't be set from it.",
                    opt_out=False,
                )
            return Value(timestamp, value, choice)
        attribute = self._structure.attributes[mapping.id]
        try:
            converted = convert(value, attribute.type, self._zone, attribute.max_length)
        except ConversionError as error:
            return Untranslatable(
                codes.INVALID_VALUE,
                mapping.id,
                f"{mapping.value} ({show_path(hit.path)}) can't become attribute {mapping.id!r}, "
                f"a {attribute.type.value}: {error}.",
                opt_out=choice is False,
            )
        if attribute.type is ValueType.BOOLEAN and choice is None:
            # A text such as "false" for a boolean attribute is a yes or no as well.
            choice = bool(converted)
            converted = (not converted) if mapping.invert else converted
        return Value(timestamp, converted, choice)


def _unclear(item: Unclear) -> Untranslatable:
    return Untranslatable(codes.AMBIGUOUS_VALUE, item.mapping.id, item.reason, item.maybe_opt_out)


def _check(structure: TableStructure, key: str, mappings: tuple[Mapping, ...]) -> None:
    wrong = []
    for mapping in mappings:
        if mapping.type == "subscription":
            if mapping.id not in structure.subscriptions:
                wrong.append(f"subscription {mapping.id!r}")
            continue
        attribute = structure.attributes.get(mapping.id)
        if attribute is None:
            wrong.append(f"attribute {mapping.id!r}")
        elif mapping.id == key or not attribute.writable:
            raise SettingsError(
                codes.UNSUITABLE_FIELD,
                f"mappings: the attribute {mapping.id!r} can't be written: it is the key, holds a "
                "list, or is kept by Actito itself. Take the mapping out.",
            )
    if wrong:
        writable = [a.name for a in structure.attributes.values() if a.writable and a.name != key]
        raise SettingsError(
            codes.UNKNOWN_FIELD,
            f"mappings: table {structure.name!r} has no {' and no '.join(wrong)}. "
            f"Its subscriptions: {', '.join(structure.subscriptions) or 'none'}. "
            f"Its attributes: {', '.join(writable) or 'none'}. Names are case-sensitive.",
        )
    mapped = {m.id for m in mappings if m.type == "subscription"}
    if left := [name for name in structure.subscriptions if name not in mapped]:
        logger.info("Subscriptions that no mapping names, never touched: %s.", ", ".join(left))
