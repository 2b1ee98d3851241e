"""Databases of the project's own, at any URL that SQLAlchemy knows."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from actito_didomi import codes
from actito_didomi.errors import SettingsError, how_to_install

if TYPE_CHECKING:
    from actito_didomi.runtime import Runtime

_PATIENCE = 60
"""Seconds to wait while another process writes to a SQLite file."""


def open_store(url: str, tables: sa.MetaData, setting: str, runtime: Runtime) -> sa.Engine:
    """Open a database, and create the tables that it lacks.

    A SQLite file is created with mode 0600, since it holds personal data.

    Args:
        url: URL of the database.
        tables: Tables that it must have.
        setting: Name of the setting that holds the URL, for messages.
        runtime: Makes the engine.

    Raises:
        SettingsError: The database can't be used.
    """
    try:
        parsed = make_url(url)
        is_file = parsed.drivername.startswith("sqlite")
        if is_file and parsed.database not in (None, ":memory:"):
            _make_private(str(parsed.database))
        engine = runtime.engine(parsed, {"timeout": _PATIENCE} if is_file else {})
        tables.create_all(engine)
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        # Texts of drivers may hold the password.
        raise SettingsError(
            codes.UNUSABLE_DATABASE,
            f"{setting}: the database can't be used ({type(error).__name__}). Check the address "
            "and the rights, and that its driver is installed. For PostgreSQL the address begins "
            f"with postgresql+psycopg://; install its driver: {how_to_install('postgres')}.",
        ) from None
    return engine


def _make_private(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
