"""What can't be read or was refused, kept in the ledger until it is settled."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from actito_didomi.consent.conflicts import Micros
from actito_didomi.consent.leases import Direction
from actito_didomi.consent.parts import LedgerPart
from actito_didomi.consent.rows import advance

if TYPE_CHECKING:
    from collections.abc import Collection

    from actito_didomi.consent.store import Transaction

RejectState = Literal["open", "done", "superseded", "dismissed"]
REJECT_STATES: tuple[RejectState, ...] = ("open", "done", "superseded", "dismissed")
_OPEN: tuple[RejectState, ...] = ("open",)
_ALL = 2**31
_COLUMNS = "number, state, code, person, opt_out, due, data"


class RejectDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is only read together with its reject. Holds personal data.

    Attributes:
        reason: Why, in words for the operator.
        run: Id of the run that met it last.
        first_at: When it was met first.
        attempts: How often it was met.
        stream: Stream of the record; empty if it isn't known.
        events: Ids and timestamps of the events that it comes from.
        choices: What was to be written.
        response: Words of the API that refused.
        raw: The record or line as it came, where it can't be read; its beginning if it is long.
        file: The file that the line stands in; empty for a record.
        line: Number of the line in it, from 1.
        because: Why it was dismissed.
    """

    reason: str
    run: str = ""
    first_at: Micros = 0
    attempts: int = 1
    stream: str = ""
    events: tuple[tuple[str, str], ...] = ()
    choices: Any = None
    response: str = ""
    raw: bytes = b""
    because: str = ""
    file: str = ""
    line: int = 0


class NewReject(msgspec.Struct, frozen=True, kw_only=True):
    """A reject to be stored.

    Attributes:
        code: Name of its code.
        person: Key of the person; None if it isn't known.
        opt_out: Whether it holds an opt-out, or may hold one.
        due: When to try it again.
        direction: Of the sync that met it; None where it concerns both.
        details: The rest.
    """

    code: str
    person: str | None = None
    opt_out: bool
    due: Micros
    direction: Direction | None = None
    details: RejectDetails


class StoredReject(msgspec.Struct, frozen=True):
    """A reject.

    Attributes:
        number: Its id.
        state: `open` while it is to be settled.
        code: Name of its code.
        person: Key of the person; None if it isn't known.
        opt_out: Whether it holds an opt-out, or may hold one.
        due: Not tried again before this timestamp.
        details: The rest.
    """

    number: int
    state: RejectState
    code: str
    person: str | None
    opt_out: bool
    due: Micros
    details: RejectDetails


class RejectTable(LedgerPart):
    """The rejects of a pair."""

    def add_reject(self, reject: NewReject) -> int:
        """Store a reject durably; return its number.

        One that is open already is counted there once more; one that was dismissed stays so.

        Raises:
            SettingsError: The database fails.
        """
        return self.add_rejects([reject])[0]

    def add_rejects(self, rejects: Collection[NewReject]) -> list[int]:
        """Store rejects in one transaction, each as `add_reject` does; return their numbers.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            return [self._add_reject(transaction, reject) for reject in rejects]

    def _add_reject(self, transaction: Transaction, reject: NewReject) -> int:
        digest = _digest(reject)
        known = transaction.one(
            f"SELECT {_COLUMNS} FROM ledger_rejects WHERE scope = ? AND digest = ? "  # noqa: S608
            "AND state IN ('open', 'dismissed') ORDER BY number DESC LIMIT 1",
            self._scope,
            digest,
        )
        if known is not None:
            before = _read(known)
            if before.state == "dismissed":
                return before.number
            merged = msgspec.structs.replace(
                reject.details,
                first_at=before.details.first_at,
                attempts=before.details.attempts + 1,
            )
            transaction.execute(
                "UPDATE ledger_rejects SET due = ?, data = ? WHERE scope = ? AND number = ?",
                reject.due,
                msgspec.msgpack.encode(merged),
                self._scope,
                before.number,
            )
            return before.number
        number = advance(transaction, self._scope, "rejects")
        transaction.execute(
            "INSERT INTO ledger_rejects (scope, number, state, code, person, opt_out, due, "
            "digest, data, direction) VALUES (?, ?, 'open', ?, ?, ?, ?, ?, ?, ?)",
            self._scope,
            number,
            reject.code,
            reject.person,
            reject.opt_out,
            reject.due,
            digest,
            msgspec.msgpack.encode(reject.details),
            reject.direction,
        )
        return number

    def settle_lines(self, file: str, run: str) -> None:
        """Settle the lines of a file that a run has read to its end, but for those it rejected.

        Args:
            file: The file.
            run: Id of the run.

        Raises:
            SettingsError: The database fails.
        """
        for reject in self.list_rejects(limit=_ALL):
            if reject.details.file == file and reject.details.run != run:
                self.set_reject_state(reject.number, "done")

    def list_rejects(
        self,
        states: Collection[RejectState] = _OPEN,
        *,
        code: str | None = None,
        opt_outs_only: bool = False,
        due_at: Micros | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[StoredReject]:
        """Return rejects, oldest first.

        Args:
            states: Only those in one of these states.
            code: Only those with the code of this name.
            opt_outs_only: Only those that hold an opt-out, or may hold one.
            due_at: Only those that may be tried again at this timestamp.
            after: Only those with a greater number.
            limit: Maximum number.

        Raises:
            SettingsError: The database fails.
        """
        values: list[Any] = [self._scope, after]
        query = f"SELECT {_COLUMNS} FROM ledger_rejects WHERE scope = ? AND number > ?"  # noqa: S608
        query += f" AND state IN ({', '.join('?' * len(states))})"
        values += states
        for condition, value in (("code = ?", code), ("due <= ?", due_at)):
            if value is not None:
                query += f" AND {condition}"
                values.append(value)
        if opt_outs_only:
            query += " AND opt_out"
        with self._store.read() as transaction:
            rows = transaction.all(f"{query} ORDER BY number LIMIT ?", *values, limit)
        return [_read(row) for row in rows]

    def get_reject(self, number: int) -> StoredReject | None:
        """Return a reject; None if there is none of this number.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            return _get(transaction, self._scope, number)

    def set_reject_state(self, number: int, state: RejectState, *, because: str = "") -> bool:
        """Change the state of a reject; return False if there is none of this number.

        Args:
            number: Its id.
            state: The new state.
            because: Why, with `dismissed`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            found = _get(transaction, self._scope, number)
            if found is None:
                return False
            details = msgspec.structs.replace(found.details, because=because)
            transaction.execute(
                "UPDATE ledger_rejects SET state = ?, data = ? WHERE scope = ? AND number = ?",
                state,
                msgspec.msgpack.encode(details),
                self._scope,
                number,
            )
        return True

    def retry_rejects(self, numbers: Collection[int]) -> int:
        """Make open rejects due at once; return how many there are.

        Raises:
            SettingsError: The database fails.
        """
        changed = 0
        with self._store.write() as transaction:
            for number in sorted(numbers):
                changed += transaction.execute(
                    "UPDATE ledger_rejects SET due = 0 WHERE scope = ? AND number = ? AND "
                    "state = 'open'",
                    self._scope,
                    number,
                ).rowcount
        return changed

    def count_rejects(self, direction: Direction | None = None) -> dict[tuple[str, bool], int]:
        """Return the number of open rejects by the name of their code, and whether of opt-outs.

        Args:
            direction: Only those that concern this direction; None for all.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT code, opt_out, count(*) FROM ledger_rejects WHERE scope = ? AND "
                "state = 'open' AND (direction IS NULL OR direction = coalesce(?, direction)) "
                "GROUP BY code, opt_out",
                self._scope,
                direction,
            )
        return {(code, bool(opt_out)): count for code, opt_out, count in rows}


def _get(transaction: Transaction, scope: int, number: int) -> StoredReject | None:
    row = transaction.one(
        f"SELECT {_COLUMNS} FROM ledger_rejects WHERE scope = ? AND number = ?",  # noqa: S608
        scope,
        number,
    )
    return None if row is None else _read(row)


def _read(row: Any) -> StoredReject:
    number, state, code, person, opt_out, due, data = row
    details = msgspec.msgpack.decode(data, type=RejectDetails)
    return StoredReject(number, state, code, person, bool(opt_out), due, details)


def _digest(reject: NewReject) -> str:
    """Return what is equal for the same reject met again."""
    details = reject.details
    same: tuple[Any, ...] = (details.stream, details.events, details.choices, details.raw)
    if details.file:
        same = (*same, details.file, details.line)
    encoded = msgspec.msgpack.encode((reject.code, reject.person, *same))
    return hashlib.blake2b(encoded, digest_size=12).hexdigest()
