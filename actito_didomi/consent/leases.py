"""One writer in each direction, and limits on requests, among all processes with a ledger."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from actito_didomi.consent.limits import SharedLimits
from actito_didomi.consent.parts import LedgerPart
from actito_didomi.errors import DirectionInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actito_didomi.consent.store import Locks, Store, Transaction
    from actito_didomi.runtime import Event, Runtime

Direction = Literal["forward", "reverse"]

_LEASE_POLL = 0.5
"""Seconds."""


class LeaseTable(LedgerPart):
    """The leases of a pair, and what its processes share.

    Args:
        store: The database, with its tables.
        scope: Number of the pair.
        runtime: Clock and locks.
    """

    def __init__(self, store: Store, scope: int, runtime: Runtime) -> None:
        super().__init__(store, scope, runtime)
        self._leases: list[Locks] = []
        self._limits: list[SharedLimits] = []

    def release_all(self) -> None:
        """Release all leases and limits."""
        for limits in self._limits:
            limits.close()
        for locks in self._leases:
            locks.close()

    @contextmanager
    def lease(
        self, direction: Direction, wait: float, *, holder: str = "", stop: Event | None = None
    ) -> Iterator[None]:
        """Be the only run that writes in a direction, in all processes with this ledger.

        It ends with the process, however that ends; in PostgreSQL with the connection that holds
        it, and `change` fails from then on.

        Args:
            direction: Of the pair.
            wait: Maximum time to wait for another run to end, in seconds.
            holder: What others are shown while they wait, such as the name of the plugin.
            stop: Set to end the waiting at once.

        Raises:
            DirectionInUseError: Another run has it.
            SettingsError: The database fails.
        """
        locks = self._store.locks(self._runtime)
        lock = locks.lock(f"{self._scope}-{direction}")
        stop = stop or self._runtime.event()
        until = self._runtime.monotonic() + wait
        try:
            while not lock.acquire():
                if self._runtime.monotonic() >= until or stop.is_set():
                    raise self._in_use(direction, wait)
                stop.wait(min(_LEASE_POLL, wait))
            try:
                self._name_holder(direction, holder)
                self._leases.append(locks)
                yield
            finally:
                if locks in self._leases:
                    self._leases.remove(locks)
                lock.release()
        finally:
            locks.close()

    def _check_leases(self, transaction: Transaction) -> None:
        if not all(locks.holds(transaction) for locks in self._leases):
            raise DirectionInUseError(
                "The connection that kept other runs of this direction out is lost. Nothing is "
                "lost: run again."
            )

    def _name_holder(self, direction: Direction, holder: str) -> None:
        since = self._runtime.now().isoformat(timespec="seconds")
        named = ", ".join(filter(None, [holder, self._runtime.process_name(), f"since {since}"]))
        with self._store.write() as transaction:
            transaction.execute(
                "INSERT INTO ledger_leases (scope, direction, holder) VALUES (?, ?, ?) "
                "ON CONFLICT (scope, direction) DO UPDATE SET holder = excluded.holder",
                self._scope,
                direction,
                named,
            )

    def _in_use(self, direction: Direction, wait: float) -> DirectionInUseError:
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT holder FROM ledger_leases WHERE scope = ? AND direction = ?",
                self._scope,
                direction,
            )
        return DirectionInUseError(
            f"Another run writes in the direction `{direction}` ({row[0] if row else 'unknown'}), "
            f"and has not ended within lease_wait ({wait:g} s). Nothing was written. Run again "
            "when it has ended; schedule one job per direction."
        )

    def share_limits(
        self, account: str, *, calls_per_minute: int, max_concurrency: int
    ) -> SharedLimits:
        """Return limits on requests that all processes with this ledger share.

        Args:
            account: What has the limits: the address of the API and the entity.
            calls_per_minute: Maximum requests in any minute.
            max_concurrency: Maximum requests at once.
        """
        limits = SharedLimits(
            self._store, account, calls_per_minute, max_concurrency, self._runtime
        )
        self._limits.append(limits)
        return limits
