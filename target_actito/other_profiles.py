"""Write opt-outs to all profiles of a person, where several have the same key but for its spelling.

An opt-out goes to each of them, an opt-in to one only. The others have rows of their own in the
ledger, as profiles without a usable key have, in which looks are learned.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actito_didomi.actito import Written
from actito_didomi.consent.coalesce import Field, ProfileChange, Value
from actito_didomi.consent.conflicts import (
    ACTITO,
    OPT_IN,
    OPT_OUT,
    certainly_later,
    to_datetime,
    to_micros,
)
from actito_didomi.consent.entries import winner
from actito_didomi.consent.identity import keyless_row
from actito_didomi.consent.person import Owed
from actito_didomi.errors import RequestRejectedError
from target_actito.single import WriteResult, all_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actito_didomi.actito import ProfileTable
    from actito_didomi.consent.conflicts import Act
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime
    from target_actito.learning import Learner

logger = logging.getLogger("target-actito")

_AT_ONCE = 5_000
_GREATEST = "\U0010ffff"
_OPT_OUT_OWED = Owed.ACTITO | Owed.OPT_OUT_ACTITO


@dataclass(frozen=True)
class OtherProfiles:
    """Writes opt-outs to profiles whose key differs in its spelling only.

    Attributes:
        ledger: The ledger.
        learner: Records writes.
        table: Writes profiles by their `profileId`.
        key_of: Returns the key of a spelling.
        run: Id of this run.
        on_result: Called for each change that was written or refused.
        shutdown: Checked between requests.
        runtime: Clock.
    """

    ledger: Ledger
    learner: Learner
    table: ProfileTable
    key_of: Callable[[str], str]
    run: str
    on_result: Callable[[WriteResult], None]
    shutdown: Shutdown
    runtime: Runtime

    def write(self) -> None:
        """Write the opt-outs that other profiles of people don't show.

        Raises:
            StoppedError: The process is to stop.
            ApiError: The API can't be used.
        """
        for row, profile_id, change in self._find_due():
            self.shutdown.check()
            self._write(row, profile_id, change)

    def _find_due(self) -> Iterator[tuple[str, str, ProfileChange]]:
        """Yield the rows of other profiles, with their ids and the opt-outs they lack."""
        first = keyless_row("")
        after = first
        while rows := self.ledger.between(after, first + _GREATEST, _AT_ONCE):
            after = rows[-1][0]
            known = [
                (row, other, other.spelling, other.profile_id)
                for row, other in rows
                if other.spelling is not None and other.profile_id is not None
            ]
            people = self.ledger.read({self.key_of(spelling) for _, _, spelling, _ in known})
            for row, other, spelling, profile_id in known:
                person = people.get(self.key_of(spelling))
                change = None if person is None else self._lacking(other, spelling, person)
                if change is not None:
                    yield row, profile_id, change

    def _lacking(self, other: Person, spelling: str, person: Person) -> ProfileChange | None:
        """Return the opt-outs of a person that another profile of theirs doesn't show."""
        values: dict[Field, Value] = {}
        for field in self.learner.choice_fields:
            act = self._opt_out_for(other, person, field)
            if act is not None:
                values[Field(field.kind, field.name)] = Value(
                    field.value(OPT_OUT), OPT_OUT, to_datetime(act.latest)
                )
        guard = self.learner.guard
        if guard is not None and guard.guards.tripped:
            values = {field: value for field, value in values.items() if guard.allows(field, value)}
        if not values:
            return None
        return ProfileChange(spelling, 0, tuple(values), tuple(values.values()), opt_out=True)

    def _opt_out_for(self, other: Person, person: Person, field: ChoiceField) -> Act | None:
        """Return the opt-out that a field of another profile is to show; None if there is none.

        An opt-in that was made there later for certain stands.
        """
        entry, own = person.entries.get(field.path), other.entries.get(field.path)
        place = None if own is None else own.places.get(field.place)
        if entry is None or own is None or place is None or place.held is None:
            return None
        rules, held = self.ledger.rules, place.held
        best = winner(entry, rules)
        if best is None or best.value is OPT_IN:
            return None
        if held.value is OPT_OUT and not held.doubtful and place.intent is None:
            return None
        act = own.acts.get(ACTITO)
        if act is not None and act.value and certainly_later(act, best, rules.clock_tolerance):
            return None
        return best

    def _write(self, row: str, profile_id: str, change: ProfileChange) -> None:
        """Write to one profile; the intent is on disk before."""
        began = self.runtime.now()
        with self.ledger.change([row]) as found:
            other = found.people[row]
            self.learner.begin(other, change, now=to_micros(began), run=self.run)
            other.owed = _OPT_OUT_OWED
        refused: RequestRejectedError | None = None
        written = Written.UNMATCHED
        try:
            written = self.table.write(
                profile_id, change.attributes, change.subscriptions, create=False
            )
        except RequestRejectedError as error:
            if not error.is_record_level:
                raise all_refused(error) from None
            refused = error
        with self.ledger.change([row]) as found:
            other = found.people[row]
            if written is Written.UPDATED:
                self.learner.end(other, change, to_micros(self.runtime.now()))
            else:
                self.learner.drop(other, change)
            other.owed = Owed.NONE if refused is None else _OPT_OUT_OWED
            if refused is None and written is Written.UNMATCHED:  # the profile is gone
                other.profile_id = None
        if refused is not None or written is Written.UPDATED:
            self.on_result(WriteResult(change, refused or written, began))
