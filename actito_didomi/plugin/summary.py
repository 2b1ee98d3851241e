"""The counts of a run, as text for people and as JSON for programs."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from actito_didomi.codes import Code
    from actito_didomi.runtime import Runtime

_PRIVATE = 0o600


class Line(NamedTuple):
    """A line of the summary.

    Attributes:
        name: What is counted.
        number: The count.
        note: A remark, or nothing.
        rare: Whether the line is left out if the count is 0.
    """

    name: str
    number: int
    note: str = ""
    rare: bool = False


@dataclass
class Summary:
    """Counts of one run; each target adds its own.

    Attributes:
        records: Records read, of all streams.
        people: People seen in records that were not skipped, or skipped with `delegate`.
        unmatched: People unknown to the other side, who are left alone.
        unchanged: People for whom there was nothing to write.
        rejected: Changes and records that could not be written; they are in the rejects file.
        rejected_opt_outs: How many of these contain an opt-out.
        rejects: The same rejects, counted by the name of the code.
        skipped: Records skipped, by the name of the code.
        requests: Requests to the API, including repeated attempts and requests for tokens.
        retries: How many of these repeated an earlier attempt.
        seconds: Time from start to end.
        status: `success`, `opt-outs rejected`, `stopped by SIGTERM` (or SIGINT) or `failed`.
        code: Name of the code of the error that ended the run; None after a success.
    """

    records: int = 0
    people: int = 0
    unmatched: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejected_opt_outs: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    status: str = "success"
    code: str | None = None

    def skip(self, code: Code) -> None:
        """Count a skipped record."""
        self.skipped[code.name] += 1

    def outcome(self) -> list[Line]:
        """Return the lines about the people and their choices."""
        raise NotImplementedError

    def effort(self) -> list[Line]:
        """Return the lines about requests."""
        return [Line("requests", self.requests, f"{self.retries:,} repeated")]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain data, ready for JSON."""
        return {
            **vars(self),
            "rejects": dict(sorted(self.rejects.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "seconds": round(self.seconds, 3),
        }

    def to_text(self) -> str:
        """Return the counts as text, for the end of a log."""
        rejected = f"{self.rejected_opt_outs:,} with an opt-out"
        if self.rejects:
            rejected += f": {_count_by_name(self.rejects)}"
        lines = [
            Line("records read", self.records),
            Line("skipped", sum(self.skipped.values()), _count_by_name(self.skipped)),
            Line("people", self.people),
            *self.outcome(),
            Line("rejected", self.rejected, rejected),
            *self.effort(),
        ]
        return "\n".join(
            [
                f"Summary ({self.status}{f': {self.code}' if self.code else ''}):",
                *(
                    f"  {line.name:<15} {line.number:>9,}"
                    + (f"   ({line.note})" if line.note else "")
                    for line in lines
                    if line.number or not line.rare
                ),
                f"  time            {self.seconds:>9,.1f} s",
            ]
        )


def _count_by_name(counts: Counter[str]) -> str:
    """Return counts by code as text, such as `3 guest, 1 not confirmed`."""
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in sorted(counts.items()))


def write_report(summary: Summary, path: str, runtime: Runtime) -> None:
    """Write the counts as JSON; the file is complete or absent, and only its owner can read it.

    Raises:
        OSError: The file can't be written, or something else than a file stands there.
    """
    target = Path(path).absolute()
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise OSError(errno.EEXIST, "a link, a folder or a device stands there")
    text = msgspec.json.format(msgspec.json.encode(summary.to_dict()), indent=2) + b"\n"
    draft = target.with_name(f".{target.name}.{runtime.token(8)}")
    try:
        with os.fdopen(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb"
        ) as file:
            file.write(text)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
