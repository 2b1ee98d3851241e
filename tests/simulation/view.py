"""What the ledger of a story holds, read past all processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from actito_didomi.consent.conflicts import Rules, to_micros
from actito_didomi.consent.entries import Entry, Held, is_deferred
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.person import Owed, Person
from actito_didomi.consent.places import field_place, user_key, user_place
from actito_didomi.consent.schema import Prepared
from actito_didomi.consent.store import Store
from actito_didomi.runtime import Runtime
from simulation.plan import Setup
from simulation.runtime import to_datetime

if TYPE_CHECKING:
    from simulation.oracle import TrueAct

FIELDS = ("Newsletter", "SmsAlerts")
"""Actito's fields of the choices."""
CHANNELS = ("email", "sms")
"""Didomi's names of the choices."""
_SLACK = 2_000_000
"""Microseconds: Actito's rows have whole seconds, and so has the measure of a clock."""


class LedgerView:
    """Reads the ledger of a story.

    Args:
        path: Its file.
        setup: Of the story.
    """

    def __init__(self, path: Path, setup: Setup) -> None:
        self._path = path
        self._setup = setup
        self.rules = Rules(baseline=setup.baseline)
        self._ledger: Ledger | None = None

    def _open(self) -> Ledger | None:
        if self._ledger is None and self._path.exists() and self._path.stat().st_size:
            store = Store(sa.create_engine(f"sqlite:///{self._path}"), self._path)
            if sa.inspect(store.engine).has_table("ledger_people"):
                ready = Prepared("", 1, "the key of a view", is_new=False)
                self._ledger = Ledger(store, ready, self.rules, Runtime())
            else:
                store.close()
        return self._ledger

    def people(self) -> dict[str, Person]:
        """Return all people whom it knows."""
        ledger = self._open()
        return {} if ledger is None else dict(ledger.between("", "\U0010ffff", 1000))

    def entry(self, person: str, choice: int) -> Entry | None:
        """Return what it holds of a choice."""
        ledger = self._open()
        found = None if ledger is None else ledger.read([person]).get(person)
        return None if found is None else found.entries.get(path_of(choice))

    def held(self, person: str, choice: int, place: str) -> Held | None:
        """Return what a place is known to hold."""
        entry = self.entry(person, choice)
        name = place_of(choice, place)
        return entry.places[name].held if entry is not None and name in entry.places else None

    def micros(self, act: TrueAct) -> int:
        """Return when an act was done, by the clock of its side."""
        setup = self._setup
        skew = setup.skew_actito if act.side == "actito" else setup.skew_didomi
        return to_micros(to_datetime(act.at + skew))

    def knows(self, person: str, choice: int, act: TrueAct) -> bool:
        """Return whether it holds an act."""
        entry = self.entry(person, choice)
        known = None if entry is None else entry.acts.get(act.side)
        if known is None or known.value is not act.value:
            return False
        at = self.micros(act)
        return known.earliest - _SLACK <= at <= known.latest + _SLACK

    def owes(self) -> list[str]:
        """Return what is owed to whom without a reason to wait."""
        waits = Owed.NO_PROFILE | Owed.NO_USER
        return [
            f"{person}: {found.owed!r}"
            for person, found in self.people().items()
            if found.owed & (Owed.ACTITO | Owed.DIDOMI | Owed.IN_IMPORT) and not found.owed & waits
        ]

    def is_near_own(self, person: str, choice: int, act: TrueAct) -> bool:
        """Return whether a row of an act in Actito looks like one of our own write."""
        entry = self.entry(person, choice)
        place = None if entry is None else entry.places.get(place_of(choice, "actito"))
        if place is None:
            return False
        at = self.micros(act)
        margin = self.rules.clock_tolerance + _SLACK
        return any(
            write.value is act.value and write.began - margin <= at <= write.ended + margin
            for write in place.writes
        )

    def being_written(self) -> list[str]:
        """Return the people to whom a write of unknown end is open."""
        return [
            person
            for person, found in self.people().items()
            if any(p.intent for entry in found.entries.values() for p in entry.places.values())
        ]

    def has_acts(self, person: str, choice: int) -> bool:
        """Return whether any act is known."""
        entry = self.entry(person, choice)
        return entry is not None and bool(entry.acts)

    def has_baseline(self, person: str, choice: int) -> bool:
        """Return whether an opt-out of unknown age is known, which the first look found."""
        entry = self.entry(person, choice)
        found = None if entry is None else entry.acts.get("actito")
        return found is not None and found.source == "baseline"

    def is_deferred(self, person: str, choice: int) -> bool:
        """Return whether a choice waits for a baseline."""
        entry = self.entry(person, choice)
        return entry is not None and is_deferred(entry, self.rules)

    def close(self) -> None:
        """Close the database."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None


def path_of(choice: int) -> tuple[str, ...]:
    """Return the path of a choice in Didomi."""
    return ("consents", "channels", CHANNELS[choice], "enabled")


def place_of(choice: int, place: str) -> str:
    """Return the ledger's name of a place."""
    if place == "actito":
        return field_place("subscription", FIELDS[choice], inverted=False)
    return user_place(user_key(place))
