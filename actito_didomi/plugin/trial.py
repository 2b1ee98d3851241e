"""What a dry run would write: it is counted and shown, and nothing is sent."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import platformdirs

from actito_didomi import codes
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable
    from pathlib import Path

    from actito_didomi.runtime import Runtime

_PRIVATE = 0o700
_MOST_SHOWN = 20


class Trial:
    """A dry run.

    Args:
        runtime: Names of folders.
        logger: Where changes are shown.

    Attributes:
        folder: For what a run keeps: it is removed at the end.

    Raises:
        SettingsError: The folder can't be made.
    """

    def __init__(self, runtime: Runtime, logger: logging.Logger) -> None:
        root = platformdirs.user_state_path("actito-didomi", appauthor=False)
        self.folder: Path = root / f"dry-run-{os.getpid()}-{runtime.token(8)}"
        self._logger = logger
        self._shown = 0
        for left in root.glob("dry-run-*"):
            if not _is_alive(left.name.split("-")[2]):
                shutil.rmtree(left, ignore_errors=True)
        try:
            self.folder.mkdir(mode=_PRIVATE, parents=True)
        except OSError as error:
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"dry_run: {self.folder} can't be made ({error.strerror}). Set XDG_STATE_HOME to a "
                "folder that can be written.",
            ) from None

    def show(self, person: str, changes: Iterable[tuple[str, bool | None, bool]]) -> None:
        """Show what would change of a person; of the first 20.

        Args:
            person: The person's hash.
            changes: Name, what is held there (None: unknown), and what would be written.
        """
        self._shown += 1
        if self._shown > _MOST_SHOWN:
            return
        words = {True: "yes", False: "no", None: "unknown"}
        text = ", ".join(f"{name}: {words[old]} -> {words[new]}" for name, old, new in changes)
        self._logger.info("Would change person %s: %s.", person, text or "attributes")

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_alive(process: str) -> bool:
    """Return whether a process of this number may be running."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True
    return True
