"""Write profile changes by single requests, each after a look, with the ledger.

For each person: look, learn what it shows, decide on what the ledger holds now, record the intent,
write, record the end. A write whose outcome is unknown is read back before it is made again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.actito import Written
from actito_didomi.consent.coalesce import Field, ProfileChange
from actito_didomi.consent.conflicts import ACTITO, to_micros
from actito_didomi.consent.identity import match_key
from actito_didomi.consent.person import Owed
from actito_didomi.consent.retries import next_retry
from actito_didomi.errors import ApiError, RequestRejectedError, UnavailableError
from actito_didomi.plugin.looks import Sight
from target_actito.single import RefusedAttributes, WriteResult, write_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actito_didomi.actito import ProfileTable
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.http import ClientSettings
    from actito_didomi.plugin.looks import LookLearner, ProfileReader
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime
    from target_actito.learning import Learner

logger = logging.getLogger("target-actito")

_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_TOO_MANY = 429


@dataclass(frozen=True)
class _Look:
    """What a look at one profile came to.

    Attributes:
        sight: What it shows; None where there is no profile, or where the look failed.
        missing: Whether Actito says that there is no profile.
    """

    sight: Sight | None
    missing: bool = False


class CheckedWriter:
    """Write what is due to people, one request per profile, each after a look.

    Args:
        ledger: The ledger.
        learner: Finds what is due.
        looks: Learns what a look shows.
        reader: Reads choices from profiles.
        table: The profile table.
        run: Id of this run.
        create: Whether a missing profile may be created.
        client: How long to try.
        look_timeout: Seconds after which a look counts as failed.
        lookup_hours: Hours after which a person without a profile is looked up again.
        max_concurrency: Maximum number of concurrent requests.
        shutdown: Checked between requests; those in flight may finish within its grace period.
        runtime: Clock and threads.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        learner: Learner,
        looks: LookLearner,
        reader: ProfileReader,
        table: ProfileTable,
        run: str,
        create: bool,
        client: ClientSettings,
        look_timeout: float,
        lookup_hours: float,
        max_concurrency: int,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._ledger = ledger
        self._learner = learner
        self._looks = looks
        self._reader = reader
        self._table = table
        self._run = run
        self._create = create
        self._client = client
        self._look_timeout = look_timeout
        self._lookup_hours = lookup_hours
        self._max_concurrency = max_concurrency
        self._shutdown = shutdown
        self._runtime = runtime

    def write(
        self, changes: Sequence[ProfileChange], on_result: Callable[[WriteResult], None]
    ) -> None:
        """Write changes in the order given, as far as concurrent requests allow.

        What is written is what is due when a person's turn comes, which may differ.

        Args:
            changes: What was due.
            on_result: Called in this thread for each change that is settled or rejected.

        Raises:
            StoppedError: The process is to stop; a change without a result may be written or not.
            ApiError: The API can't be used; likewise.
        """
        write_each(
            changes,
            self._write_one,
            on_result,
            workers=self._max_concurrency,
            shutdown=self._shutdown,
            runtime=self._runtime,
        )

    def _write_one(self, change: ProfileChange) -> WriteResult:
        """Bring one person's profile up to date.

        Raises:
            UnavailableError: No usable response after all attempts; the intent stays on record.
        """
        began = self._runtime.now()
        started, attempt = self._runtime.monotonic(), 0
        only: frozenset[Field] | None = None
        refused: RefusedAttributes | None = None
        while True:
            attempt += 1
            look = self._look(change.person)
            due = self._decide(change.person, look, only)
            if isinstance(due, Written):
                return WriteResult(change, due, began, refused)
            try:
                written = self._table.write(
                    due.person,
                    due.attributes,
                    due.subscriptions,
                    create=self._create and look.missing,
                    once=True,
                )
            except RequestRejectedError as error:
                if not error.is_record_level:
                    self._drop(due)
                    raise ApiError(
                        codes.ACCESS_REFUSED,
                        f"{error.message} This concerns all requests, so the run stops; nothing "
                        "is lost.",
                    ) from None
                choices = _choices_alone(due)
                if choices is None or refused is not None:
                    self._refuse(due, error)
                    return WriteResult(due, error, began, refused)
                # One attribute may be at fault: no attribute holds up a choice.
                refused, only = RefusedAttributes(attributes_alone(due), error), choices
                self._drop(due, with_attributes=True)
                continue
            except UnavailableError as error:
                if error.status == _TOO_MANY:
                    self._drop(due)
                client, elapsed = self._client, self._runtime.monotonic() - started
                if attempt >= client.retry_tries and elapsed >= client.retry_seconds:
                    self._read_back(due.person)
                    raise
                pause = max(
                    min(2.0 ** (attempt - 1), client.retry_max_wait), error.retry_after or 0
                )
                logger.warning("%s It is read back in %g s.", error, pause)
                self._shutdown.requested.wait(pause)
                self._shutdown.check()
                continue
            self._end(due, written)
            return WriteResult(due, written, began, refused)

    def _read_back(self, spelling: str) -> None:
        """Find out what became of the last write before the run fails, so that none stays open.

        What the next run finds open may have been changed by the person since.
        """
        look, last = self._look(spelling), self._ledger.last_look()
        if look.sight is None:
            return
        with self._ledger.change([self.key_of(spelling)]) as change:
            person = change.people[self.key_of(spelling)]
            for found in self._looks.learn(person, look.sight, last, whole=True):
                change.add_found(found)
            self._learner.flag(person)

    def _look(self, person: str) -> _Look:
        """Look at a person's profile, within `look_timeout`."""
        asked_at = to_micros(self._runtime.now())
        try:
            shown = self._table.look(person, patience=self._look_timeout)
        except UnavailableError as error:
            logger.warning("%s Without a look only an opt-out is written.", error)
            return _Look(None)
        if shown is None:
            return _Look(None, missing=True)
        read_at = to_micros(self._runtime.now())
        choices = self._reader.choices(shown.attributes, shown.subscriptions)
        spelling = self._reader.spelling(shown.attributes) or person
        return _Look(Sight(spelling, shown.profile_id, choices, asked_at, read_at))

    def _decide(
        self, spelling: str, look: _Look, only: frozenset[Field] | None
    ) -> ProfileChange | Written:
        """Learn a look, decide what is due, and record the intent to write it: one transaction."""
        key = self.key_of(spelling)
        last = self._ledger.last_look()
        with self._ledger.change([key]) as change:
            person = change.people[key]
            if look.missing and not self._create:
                self.note_missing(person)
                return Written.UNMATCHED
            if look.sight is not None:
                for found in self._looks.learn(person, look.sight, last, whole=True):
                    change.add_found(found)
            due = self._learner.change(key, person, only=only)
            if due is None:
                self._learner.flag(person)
                return Written.UNCHANGED
            if not look.missing:
                due = self._learner.change(key, person, only=self._allowed(person, due, look.sight))
            if due is None:
                self._learner.flag(person)
                return Written.POSTPONED
            now = to_micros(self._runtime.now())
            if look.sight is None and not look.missing:
                self._learner.note_unseen(person, due, now)
            self._learner.begin(person, due, now=now, run=self._run)
            return due

    def _allowed(self, person: Person, due: ProfileChange, sight: Sight | None) -> frozenset[Field]:
        """Return the fields that may be written: an opt-in only where the look counted."""
        seen: set[Field] = set()
        for field in self._learner.choice_fields:
            entry = person.entries.get(field.path)
            place = entry.places.get(field.place) if entry else None
            if sight is not None and place and place.held and place.held.ended == sight.ended:
                seen.add(Field(field.kind, field.name))
            elif sight is not None and field not in sight.choices and field.kind == "attribute":
                seen.add(Field(field.kind, field.name))  # it has no value yet
        return frozenset(
            field
            for field, value in zip(due.fields, due.values, strict=True)
            if value.opt_out or value.choice is None or field in seen
        )

    def key_of(self, spelling: str) -> str:
        """Return the key of a person in the ledger."""
        return match_key(spelling, self._reader.matching)

    def note_missing(self, person: Person) -> None:
        """Record that a person has no profile: looked up again after `lookup_hours`."""
        now = to_micros(self._runtime.now())
        self._learner.flag(person)
        person.owed |= Owed.NO_PROFILE
        person.retries[ACTITO] = next_retry(
            person.retries.get(ACTITO),
            codes.UNMATCHED.name,
            now,
            wait=int(self._lookup_hours * _HOUR),
        )

    # What became of a write

    def _end(self, due: ProfileChange, written: Written) -> None:
        key = self.key_of(due.person)
        with self._ledger.change([key]) as change:
            person = change.people[key]
            if written is Written.UNMATCHED:
                self._learner.drop(person, due)
                self.note_missing(person)
            else:
                self._learner.end(person, due, to_micros(self._runtime.now()))

    def _drop(self, due: ProfileChange, *, with_attributes: bool = False) -> None:
        """Record that a write was certainly not carried out.

        Args:
            due: The write.
            with_attributes: Whether its attributes are no longer owed.
        """
        key = self.key_of(due.person)
        with self._ledger.change([key]) as change:
            person = change.people[key]
            self._learner.drop(person, due)
            if with_attributes:
                self._learner.end_attributes(person, due)
                self._learner.flag(person)

    def _refuse(self, due: ProfileChange, error: RequestRejectedError) -> None:
        """Record that a write was refused; what was refused the same way often waits longer."""
        key = self.key_of(due.person)
        now = to_micros(self._runtime.now())
        with self._ledger.change([key]) as change:
            person = change.people[key]
            self._learner.drop(person, due)
            note_refusal(person, f"{codes.CHANGE_REFUSED.name}:{error.status}", now)


def note_refusal(person: Person, code: str, now: int) -> None:
    """Record that a change for Actito was refused.

    Args:
        person: The person's row.
        code: Why it was refused.
        now: The present time, in microseconds.
    """
    person.retries[ACTITO] = next_retry(person.retries.get(ACTITO), code, now)


def has_attributes(due: ProfileChange) -> bool:
    """Return whether a change holds more than choices."""
    return any(value.choice is None for value in due.values)


def attributes_alone(due: ProfileChange) -> ProfileChange:
    """Return what a change holds in addition to choices."""
    kept = [
        (field, value)
        for field, value in zip(due.fields, due.values, strict=True)
        if value.choice is None
    ]
    return ProfileChange(
        due.person,
        due.first_record,
        tuple(field for field, _ in kept),
        tuple(value for _, value in kept),
        opt_out=False,
    )


def _choices_alone(due: ProfileChange) -> frozenset[Field] | None:
    """Return the fields of the choices of a change; None where it holds nothing else, or none."""
    choices = frozenset(
        field
        for field, value in zip(due.fields, due.values, strict=True)
        if value.choice is not None
    )
    return choices if choices and len(choices) < len(due.fields) else None
