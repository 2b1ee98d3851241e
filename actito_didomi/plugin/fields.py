"""Checks what is written against the structure of the profile table, before the first write."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.consent.identity import match_key
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actito_didomi.actito import TableStructure
    from actito_didomi.consent.mapping import Mapping

logger = logging.getLogger("target-actito")


def check_fields(structure: TableStructure, key: str, mappings: Iterable[Mapping]) -> None:
    """Check that the table has each field that a mapping names, and that it can be written.

    Args:
        structure: The table.
        key: The attribute that people are matched by.
        mappings: The mappings.

    Raises:
        SettingsError: A mapping names a subscription or attribute that the table lacks, or one that
            may not be written; the message lists those that do.
    """
    wrong, mapped = [], set()
    for mapping in mappings:
        if mapping.type == "subscription":
            mapped.add(mapping.id)
            structure.require_subscriptions()
            if mapping.id not in structure.subscriptions:
                wrong.append(_describe("subscription", mapping.id, structure.subscriptions))
            continue
        attribute = structure.attributes.get(mapping.id)
        if attribute is None:
            wrong.append(_describe("attribute", mapping.id, structure.attributes))
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
    if left := [name for name in structure.subscriptions if name not in mapped]:
        logger.info("Subscriptions that no mapping names, never touched: %s.", ", ".join(left))


def _describe(kind: str, name: str, known: Iterable[str]) -> str:
    """Return kind and name of a field that is missing, with one that differs in spelling only."""
    for other in known:
        if match_key(other, "folded") == match_key(name, "folded"):
            return (
                f"{kind} {name!r} (there is {other!r}; in ASCII {name!a} and {other!a}; "
                "copy the latter)"
            )
    return f"{kind} {name!r}"


def warn_of_mandatory(structure: TableStructure, key: str, mappings: Iterable[Mapping]) -> None:
    """Warn of mandatory attributes that new profiles may lack, since no mapping names them.

    Metadata of the same name would set them as well; whether records hold it isn't known before.

    Args:
        structure: The table.
        key: The attribute that people are matched by.
        mappings: The mappings.
    """
    mapped = {mapping.id for mapping in mappings if mapping.type == "attribute"}
    missing = [
        attribute.name
        for attribute in structure.attributes.values()
        if attribute.mandatory
        and attribute.writable
        and attribute.name != key
        and attribute.name not in mapped
    ]
    if missing:
        logger.warning(
            "%s: upsert_mode is set, and new profiles of table %r need %s, which no mapping names. "
            "Metadata of the same name sets them; people whose records lack it can't be created.",
            codes.MANDATORY_UNMAPPED,
            structure.name,
            ", ".join(missing),
        )
