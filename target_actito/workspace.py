"""A private folder for import files, and what must be known of imports after a crash."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from actito_didomi import codes
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from actito_didomi.runtime import Runtime

_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600
_DAY = 86_400
"""Seconds."""
_LOCK = "lock"
_EXECUTIONS = "executions"


class Workspace:
    """Import files lie here while they are made and sent; nobody else can read them.

    A run has a folder of its own, which is locked while the run lives. A folder that isn't locked
    was left by a killed run: its files are removed at the next start, and the imports that it had
    under way are in `unfinished`, since they may yet write older values.

    Args:
        account: What distinguishes one table of one licence from others; only its hash is stored.
        runtime: Clock and random names.
        root: Folder for all runs; None for the user's own folder for the state of applications.

    Attributes:
        folder: This run's folder.
        unfinished: Ids of the imports that killed runs had under way.

    Raises:
        SettingsError: The folder belongs to somebody else, or can't be made.
    """

    def __init__(self, account: str, runtime: Runtime, root: Path | None = None) -> None:
        if root is None:
            root = platformdirs.user_state_path("actito-didomi", appauthor=False)
        account = hashlib.sha256(account.encode()).hexdigest()[:16]
        try:
            root.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
            found = root.lstat()
        except OSError as error:
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"The folder for import files, {root}, can't be made ({error.strerror}). Set "
                "XDG_STATE_HOME to a folder that can be written.",
            ) from None
        if not stat.S_ISDIR(found.st_mode) or not _is_own(found):
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"The folder for import files, {root}, belongs to another user. Set "
                "XDG_STATE_HOME to a folder of your own.",
            )
        root.chmod(_PRIVATE_FOLDER)
        self._runtime = runtime
        self._root = root
        self._starts = root / f"started-{account}"
        self._prefix = f"run-{account}-"
        self.unfinished = self._clear_up()
        self.folder = root / f"{self._prefix}{runtime.token(8)}"
        self.folder.mkdir(mode=_PRIVATE_FOLDER)
        self._lock = _lock_of(self.folder)
        self._lock.acquire()

    def record_execution(self, execution_id: str) -> None:
        """Record durably that an import is under way."""
        _append(self.folder / _EXECUTIONS, execution_id)

    def clear_executions(self) -> None:
        """Forget the imports recorded so far: their ends are known."""
        (self.folder / _EXECUTIONS).unlink(missing_ok=True)

    def count_start(self) -> None:
        """Record durably that one of the day's imports is used."""
        _append(self._starts, str(int(self._runtime.now().timestamp())))

    def started_today(self) -> int:
        """Count the imports that this user's runs started in the last 24 hours."""
        if not self._starts.exists():
            return 0
        since = self._runtime.now().timestamp() - _DAY
        starts = self._starts.read_text(encoding="utf-8").split()
        return sum(start.isdecimal() and int(start) > since for start in starts)

    def close(self) -> None:
        """Remove this run's folder; the record of imports whose end isn't known stays."""
        if not (self.folder / _EXECUTIONS).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _clear_up(self) -> list[str]:
        """Remove the files of killed runs, and return the imports that they had under way.

        The records of these imports are kept, in a folder that counts as that of a killed run
        until the ends of its imports are known.
        """
        executions: list[str] = []
        for folder in sorted(self._root.glob(f"{self._prefix}*")):
            with _locked(folder) as free:
                if not free:
                    continue
                record = folder / _EXECUTIONS
                if record.exists():
                    executions += record.read_text(encoding="utf-8").split()
                for file in folder.iterdir():
                    if file.name not in {_EXECUTIONS, _LOCK}:
                        file.unlink()
                if not record.exists():
                    shutil.rmtree(folder, ignore_errors=True)
        return executions

    def clear_unfinished(self) -> None:
        """Forget the imports of killed runs: their ends are known."""
        self.unfinished = []
        for folder in self._root.glob(f"{self._prefix}*"):
            if folder != self.folder:
                with _locked(folder) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)


def _is_own(found: os.stat_result) -> bool:
    """Return whether a file belongs to this user; Windows keeps its folders apart by itself."""
    return sys.platform == "win32" or found.st_uid == os.getuid()


def _append(path: Path, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _PRIVATE_FILE)
    try:
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock_of(folder: Path) -> FileLock:
    """Return the lock of a folder, which ends with its process, however that ends."""
    return FileLock(
        folder / _LOCK,
        timeout=0,
        mode=_PRIVATE_FILE,
        thread_local=False,
        # A lock that is a mere file would stay after a kill.
        fallback_to_soft=False,
    )


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; yield False if a living run has it."""
    lock = _lock_of(folder)
    try:
        lock.acquire()
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def account_name(base_url: str, entity: str, table: str) -> str:
    """Return what distinguishes one table of one licence from others."""
    return msgspec.json.encode([base_url, entity, table]).decode()
