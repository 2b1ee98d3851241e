"""What is owed to each side of one person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from actito_didomi.consent.conflicts import ACTITO, OPT_OUT
from actito_didomi.consent.entries import due_actito, due_didomi, is_deferred, winner
from actito_didomi.consent.person import Owed
from actito_didomi.consent.places import is_user, users_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Act, Rules
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.person import Person

_ABOUT_ACTITO = Owed.ACTITO | Owed.OPT_OUT_ACTITO | Owed.NO_PROFILE | Owed.DEFERRED | Owed.IN_IMPORT


def find_due(
    person: Person, fields: Iterable[ChoiceField], rules: Rules
) -> list[tuple[ChoiceField, Act]]:
    """Return the fields of a person to be written, each with the act that it is to show."""
    due = []
    for field in fields:
        entry = person.entries.get(field.path)
        if entry is not None and (act := due_actito(entry, field.place, rules)) is not None:
            due.append((field, act))
    return due


def known_users(person: Person) -> list[str]:
    """Return the places of the Didomi users of a person, as far as they are known."""
    return users_of({place for entry in person.entries.values() for place in entry.places})


def due_users(person: Person, rules: Rules) -> dict[Path, list[str]]:
    """Return the choices of a person that are owed to Didomi, each with the users' places.

    The list is empty for a choice of a person none of whose users is known.
    """
    users = known_users(person)
    due: dict[Path, list[str]] = {}
    for path, entry in person.entries.items():
        best = winner(entry, rules)
        if best is None or path[0] != "consents":
            continue
        if users:
            if found := due_didomi(entry, users, rules):
                due[path] = found
        elif best.side == ACTITO and best.source != "baseline":
            due[path] = []
    return due


def flag_actito(person: Person, fields: Iterable[ChoiceField], rules: Rules) -> None:
    """Set the flags of what is owed to Actito.

    That the person has no profile stays, as long as something is owed.
    """
    fields = list(fields)
    owed = person.owed & ~_ABOUT_ACTITO
    for _, act in find_due(person, fields, rules):
        owed |= Owed.ACTITO
        if act.value is OPT_OUT:
            owed |= Owed.OPT_OUT_ACTITO
    for state in person.attributes.values():
        if state.value is not msgspec.UNSET:
            owed |= Owed.ACTITO
    for field in fields:
        entry = person.entries.get(field.path)
        if entry is None:
            continue
        if is_deferred(entry, rules):
            owed |= Owed.DEFERRED
        place = entry.places.get(field.place)
        if place and place.intent and place.intent.import_number is not None:
            owed |= Owed.IN_IMPORT
    if owed & Owed.ACTITO:
        owed |= person.owed & Owed.NO_PROFILE
    person.owed = owed


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

    That the person has no user stays, as long as something is owed.
    """
    owed = person.owed & ~(Owed.DIDOMI | Owed.OPT_OUT_DIDOMI | Owed.NO_USER)
    due = due_users(person, rules)
    if due:
        owed |= Owed.DIDOMI | (person.owed & Owed.NO_USER)
    for path in due:
        best = winner(person.entries[path], rules)
        if best is not None and best.value is OPT_OUT:
            owed |= Owed.OPT_OUT_DIDOMI
    person.owed = owed
