"""Looks keep the highest `profileId` that they showed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("ledger_looks", sa.Column("highest_id", sa.BigInteger))
