"""Actito's limits on requests, shared by all processes that have the same ledger.

How many requests run at once is held by locks, one for each, which end with their process. How many
were made in the last minute stands in a table of the ledger.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from actito_didomi.consent.conflicts import to_micros

if TYPE_CHECKING:
    from actito_didomi.consent.conflicts import Micros
    from actito_didomi.consent.store import Store
    from actito_didomi.runtime import ProcessLock, Runtime

_SECOND = 1_000_000
_VALID = _SECOND
"""How long turns that were taken from the table may be used."""
_WINDOW = 60 * _SECOND + _SECOND // 2 + _VALID
"""The server counts a request on arrival, the table counts it when its turn is taken."""


class SharedLimits:
    """Limits of one account, for any number of threads.

    Args:
        store: The database of the ledger.
        account: What has the limits.
        calls_per_minute: Maximum requests in any minute, of all processes.
        max_concurrency: Maximum requests at once, of all processes.
        runtime: Clock and locks.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        calls_per_minute: int,
        max_concurrency: int,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._account = account
        self._calls_per_minute = calls_per_minute
        self._runtime = runtime
        self._process = runtime.token(8)
        self._lock = runtime.lock()
        self._locks = store.locks(runtime)
        name = hashlib.blake2b(account.encode(), digest_size=6).hexdigest()
        self._free = [self._locks.lock(f"request-{name}-{n}") for n in range(max_concurrency)]
        self._taken: list[ProcessLock] = []
        self._turns = 0
        self._taken_at = self._wait_until = 0

    def begin(self) -> bool:
        """Begin a request if the limits allow it now; each that begins must end.

        Raises:
            SettingsError: The database fails.
        """
        with self._lock:
            now = to_micros(self._runtime.now())
            if not self._has_turn(now):
                return False
            for lock in self._free:
                if lock.acquire():
                    self._free.remove(lock)
                    self._taken.append(lock)
                    self._turns -= 1
                    return True
            return False

    def end(self) -> None:
        """End a request."""
        with self._lock:
            lock = self._taken.pop()
            lock.release()
            self._free.append(lock)

    def close(self) -> None:
        """Release what is held."""
        with self._lock:
            for lock in self._taken:
                lock.release()
            self._taken.clear()
            self._locks.close()

    def _has_turn(self, now: Micros) -> bool:
        if self._turns > 0 and 0 <= now - self._taken_at < _VALID:
            return True
        if self._taken_at <= now < self._wait_until:
            return False
        self._turns, self._taken_at = 0, now
        self._turns, self._wait_until = self._take_turns(now)
        return self._turns > 0

    def _take_turns(self, now: Micros) -> tuple[int, Micros]:
        """Record as many turns as are used in a second; return them, and when there may be more."""
        with self._store.write() as transaction:
            rows = transaction.all(
                "SELECT at, count FROM ledger_requests WHERE account = ? AND at > ? AND at <= ?",
                self._account,
                now - _WINDOW,
                now + _WINDOW,  # of a process whose clock is ahead
            )
            left = self._calls_per_minute - sum(count for _, count in rows)
            if left <= 0:
                return 0, min((at for at, _ in rows), default=now) + _WINDOW
            turns = min(left, max(1, self._calls_per_minute // 60))
            transaction.execute(
                "DELETE FROM ledger_requests WHERE account = ? AND (at <= ? OR at > ?)",
                self._account,
                now - _WINDOW,
                now + _WINDOW,
            )
            transaction.execute(
                "INSERT INTO ledger_requests (account, at, process, count) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (account, at, process) DO UPDATE SET "
                "count = ledger_requests.count + excluded.count",
                self._account,
                now,
                self._process,
                turns,
            )
        return turns, 0
