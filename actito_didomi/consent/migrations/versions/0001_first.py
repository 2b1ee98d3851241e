"""The first version of the ledger's tables."""

from __future__ import annotations

from alembic import op

from actito_didomi.consent.tables import METADATA

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    METADATA.create_all(op.get_bind())
