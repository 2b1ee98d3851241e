"""Rows of Actito's export of changes, learned into the ledger.

The export holds what target-actito wrote as well. Such rows are recognised by what the ledger knows
of our writes, and are no news. An opt-out among them may be the person's, so it is learned as one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from actito_didomi.consent.conflicts import ACTITO, to_micros
from actito_didomi.consent.entries import learn_row
from actito_didomi.consent.identity import (
    is_placeholder,
    keyless_range,
    keyless_row,
    match_key,
    profile_of,
)
from actito_didomi.consent.looks import FoundChange
from actito_didomi.consent.moves import attach_profile, detach_profile
from actito_didomi.plugin.looks import refresh_held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from actito_didomi.actito.changes import SubscriptionChange
    from actito_didomi.consent.conflicts import Act
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.identity import Matching
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.looks import Look
    from actito_didomi.consent.person import Person
    from actito_didomi.plugin.looks import LookLearner
    from actito_didomi.runtime import Runtime

logger = logging.getLogger("tap-actito")

OURS = "target-actito"
"""Source of a change that target-actito wrote."""
_MOST_LOOKUPS = 1000
"""Profiles that are looked up by their id in one run."""


class _Learned(NamedTuple):
    """What a row has shown.

    Attributes:
        act: The newest act, if it has changed.
        is_ours: Whether the row is one of our own writes.
        is_held_changed: Whether what the field is known to hold has changed.
    """

    act: Act | None = None
    is_ours: bool = False
    is_held_changed: bool = False


class RowLearner:
    """Learns rows into the ledger.

    Args:
        ledger: The ledger.
        fields: The subscriptions of the table, by name.
        matching: How keys of people are compared.
        looks: Sets the flags of what is owed.
        find_key: Returns the key of a profile by its `profileId`; None if it has none.
        runtime: Clock.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        fields: Mapping[str, ChoiceField],
        matching: Matching,
        looks: LookLearner,
        find_key: Callable[[str], str | None],
        runtime: Runtime,
    ) -> None:
        self._ledger = ledger
        self._fields = fields
        self._paths = {field.path: field for field in fields.values()}
        self._matching = matching
        self._looks = looks
        self._find_key = find_key
        self._runtime = runtime
        self._keys: dict[str, str | None] = {}

    def learn(
        self, changes: Sequence[SubscriptionChange], arrived_at: datetime
    ) -> list[SubscriptionChange]:
        """Learn rows, and number what people changed.

        Args:
            changes: The rows.
            arrived_at: When they had arrived at the latest; aware of its zone.

        Returns:
            The rows; those that target-actito wrote say so.
        """
        changes = [self._with_key(change) for change in changes]
        rows = [self._row(change) for change in changes]
        last, arrival = self._ledger.last_look(), to_micros(arrived_at)
        result: list[SubscriptionChange] = []
        news: dict[tuple[str, str], FoundChange] = {}
        moved: set[str] = set()
        with self._ledger.change(sorted({row for row in rows if row is not None})) as change:
            for row, read in zip(rows, changes, strict=True):
                field = self._fields.get(read.subscription)
                if row is None or field is None:
                    result.append(read)
                    continue
                person = change.people[row]
                learned = self._learn(person, field, read, arrival, last)
                ours, act = learned.is_ours, learned.act
                result.append(msgspec.structs.replace(read, source=OURS) if ours else read)
                if act is not None or learned.is_held_changed:
                    moved.add(row)
                if act is not None and not ours:
                    news[row, field.name] = self._found(
                        read.person, _text(read.profile_id), field, act
                    )
            for row in moved:
                self._looks.flag(row, change.people[row])
            for _, found in sorted(news.items(), key=lambda item: item[0]):
                change.add_found(found)
        return result

    def _row(self, change: SubscriptionChange) -> str | None:
        if change.person is not None and not is_placeholder(change.person):
            return match_key(change.person, self._matching)
        return None if change.profile_id is None else keyless_row(str(change.profile_id))

    def _learn(
        self,
        person: Person,
        field: ChoiceField,
        change: SubscriptionChange,
        arrival: int,
        last: Look | None,
    ) -> _Learned:
        """Learn one row."""
        choice = field.choice(change.subscribed)
        if choice is None:
            return _Learned()
        if person.spelling is None and change.person is not None:
            person.spelling = change.person
        if person.profile_id is None and change.profile_id is not None:
            person.profile_id = str(change.profile_id)
        entry = person.entry(field.path)
        place = entry.place(field.place)
        refresh_held(place, field, last)
        before, held = entry.acts.get(ACTITO), place.held
        latest = to_micros(change.changed_at)
        is_theirs = learn_row(
            entry,
            field.place,
            choice,
            earliest=latest if change.changed_after is None else to_micros(change.changed_after),
            latest=latest,
            arrival=arrival,
            rules=self._ledger.rules,
        )
        act = entry.acts.get(ACTITO)
        return _Learned(None if act == before else act, not is_theirs, place.held != held)

    def _found(
        self, person: str | None, profile_id: str | None, field: ChoiceField, act: Act
    ) -> FoundChange:
        now = to_micros(self._runtime.now())
        return FoundChange.of(act, field, person=person, profile_id=profile_id, found_at=now)

    # Profiles without a key

    def _with_key(self, change: SubscriptionChange) -> SubscriptionChange:
        """Return a row with the key that its profile has now, if the row holds none."""
        if change.profile_id is None or (
            change.person is not None and not is_placeholder(change.person)
        ):
            return change
        return msgspec.structs.replace(change, person=self._look_up(str(change.profile_id)))

    def _look_up(self, profile_id: str) -> str | None:
        if profile_id not in self._keys:
            if len(self._keys) >= _MOST_LOOKUPS:
                return None
            key = self._find_key(profile_id)
            self._keys[profile_id] = None if key is None or is_placeholder(key) else key
        return self._keys[profile_id]

    def move_keyless(self) -> None:
        """Look up the profiles that had no key, and move what is known of those that have one."""
        first, last = keyless_range()
        for row, _ in self._ledger.between(first, last, _MOST_LOOKUPS):
            profile_id = profile_of(row) or ""
            key = self._look_up(profile_id)
            if key is not None:
                self._move(row, profile_id, key)

    def _move(self, row: str, profile_id: str, key: str) -> None:
        now, rules = to_micros(self._runtime.now()), self._ledger.rules
        target = match_key(key, self._matching)
        with self._ledger.change([row, target]) as change:
            old, person = change.people[row], change.people[target]
            if old.profile_id != profile_id or person.profile_id not in (None, profile_id):
                return  # another profile has the key as well: looks keep them apart
            part = detach_profile(old, now, rules)
            person.profile_id, person.spelling = profile_id, key
            for path, act in attach_profile(person, part):
                if (field := self._paths.get(path)) is not None:
                    change.add_found(self._found(key, profile_id, field, act))
            self._looks.flag(target, person)
            self._looks.flag(row, old)


def _text(profile_id: int | None) -> str | None:
    return None if profile_id is None else str(profile_id)
