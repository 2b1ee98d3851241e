"""The ledger in a database: its tables and their version, its id, its pairs, its key."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from actito_didomi import codes, privacy
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.git import find_unignored
from actito_didomi.consent.store import close_to_others, connect, sqlite_path
from actito_didomi.consent.tables import METADATA, VERSIONS
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from actito_didomi.consent.config import LedgerSettings
    from actito_didomi.consent.store import Store, Transaction
    from actito_didomi.runtime import Runtime

logger = logging.getLogger(__name__)

_CREATION = 0x41447_1ED6E5
"""PostgreSQL's advisory lock on making the tables."""
_PARTS = ("organization", "regulation", "entity", "table_name")
_SETTINGS = {
    "organization": "organization_id",
    "regulation": "regulation",
    "entity": "entity_id",
    "table_name": "table_name",
}
"""The settings that parts of a pair come from."""


@dataclass(frozen=True)
class LedgerScope:
    """A pair of Didomi organisation and Actito table, as far as a plugin knows it.

    Attributes:
        organization: Id of the Didomi organisation; empty if it isn't known.
        regulation: Regulation in Didomi; empty if it isn't known.
        entity: Name of the entity in Actito; empty if it isn't known.
        table: Name of the profile table in Actito; empty if it isn't known.
    """

    organization: str = ""
    regulation: str = ""
    entity: str = ""
    table: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts in the form in which they are compared: without blanks around, in one case."""
        return tuple(
            part.strip().casefold()
            for part in (self.organization, self.regulation, self.entity, self.table)
        )


@dataclass(frozen=True)
class Prepared:
    """A ledger that is ready.

    Attributes:
        ledger_id: Its id, and the name of the pair if it has one.
        scope: Number of the pair.
        key: Key of the hashes.
        is_new: Whether nothing is known there yet.
    """

    ledger_id: str
    scope: int
    key: str
    is_new: bool


def open_database(settings: LedgerSettings, runtime: Runtime) -> tuple[Store, str]:
    """Open the database of a ledger, which is made or brought to the newest version if needed.

    Returns:
        The database, and the key of the hashes.

    Raises:
        SettingsError: It can't be used, is of a newer version, is missing although it is required,
            or has no key.
    """
    path = sqlite_path(settings.ledger_url)
    if settings.require_ledger and path is not None and not path.exists():
        raise _missing_ledger(path)
    store = connect(settings.ledger_url, runtime)
    try:
        return store, _prepare(store, settings, runtime)
    except BaseException:
        store.close()
        raise


def _prepare(store: Store, settings: LedgerSettings, runtime: Runtime) -> str:
    if store.path is None and not settings.ledger_key:
        raise SettingsError(
            codes.INVALID_SETTING,
            "ledger_key is required with a shared database: set any random text, the same in all "
            "four plugins.",
        )
    version = _version(store)
    if version is None and settings.require_ledger:
        raise _missing_ledger(store.path)
    key = _read_key(store, settings, runtime)
    privacy.protect([key])
    if store.path is not None:
        for line in find_unignored(store.path):
            logger.warning(
                "The ledger holds personal data and lies in a work tree of git that doesn't ignore "
                "it. Add this line to %s: %s",
                store.path.with_name(".gitignore"),
                line,
            )
    if version is None:
        _create(store, key, runtime)
    elif version != VERSIONS[-1]:
        _upgrade(store, version)
    return key


def find_pair(store: Store, settings: LedgerSettings, scope: LedgerScope, key: str) -> Prepared:
    """Return the pair that is meant, which is added or completed if needed.

    Raises:
        SettingsError: It isn't clear which pair is meant.
    """
    with store.write() as transaction:
        ledger_id, key_check = transaction.one("SELECT id, key_check FROM ledger_info")
        number = _find_scope(transaction, settings.ledger_scope, scope)
        is_new = not _holds(transaction, number, "ledger_people", "ledger_looks")
    if key_check != _check_of(key):
        logger.warning(
            "ledger_key isn't the one that the ledger was made with: hashes of people differ from "
            "those in earlier logs. Set the same key in all plugins."
        )
    # Plugins of different pairs are distinguished like those of different ledgers.
    named = f"{ledger_id}/{settings.ledger_scope}" if settings.ledger_scope else ledger_id
    return Prepared(named, number, key, is_new)


def _missing_ledger(path: Path | None) -> SettingsError:
    """Return the error that a ledger which is required doesn't exist."""
    place = "in this database" if path is None else f"at {path}"
    return SettingsError(
        codes.LEDGER_MISSING,
        f"ledger_url: there is no ledger {place}. Run in the folder in which the other plugins "
        "run, or set the same ledger_url as they have; if it is lost, restore it. A plugin without "
        "require_ledger begins a new one.",
    )


# Tables and their version


def _version(store: Store) -> str | None:
    """Return the version of the schema; None where there is no ledger."""
    with store.read() as transaction:
        if not sa.inspect(transaction.connection).has_table("ledger_version"):
            return None
        row = transaction.one("SELECT version_num FROM ledger_version")
        return None if row is None else str(row[0])


def _create(store: Store, key: str, runtime: Runtime) -> None:
    """Make the tables, unless another process was faster."""
    with store.write() as transaction:
        _lock_tables(transaction)
        if sa.inspect(transaction.connection).has_table("ledger_version"):
            return
        METADATA.create_all(transaction.connection, checkfirst=False)
        transaction.execute("INSERT INTO ledger_version (version_num) VALUES (?)", VERSIONS[-1])
        transaction.execute(
            "INSERT INTO ledger_info (id, created, key_check) VALUES (?, ?, ?)",
            runtime.token(16),
            to_micros(runtime.now()),
            _check_of(key),
        )


def _upgrade(store: Store, version: str) -> None:
    if version not in VERSIONS:
        raise SettingsError(
            codes.LEDGER_TOO_NEW,
            f"ledger_url: the ledger is of version {version}, and this release knows "
            f"{VERSIONS[-1]} at most. Use the release that wrote it, or a later one.",
        )
    from actito_didomi.consent.migrations import upgrade  # noqa: PLC0415 - slow, rarely needed

    with store.write() as transaction:
        _lock_tables(transaction)
        upgrade(transaction.connection)


def _lock_tables(transaction: Transaction) -> None:
    """Keep other processes from doing the same at the same time; SQLite has one writer anyway."""
    if not transaction.is_sqlite:
        transaction.execute("SELECT pg_advisory_xact_lock(?)", _CREATION)


# The key


def _read_key(store: Store, settings: LedgerSettings, runtime: Runtime) -> str:
    """Return the key of the hashes; next to a SQLite ledger it is made if it is missing."""
    if settings.ledger_key or store.path is None:
        return settings.ledger_key
    with suppress(FileNotFoundError):
        if text := _read_key_file(key_path(store.path)):
            return text
    return keep_key(store.path, runtime.token(32), runtime)


def _read_key_file(path: Path) -> str:
    try:
        close_to_others(path)
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable_key(path, error) from None


def keep_key(database: Path, key: str, runtime: Runtime) -> str:
    """Store a key next to a SQLite ledger, unless there is one; return the one that is there.

    Raises:
        SettingsError: The file can't be written.
    """
    path = key_path(database)
    # Whole at once, since two processes may do this at the same time.
    draft = path.with_name(f"{path.name}.{runtime.token(8)}")
    try:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(handle, key.encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    except OSError as error:
        raise _unusable_key(path, error) from None
    return _read_key_file(path)


def _unusable_key(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        codes.UNUSABLE_PATH,
        f"ledger_key: {path} can't be used ({type(error).__name__}). Check its rights, or set "
        "ledger_key.",
    )


def key_path(path: Path) -> Path:
    """Return where the key of a SQLite ledger lies."""
    return path.with_name(path.name + ".key")


def _check_of(key: str) -> str:
    return hashlib.blake2b(b"check", key=hashlib.sha256(key.encode()).digest()).hexdigest()[:16]


# Pairs


def _find_scope(transaction: Transaction, name: str, scope: LedgerScope) -> int:
    """Return the number of the pair that is meant, and complete what wasn't known of it.

    Without a name there can be one pair only, so two plugins of one pair can't miss each other.

    Raises:
        SettingsError: The pair in the ledger is another one.
    """
    _lock_tables(transaction)
    rows = transaction.all(
        f"SELECT number, name, {', '.join(_PARTS)} FROM ledger_scopes"  # noqa: S608 - our names
    )
    for number, known_name, *known in rows:
        if known_name != name:
            continue
        for part, before, now in zip(_PARTS, known, scope.parts, strict=True):
            differs = bool(before) and before != now
            if now and differs and not _is_mistaken(transaction, number):
                raise _another_pair(name, part, before, now)
            if now and (differs or not before):
                transaction.execute(
                    f"UPDATE ledger_scopes SET {part} = ? WHERE number = ?",  # noqa: S608 - our names
                    now,
                    number,
                )
        return int(number)
    if rows and not name:
        named = ", ".join(sorted(row[1] for row in rows))
        raise SettingsError(
            codes.AMBIGUOUS_SCOPE,
            f"ledger_scope is needed, since the ledger holds pairs with a name: {named}. Set the "
            "name of the pair that is meant, the same in all of its plugins.",
        )
    number = max((row[0] for row in rows), default=0) + 1
    transaction.execute(
        "INSERT INTO ledger_scopes (number, name, organization, regulation, entity, table_name, "
        "imports, found, runs, rejects) VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, 0)",
        number,
        name,
        *scope.parts,
    )
    return number


def _is_mistaken(transaction: Transaction, number: int) -> bool:
    """Return whether a pair comes from settings that were wrong: all its runs have failed.

    Nothing was learned, so the pair can be corrected like the settings.
    """
    runs, failed = transaction.one(
        "SELECT count(*), count(CASE WHEN ended IS NOT NULL AND exit_status > 0 THEN 1 END) "
        "FROM ledger_runs WHERE scope = ?",
        number,
    )
    learned = ("ledger_people", "ledger_looks", "ledger_imports", "ledger_rejects")
    return 0 < runs == failed and not _holds(transaction, number, *learned)


def _holds(transaction: Transaction, number: int, *tables: str) -> bool:
    """Return whether one of these tables holds anything of a pair."""
    return any(
        transaction.one(f"SELECT 1 FROM {table} WHERE scope = ? LIMIT 1", number)  # noqa: S608
        for table in tables
    )


def _another_pair(name: str, part: str, before: str, now: str) -> SettingsError:
    called = f"its pair {name!r}" if name else "its only pair"
    return SettingsError(
        codes.AMBIGUOUS_SCOPE,
        f"ledger_scope: the ledger belongs to another pair. {_SETTINGS[part]} is {now!r}, and of "
        f"{called} it is {before!r}. Correct the setting; or, to keep several pairs of Didomi "
        "organisation and Actito table in one database, set ledger_scope to a name of the pair in "
        "all of its plugins; or use another ledger_url.",
    )
