"""What else the ledger knows of people: records that were skipped; and how it forgets a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from actito_didomi.consent.conflicts import Micros, to_micros
from actito_didomi.consent.looks import FoundChange
from actito_didomi.consent.parts import LedgerPart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from actito_didomi.consent.store import Transaction


class Erased(NamedTuple):
    """What was removed of a person.

    Attributes:
        people: Rows of choices, and of what each side holds and is owed.
        changes: Changes in Actito that looks found.
        rejects: Rejects, with the records in them.
        skips: Records that were skipped.
    """

    people: int
    changes: int
    rejects: int
    skips: int


class TraceTable(LedgerPart):
    """Records of people that were skipped, and people who were forgotten."""

    def note_skips(self, code: str, skipped: Mapping[str, Micros]) -> None:
        """Record for whom a record was skipped; of each person the newest.

        Args:
            code: Name of the code of the reason.
            skipped: Timestamps of the records, by the key of the person.

        Raises:
            SettingsError: The database fails.
        """
        if not skipped:
            return
        with self._store.write() as transaction:
            transaction.execute_many(
                "INSERT INTO ledger_skips (scope, person, code, at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (scope, person, code) DO UPDATE SET at = excluded.at "
                "WHERE ledger_skips.at < excluded.at",
                [(self._scope, person, code, at) for person, at in sorted(skipped.items())],
            )

    def find_skips(self, person: str) -> dict[str, Micros]:
        """Return timestamps of skipped records of a person, by the name of the reason's code.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT code, at FROM ledger_skips WHERE scope = ? AND person = ? ORDER BY code",
                self._scope,
                person,
            )
        return dict(rows)

    def forgotten_at(self, name: str) -> Micros | None:
        """Return when a person was forgotten, by their hash; None if they were not.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT at FROM ledger_forgotten WHERE scope = ? AND name = ?", self._scope, name
            )
        return None if row is None else int(row[0])

    def erase(self, key: str, name: str, is_same: Callable[[str], bool]) -> Erased:
        """Remove all that names a person, and note their hash and the time; no run may write.

        In SQLite the space is overwritten. Copies and backups of the database are not touched.

        Args:
            key: The person's key.
            name: The person's hash.
            is_same: Returns whether a spelling is that of the person.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            if transaction.is_sqlite:
                transaction.execute("PRAGMA secure_delete = ON")
            erased = Erased(
                self._delete(transaction, "ledger_people", key),
                self._delete_found(transaction, is_same),
                self._delete_rejects(transaction, is_same),
                self._delete(transaction, "ledger_skips", key),
            )
            if any(erased):
                transaction.execute(
                    "INSERT INTO ledger_forgotten (scope, name, at) VALUES (?, ?, ?) "
                    "ON CONFLICT (scope, name) DO UPDATE SET at = excluded.at",
                    self._scope,
                    name,
                    to_micros(self._runtime.now()),
                )
        self._store.checkpoint()
        return erased

    def _delete(self, transaction: Transaction, table: str, key: str) -> int:
        return transaction.execute(
            f"DELETE FROM {table} WHERE scope = ? AND person = ?",  # noqa: S608 - a name of ours
            self._scope,
            key,
        ).rowcount

    def _delete_found(self, transaction: Transaction, is_same: Callable[[str], bool]) -> int:
        rows = transaction.all("SELECT number, data FROM ledger_found WHERE scope = ?", self._scope)
        numbers = [
            number
            for number, data in rows
            if is_same(msgspec.msgpack.decode(data, type=FoundChange).person)
        ]
        return self._delete_numbers(transaction, "ledger_found", numbers)

    def _delete_rejects(self, transaction: Transaction, is_same: Callable[[str], bool]) -> int:
        rows = transaction.all(
            "SELECT number, person FROM ledger_rejects WHERE scope = ? AND person IS NOT NULL",
            self._scope,
        )
        numbers = [number for number, person in rows if is_same(person)]
        return self._delete_numbers(transaction, "ledger_rejects", numbers)

    def _delete_numbers(self, transaction: Transaction, table: str, numbers: list[int]) -> int:
        transaction.execute_many(
            f"DELETE FROM {table} WHERE scope = ? AND number = ?",  # noqa: S608 - a name of ours
            [(self._scope, number) for number in numbers],
        )
        return len(numbers)
