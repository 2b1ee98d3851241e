"""What a run did, as lines for a person and as JSON for a program."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec


@dataclass
class Summary:
    """Counts of one run.

    Attributes:
        records: Records read, of all streams.
        people: People seen in records that were not skipped, or only as by a skipped delegate.
        updated: Profiles changed. Of people whose change was spread over several imports, how many
            are updated and how many unmatched is reckoned from what the imports count.
        created: Profiles created.
        unmatched: People without a profile, left alone.
        imported: People in imports of which Actito doesn't tell how many were updated.
        held: Changes that wait for the next run, for want of imports.
        imports: Bulk imports that were carried out.
        unchanged: People whose records held no explicit choice (absent or null) and no metadata.
        rejected: What could not be written; it stands in the rejects file.
        rejected_opt_outs: How many of these hold an opt-out.
        skipped: Records left out, by reason.
        calls: Requests to Actito, tries and token calls included.
        retries: How many of these were tries of the same call again.
        seconds: Time from start to end.
        status: `success`, or how the run ended.
    """

    records: int = 0
    people: int = 0
    updated: int = 0
    created: int = 0
    unmatched: int = 0
    imported: int = 0
    held: int = 0
    imports: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejected_opt_outs: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    retries: int = 0
    seconds: float = 0.0
    status: str = "success"


def to_dict(summary: Summary) -> dict[str, Any]:
    """Give the counts as plain data, ready for JSON."""
    return {
        **{k: v for k, v in vars(summary).items() if k not in {"skipped", "seconds"}},
        "skipped": dict(sorted(summary.skipped.items())),
        "seconds": round(summary.seconds, 3),
    }


def to_text(summary: Summary) -> str:
    """Word the counts for the end of a log."""
    skipped = ", ".join(f"{n:,} {why}" for why, n in sorted(summary.skipped.items()))
    lines = [
        ("records read", summary.records, ""),
        ("skipped", sum(summary.skipped.values()), skipped),
        ("people", summary.people, ""),
        ("  updated", summary.updated, ""),
        ("  created", summary.created, ""),
        ("  unmatched", summary.unmatched, ""),
        ("  unchanged", summary.unchanged, "nothing but null or unmapped choices"),
        ("  imported", summary.imported, "Actito doesn't tell what became of them"),
        ("  held back", summary.held, "the next run writes them"),
        ("rejected", summary.rejected, f"{summary.rejected_opt_outs:,} with an opt-out"),
        ("calls", summary.calls, f"{summary.retries:,} of them repeated"),
        ("imports", summary.imports, ""),
    ]
    rare = {"  imported", "  held back", "imports"}
    return "\n".join(
        [
            f"Summary ({summary.status}):",
            *(
                f"  {name:<14} {count:>9,}" + (f"   ({note})" if note else "")
                for name, count, note in lines
                if count or name not in rare
            ),
            f"  time           {summary.seconds:>9,.1f} s",
        ]
    )


def write_report(summary: Summary, path: str) -> None:
    """Write the counts as JSON; the file is whole or not there.

    Raises:
        OSError: The file can't be written.
    """
    target = Path(path).absolute()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(to_dict(summary)), indent=2) + b"\n")
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
