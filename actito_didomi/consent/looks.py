"""Looks at the whole table in Actito, and the changes that looks found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi.consent.choices import Path
from actito_didomi.consent.conflicts import Micros
from actito_didomi.consent.parts import LedgerPart
from actito_didomi.consent.rows import advance

if TYPE_CHECKING:
    from actito_didomi.consent.conflicts import Act
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.store import Transaction


class Look(msgspec.Struct, frozen=True):
    """A complete look at all profiles of the table, within `began`..`ended`.

    Attributes:
        began: When it began.
        ended: When it had ended.
        places: The fields that it looked at, by the names of their places.
        profiles: How many profiles the table had.
        highest_id: The highest `profileId` that it showed; None if that isn't known.
    """

    began: Micros
    ended: Micros
    places: frozenset[str] = frozenset()
    profiles: int = 0
    highest_id: int | None = None


class FoundChange(msgspec.Struct, frozen=True, array_like=True):
    """A change in Actito that a look found.

    Attributes:
        person: The key, as the profile spells it.
        profile_id: Id of the profile.
        kind: `subscription` or `attribute`.
        name: Name of the field.
        path: Path of the choice.
        choice: True for an opt-in.
        earliest: It was made at this timestamp or later.
        latest: It was made at this timestamp or earlier.
        seen_value: The raw value of the field.
        found_at: When it was found.
        source: How it became known: `look` or `row`.
    """

    person: str
    profile_id: str | None
    kind: str
    name: str
    path: Path
    choice: bool
    earliest: Micros
    latest: Micros
    seen_value: Any = None
    found_at: Micros = 0
    source: str = "look"

    @classmethod
    def of(
        cls,
        act: Act,
        field: ChoiceField,
        *,
        person: str | None,
        profile_id: str | None,
        found_at: Micros,
    ) -> FoundChange:
        """Return the change that an act is, in the field in which it was found."""
        return cls(
            person or "",
            profile_id,
            field.kind,
            field.name,
            field.path,
            act.value,
            act.earliest,
            act.latest,
            field.value(act.value),
            found_at,
            act.source,
        )


class LookTable(LedgerPart):
    """The last complete look of a pair, and the numbered changes that looks found."""

    def last_look(self) -> Look | None:
        """Return the last complete look at the whole table: who hasn't changed was seen then.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT began, ended, places, profiles, highest_id FROM ledger_looks "
                "WHERE scope = ?",
                self._scope,
            )
        if row is None:
            return None
        return Look(row[0], row[1], frozenset(row[2].split("\n")), row[3], row[4])

    def record_look(self, look: Look) -> None:
        """Record a complete look; an older one than is known is ignored.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "INSERT INTO ledger_looks (scope, began, ended, places, profiles, highest_id) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (scope) DO UPDATE SET "
                "began = excluded.began, ended = excluded.ended, places = excluded.places, "
                "profiles = excluded.profiles, highest_id = excluded.highest_id "
                "WHERE ledger_looks.began < excluded.began",
                self._scope,
                look.began,
                look.ended,
                "\n".join(sorted(look.places)),
                look.profiles,
                look.highest_id,
            )

    def found_after(self, number: int, limit: int) -> list[tuple[int, FoundChange]]:
        """Return the changes that looks found after this number, with their own numbers.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT number, data FROM ledger_found WHERE scope = ? AND number > ? "
                "ORDER BY number LIMIT ?",
                self._scope,
                number,
                limit,
            )
        return [(row[0], msgspec.msgpack.decode(row[1], type=FoundChange)) for row in rows]

    def last_found(self) -> int:
        """Return the number of the last change that looks found; 0 if there is none yet.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one("SELECT found FROM ledger_scopes WHERE number = ?", self._scope)
        return int(row[0])

    def prune_found(self, before: int) -> None:
        """Delete the changes with a number of less than `before`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "DELETE FROM ledger_found WHERE scope = ? AND number < ?", self._scope, before
            )

    def _add_found(self, transaction: Transaction, found: list[FoundChange]) -> None:
        if not found:
            return
        last = advance(transaction, self._scope, "found", len(found))
        transaction.execute_many(
            "INSERT INTO ledger_found (scope, number, data) VALUES (?, ?, ?)",
            [
                (self._scope, number, msgspec.msgpack.encode(change))
                for number, change in enumerate(found, last - len(found) + 1)
            ],
        )
