"""Databases for tests of the ledger: SQLite files, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.schema import LedgerScope

SCOPE = LedgerScope("org", "gdpr", "entity", "people")


def sqlite(folder: Path) -> LedgerSettings:
    """Return settings for a SQLite file."""
    return LedgerSettings(ledger_url=f"sqlite:///{folder}/ledger.db", ledger_key="key")


def postgres(folder: Path) -> LedgerSettings:
    """Return settings for a database in PostgreSQL."""
    del folder
    name = f"test_{secrets.token_hex(8)}"
    server = sa.create_engine(_url("postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    server.dispose()
    return LedgerSettings(ledger_url=_url(name), ledger_key="key")


DATABASES: list[Any] = [sqlite, postgres]
"""Makers of settings for each kind of database, for `parametrize` or `params`."""


def _url(database: str) -> str:
    return f"postgresql+psycopg://postgres@/{database}?host={_server()}"


@functools.cache
def _server() -> Path:
    """Start PostgreSQL, once for the process; return the folder of its socket."""
    if missing := [name for name in ("initdb", "pg_ctl", "postgres") if not shutil.which(name)]:
        pytest.skip(f"PostgreSQL isn't installed: {', '.join(missing)} missing.")
    # Not the test's own folder: the server's user must be able to enter it.
    folder = Path(tempfile.mkdtemp(prefix="actito-didomi-", dir="/tmp"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
        account = _other_user()
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)

    run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
    options = f"-c listen_addresses= -k {folder} -c fsync=off -c max_connections=200"
    run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
    _stop_with_us(folder, data, user)
    return folder


def _stop_with_us(folder: Path, data: Path, user: dict[str, Any]) -> None:
    """Stop the server when this process ends, also when it is killed.

    A process of its own waits for the end of a pipe that only we hold open.
    """
    script = 'cat; pg_ctl -D "$1" -m immediate -w stop; cd /; rm -rf "$0"'
    waiting = subprocess.Popen(
        ["sh", "-c", script, str(folder), str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,
        **user,
    )

    def stop() -> None:
        waiting.communicate()  # ends the pipe

    atexit.register(stop)


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL can't be run as root, and there is no other user.")
