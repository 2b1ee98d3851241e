"""Migrations of the ledger's tables, by Alembic; imported only where there is one to carry out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

if TYPE_CHECKING:
    import sqlalchemy as sa

VERSION_TABLE = "ledger_version"


def upgrade(connection: sa.Connection, to: str = "head") -> None:
    """Bring the tables to the newest version.

    Args:
        connection: In a transaction that may write, which the caller commits.
        to: An older version to stop at, for tests.
    """
    scripts = ScriptDirectory(str(Path(__file__).parent))

    def find_steps(version: Any, context: Any) -> Any:
        del context
        return scripts._upgrade_revs(to, version)  # noqa: SLF001 - as Alembic's own commands

    with EnvironmentContext(Config(), scripts, fn=find_steps) as environment:
        environment.configure(
            connection=connection,
            version_table=VERSION_TABLE,
            transactional_ddl=False,  # the caller's transaction holds all of it
        )
        environment.run_migrations()
