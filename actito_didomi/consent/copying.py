"""A copy of a whole ledger in another database: the same ledger, with the same id."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from actito_didomi import codes
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.schema import LedgerScope, keep_key, open_database
from actito_didomi.consent.store import sqlite_path
from actito_didomi.consent.tables import METADATA
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from actito_didomi.consent.config import LedgerSettings
    from actito_didomi.consent.store import Store
    from actito_didomi.runtime import Runtime

_BATCH_SIZE = 10_000
_OF_PROCESSES = frozenset({"ledger_version", "ledger_leases", "ledger_requests"})
"""Tables that are not copied."""


def list_pairs(settings: LedgerSettings, runtime: Runtime) -> list[str]:
    """Return the names of the pairs in a ledger that exists; that of the only one may be empty.

    Raises:
        SettingsError: There is no ledger, or it can't be used.
    """
    store, _ = open_database(_existing(settings), runtime)
    try:
        with store.read() as transaction:
            rows = transaction.all("SELECT name FROM ledger_scopes ORDER BY number")
    finally:
        store.close()
    return [str(row[0]) for row in rows]


def open_pair(settings: LedgerSettings, name: str, runtime: Runtime) -> Ledger:
    """Open a pair of a ledger that exists.

    Raises:
        SettingsError: There is no ledger, or it can't be used.
    """
    named = msgspec.structs.replace(_existing(settings), ledger_scope=name)
    return Ledger.open(named, LedgerScope(), runtime)


def _existing(settings: LedgerSettings) -> LedgerSettings:
    return msgspec.structs.replace(settings, require_ledger=True)


def copy_ledger(
    settings: LedgerSettings, url: str, runtime: Runtime, report: Callable[[str, int], None]
) -> None:
    """Copy a ledger to an empty database, while no run of it writes.

    The key of the hashes goes with it: to a SQLite file as a file next to it.

    Args:
        settings: The ledger to copy.
        url: URL of the database to copy it to; it must hold no ledger.
        runtime: Clock and engine.
        report: Called with the name of each table, and the number of its rows.

    Raises:
        DirectionInUseError: A run writes.
        SettingsError: One of the databases can't be used, or there is a ledger already.
    """
    with ExitStack() as stack:
        for name in list_pairs(settings, runtime):
            pair = open_pair(settings, name, runtime)
            stack.callback(pair.close)
            stack.enter_context(pair.lease("forward", 0, holder="actito-didomi ledger copy"))
            stack.enter_context(pair.lease("reverse", 0, holder="actito-didomi ledger copy"))
        source, key = open_database(_existing(settings), runtime)
        stack.callback(source.close)
        copied = msgspec.structs.replace(
            settings, ledger_url=url, ledger_key=key, require_ledger=False
        )
        target, _ = open_database(copied, runtime)
        stack.callback(target.close)
        _copy_tables(source, target, report)
        if target.path is not None:
            keep_key(target.path, key, runtime)


def copy_for_trial(settings: LedgerSettings, folder: Path, runtime: Runtime) -> LedgerSettings:
    """Return settings of a copy of the ledger in a folder, which is used instead; for a dry run.

    Where there is no ledger yet, the copy is a new one.

    Args:
        settings: The ledger.
        folder: The folder, which only this user can read.
        runtime: Clock and engine.

    Raises:
        SettingsError: The ledger can't be used.
    """
    url = f"sqlite:///{folder / 'trial.db'}"
    path = sqlite_path(settings.ledger_url)
    if path is not None and not path.exists():
        if settings.require_ledger:
            open_database(settings, runtime)  # which says what is missing
        return msgspec.structs.replace(settings, ledger_url=url)
    try:
        source, key = open_database(_existing(settings), runtime)
    except SettingsError as error:
        if error.code is not codes.LEDGER_MISSING or settings.require_ledger:
            raise
        return msgspec.structs.replace(settings, ledger_url=url)
    copied = msgspec.structs.replace(settings, ledger_url=url, ledger_key=key, require_ledger=False)
    try:
        target, _ = open_database(copied, runtime)
        try:
            _copy_tables(source, target, _report_nothing)
        finally:
            target.close()
    finally:
        source.close()
    return copied


def _report_nothing(table: str, rows: int) -> None:
    del table, rows


def _copy_tables(source: Store, target: Store, report: Callable[[str, int], None]) -> None:
    with source.read() as from_transaction, target.write() as transaction:
        if transaction.one("SELECT 1 FROM ledger_scopes LIMIT 1") is not None:
            raise SettingsError(
                codes.UNUSABLE_DATABASE,
                "--to: there is a ledger already, which would be lost. Name an empty database.",
            )
        transaction.execute("DELETE FROM ledger_info")
        for table in METADATA.sorted_tables:
            if table.name in _OF_PROCESSES:
                continue
            rows = from_transaction.connection.execution_options(yield_per=_BATCH_SIZE).execute(
                table.select()
            )
            count = 0
            for part in rows.mappings().partitions(_BATCH_SIZE):
                transaction.connection.execute(table.insert(), [dict(row) for row in part])
                count += len(part)
            report(table.name, count)
