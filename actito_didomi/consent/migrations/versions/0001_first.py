"""The first version of the ledger's tables. As it was: what changes later has its own migration."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _number(name: str) -> sa.Column[int]:
    kind = sa.Integer if name == "scope" else sa.BigInteger
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _required(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def upgrade() -> None:
    """Make the tables, but that of the version, which Alembic makes."""
    op.create_table(
        "ledger_info",
        sa.Column("id", sa.Text, primary_key=True),
        *_required(sa.BigInteger, "created"),
        *_required(sa.Text, "key_check"),
    )
    op.create_table(
        "ledger_scopes",
        _number("number"),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        *_required(sa.Text, "organization", "regulation", "entity", "table_name"),
        sa.Column("event_text", sa.Text),
        sa.Column("matching", sa.Text),
        *_required(sa.BigInteger, "imports", "found", "runs", "rejects"),
    )
    op.create_table(
        "ledger_names",
        _number("scope"),
        sa.Column("kind", sa.Text, primary_key=True),
        _number("number"),
        sa.Column("name", _TEXT, nullable=False),
        sa.UniqueConstraint("scope", "kind", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_people",
        _number("scope"),
        sa.Column("person", _TEXT, primary_key=True),
        *_required(sa.Integer, "owed"),
        *_required(sa.BigInteger, "due"),
        *_required(sa.LargeBinary, "data"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ledger_people_owed",
        "ledger_people",
        ["scope", "person", "owed", "due"],
        sqlite_where=sa.text("owed > 0"),
        postgresql_where=sa.text("owed > 0"),
    )
    op.create_table(
        "ledger_looks",
        _number("scope"),
        *_required(sa.BigInteger, "began", "ended"),
        *_required(sa.Text, "places"),
        *_required(sa.BigInteger, "profiles"),
    )
    op.create_table(
        "ledger_imports",
        _number("scope"),
        _number("number"),
        *_required(sa.Text, "file_name"),
        sa.Column("execution", sa.Text),
        *_required(sa.Text, "state"),
        *_required(sa.BigInteger, "began"),
        sa.Column("ended", sa.BigInteger),
    )
    op.create_table(
        "ledger_found",
        _number("scope"),
        _number("number"),
        *_required(sa.LargeBinary, "data"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_runs",
        _number("scope"),
        _number("number"),
        *_required(sa.Text, "plugin", "direction", "process"),
        *_required(sa.BigInteger, "began"),
        sa.Column("ended", sa.BigInteger),
        sa.Column("outcome", sa.Text),
    )
    op.create_table(
        "ledger_leases",
        _number("scope"),
        sa.Column("direction", sa.Text, primary_key=True),
        *_required(sa.Text, "holder"),
    )
    op.create_table(
        "ledger_rejects",
        _number("scope"),
        _number("number"),
        *_required(sa.Text, "state", "code"),
        sa.Column("person", _TEXT),
        *_required(sa.Boolean, "opt_out"),
        *_required(sa.BigInteger, "due"),
        *_required(sa.Text, "digest"),
        *_required(sa.LargeBinary, "data"),
    )
    op.create_index("ledger_rejects_digest", "ledger_rejects", ["scope", "digest"])
    op.create_table(
        "ledger_requests",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, primary_key=True),
        sa.Column("process", sa.Text, primary_key=True),
        *_required(sa.Integer, "count"),
        sqlite_with_rowid=False,
    )
