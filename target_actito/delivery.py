"""From the ledger to Actito: learn what records say, and write what is owed.

What is written is always what the ledger says is owed, whether it came with this run's records or
was left by an earlier run. Opt-outs come first.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol, cast

from actito_didomi import codes
from actito_didomi.actito import ProfileTable, Written
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.coalesce import Field
from actito_didomi.consent.conflicts import ACTITO, to_datetime, to_micros
from actito_didomi.consent.drafts import Glimpse
from actito_didomi.consent.identity import profile_of
from actito_didomi.consent.looks import Look
from actito_didomi.consent.person import Owed, Retry
from actito_didomi.errors import ApiError, ImportQuotaExceededError
from target_actito.import_records import LedgerRecords, flag_again
from target_actito.other_profiles import OtherProfiles
from target_actito.plan import plan_writes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
    from datetime import datetime

    from actito_didomi.actito import Execution, Imports, TableStructure
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.consent.coalesce import PersonLayers, ProfileChange
    from actito_didomi.consent.drafts import Draft, Said, Start
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.plugin.looks import LookLearner, Sight
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.trial import Trial
    from actito_didomi.runtime import Runtime
    from target_actito.bulk import BulkWriter, ImportRecords, ImportResult
    from target_actito.checked import CheckedWriter
    from target_actito.config import Settings
    from target_actito.guarding import ChangeGuard
    from target_actito.learning import Learner
    from target_actito.plan import ImportFile, Limits
    from target_actito.single import WriteResult
    from target_actito.workspace import Workspace

logger = logging.getLogger("target-actito")

_LEARN_AT_ONCE = 20_000
_READ_AT_ONCE = 5_000
_PAGE_SIZE = 1_000
_GREATEST = "\U0010ffff"
_NO_PROFILE = codes.UNMATCHED.name
_SAMPLE = 1_000
"""People of whom it is found out beforehand to how many something is due."""
_FEW = 20
"""Requests that go before an import."""
_LONG_AGO = float("-inf")
_MOST_FRESH = 60.0
"""Seconds for which a look at the table need not be repeated before an import, at most."""


class DeliveryEvents(Protocol):
    """Counts what became of people."""

    def expect(self, changes: Sequence[ProfileChange]) -> None:
        """Record what is about to be written, for the progress."""

    def on_result(self, result: WriteResult) -> None:
        """Count what a single request came to."""

    def on_import(self, imported: ImportResult) -> None:
        """Count what an import came to."""

    def on_unmatched(self, person: str, *, opt_out: bool) -> None:
        """Count a person who has no profile, and whether an opt-out was due."""

    def on_deferred(self, count: int) -> None:
        """Count changes that wait for an import."""

    def on_trial(self, changes: Sequence[ProfileChange], created: int) -> None:
        """Count changes that would be written, some of them by creating a profile."""


@dataclass
class _TableLook:
    """A look at the table.

    Attributes:
        began: When it began.
        ended: When its last page was read.
        profiles: How many profiles it showed.
        unknown: How many of them came without subscriptions.
        highest_id: The highest `profileId` that it or the last one showed.
        keys: The keys of all rows that it is about.
        held: What is yet to be learned, by key.
    """

    began: int
    ended: int
    profiles: int = 0
    unknown: int = 0
    highest_id: int | None = None
    keys: set[str] = field(default_factory=set)
    held: dict[str, list[Glimpse | Sight]] = field(default_factory=dict)


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
        trial: Shows what would be written, and nothing is sent; None for a run that writes.
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
        session: ActitoSession,
        structure: TableStructure,
        settings: Settings,
        events: DeliveryEvents,
        guard: ChangeGuard,
        trial: Trial | None,
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
        self._trial = trial
        self._shown: set[str] = set()
        self._listed: set[str] = set()
        self._looked_up: set[str] = set()
        self._tried = 0
        self._deferred: set[str] = set()
        self._unmatched: list[str] = []
        self._shutdown = shutdown
        self._runtime = runtime
        self._bulk: BulkWriter | None = None
        self._records: ImportRecords | None = None
        self._looked_at: float | None = None
        self._look_began, self._fresh_until = 0, _LONG_AGO
        self._held: tuple[list[list[tuple[int, int]]], Iterator[list[tuple[int, int]]]] | None = (
            None
        )
        self._others = OtherProfiles(
            ledger=ledger,
            learner=learner,
            table=ProfileTable(session, structure, session.facts.profiles.id),
            key_of=writer.key_of,
            run=run,
            on_result=events.on_result,
            shutdown=shutdown,
            runtime=runtime,
        )
        self._has_decided = False
        self._lookups_left = settings.lookup_calls

    def import_records(
        self, imports: Imports, workspace: Workspace, follow: Callable[[str, float], Execution]
    ) -> LedgerRecords:
        """Return what records imports in the ledger."""
        return LedgerRecords(
            ledger=self._ledger,
            learner=self._learner,
            imports=imports,
            workspace=workspace,
            runtime=self._runtime,
            zone=self._settings.actito.zone,
            run=self._run,
            key_of=self._writer.key_of,
            look=self.look_before_import,
            limits=self._limits,
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
        self.learn(self._load_at_once(people))
        self.deliver()

    def note_skips(self, code: codes.Code, skipped: Mapping[str, datetime]) -> None:
        """Record for whom a record was skipped, to explain it; by their spelling."""
        self._ledger.note_skips(
            code.name, {self._writer.key_of(p): to_micros(at) for p, at in skipped.items()}
        )

    # Learning and writing in one step

    def _load_at_once(self, people: Sequence[PersonLayers]) -> Sequence[PersonLayers]:
        """Learn people and a look at the table, and import what is due, in one step.

        Each row of the ledger is read once and written once, before the import is sent: with what
        records and the look say, and with the intent to write.

        Returns:
            What is left to be learned.
        """
        bulk, records, bits = self._bulk, self._records, self._learner.bits
        if bulk is None or not isinstance(records, LedgerRecords) or bits is None or self._trial:
            return people
        last = self._ledger.last_look()
        said = self._looks.said(bits, self._learner.paths, last, self._now())
        named, left = self._by_key(people)
        # What an import under way may yet overwrite comes first.
        if not (self._is_for_import(named, said) and bulk.can_import) or records.settle_earlier():
            return people
        owed = self._ledger.owed_keys(Owed.ACTITO, without=Owed.NO_PROFILE, due_at=self._now())
        look = self._list_table(last, named)
        glimpses = look.held
        left += self._set_apart(named, glimpses)
        self.learn(left)
        self._looks.learn_glimpses(
            {key: seen for key, seen in glimpses.items() if key not in named}, last
        )
        if not self._settings.upsert_mode:
            keys = self._keys(people)
            self._note_missing(sorted(keys - look.keys), len(keys))
        waiting = [
            (key, found, cast("Glimpse", glimpses[key][0]) if key in glimpses else None)
            for key, found in sorted({**dict.fromkeys(owed), **named}.items(), key=itemgetter(0))
        ]

        def begin(file_name: str) -> ImportFile | None:
            def write(start: Start, admit: Callable[[list[Draft]], int]) -> None:
                for at in range(0, len(waiting), _LEARN_AT_ONCE):
                    part = waiting[at : at + _LEARN_AT_ONCE]
                    self._write_drafts(part, said, admit, start, last)
                self._record_look(look)
                self._write_few_opt_outs()

            file = records.begin_at_once(file_name, write)
            if file is None:
                return None
            if self._is_too_much(file):
                records.not_started(file.changes)  # the passes that follow write what may be
                return None
            self._fresh_until = _LONG_AGO
            self._events.expect(file.changes)
            return file

        bulk.load(begin, self._on_result, self._events.on_import)
        return ()

    def _write_drafts(
        self,
        people: Sequence[tuple[str, PersonLayers | None, Glimpse | None]],
        said: Said,
        admit: Callable[[list[Draft]], int],
        start: Start,
        last: Look | None,
    ) -> None:
        """Learn people, and begin to write to them; who is not simple is only learned."""
        admit = (lambda _: 0) if self._guards.tripped else admit
        left = set(self._ledger.write_drafts(people, said, admit, start))
        rest = [item for item in people if item[0] in left]
        self.learn([found for _, found, _ in rest if found is not None])
        self._looks.learn_glimpses({key: [seen] for key, _, seen in rest if seen is not None}, last)

    def _is_too_much(self, file: ImportFile) -> bool:
        """Return whether a guard keeps a file from being sent, of which nothing is written yet."""
        self._check(file.changes)
        return bool(self._guards.tripped)

    def _write_few_opt_outs(self) -> None:
        """Write opt-outs that an import about to be sent doesn't hold, if they are few."""
        keys = self._next(set(), _FEW + 1, opt_outs_only=True)
        if keys and len(keys) <= _FEW:
            changes, _ = self._check(self._still_due(keys))
            self._writer.write(changes, self._on_result)

    def _limits(self) -> Limits:
        """Return the limits of plans, as large as the table is."""
        pages = self._pages(self._ledger.last_look())
        return replace(self._settings.limits, look_requests=pages)

    def _now(self) -> int:
        return to_micros(self._runtime.now())

    def _is_for_import(self, named: Mapping[str, PersonLayers], said: Said) -> bool:
        """Return whether so much is due to people that one import is to write it.

        Of many people it is found out for some: they stand for all.
        """
        limits = self._limits()
        if self._guards.tripped or not limits.mixed_columns or len(named) <= limits.price:
            return False
        if any("" in (field.opt_in, field.opt_out) for field in self._learner.choice_fields):
            return False  # looks like an empty cell
        step = -(-len(named) // _SAMPLE)
        some = sorted(islice(named.items(), 0, None, step), key=itemgetter(0))
        return self._ledger.count_due(some, said) * step > limits.price

    def _by_key(
        self, people: Sequence[PersonLayers]
    ) -> tuple[dict[str, PersonLayers], list[PersonLayers]]:
        """Return people by their keys, and those who share a key."""
        named: dict[str, PersonLayers] = {}
        several: dict[str, list[PersonLayers]] = {}
        for found in people:
            key = self._writer.key_of(found.person)
            if named.setdefault(key, found) is not found:
                several.setdefault(key, []).append(found)
        left: list[PersonLayers] = []
        for key, more in several.items():
            left += [named.pop(key), *more]
        return named, left

    def _keys(self, people: Sequence[PersonLayers]) -> set[str]:
        return {self._writer.key_of(found.person) for found in people}

    def _set_apart(
        self, named: dict[str, PersonLayers], glimpses: Mapping[str, Sequence[Glimpse | Sight]]
    ) -> list[PersonLayers]:
        """Remove people from `named` of whom a look is to be learned in full, and return them.

        These are people without a profile, but for those whom the import is to create, people with
        several, and those whose profile doesn't show all fields.
        """
        keys = [
            key
            for key in named
            if (len(seen := glimpses.get(key, ())) != 1 or not isinstance(seen[0], Glimpse))
            and not (not seen and self._settings.upsert_mode)
        ]
        return [named.pop(key) for key in keys]

    # Learning

    def learn(self, people: Sequence[PersonLayers]) -> None:
        """Learn what records say: once this returns, nothing of it can be lost."""
        arrival = self._now()
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
        if self._trial is not None:
            self._pass(most, self._shown, opt_outs_only=False)
            return
        if self._records is not None and self._records.settle_earlier():
            # What an import under way may yet overwrite is written now, and again after its end.
            self._pass(most, set(), opt_outs_only=True)
            self._records.await_earlier()
        tried: set[str] = set()
        self._pass(most, tried, opt_outs_only=True, if_many=True)
        self._pass(most, tried, opt_outs_only=False)
        # What a look before an import has shown of people who had had their turn.
        self._pass(most, set(), opt_outs_only=True, untried=True)
        if self._ledger.matching() == "folded":
            self._others.write()

    def finish(self) -> None:
        """Check that no import is under way, and that each look has shown a profile.

        Raises:
            ApiError: One is: what it is to write isn't known to be written. Or one hasn't: what
                the profile holds isn't known, so opt-ins wait.
        """
        if self._records is None or not self._records.settle_earlier():
            if self._writer.unexpected is not None:
                raise ApiError(
                    codes.UNEXPECTED_RESPONSE,
                    f"{self._writer.unexpected.message} All else is written; opt-ins that such a "
                    "response holds up stay owed.",
                )
            return
        waiting = [
            f"import {found.execution or found.file_name} of "
            f"{to_datetime(found.began).isoformat(timespec='seconds')}"
            for found in self._ledger.open_imports()
        ]
        raise ApiError(
            codes.IMPORT_UNFINISHED,
            f"Not ended within bulk_timeout: {', '.join(waiting)}. All else is written, opt-outs "
            "among its rows by single requests. Nothing is lost: the next run looks whether it has "
            "ended, and writes again what it may have overwritten. Look it up in Actito, and stop "
            "it there if it hangs; until then each run ends with this error.",
        )

    def _decide_deferred(self) -> None:
        """Decide again what waited for the setting `baseline`; once per run."""
        if self._has_decided or self._ledger.rules.baseline is None:
            return
        self._has_decided = True
        flag_again(self._ledger, self._learner, Owed.DEFERRED)

    def _pass(
        self,
        most: int,
        tried: set[str],
        *,
        opt_outs_only: bool,
        if_many: bool = False,
        untried: bool = False,
    ) -> None:
        """Write what is owed, in batches.

        Args:
            most: People of a batch at most.
            tried: Keys of the people who are left out; those of this pass are added.
            opt_outs_only: Whether to write only to people to whom an opt-out is owed.
            if_many: Whether to write only if there is more than one batch.
            untried: Whether to leave out who was refused, or has no profile.
        """
        while batch := self._next(tried, most, opt_outs_only=opt_outs_only, untried=untried):
            if if_many and len(batch) < most:
                return
            self._deliver(batch)
            tried.update(batch)

    def _next(
        self, tried: set[str], most: int, *, opt_outs_only: bool, untried: bool = False
    ) -> list[str]:
        """Return the keys of the next people to whom something is owed now."""
        now = self._now()
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
                if key in tried or profile_of(key) is not None:
                    continue
                if untried and (ACTITO in person.retries or person.owed & Owed.NO_PROFILE):
                    continue
                if not self._is_time(key, person, now):
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
        is_worth = is_first or len(batch) > self._pages(last) or self._trial is not None
        if self._looked_at is None and is_worth:
            self.look_at_table(batch)
        elif self._trial is not None and not self._settings.upsert_mode:
            self._note_missing(sorted(set(batch) - self._listed), len(batch))
        changes = self._still_due(batch)
        changes, deferred_changes = self._check(changes)
        if changes:
            self._write(changes)
        if deferred_changes:
            self._note_deferred([self._writer.key_of(change.person) for change in deferred_changes])

    def _write(self, changes: list[ProfileChange]) -> None:
        """Write changes by the cheapest means."""
        self._events.expect(changes)
        logger.info(
            "Writing the changes of people: %d, of them with an opt-out: %d.",
            len(changes),
            sum(change.opt_out for change in changes),
        )
        if self._bulk is None:
            plan = plan_writes(changes, self._settings.limits)
            logger.info("%s", plan.to_text(), extra={"plan": plan.to_dict()})
            if self._trial is not None:
                self._show(self._trial, changes)
                return
            self._writer.write([*plan.opt_out_singles, *plan.other_singles], self._on_result)
            return
        plan = self._bulk.plan(changes, self._limits().look_requests)
        logger.info("%s", plan.to_text(), extra={"plan": plan.to_dict()})
        if self._trial is not None:
            self._show(self._trial, changes)
            return
        try:
            self._bulk.write(plan, self._on_result, self._events.on_import)
        except ImportQuotaExceededError as error:
            logger.warning("%s", error)
            self._events.on_deferred(error.deferred)

    def _show(self, trial: Trial, changes: Sequence[ProfileChange]) -> None:
        """Show and count what would be written."""
        fields = {(field.kind, field.name): field for field in self._learner.choice_fields}
        for change in changes:
            key = self._writer.key_of(change.person)
            person = self._ledger.read([key]).get(key)
            shown: list[tuple[str, bool | None, bool]] = []
            for named, value in zip(change.fields, change.values, strict=True):
                own = fields.get(named)
                if own is None or value.choice is None:
                    continue
                entry = person.entries.get(own.path) if person is not None else None
                place = entry.places.get(own.place) if entry is not None else None
                held = place.held.value if place is not None and place.held is not None else None
                shown.append((named.name, held, value.choice))
            trial.show(self._ledger.hash(key), shown)
        keys = {self._writer.key_of(change.person) for change in changes}
        self._events.on_trial(changes, len(keys - self._listed))

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
        bits = self._learner.bits
        if bits is None:
            return self._count_turned_off_slowly(name, enough)
        # By the position in what is held, opt-ins or opt-outs, of which fields are turned off.
        off = [
            (bool(self._guard.turns_on.get(Field(mapped.kind, mapped.name))), own)
            for mapped, own in bits.fields
            if mapped.name == name
        ]
        found = 0
        for held in self._held_pages():
            for position, own in off:
                found += sum([masks[position] & own != 0 for masks in held])
            if found >= enough:
                break
        return found

    def _held_pages(self) -> Iterator[list[tuple[int, int]]]:
        """Yield what is held in Actito, as far as it was read for another field, and the rest."""
        if self._held is None:
            self._held = [], self._ledger.held_in_actito()
        known, rest = self._held
        yield from known
        for page in rest:
            known.append(page)
            yield page

    def _check(
        self, changes: Sequence[ProfileChange]
    ) -> tuple[list[ProfileChange], list[ProfileChange]]:
        """Return what may be written, and what is deferred."""
        self._held = None
        checked = self._guard.check(changes, self._count_turned_off, self._ledger.count_people)
        self._held = None
        return checked

    def _count_turned_off_slowly(self, name: str, enough: int) -> int:
        """Count the same where masks of fields would be too wide."""
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
        self._events.on_deferred(len(set(keys) - self._deferred))
        self._deferred.update(keys)
        now = self._now()

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
        key = self._writer.key_of(result.change.person)
        if result.outcome is Written.POSTPONED and key in self._deferred:
            return
        self._events.on_result(result)
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

    def look_before_import(self) -> int:
        """Look at the table, unless that was done just now, and for no other import.

        Returns:
            When the last look began, in microseconds.
        """
        if self._runtime.monotonic() > self._fresh_until:
            self.look_at_table(())
        self._fresh_until = _LONG_AGO
        return self._look_began

    def look_at_table(self, wanted: Collection[str]) -> None:
        """Look at all profiles of the table, and learn what they show.

        Args:
            wanted: Keys of people of whom it is to be noted if they have no profile.
        """
        look = self._list_table(self._ledger.last_look(), {})
        if self._trial is not None:
            self._listed = look.keys
        self._record_look(look)
        if not self._settings.upsert_mode:
            self._note_missing(sorted(set(wanted) - look.keys), len(wanted))

    def _list_table(self, last: Look | None, held_back: Container[str]) -> _TableLook:
        """Look at all profiles of the table, and learn what they show.

        Args:
            last: The last complete look before this one.
            held_back: Keys of people of whom what is seen is returned, and not learned.
        """
        began = self._now()
        look = _TableLook(began, began, highest_id=last.highest_id if last else None)
        waiting: dict[str, list[Glimpse | Sight]] = {}
        for page in list_profiles(self._session, self._structure, _PAGE_SIZE, self._runtime):
            self._shutdown.check()
            for key, seen in self._looks.glimpse(page).items():
                look.keys.add(key)
                kept = look.held if key in held_back else waiting
                kept.setdefault(key, []).extend(seen)
            look.profiles += len(page.profiles)
            look.unknown += page.unknown
            look.highest_id = page.highest_id(look.highest_id)
            look.ended = to_micros(page.read_at)
            if len(waiting) > _LEARN_AT_ONCE - _PAGE_SIZE:
                self._looks.learn_glimpses(waiting, last)
                waiting = {}
        self._looks.learn_glimpses(waiting, last)
        return look

    def _record_look(self, look: _TableLook) -> None:
        """Record a look at the table, once all that it showed is learned."""
        if not look.unknown:  # else the look has not shown all: it is no complete one
            names = self._looks.look_names
            self._ledger.record_look(
                Look(look.began, look.ended, names, look.profiles, look.highest_id)
            )
        self._looked_at = self._runtime.monotonic()
        self._look_began = look.began
        # What people choose between a look and its import is hidden: no longer than it took.
        took = (look.ended - look.began) / 1_000_000
        self._fresh_until = self._looked_at + min(took, _MOST_FRESH)
        logger.info("Looked at the table: %d profiles.", look.profiles)

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
            opt_out = bool(person.owed & Owed.OPT_OUT_ACTITO)
            self._events.on_unmatched(person.spelling or key, opt_out=opt_out)

        self._ledger.change_each(keys, note)
