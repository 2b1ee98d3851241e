"""The flow of records and people through a run, as shapes to draw. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEIGHT = 230.0
"""Of the records, and of the people, in the units of the drawing."""
_GAP = 24.0
"""Between two bands, so that their labels don't touch."""
_LEAST = 2.0
_BAR = 9.0
_COLUMNS = (10.0, 360.0, 650.0)
_TOP = 14.0
_WIDTH = 940


@dataclass(frozen=True)
class Part:
    """A part of the records or people.

    Attributes:
        label: What became of it.
        count: Records or people.
        opt_outs: How many of the people had an opt-out that was due.
        colour: Name of the colour of the band.
        bar: Name of the colour of the bar.
    """

    label: str
    count: int
    opt_outs: int = 0
    colour: str = "flow"
    bar: str = "line"


@dataclass(frozen=True)
class Band:
    """A band between two bars.

    Attributes:
        path: Its outline, in SVG's form.
        colour: Name of its colour.
    """

    path: str
    colour: str


@dataclass(frozen=True)
class Node:
    """A bar, with its label.

    Attributes:
        x: Left end.
        y: Upper end.
        height: Of the bar.
        part: What it stands for.
        text_x: Where the label begins, or ends.
        text_y: Its base line.
        anchor: `start` or `end`.
    """

    x: float
    y: float
    height: float
    part: Part
    text_x: float
    text_y: float
    anchor: str


@dataclass
class Flow:
    """A drawing.

    Attributes:
        nodes: The bars.
        bands: What lies between them.
        width: Of the drawing.
        height: Of the drawing.
    """

    nodes: list[Node] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    width: int = _WIDTH
    height: float = 0.0


def draw(records: int, skipped: Sequence[Part], people: Part, outcomes: Sequence[Part]) -> Flow:
    """Return the drawing: records on the left, people in the middle, what became of them right.

    The heights of records and of people have scales of their own.

    Args:
        records: Records read.
        skipped: Records that don't count, by the reason.
        people: The people of the others.
        outcomes: What became of the people; those of 0 people are left out.
    """
    flow = Flow()
    skipped = [part for part in skipped if part.count]
    outcomes = [part for part in outcomes if part.count]
    scale = _HEIGHT / max(records, 1)
    counted = max(records - sum(part.count for part in skipped), 0) * scale
    gaps = _GAP * max(len(outcomes) - 1, 0)
    whole = max(counted, gaps + 50.0)
    starts = [max(counted, _LEAST), *(max(part.count * scale, _LEAST) for part in skipped)]
    sizes = [whole, *starts[1:]]
    _add_node(flow, 0, Part("records read", records), top=_TOP, size=_HEIGHT)
    at = _TOP
    for part, start, size, top in zip(
        [people, *skipped], starts, sizes, _stack(sizes), strict=True
    ):
        _add_band(flow, 0, part.colour, top=at, size=start, to_top=top, to_size=size)
        at += start
        _add_node(flow, 1, part, top=top, size=size)

    total = max(sum(part.count for part in outcomes), 1)
    ends = [max(part.count * (whole - gaps) / total, _LEAST) for part in outcomes]
    at = _TOP
    for part, size, top in zip(outcomes, ends, _stack(ends), strict=True):
        start = part.count * whole / total
        _add_band(flow, 1, part.colour, top=at, size=start, to_top=top, to_size=size)
        if part.opt_outs:
            _add_band(
                flow, 1, "dark", top=at, to_top=top,
                size=_share(part, start), to_size=_share(part, size),
            )  # fmt: skip
        at += start
        _add_node(flow, 2, part, top=top, size=size)
    flow.height = round(max(node.y + max(node.height, 14.0) for node in flow.nodes) + 12, 1)
    return flow


def _share(part: Part, size: float) -> float:
    """Return the height of the people with an opt-out; never so low that it can't be seen."""
    return min(size, max(size * part.opt_outs / part.count, _LEAST))


def _stack(sizes: Sequence[float]) -> list[float]:
    """Return the upper ends of bars, one below the other."""
    tops, at = [], _TOP
    for size in sizes:
        tops.append(at)
        at += max(size, 6.0) + _GAP
    return tops


def _add_node(flow: Flow, column: int, part: Part, *, top: float, size: float) -> None:
    x = _COLUMNS[column]
    is_people = column == 1 and part.colour != "skip"
    # That of the people stands before the bar, where nothing dark is.
    text_x = x - 8 if is_people else x + _BAR + 7
    flow.nodes.append(
        Node(
            x,
            round(top, 1),
            round(size, 1),
            part,
            text_x,
            round(top + min(size / 2, 90) + 5, 1),
            "end" if is_people else "start",
        )
    )


def _add_band(
    flow: Flow, column: int, colour: str, *, top: float, size: float, to_top: float, to_size: float
) -> None:
    """Add a band from a bar of a column to one of the next."""
    start, end = _COLUMNS[column] + _BAR, _COLUMNS[column + 1]
    bend = (start + end) / 2
    path = (
        f"M{start:.0f} {top:.1f}C{bend:.0f} {top:.1f} {bend:.0f} {to_top:.1f} {end:.0f} "
        f"{to_top:.1f}V{to_top + to_size:.1f}C{bend:.0f} {to_top + to_size:.1f} {bend:.0f} "
        f"{top + size:.1f} {start:.0f} {top + size:.1f}Z"
    )
    flow.bands.append(Band(path, colour))
