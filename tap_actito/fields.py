"""The fields of the table that looks and rows of exports are about. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from actito_didomi.consent.fields import ChoiceField, mapped_field, unmapped_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actito_didomi.actito import TableStructure
    from actito_didomi.consent.reverse_mapping import ReverseMapping


class Fields(NamedTuple):
    """The fields.

    Attributes:
        mapped: Those that mappings name: subscriptions and boolean attributes.
        all: These, and the other subscriptions of the table.
        subscriptions: All subscriptions, by name.
    """

    mapped: list[ChoiceField]
    all: list[ChoiceField]
    subscriptions: dict[str, ChoiceField]


def find_fields(structure: TableStructure, mappings: Iterable[ReverseMapping]) -> Fields:
    """Return the fields of a table.

    Args:
        structure: The table.
        mappings: The reverse mappings.
    """
    mapped = []
    for found in mappings:
        inverted = found.mapping.invert
        mapped.append(mapped_field(found.mapping, opt_out=inverted, opt_in=not inverted))
    named = {(field.kind, field.name) for field in mapped}
    others = [
        unmapped_field("subscription", name)
        for name in structure.subscriptions
        if ("subscription", name) not in named
    ]
    fields = [*mapped, *others]
    by_name = {field.name: field for field in fields if field.kind == "subscription"}
    return Fields(mapped, fields, by_name)
