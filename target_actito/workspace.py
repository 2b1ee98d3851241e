"""A private folder for import files, and what must be known of imports after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from actito_didomi import codes
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRIVATE = 0o700
_DAY = 86_400
_LOCK = "lock"
_NOTE = "executions"


class Workspace:
    """Import files lie here while they are made and sent; nobody else can read them.

    A run has a folder of its own, which is locked while the run lives. A folder that isn't locked
    is what a killed run left: its files are removed at the next start, and the imports that it had
    under way are told, since they may yet write what it read.

    Args:
        account: What tells one table of one licence from others; only its hash is stored.
        root: Folder for all runs; None for one of this user's below the system's temporary folder.

    Raises:
        SettingsError: The folder belongs to somebody else, or can't be made.
    """

    def __init__(self, account: str, root: Path | None = None) -> None:
        if root is None:
            root = Path(tempfile.gettempdir()) / f"actito-didomi-{os.getuid()}"
        account = hashlib.sha256(account.encode()).hexdigest()[:16]
        try:
            root.mkdir(mode=_PRIVATE, exist_ok=True)
            found = root.lstat()
        except OSError as error:
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"The folder for import files, {root}, can't be made ({error.strerror}). Set "
                "TMPDIR to a folder that can be written.",
            ) from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"{root} belongs to somebody else. Set TMPDIR to a folder of your own.",
            )
        root.chmod(_PRIVATE)
        self._used = root / f"started-{account}"
        self._prefix = f"run-{account}-"
        self._root = root
        self.left_behind = self._clear_up()
        self.folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=root))
        self._lock = _lock(self.folder)

    def note(self, execution_id: str) -> None:
        """Note durably that an import is under way."""
        _append(self.folder / _NOTE, execution_id)

    def settled(self) -> None:
        """Forget the imports noted so far: their ends are known."""
        (self.folder / _NOTE).unlink(missing_ok=True)

    def count_start(self) -> None:
        """Note durably that one of the day's imports is used."""
        _append(self._used, str(int(time.time())))

    def started_today(self) -> int:
        """Count the imports that this user's runs started in the last 24 hours."""
        if not self._used.exists():
            return 0
        since = time.time() - _DAY
        recent = [n for n in self._used.read_text().split() if n.isdecimal() and int(n) > since]
        return len(recent)

    def close(self) -> None:
        """Remove this run's folder; a note of imports whose end isn't known stays."""
        if not (self.folder / _NOTE).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def _clear_up(self) -> list[str]:
        """Remove what killed runs left, and give the imports that they had under way.

        Their notes are kept, in a folder that counts as left behind until its imports are settled.
        """
        executions: list[str] = []
        for folder in sorted(self._root.glob(f"{self._prefix}*")):
            with _locked(folder) as free:
                if not free:
                    continue
                note = folder / _NOTE
                if note.exists():
                    executions += note.read_text().split()
                for file in folder.iterdir():
                    if file.name not in {_NOTE, _LOCK}:
                        file.unlink()
                if not note.exists():
                    shutil.rmtree(folder, ignore_errors=True)
        return executions

    def forget_left_behind(self) -> None:
        """Forget the imports of killed runs: their ends are known."""
        self.left_behind = []
        for folder in self._root.glob(f"{self._prefix}*"):
            if folder != self.folder:
                with _locked(folder) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)


def _append(path: Path, line: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; gives False where a living run has it."""
    try:
        handle = _lock(folder)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def account_name(base_url: str, entity: str, table: str) -> str:
    """Name one table of one licence."""
    return msgspec.json.encode([base_url, entity, table]).decode()
