"""Fields of a profile that hold choices, as the ledger knows them. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from actito_didomi.consent.places import field_place
from actito_didomi.consent.reverse_mapping import find_path

if TYPE_CHECKING:
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.mapping import Kind, Mapping


class ChoiceField(NamedTuple):
    """A subscription or attribute that holds a choice.

    Attributes:
        kind: What it is.
        name: Its name in Actito.
        path: The choice in Didomi that it stands for.
        place: Its place in the ledger.
        opt_out: Its value for an opt-out, in Actito's form.
        opt_in: Its value for an opt-in, in Actito's form.
    """

    kind: Kind
    name: str
    path: Path
    place: str
    opt_out: Any
    opt_in: Any

    @property
    def look_name(self) -> str:
        """What a look at this field is called, in `Look.places`.

        It names the choice as well: of a field that stands for another choice now, nothing is
        known.
        """
        return f"{self.place} {json.dumps(self.path)}"

    def value(self, choice: bool) -> Any:
        """Return the value that a choice has in this field."""
        return self.opt_in if choice else self.opt_out

    def choice(self, value: Any) -> bool | None:
        """Return the choice that a value stands for; None if it stands for none."""
        if value == self.opt_in:
            return True
        return False if value == self.opt_out else None


def mapped_field(mapping: Mapping, opt_out: Any, opt_in: Any) -> ChoiceField:
    """Return the field of a mapping.

    Args:
        mapping: The mapping.
        opt_out: The field's value for an opt-out, in Actito's form.
        opt_in: The field's value for an opt-in, in Actito's form.
    """
    return ChoiceField(
        mapping.type,
        mapping.id,
        find_path(mapping),
        field_place(mapping.type, mapping.id, inverted=mapping.invert),
        opt_out,
        opt_in,
    )


def unmapped_field(kind: Kind, name: str) -> ChoiceField:
    """Return a field that no mapping names: looks see it, and nothing is ever due to it.

    Args:
        kind: What it is.
        name: Its name in Actito.
    """
    place = field_place(kind, name, inverted=False)
    return ChoiceField(kind, name, ("actito", kind, name), place, opt_out=False, opt_in=True)
