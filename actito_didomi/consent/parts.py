"""What the parts of the ledger have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actito_didomi.consent.store import Store
    from actito_didomi.runtime import Runtime


class LedgerPart:
    """A part of the ledger of one pair.

    Args:
        store: The database, with its tables.
        scope: Number of the pair.
        runtime: Clock and locks.
    """

    def __init__(self, store: Store, scope: int, runtime: Runtime) -> None:
        self._store = store
        self._scope = scope
        self._runtime = runtime
