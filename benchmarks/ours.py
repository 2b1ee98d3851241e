"""target-actito with sending left out, for measuring what comes before it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from actito_didomi.actito.imports import write_file
from target_actito.bulk import file_rows
from target_actito.plan import plan_writes
from target_actito.target import TargetActito

if TYPE_CHECKING:
    from actito_didomi.consent.coalesce import ProfileChange


class Reading(TargetActito):
    """Reads, checks, maps and coalesces; writes nothing."""

    def write_gathered(self) -> None:
        """Make the changes, or what the ledger would learn, and do no more."""
        if self.ledger is not None:
            self.pipeline.collector.take_layers()
        else:
            super().write_gathered()

    def write_changes(self, changes: list[ProfileChange]) -> None:
        """Do nothing."""


class Planning(TargetActito):
    """Plans, and makes the import files as well; sends nothing."""

    def write_changes(self, changes: list[ProfileChange]) -> None:
        """Make the files, and throw them away."""
        folder = Path(tempfile.mkdtemp())
        for file in plan_writes(changes, self.settings.limits).files:
            path = folder / "file.zip"
            columns = ["customerId", *(target.name for target in file.columns)]
            write_file(path, columns, file_rows(file.columns, file.changes))
            path.unlink()
        folder.rmdir()


if __name__ == "__main__":
    {"reading": Reading, "planning": Planning}[sys.argv.pop(1)].cli()
