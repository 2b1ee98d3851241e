"""A warning where git would take personal data into a repository."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE = 5
"""Seconds to wait for git."""


def find_unignored(path: Path) -> list[str]:
    """Return the lines that `.gitignore` lacks for a SQLite ledger.

    Args:
        path: The file of the ledger.

    Returns:
        Patterns; none where the file lies in no work tree of git, or git isn't installed.
    """
    if not any((folder / ".git").exists() for folder in path.parents):
        return []
    parts = ["", "-wal", "-shm", ".key", ".locks/forward.lock"]
    names = [f"{path.name}{part}" for part in parts]
    try:
        found = subprocess.run(
            ["git", "check-ignore", "--no-index", "--stdin", "-z"],  # noqa: S607 - wherever it is
            input="\0".join(names).encode("utf-8", "surrogateescape"),
            capture_output=True,
            cwd=path.parent,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    if found.returncode not in {0, 1}:  # some are ignored, or none is; else git failed
        return []
    ignored = set(found.stdout.decode("utf-8", "surrogateescape").split("\0"))
    return [] if ignored.issuperset(names) else [f"{path.name}*"]
