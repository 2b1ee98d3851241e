"""Which files of exports were read, in the ledger, under a number that STATE carries.

A file counts as read only if a STATE with its number, or a later one, comes back at the start of
a run: only then was all that it holds acknowledged. So a killed target, a dry run or another target
of the same tap never makes a file count as read.
"""

from __future__ import annotations

from actito_didomi.consent.parts import LedgerPart


class FileTable(LedgerPart):
    """The files that were read, by pipeline."""

    def read_files(self, pipeline: str, number: int) -> dict[str, str]:
        """Return the files that count as read, with their marks; called once at the start of a run.

        What was read under later numbers is forgotten: its STATE never came back.

        Args:
            pipeline: What STATE belongs to.
            number: The number in STATE; 0 if there is none.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "DELETE FROM ledger_files WHERE scope = ? AND pipeline = ? AND number > ?",
                self._scope,
                pipeline,
                number,
            )
            rows = transaction.all(
                "SELECT name, mark FROM ledger_files WHERE scope = ? AND pipeline = ? "
                "ORDER BY number",
                self._scope,
                pipeline,
            )
        return {name: mark for name, mark in rows}  # noqa: C416 - rows are no pairs to mypy

    def add_read_file(self, pipeline: str, number: int, name: str, mark: str, day: str) -> None:
        """Record that a file was read, before the STATE with this number is emitted.

        Args:
            pipeline: What STATE belongs to.
            number: The number that STATE will carry.
            name: Name of the file.
            mark: What changes if the file does, such as its size.
            day: Day of its contents, as in `2026-11-25`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "INSERT INTO ledger_files (scope, pipeline, name, number, mark, day) VALUES "
                "(?, ?, ?, ?, ?, ?) ON CONFLICT (scope, pipeline, name, number) DO UPDATE SET "
                "mark = excluded.mark, day = excluded.day",
                self._scope,
                pipeline,
                name,
                number,
                mark,
                day,
            )

    def forget_files(self, pipeline: str, before_day: str) -> None:
        """Forget the files of days before `before_day`, which nobody reads again.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "DELETE FROM ledger_files WHERE scope = ? AND pipeline = ? AND day < ?",
                self._scope,
                pipeline,
                before_day,
            )
