"""Write planning: which changes go by bulk import and which by single calls.

Pure: no clock, no I/O. The rule is one of costs. An import is worth `threshold` single calls, since
there are so few of them a day; the cheapest plan is taken that keeps to the limits. Actito's empty
cells may clear values, so a file holds rows of one set of columns. Where changes come in many sets,
it is cheaper to spread each change over a file a column than to send a file a set.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from actito_didomi.actito.imports import ZIP_OVERHEAD, cell, row_bytes
from actito_didomi.consent.coalesce import Field, ProfileChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Columns = tuple[Field, ...]

WriteMode = Literal["auto", "single", "bulk"]
SECONDS_AN_IMPORT = 60
"""How long an import takes, for the estimate (a guess; nobody tells)."""
_CALLS_AN_IMPORT = 2
"""The call that starts it, and one for its rows in error; without looks at how it stands."""


@dataclass(frozen=True)
class Limits:
    """What a plan must keep to.

    Attributes:
        mode: `auto`; `single` for no import; `bulk` for imports wherever one is left.
        threshold: Single calls that an import is worth.
        calls_per_minute: Most calls in a minute.
        imports_left: Imports left for today.
        max_bytes: Largest file.
        mixed_columns: Whether an empty cell is known to leave a value as it is.
        may_create: Whether rows may create profiles; such a change stays in one piece.
        max_single_minutes: How long single calls may take where no import is left.
    """

    mode: WriteMode = "auto"
    threshold: int = 200
    calls_per_minute: int = 100
    imports_left: int = 24
    max_bytes: int = 100_000_000
    mixed_columns: bool = False
    may_create: bool = False
    max_single_minutes: float = 60

    @property
    def price(self) -> int:
        """Single calls that an import must save."""
        return 0 if self.mode == "bulk" else self.threshold

    def affords_singles(self, count: int) -> bool:
        """Tell whether so many changes may go by single calls for want of an import."""
        return count <= self.max_single_minutes * self.calls_per_minute


@dataclass(frozen=True)
class File:
    """What goes into one import.

    Attributes:
        columns: What its columns are, besides the key.
        changes: Its rows, those with an opt-out first.
        opt_out: Whether one holds an opt-out.
    """

    columns: Columns
    changes: Sequence[ProfileChange]
    opt_out: bool


@dataclass(frozen=True)
class WritePlan:
    """Where each value goes. Lists are in the order in which they are to be written.

    Attributes:
        urgent: Changes with an opt-out, by single calls, before anything else.
        files: Imports, those with an opt-out first.
        later: Changes without one, by single calls, after the imports.
        deferred: Changes that can't be written today: no import is left, and single calls would
            take longer than is allowed. None holds an opt-out.
        calls_per_minute: What the estimate reckons with.
    """

    urgent: Sequence[ProfileChange] = ()
    files: Sequence[File] = ()
    later: Sequence[ProfileChange] = ()
    deferred: Sequence[ProfileChange] = ()
    calls_per_minute: int = 100

    @property
    def singles(self) -> int:
        """How many changes go by single calls."""
        return len(self.urgent) + len(self.later)

    @property
    def rows(self) -> int:
        """How many rows the files hold."""
        return sum(len(file.changes) for file in self.files)

    @property
    def calls(self) -> int:
        """How many calls that takes, without looks at how imports stand."""
        return self.singles + _CALLS_AN_IMPORT * len(self.files)

    @property
    def seconds(self) -> float:
        """About how long that takes."""
        beyond = max(0, self.calls - self.calls_per_minute)
        return beyond * 60 / self.calls_per_minute + SECONDS_AN_IMPORT * len(self.files)

    def to_text(self) -> str:
        """Word the plan for the log."""
        parts = []
        if self.files:
            sets = ", ".join(
                f"{len(f.changes):,} of {len(f.columns)} column(s)" for f in self.files
            )
            parts.append(f"{len(self.files)} import(s) with {self.rows:,} rows ({sets})")
        if self.singles:
            parts.append(
                f"{self.singles:,} single call(s), {len(self.urgent):,} of them with an opt-out"
            )
        if self.deferred:
            parts.append(f"{len(self.deferred):,} deferred: no import is left today")
        minutes = self.seconds / 60
        return (
            f"Write plan: {'; '.join(parts) or 'nothing'}. {self.calls:,} calls, "
            f"about {f'{minutes:.0f} min' if minutes >= 1 else 'a minute at most'}."
        )


@dataclass
class _Choice:
    """A way to distribute sets of columns: files, and what is left for single calls."""

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
        changes: One a person, in the order in which they are to be written.
        limits: What to keep to.

    Returns:
        A plan in which each value of each change stands in exactly one place.
    """
    if limits.mode == "single" or not limits.imports_left:
        return _finish(changes, [], limits)
    importable: dict[Columns, list[ProfileChange]] = defaultdict(list)
    singles: list[ProfileChange] = []
    for change in changes:
        if any([value.value == "" for value in change.values]):  # noqa: C419 - a hot loop
            singles.append(change)  # an empty text can't be told from an empty cell
        else:
            importable[change.fields].append(change)
    files: list[File] = []
    if limits.mixed_columns:
        single = {id(change) for change in singles}
        rows = [change for change in changes if change.fields and id(change) not in single]
        if len(rows) > limits.price:
            files = _cut(_union(importable), rows, limits)
        else:
            singles += rows
    else:
        choice = _cheapest({columns: len(found) for columns, found in importable.items()}, limits)
        for columns in choice.whole:
            files += _cut(columns, importable[columns], limits)
        files += _spread(choice, importable, limits)
        singles += [change for columns in choice.single for change in importable[columns]]
    files.sort(key=lambda file: (not file.opt_out, -len(file.changes)))
    for file in files[limits.imports_left :]:
        singles += file.changes
    return _finish(singles, files[: limits.imports_left], limits)


def _finish(singles: Sequence[ProfileChange], files: Sequence[File], limits: Limits) -> WritePlan:
    urgent = [change for change in singles if change.opt_out]
    later = [change for change in singles if not change.opt_out]
    short_of_imports = limits.mode != "single" and len(files) >= limits.imports_left
    deferred: list[ProfileChange] = []
    if short_of_imports and not limits.affords_singles(len(later)):
        later, deferred = [], later
    return WritePlan(urgent, files, later, deferred, limits.calls_per_minute)


def _cheapest(sizes: dict[Columns, int], limits: Limits) -> _Choice:
    """Choose the cheapest way: the largest sets as files of their own, the others by column."""
    by_size = sorted(sizes, key=lambda columns: (-sizes[columns], columns))
    most = min(len(by_size), limits.imports_left)
    found: tuple[tuple[float, ...], _Choice] | None = None
    for whole in range(most + 1):
        rest = by_size[whole:]
        choice = _Choice(by_size[:whole], single=rest)
        if not limits.may_create:
            choice = _drop_columns(
                by_size[:whole], rest, sizes, limits.price, limits.imports_left - whole
            )
        calls = sum(sizes[columns] for columns in choice.single)
        rows = sum(sizes[columns] * len(columns) for columns in choice.spread)
        # In bulk mode imports are free of cost, so what counts next is how many there are.
        cost = (choice.files * limits.price + calls, choice.files, rows)
        if found is None or cost < found[0]:
            found = cost, choice
    return found[1] if found else _Choice()


def _drop_columns(
    whole: list[Columns],
    rest: list[Columns],
    sizes: dict[Columns, int],
    price: float,
    files_left: int,
) -> _Choice:
    """Spread sets over a file a column, but for columns that aren't worth one.

    A column's file is worth it when the sets that need it save more single calls than it costs.
    """
    columns = sorted({target for found in rest for target in found})
    spread = list(rest)
    single: list[Columns] = []
    while columns:
        saved = {
            target: sum(sizes[found] for found in spread if target in found) for target in columns
        }
        least = min(columns, key=lambda target: (saved[target], target))
        if len(columns) <= files_left and saved[least] > price:
            break
        columns.remove(least)
        single += [found for found in spread if least in found]
        spread = [found for found in spread if least not in found]
    # What is left may be worth less than its files all the same: single calls then.
    if sum(sizes[found] for found in spread) <= price * len(columns):
        return _Choice(whole, single=rest)
    return _Choice(whole, columns, spread, single)


def _spread(
    choice: _Choice, importable: dict[Columns, list[ProfileChange]], limits: Limits
) -> list[File]:
    rows: dict[Field, list[ProfileChange]] = {target: [] for target in choice.by_column}
    for columns in choice.spread:
        for change in importable[columns]:
            if len(columns) == 1:
                rows[columns[0]].append(change)
                continue
            for target, value in zip(columns, change.values, strict=True):
                part = ProfileChange(
                    change.person, change.first_record, (target,), (value,), value.opt_out
                )
                rows[target].append(part)
    return [file for target, found in rows.items() for file in _cut((target,), found, limits)]


def _union(sets: Iterable[Columns]) -> Columns:
    return tuple(sorted({target for columns in sets for target in columns}))


def _cut(columns: Columns, changes: Sequence[ProfileChange], limits: Limits) -> list[File]:
    """Cut rows into files that are not too large, those with an opt-out first."""
    ordered = sorted(changes, key=lambda change: not change.opt_out)
    most = limits.max_bytes - ZIP_OVERHEAD - row_bytes([target.name for target in columns]) - 255
    files: list[File] = []
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


def _file(columns: Columns, changes: Sequence[ProfileChange]) -> File:
    return File(columns, changes, opt_out=changes[0].opt_out)


def minutes_for(singles: int, calls_per_minute: int) -> int:
    """Give how many minutes so many single calls take, rounded up."""
    return math.ceil(singles / calls_per_minute)
