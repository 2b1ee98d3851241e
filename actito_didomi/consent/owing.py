"""What is owed to each side of one person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from actito_didomi.consent.codec import masks_of
from actito_didomi.consent.conflicts import ACTITO, OPT_OUT
from actito_didomi.consent.entries import (
    due_actito,
    due_at_field,
    due_at_users,
    may_be_overwritten,
    winner,
)
from actito_didomi.consent.masks import decide
from actito_didomi.consent.person import Owed, flags_of
from actito_didomi.consent.places import is_user, users_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Act, Rules
    from actito_didomi.consent.entries import Entry
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.masks import Decision, FieldBits
    from actito_didomi.consent.person import Person

# Numbers, since operations on flags are slow and this is done for each person.
_ACTITO, _OPT_OUT_ACTITO = int(Owed.ACTITO), int(Owed.OPT_OUT_ACTITO)
_DIDOMI, _OPT_OUT_DIDOMI = int(Owed.DIDOMI), int(Owed.OPT_OUT_DIDOMI)
_NO_PROFILE, _NO_USER = int(Owed.NO_PROFILE), int(Owed.NO_USER)
_DEFERRED, _IN_IMPORT = int(Owed.DEFERRED), int(Owed.IN_IMPORT)
_ABOUT_DIDOMI = _DIDOMI | _OPT_OUT_DIDOMI | _NO_USER
_ABOUT_EITHER = _ABOUT_DIDOMI | _ACTITO | _OPT_OUT_ACTITO | _NO_PROFILE | _DEFERRED | _IN_IMPORT


def find_due(
    person: Person, fields: Iterable[ChoiceField], rules: Rules
) -> list[tuple[ChoiceField, Act]]:
    """Return the fields of a person to be written, each with the act that it is to show."""
    due = []
    for field in fields:
        entry = person.entries.get(field.path)
        if entry is None:
            continue
        best = winner(entry, rules)
        act = due_at_field(entry, field.place, best)
        if act is None and _is_due_again(entry, field.place, best):
            act = best
        if act is not None:
            due.append((field, act))
    return due


def _is_due_again(entry: Entry, place: str, best: Act | None) -> bool:
    """Return whether an opt-out that a field shows may yet be overwritten by a write of ours."""
    return best is not None and best.value is OPT_OUT and may_be_overwritten(entry, place)


def known_users(person: Person) -> list[str]:
    """Return the places of the Didomi users of a person, as far as they are known."""
    return users_of({place for entry in person.entries.values() for place in entry.places})


def due_users(person: Person, rules: Rules) -> dict[Path, list[str]]:
    """Return the choices of a person that are owed to Didomi, each with the users' places.

    The list is empty for a choice of a person none of whose users is known.
    """
    return _due_users(person, _winners(person, rules))


def _winners(person: Person, rules: Rules) -> dict[Path, Act | None]:
    """Return the act that all places should show, of each choice of a person."""
    return {path: winner(entry, rules) for path, entry in person.entries.items()}


def _due_users(person: Person, winners: Mapping[Path, Act | None]) -> dict[Path, list[str]]:
    users = known_users(person)
    due: dict[Path, list[str]] = {}
    for path, best in winners.items():
        if best is None or path[0] != "consents":
            continue
        if users:
            if found := due_at_users(person.entries[path], users, best):
                due[path] = found
        elif best.side == ACTITO and best.source != "baseline":
            due[path] = []
    return due


def flag(
    person: Person, fields: Iterable[ChoiceField], rules: Rules, bits: FieldBits | None = None
) -> None:
    """Set the flags of what is owed to either side.

    That the person has no profile, or no user, stays as long as something is owed there.

    Args:
        person: The person, changed here.
        fields: The fields in Actito that may be owed something.
        rules: Settings that decide.
        bits: The bits of these fields, to be quicker.
    """
    if bits is not None and (found := decide_quickly(person, bits, rules)) is not None:
        flag_quickly(person, found)
        return
    winners = _winners(person, rules)
    about_actito = _flags_of_actito(person, fields, winners)
    about_didomi = _flags_of_didomi(person, winners)
    person.owed = flags_of(int(person.owed) & ~_ABOUT_EITHER | about_actito | about_didomi)


def _flags_of_actito(
    person: Person, fields: Iterable[ChoiceField], winners: Mapping[Path, Act | None]
) -> int:
    owed = 0
    for state in person.attributes.values():
        if state.value is not msgspec.UNSET:
            owed |= _ACTITO
    for field in fields:
        entry = person.entries.get(field.path)
        if entry is not None:
            owed |= _flags_of_field(entry, field.place, winners[field.path])
    if owed & _ACTITO:
        owed |= int(person.owed) & _NO_PROFILE
    return owed


def _flags_of_field(entry: Entry, name: str, best: Act | None) -> int:
    """Return the flags of one field: an opt-out that may yet be overwritten is written already."""
    owed = 0
    if best is None:
        owed = _DEFERRED if entry.acts else 0
    elif due_at_field(entry, name, best) is not None:
        owed = _ACTITO if best.value else _ACTITO | _OPT_OUT_ACTITO
    elif _is_due_again(entry, name, best):
        owed = _ACTITO
    place = entry.places.get(name)
    if place is not None and any(late.import_number is not None for late in place.late):
        owed |= _IN_IMPORT
    return owed


def decide_quickly(person: Person, bits: FieldBits, rules: Rules) -> Decision | None:
    """Return what is due to a person, who is as they were read; None where that takes longer."""
    masks = masks_of(person)
    return None if masks is None else decide(masks, bits, rules)


def flag_quickly(person: Person, found: Decision) -> None:
    """Set the flags of what is owed to either side.

    Args:
        person: The person, changed here.
        found: What is owed of their choices.
    """
    also = 0
    for state in person.attributes.values():
        if state.value is not msgspec.UNSET:
            also = _ACTITO
    person.owed = flags_of(flags_after(int(person.owed), found, also))


def flags_after(before: int, found: Decision, also: int = 0) -> int:
    """Return the flags of what is owed to either side.

    Args:
        before: The flags that a person had.
        found: What is owed of their choices.
        also: Flags of what else is owed.
    """
    owed = found.owed | also
    if owed & _ACTITO:
        owed |= before & _NO_PROFILE
    if owed & _DIDOMI and not found.has_users:
        owed |= before & _NO_USER
    return before & ~_ABOUT_EITHER | owed


def flag_fields(person: Person, rules: Rules) -> None:
    """Set the flags of what is owed to Actito, for a plugin that knows no fields.

    Flags that are set stay: only target-actito knows which fields it writes.
    """
    for path, entry in person.entries.items():
        for name in entry.places if path[0] == "consents" else ():
            act = None if is_user(name) else due_actito(entry, name, rules)
            if act is not None:
                person.owed |= Owed.ACTITO
                if act.value is OPT_OUT:
                    person.owed |= Owed.OPT_OUT_ACTITO


def flag_didomi(person: Person, rules: Rules) -> None:
    """Set the flags of what is owed to Didomi.

    That the person has no user stays, as long as something is owed and no user is known.
    """
    flags = _flags_of_didomi(person, _winners(person, rules))
    person.owed = flags_of(int(person.owed) & ~_ABOUT_DIDOMI | flags)


def _flags_of_didomi(person: Person, winners: Mapping[Path, Act | None]) -> int:
    owed = 0
    for path in _due_users(person, winners):
        best = winners[path]
        owed |= _DIDOMI if best is None or best.value else _DIDOMI | _OPT_OUT_DIDOMI
    if owed and person.owed & Owed.NO_USER and not known_users(person):
        owed |= _NO_USER
    return owed
