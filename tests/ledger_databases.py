"""Databases for tests of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledgers import LedgerScope

SCOPE = LedgerScope("org", "gdpr", "entity", "people")


def sqlite(request: pytest.FixtureRequest, folder: Path) -> LedgerSettings:
    """Return settings for a SQLite file."""
    return LedgerSettings(ledger_url=f"sqlite:///{folder}/ledger.db", ledger_key="key")


def databases() -> list[Any]:
    """Return a maker of settings for each kind of database."""
    makers: list[Callable[..., LedgerSettings]] = [sqlite]
    return [pytest.param(maker, id=maker.__name__) for maker in makers]
