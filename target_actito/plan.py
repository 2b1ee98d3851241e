"""Plan writes: which changes go by bulk import and which by single requests.

Pure: no clock, no I/O. The rule is one of costs. An import costs as much as `threshold` single
requests, since a day has few imports, or more where a look at the table takes more; the cheapest
plan within the limits wins. Empty cells may
clear values in Actito, so a file holds rows with one set of columns. If changes come in many sets,
one file per column is cheaper than one file per set: each change is then spread over several files.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from actito_didomi.actito.imports import ZIP_OVERHEAD, cell, row_bytes
from actito_didomi.consent.coalesce import Field, ProfileChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Columns = tuple[Field, ...]

WriteMode = Literal["auto", "single", "bulk"]
SECONDS_PER_IMPORT = 60
"""How long an import takes, for the estimate (a guess; undocumented)."""
_REQUESTS_PER_IMPORT = 2
"""The request that starts it, and one for its failed rows; polling not counted."""


@dataclass(frozen=True)
class Limits:
    """What a plan must keep to.

    Attributes:
        mode: `auto`; `single` for no import; `bulk` for imports as long as one is left.
        threshold: Number of single requests that one import must save.
        calls_per_minute: Maximum requests per minute.
        imports_left: Imports left for today.
        max_bytes: Maximum size of a file, in bytes.
        mixed_columns: Whether an empty cell is known to leave a value unchanged.
        may_create: Whether rows may create profiles; such a change is never spread.
        max_single_minutes: How long single requests may take if no import is left, in minutes.
        look_requests: Requests of the look that goes before an import; before a single request
            that is one.
    """

    mode: WriteMode = "auto"
    threshold: int = 200
    calls_per_minute: int = 100
    imports_left: int = 24
    max_bytes: int = 100_000_000
    mixed_columns: bool = False
    may_create: bool = False
    max_single_minutes: float = 60
    look_requests: int = 0

    @property
    def price(self) -> int:
        """Single requests that an import must save."""
        return 0 if self.mode == "bulk" else max(self.threshold, self.look_requests // 2)

    def affords_singles(self, count: int) -> bool:
        """Return whether this many changes may go by single requests if no import is left."""
        return count <= self.max_single_minutes * self.calls_per_minute


@dataclass(frozen=True)
class ImportFile:
    """The file of one import.

    Attributes:
        columns: The fields in its columns, without the key.
        changes: Its rows, those with an opt-out first.
        opt_out: Whether a row holds an opt-out.
    """

    columns: Columns
    changes: Sequence[ProfileChange]
    opt_out: bool


@dataclass(frozen=True)
class WritePlan:
    """Where each value goes. Lists are in the order of writing.

    Attributes:
        opt_out_singles: Changes with an opt-out, by single requests, before anything else.
        files: Imports, those with an opt-out first.
        other_singles: Changes without an opt-out, by single requests, after the imports.
        deferred: Changes that can't be written today: no import is left, and single requests would
            take longer than is allowed. None holds an opt-out.
        calls_per_minute: Requests per minute, for the estimate.
    """

    opt_out_singles: Sequence[ProfileChange] = ()
    files: Sequence[ImportFile] = ()
    other_singles: Sequence[ProfileChange] = ()
    deferred: Sequence[ProfileChange] = ()
    calls_per_minute: int = 100

    @property
    def singles(self) -> int:
        """Number of changes by single requests."""
        return len(self.opt_out_singles) + len(self.other_singles)

    @property
    def rows(self) -> int:
        """Number of rows in the files."""
        return sum(len(file.changes) for file in self.files)

    @property
    def requests(self) -> int:
        """Number of requests, polling not counted."""
        return self.singles + _REQUESTS_PER_IMPORT * len(self.files)

    @property
    def seconds(self) -> float:
        """Estimated duration, in seconds."""
        beyond = max(0, self.requests - self.calls_per_minute)
        return beyond * 60 / self.calls_per_minute + SECONDS_PER_IMPORT * len(self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts of the plan as JSON has them."""
        return {
            "imports": [
                {"rows": len(file.changes), "columns": len(file.columns)} for file in self.files
            ],
            "single_requests": self.singles,
            "opt_out_single_requests": len(self.opt_out_singles),
            "deferred": len(self.deferred),
            "requests": self.requests,
            "seconds": round(self.seconds),
        }

    def to_text(self) -> str:
        """Describe the plan for the log."""
        parts = []
        if self.files:
            sets = ", ".join(
                f"{len(f.changes):,} of {len(f.columns)} column(s)" for f in self.files
            )
            parts.append(f"{len(self.files)} import(s) with {self.rows:,} rows ({sets})")
        if self.singles:
            parts.append(
                f"{self.singles:,} single request(s), {len(self.opt_out_singles):,} of them with "
                "an opt-out"
            )
        if self.deferred:
            parts.append(f"{len(self.deferred):,} deferred: no import is left today")
        minutes = self.seconds / 60
        return (
            f"Write plan: {'; '.join(parts) or 'nothing'}. {self.requests:,} request(s), "
            f"{f'about {minutes:.0f} min' if minutes >= 1 else 'at most 1 min'}."
        )


@dataclass
class _Distribution:
    """A way to distribute sets of columns over files and single requests.

    Attributes:
        whole: Sets with a file of their own.
        by_column: Columns with a file of their own, for the sets in `spread`.
        spread: Sets whose changes are spread over the files of `by_column`.
        single: Sets whose changes go by single requests.
    """

    whole: list[Columns] = field(default_factory=list)
    by_column: list[Field] = field(default_factory=list)
    spread: list[Columns] = field(default_factory=list)
    single: list[Columns] = field(default_factory=list)

    @property
    def files(self) -> int:
        return len(self.whole) + len(self.by_column)


def plan_writes(changes: Sequence[ProfileChange], limits: Limits) -> WritePlan:
    """Plan how to write changes.

    Args:
        changes: One per person, in the order of writing.
        limits: Limits of the plan.

    Returns:
        A plan in which each value of each change stands in exactly one place.
    """
    if limits.mode == "single" or not limits.imports_left:
        return _finish(changes, [], limits)
    importable: dict[Columns, list[ProfileChange]] = defaultdict(list)
    singles: list[ProfileChange] = []
    for change in changes:
        if any([value.value == "" for value in change.values]):  # noqa: C419 - a hot loop
            singles.append(change)  # an empty string looks like an empty cell
        else:
            importable[change.fields].append(change)
    files: list[ImportFile] = []
    if limits.mixed_columns:
        single = {id(change) for change in singles}
        rows = [change for change in changes if change.fields and id(change) not in single]
        if len(rows) > limits.price:
            files = _cut(_union(importable), rows, limits)
        else:
            singles += rows
    else:
        distribution = _cheapest(
            {columns: len(found) for columns, found in importable.items()}, limits
        )
        for columns in distribution.whole:
            files += _cut(columns, importable[columns], limits)
        files += _spread(distribution, importable, limits)
        singles += [change for columns in distribution.single for change in importable[columns]]
    files.sort(key=lambda file: (not file.opt_out, -len(file.changes)))
    for file in files[limits.imports_left :]:
        singles += file.changes
    return _finish(singles, files[: limits.imports_left], limits)


def _finish(
    singles: Sequence[ProfileChange], files: Sequence[ImportFile], limits: Limits
) -> WritePlan:
    opt_out_singles = [change for change in singles if change.opt_out]
    other_singles = [change for change in singles if not change.opt_out]
    short_of_imports = limits.mode != "single" and len(files) >= limits.imports_left
    deferred: list[ProfileChange] = []
    if short_of_imports and not limits.affords_singles(len(other_singles)):
        other_singles, deferred = [], other_singles
    return WritePlan(opt_out_singles, files, other_singles, deferred, limits.calls_per_minute)


def _cheapest(sizes: dict[Columns, int], limits: Limits) -> _Distribution:
    """Choose the cheapest distribution: whole files for the largest sets, others by column."""
    by_size = sorted(sizes, key=lambda columns: (-sizes[columns], columns))
    most = min(len(by_size), limits.imports_left)
    found: tuple[tuple[float, ...], _Distribution] | None = None
    for whole in range(most + 1):
        rest = by_size[whole:]
        distribution = _Distribution(by_size[:whole], single=rest)
        if not limits.may_create:
            distribution = _drop_columns(
                by_size[:whole], rest, sizes, limits.price, limits.imports_left - whole
            )
        requests = sum(sizes[columns] for columns in distribution.single)
        rows = sum(sizes[columns] * len(columns) for columns in distribution.spread)
        # In bulk mode imports cost nothing, so their number counts next.
        cost = (distribution.files * limits.price + requests, distribution.files, rows)
        if found is None or cost < found[0]:
            found = cost, distribution
    return found[1] if found else _Distribution()


def _drop_columns(
    whole: list[Columns],
    rest: list[Columns],
    sizes: dict[Columns, int],
    price: float,
    files_left: int,
) -> _Distribution:
    """Spread sets over one file per column, except for columns that aren't worth a file.

    A column is worth a file if the sets that need it save more single requests than the file costs.
    """
    columns = sorted({column for found in rest for column in found})
    spread = list(rest)
    single: list[Columns] = []
    while columns:
        saved = {
            column: sum(sizes[found] for found in spread if column in found) for column in columns
        }
        least = min(columns, key=lambda column: (saved[column], column))
        if len(columns) <= files_left and saved[least] > price:
            break
        columns.remove(least)
        single += [found for found in spread if least in found]
        spread = [found for found in spread if least not in found]
    # The rest may still be worth less than its files.
    if sum(sizes[found] for found in spread) <= price * len(columns):
        return _Distribution(whole, single=rest)
    return _Distribution(whole, columns, spread, single)


def _spread(
    distribution: _Distribution, importable: dict[Columns, list[ProfileChange]], limits: Limits
) -> list[ImportFile]:
    rows: dict[Field, list[ProfileChange]] = {column: [] for column in distribution.by_column}
    for columns in distribution.spread:
        for change in importable[columns]:
            if len(columns) == 1:
                rows[columns[0]].append(change)
                continue
            for column, value in zip(columns, change.values, strict=True):
                part = ProfileChange(
                    change.person, change.first_record, (column,), (value,), value.opt_out
                )
                rows[column].append(part)
    return [file for column, found in rows.items() for file in _cut((column,), found, limits)]


def _union(sets: Iterable[Columns]) -> Columns:
    return tuple(sorted({column for columns in sets for column in columns}))


def _cut(columns: Columns, changes: Sequence[ProfileChange], limits: Limits) -> list[ImportFile]:
    """Split rows into files of at most `max_bytes`, those with an opt-out first."""
    ordered = sorted(changes, key=lambda change: not change.opt_out)
    most = most_bytes([column.name for column in columns], limits)
    files: list[ImportFile] = []
    start, size = 0, 0
    for at, change in enumerate(ordered):
        row = row_bytes([change.person, *[cell(value.value) for value in change.values]])
        row += len(columns) - len(change.values)
        if size + row > most and at > start:
            files.append(_file(columns, ordered[start:at]))
            start, size = at, 0
        size += row
    if ordered:
        files.append(_file(columns, ordered[start:]))
    return files


def most_bytes(columns: Iterable[str], limits: Limits) -> int:
    """Return how many bytes the rows of a file may have, given the names of its columns."""
    return limits.max_bytes - ZIP_OVERHEAD - row_bytes(columns) - 255


def _file(columns: Columns, changes: Sequence[ProfileChange]) -> ImportFile:
    return ImportFile(columns, changes, opt_out=changes[0].opt_out)


def minutes_for(singles: int, calls_per_minute: int) -> int:
    """Return the minutes that this many single requests take, rounded up."""
    return math.ceil(singles / calls_per_minute)
