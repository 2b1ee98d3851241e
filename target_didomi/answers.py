"""What Didomi holds of a person, and which choices are to be written over it. Pure.

A choice made in Actito is compared with the newest choice at the same path that Didomi holds:

- a choice that Didomi holds already is not written;
- a newer one of Didomi's stays;
- where the order can't be known, the opt-out counts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi.consent.choices import ConsentChoices, is_value, read_choices
from actito_didomi.consent.conflicts import (
    BEGINNING,
    DIDOMI,
    END,
    Act,
    certainly_later,
    newest,
    prevails,
    to_micros,
)
from actito_didomi.consent.records import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from actito_didomi.consent.choices import Answer, Path


_NO_TOLERANCE = 0
"""Without a ledger the clocks of both sides and of this machine must agree."""


@dataclass(frozen=True)
class HeldEvent:
    """An event that Didomi holds.

    Attributes:
        id: Its id.
        timestamp: When its choices were made; aware of its zone, to the millisecond.
        choices: Its choices.
    """

    id: str
    timestamp: datetime
    choices: ConsentChoices


@dataclass(frozen=True)
class HeldStatus:
    """The choices of a person that count in Didomi.

    Attributes:
        choices: The choices.
        updated_at: When they last changed; aware of its zone. None if Didomi doesn't say.
    """

    choices: ConsentChoices
    updated_at: datetime | None


class Decision(enum.Enum):
    """What is done about a choice."""

    WRITE = "written"
    PRESENT = "already present"
    NEWER = "kept: newer in Didomi"
    OPT_OUT = "kept: opt-out in Didomi"
    SUPERSEDED = "superseded by a newer choice of the run"


def read_event(event: Mapping[str, Any]) -> HeldEvent:
    """Read an event of Didomi's response.

    Raises:
        BadInputError: Its timestamp or its consents are not of Didomi's form.
    """
    consents = event.get("consents")
    return HeldEvent(
        id=str(event.get("id")),
        timestamp=parse_timestamp(event.get("created_at"), "created_at"),
        choices=read_choices(consents if isinstance(consents, dict) else {}),
    )


def updated_at(user: Mapping[str, Any]) -> datetime | None:
    """Return when a user of Didomi's response last changed; None where it doesn't say.

    Raises:
        BadInputError: The timestamp is not of Didomi's form.
    """
    timestamp = user.get("updated_at") or user.get("created_at")
    return None if timestamp is None else parse_timestamp(timestamp, "updated_at")


def read_status(user: Mapping[str, Any]) -> HeldStatus:
    """Read a user of Didomi's response; an empty object is a person without any choice.

    Raises:
        BadInputError: Its timestamp or its consents are not of Didomi's form.
    """
    return HeldStatus(read_choices(user.get("consents") or {}), updated_at(user))


def latest_user(users: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the user that changed last; an empty object where there is none.

    Raises:
        BadInputError: A timestamp is not of Didomi's form.
    """
    return max(users, key=lambda user: _micros(updated_at(user), BEGINNING), default={})


def _micros(timestamp: datetime | None, otherwise: int) -> int:
    return otherwise if timestamp is None else to_micros(timestamp)


def expand(choices: ConsentChoices, status: HeldStatus) -> dict[Path, bool]:
    """Return all choices by their paths.

    An answer to a preference is a choice for each value in it, and an opt-out for each other value
    that Didomi holds.
    """
    values = {
        (*path, value): value in answer
        for path, answer in choices.answers.items()
        for value in (*answer, *status.choices.answers.get(path, ()))
    }
    return {**choices.single, **values}


def differs(path: Path, choice: bool, status: HeldStatus) -> bool:
    """Return whether Didomi holds another choice, or none; a value not answered isn't chosen."""
    held = status.choices.says(path)
    if held is None and is_value(path):
        held = False
    return held is not choice


def decide(path: Path, act: Act, status: HeldStatus, events: Sequence[HeldEvent]) -> Decision:
    """Decide whether one choice is written.

    Args:
        path: Its path.
        act: The choice, made in Actito.
        status: What Didomi holds.
        events: The events that Didomi holds, in any order.
    """
    if not differs(path, act.value, status):
        return Decision.PRESENT
    held = _newest_held(path, status, events)
    if held is None or prevails(act, held, _NO_TOLERANCE):
        return Decision.WRITE
    if held.value is act.value or certainly_later(held, act, _NO_TOLERANCE):
        return Decision.NEWER
    return Decision.OPT_OUT


def _newest_held(path: Path, status: HeldStatus, events: Iterable[HeldEvent]) -> Act | None:
    """Return the newest choice at a path that Didomi holds."""
    found: Act | None = None
    for event in events:
        value = event.choices.says(path)
        if value is not None:
            when = to_micros(event.timestamp)
            found = newest(found, Act(value, when, when, DIDOMI, "event"))
    held = status.choices.says(path)
    if found is None and held is not None:
        # No event says when: at the last change of the status at the latest.
        latest = _micros(status.updated_at, END)
        found = Act(held, BEGINNING, latest, DIDOMI, "status")
    return found


def new_answer(before: Answer, chosen: Mapping[str, bool], *, single_choice: bool) -> Answer:
    """Return the whole new answer to a preference.

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
    written: Mapping[Path, bool], status: HeldStatus, single_choice: frozenset[str]
) -> ConsentChoices:
    """Return what an event must say, so that these choices count afterwards.

    Args:
        written: The choices to write, by their paths.
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
