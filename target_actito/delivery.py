"""From the ledger to Actito: learn what records say, and write what is owed.

What is written is always what the ledger says is owed, whether it came with this run's records or
was left by an earlier run. Opt-outs come first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from actito_didomi import codes
from actito_didomi.actito import Written
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.coalesce import Field
from actito_didomi.consent.conflicts import ACTITO, to_micros
from actito_didomi.consent.person import Owed, Retry
from actito_didomi.errors import ApiError, ImportQuotaExceededError
from target_actito.import_records import LedgerRecords
from target_actito.plan import plan_writes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from actito_didomi.actito import Execution, Imports, TableStructure
    from actito_didomi.consent.coalesce import PersonLayers, ProfileChange
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.looks import Look
    from actito_didomi.consent.person import Person
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.looks import LookLearner
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime
    from target_actito.bulk import BulkWriter, ImportRecords, ImportResult
    from target_actito.checked import CheckedWriter
    from target_actito.config import Settings
    from target_actito.guarding import ChangeGuard
    from target_actito.learning import Learner
    from target_actito.single import WriteResult
    from target_actito.workspace import Workspace

logger = logging.getLogger("target-actito")

_LEARN_AT_ONCE = 20_000
_READ_AT_ONCE = 5_000
_PAGE_SIZE = 1_000
_GREATEST = "\U0010ffff"
_NO_PROFILE = codes.UNMATCHED.name
_FRESH = 60.0
"""Seconds for which a look at the table need not be repeated before the next import."""


class DeliveryEvents(Protocol):
    """Counts what became of people."""

    def on_result(self, result: WriteResult) -> None:
        """Count what a single request came to."""

    def on_import(self, imported: ImportResult) -> None:
        """Count what an import came to."""

    def on_unmatched(self, person: str) -> None:
        """Count a person who has no profile."""

    def on_deferred(self, count: int) -> None:
        """Count changes that wait for an import."""


class Delivery:
    """Learns records into the ledger, and writes what it owes to Actito.

    Args:
        ledger: The ledger.
        learner: Learns records, and finds what is due.
        looks: Learns looks.
        writer: Single requests.
        run: Id of this run.
        session: Session with Actito.
        structure: The profile table.
        settings: Limits of plans.
        events: Counts what became of people.
        guard: Defers all but opt-outs once a limit is passed.
        shutdown: Checked between two pages.
        runtime: Clock.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        learner: Learner,
        looks: LookLearner,
        writer: CheckedWriter,
        run: str,
        session: ApiSession,
        structure: TableStructure,
        settings: Settings,
        events: DeliveryEvents,
        guard: ChangeGuard,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._ledger = ledger
        self._learner = learner
        self._looks = looks
        self._writer = writer
        self._run = run
        self._session = session
        self._structure = structure
        self._settings = settings
        self._events = events
        self._guard = guard
        self._guards = guard.guards
        self._looked_up: set[str] = set()
        self._tried = 0
        self._unmatched: list[str] = []
        self._shutdown = shutdown
        self._runtime = runtime
        self._bulk: BulkWriter | None = None
        self._records: ImportRecords | None = None
        self._looked_at: float | None = None
        self._has_decided = False
        self._lookups_left = settings.lookup_calls

    def import_records(
        self, imports: Imports, workspace: Workspace, follow: Callable[[str], Execution]
    ) -> LedgerRecords:
        """Return what records imports in the ledger."""
        return LedgerRecords(
            ledger=self._ledger,
            learner=self._learner,
            imports=imports,
            workspace=workspace,
            runtime=self._runtime,
            run=self._run,
            key_of=self._writer.key_of,
            look=self.look_before_import,
            mixed_columns=self._settings.limits.mixed_columns,
            follow=follow,
            pause=self._sleep,
        )

    def use_imports(self, bulk: BulkWriter | None, records: ImportRecords) -> None:
        """Make imports from now on.

        Args:
            bulk: Makes them; None for single requests only.
            records: What is known of imports under way.
        """
        self._bulk, self._records = bulk, records

    def write(self, people: Sequence[PersonLayers]) -> None:
        """Learn what records say, and write what is owed to Actito.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        self.learn(people)
        self.deliver()

    # Learning

    def learn(self, people: Sequence[PersonLayers]) -> None:
        """Learn what records say: once this returns, nothing of it can be lost."""
        arrival = to_micros(self._runtime.now())
        for start in range(0, len(people), _LEARN_AT_ONCE):
            self._shutdown.check()
            part = people[start : start + _LEARN_AT_ONCE]
            named = [(self._writer.key_of(found.person), found) for found in part]
            left = self._ledger.learn_new(named, self._learner.paths, arrival, self._learner.digest)
            with self._ledger.change({named[position][0] for position in left}) as change:
                for position in left:
                    key, found = named[position]
                    self._learner.learn(change.people[key], found, arrival)

    # Writing

    def deliver(self) -> None:
        """Write what is owed to Actito.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        most = self._settings.target.max_buffered_people
        self._decide_deferred()
        if self._records is not None and self._records.settle_earlier():
            # What an import under way may yet overwrite is written now, and again after its end.
            self._pass(most, set(), opt_outs_only=True)
            self._records.await_earlier()
        tried: set[str] = set()
        self._pass(most, tried, opt_outs_only=True, if_many=True)
        self._pass(most, tried, opt_outs_only=False)
        if self._records is not None and self._records.settle_earlier():
            raise ApiError(
                codes.IMPORT_UNFINISHED,
                "An import has not ended within bulk_timeout. All else is written. Nothing is "
                "lost: the next run waits for it, and writes again what it may have overwritten. "
                "Look it up in Actito, and stop it there if it hangs.",
            )

    def _decide_deferred(self) -> None:
        """Decide again what waited for the setting `baseline`; once per run."""
        if self._has_decided or self._ledger.rules.baseline is None:
            return
        self._has_decided = True
        after: str | None = None
        while rows := self._ledger.owed(Owed.DEFERRED, after=after, limit=_READ_AT_ONCE):
            after = rows[-1][0]
            self._flag([key for key, _ in rows])

    def _pass(
        self, most: int, tried: set[str], *, opt_outs_only: bool, if_many: bool = False
    ) -> None:
        """Write what is owed, in batches.

        Args:
            most: People of a batch at most.
            tried: Keys of the people who are left out; those of this pass are added.
            opt_outs_only: Whether to write only to people to whom an opt-out is owed.
            if_many: Whether to write only if there is more than one batch.
        """
        while batch := self._next(tried, most, opt_outs_only=opt_outs_only):
            if if_many and len(batch) < most:
                return
            self._deliver(batch)
            tried.update(batch)

    def _next(self, tried: set[str], most: int, *, opt_outs_only: bool) -> list[str]:
        """Return the keys of the next people to whom something is owed now."""
        now = to_micros(self._runtime.now())
        found: list[str] = []
        after: str | None = None
        while len(found) < most:
            rows = self._ledger.owed(
                Owed.ACTITO,
                after=after,
                limit=min(_READ_AT_ONCE, most),
                opt_outs_only=opt_outs_only,
                due_at=now,
            )
            if not rows:
                break
            after = rows[-1][0]
            settled: list[str] = []
            for key, person in rows:
                if key in tried or not self._is_time(key, person, now):
                    continue
                (found if self._learner.is_due(person) else settled).append(key)
            self._flag(settled)
        return found

    def _flag(self, keys: Sequence[str]) -> None:
        """Set flags again: what another plugin has learned may end that something is owed."""
        self._ledger.change_each(keys, lambda _, person: self._learner.flag(person))

    def _is_time(self, key: str, person: Person, now: int) -> bool:
        """Return whether a person is to be tried now; those without a profile are few a run."""
        retry = person.retries.get(ACTITO)
        if retry is not None and retry.next_at > now:
            return False
        if person.owed & Owed.NO_PROFILE:
            if not self._lookups_left:
                return False
            self._lookups_left -= 1
            self._looked_up.add(key)
        return True

    def _deliver(self, batch: Sequence[str]) -> None:
        """Write one batch of people."""
        last = self._ledger.last_look()
        is_first = not self._looks.covers(last)
        if self._looked_at is None and (is_first or len(batch) > self._pages(last)):
            self.look_at_table(batch)
        changes = self._still_due(batch)
        changes, deferred_changes = self._guard.check(
            changes, self._count_turned_off, self._ledger.count_people
        )
        if changes:
            self._write(changes)
        if deferred_changes:
            self._note_deferred([self._writer.key_of(change.person) for change in deferred_changes])

    def _write(self, changes: list[ProfileChange]) -> None:
        """Write changes by the cheapest means."""
        logger.info(
            "Writing the changes of people: %d, of them with an opt-out: %d.",
            len(changes),
            sum(change.opt_out for change in changes),
        )
        if self._bulk is None:
            plan = plan_writes(changes, self._settings.limits)
            logger.info("%s", plan.to_text())
            self._writer.write([*plan.opt_out_singles, *plan.other_singles], self._on_result)
            return
        plan = self._bulk.plan(changes)
        logger.info("%s", plan.to_text())
        try:
            self._bulk.write(plan, self._on_result, self._events.on_import)
        except ImportQuotaExceededError as error:
            logger.warning("%s", error)
            self._events.on_deferred(error.deferred)

    def _pages(self, last: Look | None) -> int:
        """Return how many requests a look at the whole table takes."""
        return -(-(last.profiles if last else 0) // _PAGE_SIZE) + 1

    def _still_due(self, batch: Sequence[str]) -> list[ProfileChange]:
        """Return what is due to people after a look, opt-outs first."""
        opt_outs: list[ProfileChange] = []
        others: list[ProfileChange] = []
        keys = sorted(batch)
        for start in range(0, len(keys), _READ_AT_ONCE):
            part = keys[start : start + _READ_AT_ONCE]
            people = self._ledger.read(part)
            for key in part:
                person = people.get(key)
                if person is None or (person.owed & Owed.NO_PROFILE and self._looked_at):
                    continue
                change = self._learner.change(key, person)
                if change is not None:
                    (opt_outs if change.opt_out else others).append(change)
        return opt_outs + others

    # Guards

    def _count_turned_off(self, name: str, enough: int) -> int:
        """Count the profiles whose field is turned off, as far as the ledger knows; up to a bound.

        Args:
            name: Name of the field.
            enough: Where to stop counting.
        """
        fields = [field for field in self._learner.choice_fields if field.name == name]
        found, after = 0, ""
        while rows := self._ledger.between(after, _GREATEST, _READ_AT_ONCE):
            after = rows[-1][0]
            found += sum(any(self._is_off(person, f) for f in fields) for _, person in rows)
            if found >= enough:
                break
        return found

    def _is_off(self, person: Person, field: ChoiceField) -> bool:
        entry = person.entries.get(field.path)
        place = entry.places.get(field.place) if entry else None
        on = self._guard.turns_on.get(Field(field.kind, field.name))
        return bool(place and place.held and place.held.value is (not on))

    def _note_deferred(self, keys: Sequence[str]) -> None:
        """Record why people are still owed something: they are tried again at each run."""
        trip = self._guards.trip
        if trip is None:
            return
        logger.warning("%s: people deferred: %d. %s.", trip.code, len(keys), trip.text)
        self._events.on_deferred(len(keys))
        now = to_micros(self._runtime.now())

        def note(_: str, person: Person) -> None:
            person.owed &= ~Owed.NO_PROFILE
            self._learner.flag(person)
            if ACTITO not in person.retries or person.retries[ACTITO].code == _NO_PROFILE:
                person.retries[ACTITO] = Retry(
                    code=trip.code.name, attempts=1, next_at=now, first_at=now
                )

        self._ledger.change_each(keys, note)

    def _on_result(self, result: WriteResult) -> None:
        """Count what a single request came to, and see whether too many people are unknown."""
        self._events.on_result(result)
        key = self._writer.key_of(result.change.person)
        if key in self._looked_up:
            return
        self._tried += 1
        if result.outcome is Written.UNMATCHED:
            self._unmatched.append(key)
            self._check_unmatched()

    def _check_unmatched(self) -> None:
        """Keep people owed, rather than without a profile, if too many are unknown."""
        self._guards.check_unmatched(len(self._unmatched), self._tried)
        if self._guards.stops_lookups:
            self._note_deferred(self._unmatched)
            self._unmatched = []

    def _sleep(self, seconds: float) -> None:
        self._shutdown.requested.wait(seconds)
        self._shutdown.check()

    # Looking

    def look_before_import(self) -> None:
        """Look at the table, unless that was done just now."""
        if self._looked_at is None or self._runtime.monotonic() - self._looked_at > _FRESH:
            self.look_at_table(())

    def look_at_table(self, wanted: Collection[str]) -> None:
        """Look at all profiles of the table, and learn what they show.

        Args:
            wanted: Keys of people of whom it is to be noted if they have no profile.
        """
        last = self._ledger.last_look()
        missing = set(wanted)
        began, profiles, unknown = to_micros(self._runtime.now()), 0, 0
        ended = began
        for page in list_profiles(self._session, self._structure, _PAGE_SIZE, self._runtime):
            self._shutdown.check()
            missing.difference_update(self._looks.learn_page(page, last))
            profiles += len(page.profiles)
            unknown += page.unknown
            ended = to_micros(page.read_at)
        if not unknown:  # else the look has not shown all: it is no complete one
            self._ledger.record_look(began, ended, self._looks.look_names, profiles)
        self._looked_at = self._runtime.monotonic()
        logger.info("Looked at the table: %d profiles.", profiles)
        if not self._settings.upsert_mode:
            self._note_missing(sorted(missing), len(wanted))

    def _note_missing(self, keys: Sequence[str], people: int) -> None:
        """Record that people have no profile, unless that is so of too many.

        Args:
            keys: Their keys.
            people: Of how many people.
        """
        new = [key for key in keys if key not in self._looked_up]
        if self._guards.check_unmatched(len(new), people - len(keys) + len(new)):
            self._note_deferred(new)
            keys = sorted(set(keys).difference(new))

        def note(key: str, person: Person) -> None:
            self._writer.note_missing(person)
            self._events.on_unmatched(person.spelling or key)

        self._ledger.change_each(keys, note)
