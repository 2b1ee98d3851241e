"""Which of two choices counts: the one rule, for both directions. Pure.

An **act** is a choice that a person made on one side, in Actito or in Didomi. When it was made is
known as a window, `earliest`..`latest`, both included; an exact timestamp is a window whose ends
are equal. The newest act counts, and where the order of two acts can't be known, the opt-out:

- On one side the order is known without a tolerance, since there is one clock: events and rows by
  their timestamps (at equal ones the opt-out counts), looks by their sequence.
- Between the sides an opt-in counts only if it was made later for certain: its `earliest` is later
  than the opt-out's `latest` by more than a tolerance, which allows for clocks that differ.

All timestamps are whole microseconds since the beginning of 1970 in UTC (`to_micros`), a tolerance
is a number of microseconds of zero or more. `BEGINNING` as `earliest` and `END` as `latest` mean
that there is no such bound.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final, Literal

import msgspec
from msgspec import structs

Side = Literal["actito", "didomi"]
Source = Literal["event", "status", "look", "row", "baseline"]
"""How an act became known.

- `event`: a consent event of Didomi.
- `status`: the whole status of a Didomi user, which doesn't say when a choice was made.
- `look`: the present state in Actito, read within the window, differs from what was known.
- `row`: a row of Actito's export of changes.
- `baseline`: an opt-out of unknown age, found by the first look at Actito.
"""
Baseline = Literal["opt_out", "didomi"]
Micros = int
"""Microseconds since the beginning of 1970, UTC."""
Rank = tuple[Micros, bool]

ACTITO: Final = "actito"
DIDOMI: Final = "didomi"
OPT_IN: Final = True
OPT_OUT: Final = False

BEGINNING: Final = -(2**62)
"""The beginning of time: earlier than any act."""
END: Final = 2**62
"""The end of time: later than any act."""
CLOCK_TOLERANCE: Final = 60_000_000
"""Tolerance between the sides where no setting says another, in microseconds."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(timestamp: datetime) -> Micros:
    """Return an aware timestamp in microseconds since the beginning of 1970."""
    return (timestamp - _EPOCH) // _MICROSECOND


def to_datetime(micros: Micros) -> datetime:
    """Return a timestamp in UTC; one that no datetime can hold becomes the nearest that can."""
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        if micros < 0:
            return datetime.min.replace(tzinfo=timezone.utc)
        return datetime.max.replace(tzinfo=timezone.utc)


class Rules(msgspec.Struct, frozen=True):
    """The settings that decide who wins.

    Attributes:
        clock_tolerance: By how much the clocks of the two sides may differ, in microseconds.
        baseline: What counts where an opt-in in Didomi meets an opt-out of unknown age in Actito;
            None defers the opt-in.
        late_bound: Longest time, in microseconds, after which a request of unknown outcome may
            still be carried out.
    """

    clock_tolerance: int = CLOCK_TOLERANCE
    baseline: Baseline | None = None
    late_bound: int = 3_600_000_000


class Act(msgspec.Struct, frozen=True, gc=False):
    """A choice that a person made, at some time within `earliest`..`latest`.

    Attributes:
        value: True for an opt-in, False for an opt-out.
        earliest: It was made at this timestamp or later; `BEGINNING` if its age is unknown.
        latest: It was made at this timestamp or earlier; not before `earliest`.
        side: Where the person made it.
        source: How it became known.
    """

    value: bool
    earliest: Micros
    latest: Micros
    side: Side
    source: Source

    @property
    def id(self) -> str:
        """A text that identifies the act: the same act learned twice has the same."""
        return f"{self.side}:{self.source}:{self.earliest}:{self.latest}:{int(self.value)}"

    @property
    def rank(self) -> Rank:
        """Its rank among the events, or rows, of its side; see `rank`."""
        return rank(self.value, self.earliest, self.latest)


def rank(value: bool, earliest: Micros, latest: Micros) -> Rank:
    """Return the rank of an act among the events, or rows, of one side: the greatest one prevails.

    Of two opt-ins the later `earliest` counts, of two opt-outs the later `latest`, and at equal
    ranks the opt-out. The greatest rank of a side is a maximum, so acts can be folded in any order
    and in parts. For exact timestamps that is: the later one, and at equal ones the opt-out.

    It is no rank of looks, which replace what was known before, nor of acts of both sides: between
    the sides there is a tolerance, and no single number can rank with it.
    """
    return (earliest, False) if value is OPT_IN else (latest, True)


def resolve_tie(first: bool | None, second: bool) -> bool:
    """Return what counts of two choices for one field that have the same timestamp: the opt-out.

    Args:
        first: The choice known so far; None if there is none.
        second: The other choice.
    """
    return second if first is None else first and second


def resolve_ties(opt_ins: int, opt_outs: int) -> tuple[int, int]:
    """Return what counts of choices that have the same timestamp: `resolve_tie` for many fields.

    Args:
        opt_ins: A bit for each field that has an opt-in.
        opt_outs: A bit for each field that has an opt-out.

    Returns:
        The opt-ins and the opt-outs that count; no field has both.
    """
    return opt_ins & ~opt_outs, opt_outs


def certainly_later(new: Act, old: Act, tolerance: int) -> bool:
    """Return whether `new` was made after `old`, whatever the true times and clocks are.

    Args:
        new: An act.
        old: Another act.
        tolerance: By how much the clocks of both may differ; zero or more.
    """
    return new.earliest - old.latest > tolerance


def prevails(new: Act, old: Act, tolerance: int) -> bool:
    """Return whether `new` counts rather than `old`. The only comparison of two choices.

    Args:
        new: The act that was learned later.
        old: The act that was known before.
        tolerance: By how much the clocks of the two sides may differ; zero or more. Acts of one
            side are compared without it.
    """
    if new.value is old.value:
        return new.latest > old.latest or (new.latest == old.latest and old.source != "look")
    if new.side == old.side:
        tolerance = 0
        if new.side == ACTITO and new.source == "look" and new.latest >= old.latest:
            return True  # the state that is there now replaces whatever was known before
        if old.source == "look" and new.latest <= old.latest:
            return False  # the look has seen the state after it
    if new.value is OPT_OUT:
        return not certainly_later(old, new, tolerance)
    return certainly_later(new, old, tolerance)


def newest(known: Act | None, act: Act) -> Act:
    """Return the newest act of a side, after one more act of that side was learned.

    Events and rows may be learned in any order, late and repeatedly, looks in their sequence. Two
    acts of one value become one with the later bounds of both, since the last of the two was made
    within them. An act never loosens the bounds that were known before, and the setting `baseline`
    decides nothing about an opt-out that is known otherwise too.

    Args:
        known: The newest act known so far; None if there is none.
        act: The act to learn.
    """
    if known is None:
        return act
    newer, older = (act, known) if prevails(act, known, 0) else (known, act)
    if known.value is not act.value:
        return newer
    # `newer` is the one that ends later.
    source = older.source if newer.source == "baseline" else newer.source
    earliest = max(known.earliest, act.earliest)
    if earliest == newer.earliest and source == newer.source:
        return newer
    return structs.replace(newer, earliest=earliest, source=source)


def winner(
    actito: Act | None,
    didomi: Act | None,
    tolerance: int,
    baseline: Baseline | None = None,
    copied: Micros = BEGINNING,
) -> Act | None:
    """Return the act that both sides should show.

    Args:
        actito: The newest act in Actito; None if none is known.
        didomi: The newest act in Didomi; None if none is known.
        tolerance: By how much the clocks of the two sides may differ; zero or more.
        baseline: What counts where an opt-in in Didomi meets an opt-out of unknown age in Actito:
            the `opt_out`, or the choice in `didomi`. None defers the opt-in, unless it was made
            later than the first look for certain.
        copied: When an opt-out was brought from Actito that a user in Didomi shows since, the
            newest one: so the opt-out of unknown age is not older. `BEGINNING` if there is none.

    Returns:
        The act; None where none is known, or where it is deferred.
    """
    if actito is None or didomi is None:
        return actito or didomi
    if actito.source == "baseline" and didomi.value is OPT_IN:
        if certainly_later(didomi, actito, tolerance):
            return didomi
        if copied >= didomi.latest:
            return actito
        if baseline == "didomi":
            return didomi
        return actito if baseline == "opt_out" else None
    return didomi if prevails(didomi, actito, tolerance) else actito
