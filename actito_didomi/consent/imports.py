"""Bulk imports: what has become of each, and what that means for what it was to write."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from actito_didomi.consent.conflicts import Micros, Rules, to_micros
from actito_didomi.consent.entries import drop_import, end_import, give_up_import
from actito_didomi.consent.parts import LedgerPart
from actito_didomi.consent.rows import advance

if TYPE_CHECKING:
    from datetime import datetime

    from actito_didomi.consent.entries import Entry
    from actito_didomi.consent.masks import ImportEnd
    from actito_didomi.consent.store import Store, Transaction
    from actito_didomi.runtime import Runtime

ImportState = Literal["prepared", "started", "ended", "never_received", "unknown"]

_OPEN: tuple[ImportState, ...] = ("prepared", "started")


class ImportRow(msgspec.Struct, frozen=True):
    """A bulk import.

    Attributes:
        number: What `Intent.import_number` names.
        file_name: Name of its file, by which Actito's list of executions is searched.
        execution: Actito's id of it; None if it isn't known.
        state: `prepared` before the request, `started` once Actito has received it, and how it
            ended: `ended`, or `never_received`. `unknown` if neither can be learned now.
        began: When it was prepared.
        ended: When it had ended at the latest, or was given up; None before.
    """

    number: int
    file_name: str
    execution: str | None
    state: ImportState
    began: Micros
    ended: Micros | None


class ImportTable(LedgerPart):
    """The imports of a pair.

    Args:
        store: The database, with its tables.
        scope: Number of the pair.
        runtime: Clock and locks.
    """

    def __init__(self, store: Store, scope: int, runtime: Runtime) -> None:
        super().__init__(store, scope, runtime)
        self._endings: dict[int, _Ending] = {}

    def add_import(self, file_name: str, began: Micros) -> int:
        """Record an import before its request, in the state `prepared`; return its number.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            return self._insert_import(transaction, file_name, began)

    def _insert_import(self, transaction: Transaction, file_name: str, began: Micros) -> int:
        number = advance(transaction, self._scope, "imports")
        transaction.execute(
            "INSERT INTO ledger_imports (scope, number, file_name, state, began) "
            "VALUES (?, ?, ?, 'prepared', ?)",
            self._scope,
            number,
            file_name,
            began,
        )
        return number

    def set_import(
        self,
        number: int,
        *,
        state: ImportState,
        execution: str | None = None,
        ended: Micros | None = None,
    ) -> None:
        """Record what has become of an import; one that has ended stays as it is.

        `ended` makes all that it was to write held, for everybody who reads it from then on. Take
        the rows that Actito refused out of it before: `entries.drop_import`.

        Args:
            number: Its number.
            state: What has become of it.
            execution: Actito's id of it, once it is known.
            ended: When it had ended at the latest, or, with the state `unknown`, when it was given
                up; required with these two.

        Raises:
            ValueError: `ended` is missing.
            SettingsError: The database fails.
        """
        if state in {"ended", "unknown"} and ended is None:
            raise ValueError("An import that has ended, or is given up, needs a timestamp.")
        with self._store.write() as transaction:
            transaction.execute(
                "UPDATE ledger_imports SET state = ?, execution = coalesce(?, execution), "
                "ended = ? WHERE scope = ? AND number = ? AND state NOT IN "
                "('ended', 'never_received')",
                state,
                execution,
                ended,
                self._scope,
                number,
            )

    def open_imports(self) -> list[ImportRow]:
        """Return the imports that may be under way, oldest first.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT number, file_name, execution, state, began, ended FROM ledger_imports "
                "WHERE scope = ? AND state IN ('prepared', 'started') ORDER BY number",
                self._scope,
            )
        return [ImportRow(*row) for row in rows]

    def imports_today(self, now: datetime) -> int:
        """Return how many imports of the table were begun today, as far as Actito received them.

        Args:
            now: The present time, in the zone whose day counts.

        Raises:
            SettingsError: The database fails.
        """
        begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
        end = (begin + timedelta(days=1)).replace(tzinfo=now.tzinfo)
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT count(*) FROM ledger_imports WHERE scope = ? AND began >= ? AND began < ? "
                "AND state <> 'never_received'",
                self._scope,
                to_micros(begin),
                to_micros(end),
            )
        return int(row[0])

    def _find_endings(
        self, transaction: Transaction, imports: set[int], rules: Rules
    ) -> list[ImportEnd]:
        endings = [(number, self._ending(transaction, number)) for number in sorted(imports)]
        return [
            _ImportEnd(number, ending.at if ending.state == "ended" else None, ending, rules)
            for number, ending in endings
            if ending is not None
        ]

    def _ending(self, transaction: Transaction, number: int) -> _Ending | None:
        """Return how an import has ended; None while it has not."""
        if number not in self._endings:
            row = transaction.one(
                "SELECT state, ended FROM ledger_imports WHERE scope = ? AND number = ?",
                self._scope,
                number,
            )
            if row is None or row[0] in _OPEN:
                return None
            ending = _Ending(row[0], row[1] or 0)
            if ending.state == "unknown":
                return ending  # which may become known
            self._endings[number] = ending
        return self._endings[number]


class _Ending(NamedTuple):
    """How an import has ended, and by when at the latest."""

    state: ImportState
    at: Micros


class _ImportEnd(NamedTuple):
    """The end of an import, for all that it was to write of a person."""

    number: int
    ended: Micros | None
    ending: _Ending
    rules: Rules

    def __call__(self, entry: Entry) -> None:
        """Record it in one choice."""
        number, ending = self.number, self.ending
        for name in list(entry.places):
            if ending.state == "ended":
                end_import(entry, name, number, ending.at)
            elif ending.state == "never_received":
                drop_import(entry, name, number)
            else:  # it may have been carried out, or may be yet
                give_up_import(entry, name, number, ending.at, self.rules)
