"""The sandbox's SQLite database."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS profile (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    table_id TEXT NOT NULL,
    attributes TEXT NOT NULL,
    subscriptions TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS profile_key (
    table_id TEXT NOT NULL,
    attribute TEXT NOT NULL,
    value TEXT NOT NULL,
    profile_id INTEGER NOT NULL,
    PRIMARY KEY (table_id, attribute, value)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS profile_key_profile ON profile_key (profile_id);
CREATE TABLE IF NOT EXISTS consent_event (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    regulation TEXT NOT NULL,
    created_at TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (organization_id, id)
);
CREATE INDEX IF NOT EXISTS consent_event_user
    ON consent_event (organization_id, user_id, regulation);
CREATE INDEX IF NOT EXISTS consent_event_date ON consent_event (organization_id, created_at);
CREATE TABLE IF NOT EXISTS consent_user (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL,
    regulation TEXT NOT NULL,
    organization_user_id TEXT,
    base TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (organization_id, id, regulation)
);
CREATE INDEX IF NOT EXISTS consent_user_person
    ON consent_user (organization_id, organization_user_id);
"""


class Database:
    """The database, with its tables; used from one thread.

    Args:
        path: SQLite file; None for a fresh temporary one, removed by `close`.
    """

    def __init__(self, path: str | None) -> None:
        self._temporary = path is None
        if path is None:
            handle, path = tempfile.mkstemp(prefix="actito-didomi-", suffix=".db")
            os.close(handle)
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = MEMORY")
        self.connection.execute(
            "PRAGMA synchronous = OFF"
        )  # a sandbox need not outlive the machine
        self.connection.executescript(_SCHEMA)

    def clear(self) -> None:
        """Remove all data."""
        for table in ("profile", "profile_key", "consent_event", "consent_user"):
            self.connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from this line
        self.connection.execute("DELETE FROM sqlite_sequence")

    def all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return all rows."""
        return self.connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Run a query and return its first row, or None."""
        row: tuple[Any, ...] | None = self.connection.execute(sql, values).fetchone()
        return row

    def run(self, sql: str, *values: Any) -> int:
        """Run a statement and return the id of the inserted row, or 0."""
        return self.connection.execute(sql, values).lastrowid or 0

    def close(self) -> None:
        """Close the file, and remove a temporary one."""
        self.connection.close()
        if self._temporary:
            Path(self.path).unlink(missing_ok=True)


def dump(value: Any) -> str:
    """Encode for a column."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
