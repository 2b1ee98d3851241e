"""The guards on what is posted to Didomi: counted by the ledger before the first event."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from actito_didomi import codes
from actito_didomi.consent.conflicts import DIDOMI, OPT_OUT
from actito_didomi.consent.mapping import show_path
from actito_didomi.consent.person import Retry
from actito_didomi.consent.places import is_user
from actito_didomi.plugin.guards import Guards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Micros
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person

_READ_AT_ONCE = 5_000
_GREATEST = "\U0010ffff"


@dataclass
class DueCounts:
    """What a flush is about to post.

    Attributes:
        opt_ins: People to be opted in, by the path of the choice.
        people: People to whom anything is posted.
    """

    opt_ins: Counter[str] = field(default_factory=Counter)
    people: int = 0

    def add(self, choices: Mapping[Path, bool]) -> None:
        """Count the choices of a person."""
        self.people += bool(choices)
        self.opt_ins.update(show_path(path) for path, choice in choices.items() if choice)


@dataclass(frozen=True)
class DeliveryGuard:
    """Checks what is owed to Didomi, and defers all but opt-outs once a limit is passed.

    Attributes:
        guards: The limits.
        ledger: The ledger.
    """

    guards: Guards
    ledger: Ledger

    def may_pass_limit(self, counts: DueCounts) -> bool:
        """Return whether a limit is passed if all that seems due is posted; nothing is deferred."""
        trial = Guards(structs.replace(self.guards.settings, force_guards=False))
        self._check(trial, counts)
        return trial.tripped

    def check(self, counts: DueCounts) -> None:
        """Check what is about to be posted."""
        self._check(self.guards, counts)

    def _check(self, guards: Guards, counts: DueCounts) -> None:
        guards.check_plan(
            counts.opt_ins,
            self._count_opted_out,
            changed=counts.people,
            people=self.ledger.count_people,
        )

    def _count_opted_out(self, name: str, enough: int) -> int:
        """Count the people who are opted out in Didomi, as far as the ledger knows.

        Args:
            name: Path of the choice, as `show_path` returns it.
            enough: Where to stop counting.
        """
        found, after = 0, ""
        while found < enough and (rows := self.ledger.between(after, _GREATEST, _READ_AT_ONCE)):
            after = rows[-1][0]
            found += sum(_is_opted_out(person, name) for _, person in rows)
        return found

    def allows(self, choice: bool) -> bool:
        """Return whether a choice may be posted: any, or once a guard has tripped, opt-outs."""
        if not self.guards.tripped:
            return True
        return choice is OPT_OUT and self.guards.settings.guards_allow_opt_outs

    def note(self, person: Person, now: Micros) -> None:
        """Record why a person is still owed something: it is tried again at each run.

        Args:
            person: The person, changed here.
            now: The present time.
        """
        trip, known = self.guards.trip, person.retries.get(DIDOMI)
        if trip is not None and (known is None or known.code == codes.UNMATCHED.name):
            person.retries[DIDOMI] = Retry(
                code=trip.code.name, attempts=1, next_at=now, first_at=now
            )


def _is_opted_out(person: Person, name: str) -> bool:
    for path, entry in person.entries.items():
        if show_path(path) == name:
            return any(
                is_user(place) and found.held is not None and found.held.value is OPT_OUT
                for place, found in entry.places.items()
            )
    return False
