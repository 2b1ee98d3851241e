"""Databases of the project's own, at any URL that SQLAlchemy knows."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from actito_didomi import codes
from actito_didomi.errors import SettingsError, how_to_install

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actito_didomi.runtime import ProcessLock, Runtime

_PATIENCE = 60
"""Seconds to wait while another process writes to a SQLite file."""


def _make_private(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


# The consent ledger's database

_FILES = ("", "-wal", "-shm")
"""What is appended to the name of a SQLite file for the files that belong to it."""
LOCKS = ".locks"
"""What is appended to the name of a SQLite file for the folder of its locks."""
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "beegfs", "gpfs"}
)
_NETWORK_PREFIXES = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone")
_MOUNTS = Path("/proc/self/mounts")
_SERIALIZED = frozenset({"40001", "40P01"})
"""PostgreSQL's states for a deadlock and its like: worth another attempt."""


class Store:
    """A database in SQLite or PostgreSQL, for short transactions from any number of threads.

    SQL has `?` for parameters, and is passed to the driver as it is.

    Args:
        engine: Connections to the database.
        path: The file of a SQLite database; None for PostgreSQL.

    Attributes:
        engine: The same.
        path: The same.
    """

    def __init__(self, engine: sa.Engine, path: Path | None) -> None:
        self.engine = engine
        self.path = path
        if self.is_sqlite:
            sa.event.listen(engine, "connect", _prepare_sqlite)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite rather than PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Open a transaction that sees one state of the database.

        Raises:
            SettingsError: The database fails.
        """
        with self._transaction("BEGIN") as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Open a transaction that may write; in SQLite there is one at a time.

        An exception rolls it back.

        Raises:
            SettingsError: The database fails.
        """
        with self._transaction("BEGIN IMMEDIATE") as transaction:
            yield transaction
            transaction.connection.commit()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        try:
            with self.engine.connect() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql(begin)
                yield Transaction(connection, is_sqlite=self.is_sqlite)
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None

    def locks(self, runtime: Runtime) -> Locks:
        """Return new locks among processes: files next to SQLite, else locks of PostgreSQL."""
        if self.path is None:
            return AdvisoryLocks(self.engine)
        return FileLocks(self.path.with_name(self.path.name + LOCKS), runtime)

    def checkpoint(self) -> None:
        """Move what is in SQLite's log to its file, and empty the log.

        Raises:
            SettingsError: The database fails.
        """
        if not self.is_sqlite:
            return
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class Locks(Protocol):
    """Locks among processes, which end with the process; for one thread at a time."""

    def lock(self, name: str) -> ProcessLock:
        """Return a lock; those of one name exclude each other."""

    def holds(self, transaction: Transaction) -> bool:
        """Return whether the locks that were taken are still held."""

    def close(self) -> None:
        """Release all."""


class FileLocks:
    """Locks by means of files.

    Args:
        folder: Where they lie; made, with mode 0700, if needed.
        runtime: Makes the locks.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self._folder = folder
        self._runtime = runtime

    def lock(self, name: str) -> ProcessLock:
        """Return a lock; those of one name exclude each other."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._runtime.process_lock(self._folder / f"{name}.lock")

    def holds(self, transaction: Transaction) -> bool:
        """Return whether the locks that were taken are still held: always."""
        del transaction
        return True

    def close(self) -> None:
        """Release nothing: each lock is released by itself."""


class AdvisoryLocks:
    """Locks of PostgreSQL, all held by one connection, and lost with it.

    Args:
        engine: Connections to the database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None
        self._backend = 0

    def lock(self, name: str) -> ProcessLock:
        """Return a lock; those of one name exclude each other."""
        digest = hashlib.blake2b(f"actito-didomi {name}".encode(), digest_size=8).digest()
        return _AdvisoryLock(self, int.from_bytes(digest, "big", signed=True))

    def holds(self, transaction: Transaction) -> bool:
        """Return whether the locks that were taken are still held."""
        query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = ?"
        return transaction.one(query, self._backend) is not None

    def close(self) -> None:
        """Release all."""
        if self._connection is not None:
            self._connection.invalidate()  # the locks end with it
            self._connection.close()
            self._connection = None

    def ask(self, question: str, key: int) -> bool:
        """Return the answer to a question about a lock."""
        try:
            if self._connection is None:
                connection = self._engine.connect()
                self._connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                row = self._connection.exec_driver_sql("SELECT pg_backend_pid()").one()
                self._backend = int(row[0])
            return bool(self._connection.exec_driver_sql(question, (key,)).one()[0])
        except sa.exc.SQLAlchemyError as error:
            self.close()
            raise _failure(error) from None


class _AdvisoryLock:
    def __init__(self, locks: AdvisoryLocks, key: int) -> None:
        self._locks = locks
        self._key = key

    def acquire(self) -> bool:
        return self._locks.ask("SELECT pg_try_advisory_lock(%s)", self._key)

    def release(self) -> None:
        with suppress(SettingsError):  # a lost connection holds no lock
            self._locks.ask("SELECT pg_advisory_unlock(%s)", self._key)


class Transaction:
    """A transaction of a `Store`.

    Args:
        connection: The connection.
        is_sqlite: Whether it is SQLite.

    Attributes:
        connection: The same.
        is_sqlite: The same.
    """

    def __init__(self, connection: sa.Connection, *, is_sqlite: bool) -> None:
        self.connection = connection
        self.is_sqlite = is_sqlite

    def execute(self, sql: str, *values: Any) -> sa.CursorResult[Any]:
        """Execute a statement."""
        return self.connection.exec_driver_sql(self._placed(sql), values)

    def execute_many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute a statement for each of the rows; there may be none."""
        if rows:
            self.connection.exec_driver_sql(self._placed(sql), list(rows))

    def one(self, sql: str, *values: Any) -> Any:
        """Return the first row of a query; None if it has none."""
        return self.execute(sql, *values).fetchone()

    def all(self, sql: str, *values: Any) -> Sequence[Any]:
        """Return all rows of a query."""
        result = self.execute(sql, *values)
        if self.is_sqlite and result.cursor is not None:
            rows = result.cursor.fetchall()  # tuples of the driver take half the time
            result.close()
            return rows
        return result.fetchall()

    def _placed(self, sql: str) -> str:
        return sql if self.is_sqlite else sql.replace("?", "%s")


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database, absolute; None for any other URL."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
            return None
    except (sa.exc.SQLAlchemyError, ValueError):
        return None
    return Path(str(parsed.database)).absolute()


def connect(url: str, runtime: Runtime) -> Store:
    """Connect to the database of the ledger; a SQLite file is made, with mode 0600, if needed.

    Args:
        url: URL of SQLAlchemy, of SQLite or PostgreSQL.
        runtime: Makes the engine.

    Raises:
        SettingsError: The URL can't be used.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise SettingsError(
                codes.UNUSABLE_DATABASE,
                f"ledger_url: a ledger can't be kept in {parsed.get_backend_name()}. Use "
                "sqlite:///FILE or postgresql+psycopg://..., or `none`.",
            )
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in {None, "", ":memory:"}:
                raise SettingsError(
                    codes.UNUSABLE_DATABASE,
                    "ledger_url: a ledger in memory would be lost with each run. Name a file: "
                    "sqlite:///FILE.",
                )
            path = Path(str(parsed.database)).absolute()
            refuse_network(path)
            _make_private(str(path))
            for part in _FILES:  # made by an earlier run, or by hand
                close_to_others(path.with_name(path.name + part))
            return Store(runtime.engine(parsed, {"timeout": _PATIENCE}), path)
        options = {"application_name": "actito-didomi", "keepalives_idle": 60}
        return Store(runtime.engine(parsed, options), None)
    except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise _unusable(error) from None


def is_worth_repeating(error: sa.exc.DBAPIError) -> bool:
    """Return whether PostgreSQL ended a transaction for the sake of another one."""
    return getattr(error.orig, "sqlstate", None) in _SERIALIZED


def close_to_others(path: Path) -> None:
    """Close a file to everybody but its owner, if it is there.

    Raises:
        OSError: It belongs to somebody else, and others can read it.
    """
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            path.chmod(mode & 0o700)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # transactions begin where we say so
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def refuse_network(path: Path, mounts: Path = _MOUNTS) -> None:
    """Check that a SQLite file isn't to lie on a network file system, where locks don't hold.

    Args:
        path: The file, absolute.
        mounts: The table of mounts of Linux; on other systems nothing is checked.

    Raises:
        SettingsError: It would.
    """
    kind = _file_system(path, mounts)
    if kind in _NETWORK or kind.startswith(_NETWORK_PREFIXES):
        raise SettingsError(
            codes.UNUSABLE_DATABASE,
            f"ledger_url: {path} lies on a network file system ({kind}), where SQLite's locks "
            "don't hold. Use a local disk, or PostgreSQL.",
        )


def _file_system(path: Path, mounts: Path) -> str:
    """Return the type of the file system of a path; empty where it isn't known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = Path(os.path.realpath(path))
    best, kind = -1, ""
    for line in lines:
        _, point, found, *_ = [*line.split(" "), "", "", ""]
        place = Path(_unescape(point))
        if (place == real or place in real.parents) and len(place.parts) >= best:
            best, kind = len(place.parts), found
    return kind


def _unescape(point: str) -> str:
    """Read the octal escapes of the table of mounts."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), point)


def _unusable(error: Exception) -> SettingsError:
    # Texts of drivers may hold the password.
    if isinstance(error, sa.exc.ArgumentError):
        return SettingsError(
            codes.UNUSABLE_DATABASE,
            "ledger_url: must be a URL of SQLAlchemy, such as sqlite:///actito-didomi.db or "
            "postgresql+psycopg://user@host/database, or `none`.",
        )
    if isinstance(error, OSError) and error.filename:
        return SettingsError(
            codes.UNUSABLE_DATABASE,
            f"ledger_url: {error.filename} can't be used ({error.strerror}). Name a file in a "
            "folder that this user may write to.",
        )
    return SettingsError(
        codes.UNUSABLE_DATABASE,
        f"ledger_url: the database can't be used ({_kind(error)}). Check the address and the "
        "rights, and that its driver is installed. For PostgreSQL the address begins with "
        f"postgresql+psycopg://; install its driver: {how_to_install('postgres')}.",
    )


def _failure(error: sa.exc.SQLAlchemyError) -> SettingsError:
    code = getattr(getattr(error, "orig", None), "sqlite_errorname", None) or ""
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return SettingsError(
            codes.UNUSABLE_DATABASE,
            f"ledger_url: the database is damaged ({_kind(error)}). Put the file aside, and "
            "restore a backup of it, with the state of the same time or an older one.",
        )
    if code.startswith("SQLITE_FULL"):
        return SettingsError(
            codes.UNUSABLE_DATABASE,
            f"ledger_url: no space is left for the database ({_kind(error)}). Make room, and run "
            "again; what was not written is attempted again.",
        )
    return SettingsError(
        codes.UNUSABLE_DATABASE,
        f"ledger_url: the database fails ({_kind(error)}). Check that it can be reached, its "
        "rights and the space on its disk, and run again: nothing is lost.",
    )


def _kind(error: Exception) -> str:
    """Return the type of an error and the code of the driver, which hold no value."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    return f"{type(error).__name__}, {code}" if code else type(error).__name__
