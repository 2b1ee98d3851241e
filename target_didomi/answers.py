"""Which choices of an event are written, and which are left to Didomi. Pure.

A choice from Actito is known to a timestamp, or to a window only: it was made later than
`changed_after`, and at `created_at` at the latest. It is compared with the newest choice for the
same path that Didomi holds:

- equal choices are left out;
- a newer one of Didomi's stays;
- where the order can't be told, the opt-out wins.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from actito_didomi.consent.choices import ConsentChoices, is_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actito_didomi.consent.choices import Answer, Path
    from actito_didomi.consent.conflicts import Window

_STEP = timedelta(milliseconds=1)
"""What Didomi's timestamps are told to."""
LONG_AGO = datetime(1, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Past:
    """An event that Didomi holds.

    Attributes:
        id: Its id.
        timestamp: When its choices were made.
        choices: What it says.
    """

    id: str
    timestamp: datetime
    choices: ConsentChoices


@dataclass(frozen=True)
class Status:
    """What Didomi holds of a person.

    Attributes:
        choices: The choices that hold.
        updated_at: When they last changed.
    """

    choices: ConsentChoices
    updated_at: datetime


class Verdict(enum.Enum):
    """What becomes of a choice."""

    WRITE = "written"
    EQUAL = "equal in Didomi"
    NEWER = "newer in Didomi"
    TIED = "order unknown, and Didomi's is an opt-out"


def expand(choices: ConsentChoices, status: Status) -> dict[Path, bool]:
    """Give all choices one by one; a whole answer also says which values are not chosen."""
    values = {
        (*path, value): value in answer
        for path, answer in choices.answers.items()
        for value in (*answer, *status.choices.answers.get(path, ()))
    }
    return {**choices.single, **values}


def differs(path: Path, choice: bool, status: Status) -> bool:
    """Tell whether a choice isn't what holds already; a value not answered isn't chosen."""
    holds = status.choices.says(path)
    if holds is None and is_value(path):
        holds = False
    return holds is not choice


def settle(
    path: Path, choice: bool, window: Window, status: Status, past: Sequence[Past]
) -> Verdict:
    """Decide about one choice.

    Args:
        path: Its path.
        choice: What was chosen.
        window: When.
        status: What Didomi holds.
        past: The events that Didomi holds, in any order.
    """
    if not differs(path, choice, status):
        return Verdict.EQUAL
    said = [(e.timestamp, e.choices.says(path)) for e in past]
    known = [(timestamp, other) for timestamp, other in said if other is not None]
    if known:
        # At one timestamp the opt-out counts.
        timestamp, other = max(known, key=lambda pair: (pair[0], not pair[1]))
        if window.is_earlier_than(timestamp):
            return Verdict.NEWER
    elif (held := status.choices.says(path)) is not None:
        # No event tells when: at its last change at the latest.
        timestamp, other = status.updated_at, held
    else:
        return Verdict.WRITE
    if window.is_later_than(timestamp) or other is choice or not choice:
        return Verdict.WRITE
    return Verdict.TIED


def timestamp_to_post(window: Window, past: Sequence[Past]) -> datetime:
    """Give the timestamp that makes Didomi apply choices behind those of the same timestamp."""
    timestamp = window.until
    while any(timestamp == event.timestamp for event in past):
        timestamp += _STEP
    return timestamp


def new_answer(before: Answer, chosen: dict[str, bool], *, single_choice: bool) -> Answer:
    """Give the whole new answer to a preference.

    Args:
        before: The values chosen before.
        chosen: What changes, by value.
        single_choice: Whether the preference takes one value: then a new one replaces the others.
    """
    added = [value for value, choice in chosen.items() if choice and value not in before]
    if single_choice and added:
        return (added[-1],)
    kept = [value for value in before if chosen.get(value, True)]
    return (*kept, *added)


def merge(
    written: dict[Path, bool], status: Status, single_choice: frozenset[str]
) -> ConsentChoices:
    """Give what an event must say, so that these choices hold.

    Args:
        written: The choices to write.
        status: What Didomi holds.
        single_choice: Ids of preferences that take one value.
    """
    single = {path: choice for path, choice in written.items() if not is_value(path)}
    values: dict[Path, dict[str, bool]] = {}
    for path, choice in written.items():
        if is_value(path):
            values.setdefault(path[:-1], {})[path[-1]] = choice
    answers = {
        path: new_answer(
            status.choices.answers.get(path, ()), chosen, single_choice=path[-1] in single_choice
        )
        for path, chosen in values.items()
    }
    return ConsentChoices(single, answers)
