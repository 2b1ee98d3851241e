"""What is remembered of a pair as a whole from run to run, by name."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from actito_didomi.consent.parts import LedgerPart

Fact = TypeVar("Fact")


class FactTable(LedgerPart):
    """The facts of a pair; none of them holds personal data."""

    def read_fact(self, name: str, type_: type[Fact]) -> Fact | None:
        """Return a fact; None if it isn't known, or is of another form.

        Args:
            name: Its name.
            type_: Its type, as msgspec decodes it.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT data FROM ledger_facts WHERE scope = ? AND name = ?", self._scope, name
            )
        try:
            return None if row is None else msgspec.json.decode(row[0], type=type_)
        except msgspec.DecodeError:
            return None

    def store_fact(self, name: str, fact: Any) -> None:
        """Store a fact in place of the one known.

        Raises:
            SettingsError: The database fails.
        """
        data = msgspec.json.encode(fact)
        with self._store.write() as transaction:
            transaction.execute(
                "INSERT INTO ledger_facts (scope, name, data) VALUES (?, ?, ?) "
                "ON CONFLICT (scope, name) DO UPDATE SET data = excluded.data",
                self._scope,
                name,
                data,
            )
