"""Choices that people made in Actito themselves, and what is not written over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from actito_didomi.consent.conflicts import DIDOMI, Act, prevails, to_micros
from actito_didomi.consent.ledger import Entry, PersonField

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from actito_didomi.consent.coalesce import Field, ProfileChange, Value
    from actito_didomi.consent.ledger import Ledger


_NO_TOLERANCE = 0
"""The clocks of both sides must agree."""


class NewerChoices:
    """Keeps people's own choices in Actito from being overwritten by older ones of Didomi's.

    Args:
        ledger: Holds what tap-actito found, and gets what is written here.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def drop_superseded(self, changes: Sequence[ProfileChange]) -> tuple[list[ProfileChange], int]:
        """Remove the choices that count less than the person's own choice in Actito.

        Returns:
            The changes that remain, and the number of choices removed.

        Raises:
            SettingsError: The database fails.
        """
        own = self._ledger.read("person", {change.person for change in changes})
        if not own:
            return list(changes), 0
        remaining, count = [], 0
        for change in changes:
            pairs = list(zip(change.fields, change.values, strict=True))
            kept = [
                (field, value)
                for field, value in pairs
                if not is_superseded(value, own.get(_field_of(change.person, field)))
            ]
            count += len(pairs) - len(kept)
            if len(kept) == len(pairs):
                remaining.append(change)
            elif kept:
                fields, values = zip(*kept, strict=True)
                opt_out = any(value.opt_out for value in values)
                remaining.append(
                    structs.replace(change, fields=fields, values=values, opt_out=opt_out)
                )
        return remaining, count

    def record_writes(
        self, changes: Iterable[ProfileChange], began: datetime, ended: datetime
    ) -> None:
        """Record what was written; call it before a STATE that covers it is emitted.

        Args:
            changes: What was written.
            began: When the write began; aware of its zone.
            ended: When it had ended; aware of its zone.

        Raises:
            SettingsError: The database fails.
        """
        self._ledger.record_writes(
            {
                _field_of(change.person, field): Entry(value.value, began, ended)
                for change in changes
                for field, value in zip(change.fields, change.values, strict=True)
                if isinstance(value.value, bool)
            }
        )

    def close(self) -> None:
        """Close all connections."""
        self._ledger.close()


def is_superseded(value: Value, own: Entry | None) -> bool:
    """Return whether the person's own choice in Actito counts rather than one of Didomi's. Pure.

    Args:
        value: The choice from Didomi. Where it is no choice of consent, it is never superseded.
        own: What the person chose in Actito last; None if nothing is known.
    """
    if own is None or value.choice is None:
        return False
    when = to_micros(value.timestamp)
    theirs = Act(value.choice, when, when, DIDOMI, "event")
    return not prevails(theirs, own.act(inverted=value.value is not value.choice), _NO_TOLERANCE)


def _field_of(person: str, field: Field) -> PersonField:
    return PersonField(person, field.kind, field.name)
