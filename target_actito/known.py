"""What tap-actito found of people's own choices, and what it must know of those written here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from actito_didomi.consent.ledger import Note, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from actito_didomi.consent.coalesce import Field, ProfileChange, Value
    from actito_didomi.consent.ledger import Ledger


class OtherDirection:
    """Keeps both directions from writing over what is newer.

    Args:
        ledger: The notes of both.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def leave_out(self, changes: Sequence[ProfileChange]) -> tuple[list[ProfileChange], int]:
        """Leave out choices that people made anew in Actito.

        Returns:
            What is left of the changes, and how many choices were left out.

        Raises:
            SettingsError: The database fails.
        """
        seen = self._ledger.read("person", {change.person for change in changes})
        if not seen:
            return list(changes), 0
        left, count = [], 0
        for change in changes:
            pairs = list(zip(change.fields, change.values, strict=True))
            kept = [(t, v) for t, v in pairs if counts(v, seen.get(_place(change.person, t)))]
            count += len(pairs) - len(kept)
            if len(kept) == len(pairs):
                left.append(change)
            elif kept:
                targets, values = zip(*kept, strict=True)
                opt_out = any(value.opt_out for value in values)
                left.append(structs.replace(change, fields=targets, values=values, opt_out=opt_out))
        return left, count

    def wrote(self, changes: Iterable[ProfileChange], began: datetime, ended: datetime) -> None:
        """Take note of what was written, before any STATE passes it.

        Args:
            changes: What was written.
            began: When the writing began.
            ended: When it had ended.

        Raises:
            SettingsError: The database fails.
        """
        notes = {
            _place(change.person, target): Note(value.value, ended, began)
            for change in changes
            for target, value in zip(change.fields, change.values, strict=True)
            if isinstance(value.value, bool)
        }
        self._ledger.note("pipeline", notes)

    def close(self) -> None:
        """Give connections back."""
        self._ledger.close()


def counts(value: Value, own: Note | None) -> bool:
    """Tell whether a choice is to be written, beside the person's own in Actito. Pure.

    Args:
        value: The choice to write.
        own: What the person chose in Actito last.
    """
    if own is None or value.choice is None or own.window.is_earlier_than(value.timestamp):
        return True
    return value.opt_out and not own.window.is_later_than(value.timestamp)


def _place(person: str, target: Field) -> Place:
    return Place(person, target.kind, target.name)
