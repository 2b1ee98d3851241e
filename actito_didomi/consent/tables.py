"""The tables of the consent ledger, in their newest version.

`VERSIONS` lists the versions of the schema, oldest first; each has a migration of the same name.
A new ledger gets its tables from here, an older one from the migrations: both lead to the same.
A change of a table needs a new version and its migration; older ones stay as they are.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

VERSIONS = ("0001", "0002", "0003", "0004", "0005")
"""Versions of the schema, oldest first; the last one is current."""

METADATA = sa.MetaData()

_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Ordered by code points, as in Python, whatever the language of the database is."""


def _scope() -> sa.Column[int]:
    return sa.Column("scope", sa.Integer, primary_key=True, autoincrement=False)


def _number() -> sa.Column[int]:
    return sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False)


sa.Table(
    "ledger_version",
    METADATA,
    sa.Column("version_num", sa.String(32), primary_key=True),
)
sa.Table(
    "ledger_info",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("key_check", sa.Text, nullable=False),
)
sa.Table(
    "ledger_scopes",
    METADATA,
    _number(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("regulation", sa.Text, nullable=False),
    sa.Column("entity", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("event_text", sa.Text),
    sa.Column("matching", sa.Text),
    sa.Column("imports", sa.BigInteger, nullable=False),
    sa.Column("found", sa.BigInteger, nullable=False),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("rejects", sa.BigInteger, nullable=False),
)
sa.Table(
    "ledger_names",
    METADATA,
    _scope(),
    sa.Column("kind", sa.Text, primary_key=True),
    _number(),
    sa.Column("name", _TEXT, nullable=False),
    sa.UniqueConstraint("scope", "kind", "name"),
    sqlite_with_rowid=False,
)
PEOPLE = sa.Table(
    "ledger_people",
    METADATA,
    _scope(),
    sa.Column("person", _TEXT, primary_key=True),
    sa.Column("owed", sa.Integer, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index(
    "ledger_people_owed",
    PEOPLE.c.scope,
    PEOPLE.c.person,
    PEOPLE.c.owed,
    PEOPLE.c.due,
    sqlite_where=PEOPLE.c.owed > 0,
    postgresql_where=PEOPLE.c.owed > 0,
)
sa.Table(
    "ledger_looks",
    METADATA,
    _scope(),
    sa.Column("began", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger, nullable=False),
    sa.Column("places", sa.Text, nullable=False),
    sa.Column("profiles", sa.BigInteger, nullable=False),
    sa.Column("highest_id", sa.BigInteger),
)
sa.Table(
    "ledger_imports",
    METADATA,
    _scope(),
    _number(),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("execution", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("began", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger),
)
sa.Table(
    "ledger_found",
    METADATA,
    _scope(),
    _number(),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "ledger_runs",
    METADATA,
    _scope(),
    _number(),
    sa.Column("plugin", sa.Text, nullable=False),
    sa.Column("direction", sa.Text, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("began", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger),
    sa.Column("outcome", sa.Text),
    sa.Column("exit_status", sa.Integer),
    sa.Column("counts", sa.LargeBinary),
)
sa.Table(
    "ledger_facts",
    METADATA,
    _scope(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
sa.Table(
    "ledger_leases",
    METADATA,
    _scope(),
    sa.Column("direction", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
)
sa.Table(
    "ledger_rejects",
    METADATA,
    _scope(),
    _number(),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("person", _TEXT),
    sa.Column("opt_out", sa.Boolean, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("direction", sa.Text),
    sa.Index("ledger_rejects_digest", "scope", "digest"),
)
sa.Table(
    "ledger_requests",
    METADATA,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, primary_key=True),
    sa.Column("process", sa.Text, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "ledger_skips",
    METADATA,
    _scope(),
    sa.Column("person", _TEXT, primary_key=True),
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "ledger_forgotten",
    METADATA,
    _scope(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)
