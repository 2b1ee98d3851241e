"""The counts of a run, as text for people and as JSON for programs."""

from __future__ import annotations

import errno
import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from actito_didomi.codes import Code
    from actito_didomi.consent.mapping_watch import MappingCount
    from actito_didomi.runtime import Runtime

_PRIVATE = 0o600
_PARTS = 20
"""Into how many parts latencies are divided."""


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


class Latency:
    """How long opt-outs took, from the person's choice to the write."""

    def __init__(self) -> None:
        self._seconds = array("d")

    def add(self, seconds: float) -> None:
        """Add an opt-out; clocks that differ make none negative."""
        self._seconds.append(max(seconds, 0.0))

    def extend(self, seconds: Iterable[float]) -> None:
        """Add opt-outs."""
        self._seconds.extend([max(one, 0.0) for one in seconds])

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return `count`, and in seconds `median`, `p95`, `worst` and `quantiles`.

        The last are those of 0 %, 5 %, ... 100 %. Without an opt-out the count is all.
        """
        if not self._seconds:
            return {"count": 0}
        ordered = sorted(self._seconds)
        last = len(ordered) - 1
        found = [round(ordered[-(-last * part // _PARTS)], 1) for part in range(_PARTS + 1)]
        return {
            "count": len(ordered),
            "median": found[_PARTS // 2],
            "p95": found[-2],
            "worst": found[-1],
            "quantiles": found,
        }


def show_seconds(seconds: float) -> str:
    """Return a time in the unit that suits it, such as `1.5 h`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return (
                f"{seconds / size:.3g} {unit}"
                if seconds < 100 * size
                else (f"{seconds / size:,.0f} {unit}")
            )
    return f"{seconds:.3g} s"


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
        opt_outs: People to whom an opt-out was due, by what became of it: `written`, `no_profile`,
            `rejected` or `deferred`.
        changes: Opt-ins and opt-outs written, by the subscription, attribute or choice.
        opt_out_latency: How long the opt-outs that were written took, one value per person.
        seconds: Time from start to end.
        status: `success`, `input ended` (the tap may have failed), `opt-outs rejected`, `stopped by
            SIGTERM` (or SIGINT) or `failed`.
        code: Name of the code of the error that ended the run; None after a success.
        mappings: What each mapping met.
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
    opt_outs: Counter[str] = field(default_factory=Counter)
    changes: dict[str, list[int]] = field(default_factory=dict)
    opt_out_latency: Latency = field(default_factory=Latency)
    seconds: float = 0.0
    status: str = "success"
    code: str | None = None
    mappings: list[MappingCount] = field(default_factory=list)

    def skip(self, code: Code) -> None:
        """Count a skipped record."""
        self.skipped[code.name] += 1

    def count_change(self, name: str, choice: bool, times: int = 1) -> None:
        """Count a choice that was written, by its subscription, attribute or path."""
        self.changes.setdefault(name, [0, 0])[not choice] += times

    def count_opt_out(self, outcome: str) -> None:
        """Count a person to whom an opt-out was due, by what became of it."""
        self.opt_outs[outcome] += 1

    def outcome(self) -> list[Line]:
        """Return the lines about the people and their choices."""
        raise NotImplementedError

    def effort(self) -> list[Line]:
        """Return the lines about requests."""
        return [Line("requests", self.requests, f"{self.retries:,} repeated")]

    def remarks(self) -> list[str]:
        """Return the lines about mappings."""
        return [f"mapping {found.to_text()}" for found in self.mappings if found.people]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain data, ready for JSON."""
        return {
            **vars(self),
            "opt_outs": dict(sorted(self.opt_outs.items())),
            "changes": {
                name: {"opt_ins": ins, "opt_outs": outs}
                for name, (ins, outs) in sorted(self.changes.items())
            },
            "opt_out_latency": self.opt_out_latency.to_dict(),
            "rejects": dict(sorted(self.rejects.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "seconds": round(self.seconds, 3),
            "mappings": [vars(found) for found in self.mappings],
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
            *self._latency(),
            *self.effort(),
        ]
        return "\n".join(
            [
                f"Summary ({self.status}{f': {self.code}' if self.code else ''}):",
                *(
                    f"  {line.name:<16} {line.number:>8,}"
                    + (f"   ({line.note})" if line.note else "")
                    for line in lines
                    if line.number or not line.rare
                ),
                f"  time            {self.seconds:>9,.1f} s",
                *(f"  {remark}" for remark in self.remarks()),
            ]
        )

    def _latency(self) -> list[Line]:
        found = self.opt_out_latency.to_dict()
        if not found["count"]:
            return []
        median, p95, worst = (show_seconds(found[name]) for name in ("median", "p95", "worst"))
        note = f"people; after the choice: median {median}, 95 % {p95}, worst {worst}"
        return [Line("opt-outs written", found["count"], note)]


def _count_by_name(counts: Counter[str]) -> str:
    """Return counts by code as text, such as `3 guest, 1 not confirmed`."""
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in sorted(counts.items()))


def write_private(path: Path, text: bytes, runtime: Runtime) -> None:
    """Write a file that is complete or absent, and that only its owner can read.

    Raises:
        OSError: The file can't be written, or something else than a file stands there.
    """
    target = path.absolute()
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise OSError(errno.EEXIST, "a link, a folder or a device stands there")
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
