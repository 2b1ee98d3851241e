"""A profile that gets another key: what the ledger knows of it moves to the new one. Pure.

What the profile holds, what we wrote to it, and what its owner chose in Actito belong to the
profile, so they move along. What was chosen in Didomi belongs to the user there, who keeps the old
key; only opt-outs are taken along, since the profile holds them and must go on to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from actito_didomi.consent.conflicts import ACTITO, DIDOMI, OPT_OUT
from actito_didomi.consent.entries import Entry, Place, learn, newest_act
from actito_didomi.consent.places import is_user

if TYPE_CHECKING:
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Act, Micros, Rules
    from actito_didomi.consent.person import Person


@dataclass(frozen=True)
class ProfilePart:
    """What moves along with a profile.

    Attributes:
        acts: Acts to learn, by the path of their choice.
        places: Fields in Actito, by the path of their choice and their name.
    """

    acts: dict[Path, list[Act]] = field(default_factory=dict)
    places: dict[Path, dict[str, Place]] = field(default_factory=dict)


def detach_profile(person: Person, now: Micros, rules: Rules) -> ProfilePart:
    """Remove from a person what belongs to the profile, which has this key no longer.

    A write that is open may still be carried out; the run that made it can't end it any more.

    Args:
        person: The person, changed here.
        now: The present time.
        rules: Settings that decide.
    """
    part = ProfilePart()
    for path in list(person.entries):
        entry = person.entries[path]
        acts = [] if (act := entry.acts.pop(ACTITO, None)) is None else [act]
        didomi = newest_act(entry, DIDOMI)
        if didomi is not None and didomi.value is OPT_OUT:
            acts.append(didomi)
        if acts:
            part.acts[path] = acts
        for name in [name for name in entry.places if not is_user(name)]:
            place = entry.places.pop(name)
            if place.intent is not None:
                intent = place.intent
                if intent.import_number is None:
                    intent = structs.replace(intent, until=now + rules.late_bound)
                place.late.append(intent)
                place.intent = None
            part.places.setdefault(path, {})[name] = place
    person.profile_id = None
    person.spelling = None
    return part


def attach_profile(person: Person, part: ProfilePart) -> list[tuple[Path, Act]]:
    """Put what moved along with a profile into the person who has its key now.

    Args:
        person: The person, changed here.
        part: What moved along.

    Returns:
        The acts in Actito that are news for the person, each with the path of its choice.
    """
    news: list[tuple[Path, Act]] = []
    for path in part.acts.keys() | part.places.keys():
        entry = person.entries.get(path)
        if entry is None:
            entry = person.entries[path] = Entry()
        for act in part.acts.get(path, ()):
            before = entry.acts.get(act.side)
            learn(entry, act)
            if act.side == ACTITO and act.source != "baseline" and entry.acts[ACTITO] != before:
                news.append((path, entry.acts[ACTITO]))
        for name, place in part.places.get(path, {}).items():
            old = entry.places.get(name)
            if old is None:
                entry.places[name] = place
                continue
            # Of what had this key before, only writes under way matter: they may hit this profile.
            old.held = place.held
            old.late += place.late
            old.writes = sorted([*old.writes, *place.writes], key=lambda write: write.ended)
    return sorted(news, key=lambda found: found[0])
