"""Runs of plugins: when, how they ended, and the counts of their summaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi.consent.conflicts import Micros, to_micros
from actito_didomi.consent.parts import LedgerPart
from actito_didomi.consent.rows import advance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actito_didomi.consent.leases import Direction

MOST_KEPT = 1_000
"""Runs that are kept of each plugin."""
_COLUMNS = "number, plugin, direction, process, began, ended, outcome, exit_status, counts"


class RunRow(msgspec.Struct, frozen=True):
    """A run of a plugin.

    Attributes:
        number: Its id.
        plugin: Name of the plugin.
        direction: Of the sync.
        process: Host and number of the process.
        began: When it began.
        ended: When it ended; None while it runs, and for good if it was killed.
        outcome: How it ended, in words such as `success` or `opt-outs owed`; None before.
        exit_status: Exit status of the plugin; None before.
        counts: The counts of its summary, as JSON has them; without personal data.
    """

    number: int
    plugin: str
    direction: str
    process: str
    began: Micros
    ended: Micros | None
    outcome: str | None
    exit_status: int | None
    counts: dict[str, Any]


class RunTable(LedgerPart):
    """The runs of a pair."""

    def start_run(self, plugin: str, direction: Direction) -> int:
        """Record the start of a run; return its number.

        Of each plugin the last 1,000 runs are kept.

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
            transaction.execute(
                "DELETE FROM ledger_runs WHERE scope = ? AND plugin = ? AND number <= (SELECT "
                "number FROM ledger_runs WHERE scope = ? AND plugin = ? ORDER BY number DESC "
                "LIMIT 1 OFFSET ?)",
                self._scope,
                plugin,
                self._scope,
                plugin,
                MOST_KEPT,
            )
        return number

    def end_run(
        self, number: int, outcome: str, exit_status: int, counts: Mapping[str, Any]
    ) -> None:
        """Record the end of a run.

        Args:
            number: What `start_run` returned.
            outcome: How it ended, in words.
            exit_status: Exit status of the plugin.
            counts: The counts of its summary, as JSON has them; without personal data.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "UPDATE ledger_runs SET ended = ?, outcome = ?, exit_status = ?, counts = ? "
                "WHERE scope = ? AND number = ?",
                to_micros(self._runtime.now()),
                outcome,
                exit_status,
                msgspec.json.encode(counts),
                self._scope,
                number,
            )

    def last_runs(self, limit: int = 10) -> list[RunRow]:
        """Return the last runs of all plugins, newest first.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                f"SELECT {_COLUMNS} FROM ledger_runs WHERE scope = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                self._scope,
                limit,
            )
        return [_read(row) for row in rows]

    def find_run(self, number: int) -> RunRow | None:
        """Return a run; None if it isn't on record.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one(
                f"SELECT {_COLUMNS} FROM ledger_runs WHERE scope = ? AND number = ?",  # noqa: S608
                self._scope,
                number,
            )
        return None if row is None else _read(row)


def _read(row: Any) -> RunRow:
    number, plugin, direction, process, began, ended, outcome, status, data = row
    counts = {} if data is None else msgspec.json.decode(data, type=dict[str, Any])
    return RunRow(number, plugin, direction, process, began, ended, outcome, status, counts)
