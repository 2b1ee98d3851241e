"""Runs have an exit status and the counts of their summary, rejects the direction of their run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("ledger_runs", sa.Column("exit_status", sa.Integer))
    op.add_column("ledger_runs", sa.Column("counts", sa.LargeBinary))
    op.add_column("ledger_rejects", sa.Column("direction", sa.Text))
