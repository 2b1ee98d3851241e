"""Runs of plugins."""

from __future__ import annotations

from typing import Any

from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.parts import LedgerPart
from actito_didomi.consent.rows import advance


class RunTable(LedgerPart):
    """The runs of a pair."""

    def start_run(self, plugin: str, direction: str) -> str:
        """Record the start of a run; return its id, which intents name as their writer.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            number = advance(transaction, self._scope, "runs")
            transaction.execute(
                "INSERT INTO ledger_runs (scope, number, plugin, direction, process, began) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                self._scope,
                number,
                plugin,
                direction,
                self._runtime.process_name(),
                to_micros(self._runtime.now()),
            )
        return str(number)

    def last_runs(self) -> list[dict[str, Any]]:
        """Return the last run of each plugin; timestamps are microseconds since 1970.

        Raises:
            SettingsError: The database fails.
        """
        names = ("number", "plugin", "direction", "process", "began", "ended", "outcome")
        with self._store.read() as transaction:
            rows = transaction.all(
                f"SELECT {', '.join(names)} FROM ledger_runs WHERE scope = ? AND number IN "  # noqa: S608
                "(SELECT max(number) FROM ledger_runs WHERE scope = ? GROUP BY plugin) "
                "ORDER BY number",
                self._scope,
                self._scope,
            )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def end_run(self, run: str, outcome: str) -> None:
        """Record the end of a run, in words such as `exit 0`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "UPDATE ledger_runs SET ended = ?, outcome = ? WHERE scope = ? AND number = ?",
                to_micros(self._runtime.now()),
                outcome,
                self._scope,
                int(run),
            )
