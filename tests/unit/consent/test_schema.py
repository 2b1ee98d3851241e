"""The tables of the ledger: made at once, or by migrations, or refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_databases import DATABASES, SCOPE

from actito_didomi import codes
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.conflicts import DIDOMI, Act
from actito_didomi.consent.entries import Held
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.migrations import upgrade
from actito_didomi.consent.person import Owed
from actito_didomi.consent.store import connect
from actito_didomi.consent.tables import VERSIONS
from actito_didomi.errors import SettingsError
from actito_didomi.runtime import Runtime

T = 1_790_000_000_000_000
VERSION_1 = Path(__file__).with_name("ledger_0001.sql")
"""A ledger as the release with version 0001 wrote it, as SQL."""


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerSettings:
    """An empty database of each kind."""
    return request.param(tmp_path)


def tables(settings: LedgerSettings) -> dict[str, Any]:
    """Describe all tables of a database."""
    store = connect(settings.ledger_url, Runtime())
    inspector = sa.inspect(store.engine)
    found = {
        name: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(name)],
            inspector.get_pk_constraint(name)["constrained_columns"],
            sorted(
                (index["name"] or "", index["column_names"], *map(str, options(index)))
                for index in inspector.get_indexes(name)
            ),
        )
        for name in inspector.get_table_names()
    }
    store.close()
    return found


def options(index: Any) -> list[Any]:
    return list(index.get("dialect_options", {}).values())


def test_migrations_lead_to_the_same_tables_as_a_new_ledger_has(settings: LedgerSettings) -> None:
    store = connect(settings.ledger_url, Runtime())
    with store.write() as transaction:
        upgrade(transaction.connection)
        assert transaction.one("SELECT version_num FROM ledger_version")[0] == VERSIONS[-1]
    migrated = tables(settings)
    with store.write() as transaction:
        for name in list(migrated):
            transaction.execute(f"DROP TABLE {name}")
    store.close()
    Ledger.open(settings, SCOPE, Runtime()).close()
    assert tables(settings) == migrated


def test_a_ledger_of_the_first_version_is_brought_to_the_newest(tmp_path: Path) -> None:
    settings = LedgerSettings(ledger_url=f"sqlite:///{tmp_path}/ledger.db", ledger_key="key")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as older:
        older.executescript(VERSION_1.read_text(encoding="utf-8"))
    ledger = Ledger.open(settings, SCOPE, Runtime())
    assert ledger.describe_database()["version"] == VERSIONS[-1]
    person = ledger.read(["anna@example.com"])["anna@example.com"]
    (entry,) = person.entries.values()
    assert entry.acts == {DIDOMI: Act(False, T, T, DIDOMI, "event")}
    assert entry.places["d:00000001"].held == Held(False, T, T)
    assert (person.spelling, person.profile_id) == ("Anna@example.com", "7")
    assert [key for key, _ in ledger.owed(Owed.OPT_OUT_ACTITO)] == ["anna@example.com"]
    assert [reject.details.raw for reject in ledger.list_rejects()] == [b"line"]
    assert [row.file_name for row in ledger.open_imports()] == ["file.csv"]
    (run,) = ledger.last_runs()
    assert (run.outcome, run.exit_status, run.counts) == ("exit 0", None, {})
    ledger.end_run(ledger.start_run("target-actito", "forward"), "success", 0, {"records": 1})
    assert ledger.last_runs()[0].number == 2
    ledger.close()


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_each_older_version_leads_to_the_newest(settings: LedgerSettings, version: str) -> None:
    store = connect(settings.ledger_url, Runtime())
    with store.write() as transaction:
        upgrade(transaction.connection, version)
        assert transaction.one("SELECT version_num FROM ledger_version")[0] == version
        transaction.execute(
            "INSERT INTO ledger_info (id, created, key_check) VALUES ('an id', 1, 'a check')"
        )
    store.close()
    ledger = Ledger.open(settings, SCOPE, Runtime())
    assert ledger.id == "an id"
    assert ledger.describe_database()["version"] == VERSIONS[-1]
    ledger.close()


def test_a_ledger_of_a_later_release_is_refused(settings: LedgerSettings) -> None:
    ledger = Ledger.open(settings, SCOPE, Runtime())
    with ledger._store.write() as transaction:
        transaction.execute("UPDATE ledger_version SET version_num = '9999'")
    ledger.close()
    with pytest.raises(SettingsError, match="version 9999") as caught:
        Ledger.open(settings, SCOPE, Runtime())
    assert caught.value.code is codes.LEDGER_TOO_NEW


def test_a_missing_ledger_is_an_error_if_it_is_required(settings: LedgerSettings) -> None:
    required = LedgerSettings(ledger_url=settings.ledger_url, ledger_key="key", require_ledger=True)
    with pytest.raises(SettingsError, match="require_ledger") as caught:
        Ledger.open(required, SCOPE, Runtime())
    assert caught.value.code is codes.LEDGER_MISSING
    Ledger.open(settings, SCOPE, Runtime()).close()
    Ledger.open(required, SCOPE, Runtime()).close()


def test_alembic_is_not_imported_where_nothing_is_to_be_migrated(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from actito_didomi.consent.config import LedgerSettings\n"
        "from actito_didomi.consent.ledger import Ledger\n"
        "from actito_didomi.consent.schema import LedgerScope\n"
        "from actito_didomi.runtime import Runtime\n"
        "settings = LedgerSettings(ledger_url=sys.argv[1])\n"
        "for _ in range(2): Ledger.open(settings, LedgerScope(), Runtime()).close()\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    url = f"sqlite:///{tmp_path}/ledger.db"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code, url], cwd=root, check=False).returncode == 0
