"""A private folder for import files."""

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
_LOCK = "lock"


class Workspace:
    """Import files lie here while they are made and sent; nobody else can read them.

    A run has a folder of its own, which is locked while the run lives. A folder that isn't locked
    was left by a killed run: it is removed at the next start.

    Args:
        account: What distinguishes one table of one licence from others; only its hash is stored.
        runtime: Random names.
        root: Folder for all runs; None for the user's own folder for the state of applications.

    Attributes:
        folder: This run's folder.

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
        self._root = root
        self._prefix = f"run-{account}-"
        self._clear_up()
        self.folder = root / f"{self._prefix}{runtime.token(8)}"
        self.folder.mkdir(mode=_PRIVATE_FOLDER)
        self._lock = _lock_of(self.folder)
        self._lock.acquire()

    def close(self) -> None:
        """Remove this run's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _clear_up(self) -> None:
        """Remove the folders of killed runs."""
        for folder in sorted(self._root.glob(f"{self._prefix}*")):
            with _locked(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


def _is_own(found: os.stat_result) -> bool:
    """Return whether a file belongs to this user; Windows keeps its folders apart by itself."""
    return sys.platform == "win32" or found.st_uid == os.getuid()


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
