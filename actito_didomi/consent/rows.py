"""The rows of people and the numbers of names: the SQL that speed depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from actito_didomi.consent.store import Transaction

Row = tuple[int, int, bytes]
"""What is owed; when to try again, in microseconds; and the form on disk."""


def select_people(transaction: Transaction, scope: int, keys: Sequence[str]) -> Iterable[Any]:
    """Return person, what is owed, when to try again, and data of the rows of these keys."""
    if transaction.is_sqlite:
        # One statement for any number of keys, so that it is prepared once.
        return transaction.all(
            "SELECT person, owed, due, data FROM ledger_people WHERE scope = ? AND person IN "
            "(SELECT value FROM json_each(?))",
            scope,
            msgspec.json.encode(keys).decode(),
        )
    return transaction.all(
        "SELECT person, owed, due, data FROM ledger_people WHERE scope = ? AND person = ANY(?)",
        scope,
        list(keys),
    )


def owed_people(transaction: Transaction) -> str:
    """Return the table of people, for a query about those to whom something is owed.

    SQLite would read all people in the order of their keys rather than use the index.
    """
    return f"ledger_people{' INDEXED BY ledger_people_owed' if transaction.is_sqlite else ''}"


def lock_people(transaction: Transaction, scope: int, keys: Sequence[str]) -> dict[str, Row]:
    """Lock rows in PostgreSQL, in the order of their keys; who has no row gets an empty one."""
    query = (
        "SELECT person, owed, due, data FROM ledger_people WHERE scope = ? AND person = ANY(?) "
        "ORDER BY person FOR UPDATE"
    )
    found = by_key(transaction.all(query, scope, list(keys)))
    missing = [key for key in keys if key not in found]
    if missing:
        transaction.execute(
            "INSERT INTO ledger_people (scope, person, owed, due, data) SELECT ?, p, 0, 0, "
            "''::bytea FROM unnest(?::text[]) AS p ORDER BY p ON CONFLICT DO NOTHING",
            scope,
            missing,
        )
        found |= by_key(transaction.all(query, scope, missing))
    return found


def by_key(rows: Iterable[Any]) -> dict[str, Row]:
    """Return rows of person, what is owed, when to try again, and data by the person."""
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def write_people(
    transaction: Transaction, scope: int, rows: Sequence[tuple[str, int, int, bytes]]
) -> None:
    """Write rows of person, what is owed, when to try again, and data; in the order of the keys."""
    if not rows:
        return
    if transaction.is_sqlite:
        transaction.execute_many(
            "INSERT INTO ledger_people (scope, person, owed, due, data) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (scope, person) DO UPDATE SET owed = excluded.owed, due = excluded.due, "
            "data = excluded.data",
            [(scope, *row) for row in rows],
        )
        return
    transaction.execute(
        "INSERT INTO ledger_people (scope, person, owed, due, data) SELECT ?, * FROM "
        "unnest(?::text[], ?::int[], ?::bigint[], ?::bytea[]) ON CONFLICT (scope, person) DO "
        "UPDATE SET owed = excluded.owed, due = excluded.due, data = excluded.data",
        scope,
        *(list(column) for column in zip(*rows, strict=True)),
    )


def insert_people(
    transaction: Transaction, scope: int, rows: Sequence[tuple[str, int, int, bytes]]
) -> bool:
    """Insert rows of people who have none; return whether each had none.

    Rows must be in the order of their keys, each key once. Rows that are there stay as they are.
    """
    if not rows:
        return True
    if transaction.is_sqlite:
        result = transaction.connection.exec_driver_sql(
            "INSERT INTO ledger_people (scope, person, owed, due, data) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            [(scope, *row) for row in rows],
        )
    else:
        result = transaction.execute(
            "INSERT INTO ledger_people (scope, person, owed, due, data) SELECT ?, * FROM "
            "unnest(?::text[], ?::int[], ?::bigint[], ?::bytea[]) ON CONFLICT DO NOTHING",
            scope,
            *(list(column) for column in zip(*rows, strict=True)),
        )
    return result.rowcount == len(rows)


def delete_people(transaction: Transaction, scope: int, keys: Sequence[str]) -> None:
    """Delete the rows of these keys."""
    transaction.execute_many(
        "DELETE FROM ledger_people WHERE scope = ? AND person = ?", [(scope, key) for key in keys]
    )


def advance(transaction: Transaction, scope: int, counter: str, by: int = 1) -> int:
    """Return the last of the next `by` numbers of a counter; others wait until the commit."""
    row = transaction.one(
        f"UPDATE ledger_scopes SET {counter} = {counter} + ? WHERE number = ? "  # noqa: S608 - a name of ours
        f"RETURNING {counter}",
        by,
        scope,
    )
    return int(row[0])


class StoredNames:
    """Numbers of names in the database: read when they are needed, and never changed.

    Args:
        scope: Number of the pair.

    Attributes:
        transaction: What the database is read with; to be set before names are asked for.
    """

    transaction: Transaction

    def __init__(self, scope: int) -> None:
        self._scope = scope
        self._names: dict[str, list[tuple[str, ...]]] = {}
        self._numbers: dict[str, dict[tuple[str, ...], int]] = {}

    def number(self, kind: str, name: tuple[str, ...]) -> int:
        """Return the number of a name, which gets the next one if it has none."""
        number = self._numbers.get(kind, {}).get(name)
        if number is not None:
            return number
        if not self.transaction.is_sqlite:  # has one writer at a time
            self.transaction.execute(
                "SELECT 1 FROM ledger_scopes WHERE number = ? FOR UPDATE", self._scope
            )
        self._load(kind)
        number = self._numbers[kind].get(name)
        if number is None:
            number = self._add(kind, name)
            self.transaction.execute(
                "INSERT INTO ledger_names (scope, kind, number, name) VALUES (?, ?, ?, ?)",
                self._scope,
                kind,
                number,
                msgspec.json.encode(name).decode(),
            )
        return number

    def known(self, kind: str, count: int) -> Sequence[tuple[str, ...]]:
        """Return the names by their numbers, at least the first `count`."""
        known = self._names.get(kind, [])
        if count > len(known):
            self._load(kind)
            known = self._names[kind]
        return known

    def forget(self) -> None:
        """Forget all names; to be called when new ones were not made durable."""
        self._names.clear()
        self._numbers.clear()

    def _load(self, kind: str) -> None:
        """Read the names that were added since."""
        known = self._names.setdefault(kind, [])
        self._numbers.setdefault(kind, {})
        for (text,) in self.transaction.all(
            "SELECT name FROM ledger_names WHERE scope = ? AND kind = ? AND number >= ? "
            "ORDER BY number",
            self._scope,
            kind,
            len(known),
        ):
            self._add(kind, msgspec.json.decode(text, type=tuple[str, ...]))

    def _add(self, kind: str, name: tuple[str, ...]) -> int:
        names = self._names[kind]
        names.append(name)
        self._numbers[kind][name] = len(names) - 1
        return len(names) - 1
