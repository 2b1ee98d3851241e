"""The sandbox with more subscriptions in its table, for twenty mappings."""

from __future__ import annotations

from actito_didomi.commands import main
from actito_didomi.sandbox import actito_tables
from benchmarks import data

if __name__ == "__main__":
    actito_tables.TABLES[0]["subscriptions"] += [{"name": name} for name in data.SUBSCRIPTIONS]
    main()
