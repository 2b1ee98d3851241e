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
from actito_didomi.errors import RequestRejectedError, UnavailableError, UnexpectedResponseError
from actito_didomi.http import asks_too_long
from actito_didomi.plugin.looks import Sight
from target_actito.single import RefusedAttributes, WriteResult, all_refused, write_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actito_didomi.actito import ProfileTable
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.http import ClientSettings
    from actito_didomi.plugin.breaker import RefusalBreaker
    from actito_didomi.plugin.guards import Guards
    from actito_didomi.plugin.looks import LookLearner, ProfileReader
    from actito_didomi.plugin.progress import Progress
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime
    from target_actito.learning import Learner

logger = logging.getLogger("target-actito")

_SECOND = 1_000_000
_HOUR = 3600 * _SECOND
_TOO_MANY = 429
_NOT_FOUND = 404


@dataclass(frozen=True)
class _Look:
    """What a look at one profile came to.

    Attributes:
        sight: What it shows; None where there is no profile, or where the look failed.
        missing: Whether Actito says that there is no profile.
        refused: Why Actito refuses to show it; None if it doesn't.
    """

    sight: Sight | None
    missing: bool = False
    refused: RequestRejectedError | None = None


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
        guards: Defer all but opt-outs once a limit is passed.
        breaker: Stops the run if all is refused alike.
        progress: Counts and logs what is settled.
        client: How long to try.
        look_timeout: Seconds after which a look counts as failed.
        lookup_hours: Hours after which a person without a profile is looked up again.
        max_concurrency: Maximum number of concurrent requests.
        shutdown: Checked between requests; those in flight may finish within its grace period.
        runtime: Clock and threads.

    Attributes:
        unexpected: What a look has shown that is no profile; None if none has.
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
        guards: Guards,
        breaker: RefusalBreaker[WriteResult],
        progress: Progress,
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
        self._guards = guards
        self._breaker = breaker
        self._progress = progress
        self._client = client
        self._look_timeout = look_timeout
        self._lookup_hours = lookup_hours
        self._max_concurrency = max_concurrency
        self._shutdown = shutdown
        self._runtime = runtime
        self.unexpected: UnexpectedResponseError | None = None

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

        def handle_result(result: WriteResult) -> None:
            if isinstance(result.outcome, RequestRejectedError):
                self._note_refusal(result.change, result.outcome)
            on_result(result)

        write_each(
            changes,
            self._write_one,
            handle_result,
            breaker=self._breaker,
            progress=self._progress,
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
        if self._guards.stops_lookups and not self._has_profile(change.person):
            return WriteResult(change, Written.POSTPONED, began)
        started, attempt = self._runtime.monotonic(), 0
        only: frozenset[Field] | None = None
        refused: RefusedAttributes | None = None
        was_gone = False
        while True:
            attempt += 1
            look = self._look(change.person)
            due = self._decide(change.person, look, only)
            if isinstance(due, Written):
                outcome = look.refused if due is Written.POSTPONED else None
                return WriteResult(change, outcome or due, began, refused)
            try:
                written = self._send(due, look, was_gone=was_gone)
            except RequestRejectedError as error:
                choices = _choices_alone(due)
                if choices is None or refused is not None or was_gone:
                    repeats = self._drop(due, refused_as=_refusal(error))
                    return WriteResult(due, error, began, refused, repeats)
                # One attribute may be at fault: no attribute holds up a choice.
                refused, only = RefusedAttributes(attributes_alone(due), error), choices
                self._drop(due)
                continue
            except UnavailableError as error:
                self._pause(due, error, attempt, started)
                continue
            if written is None:
                was_gone = True
                self._drop(due)
                continue
            self._end(due, written, refused)
            return WriteResult(due, written, began, refused)

    def _send(self, due: ProfileChange, look: _Look, *, was_gone: bool) -> Written | None:
        """Write a change.

        Args:
            due: The change.
            look: What the look at the profile came to.
            was_gone: Whether this returned None before.

        Returns:
            What became of it; None if the profile, which the look showed, isn't there: it may have
            been removed since.

        Raises:
            RequestRejectedError: Actito refuses this change.
            UnavailableError: No usable response.
            ApiError: Actito refuses all changes.
        """
        try:
            written = self._table.write(
                due.person, due.attributes, due.subscriptions, create=look.missing, once=True
            )
        except RequestRejectedError as error:
            if error.is_record_level:
                raise
            self._drop(due)
            raise all_refused(error) from None
        if written is not Written.UNMATCHED or look.sight is None:
            return written
        if was_gone:
            raise RequestRejectedError(
                "Actito shows the profile, and refuses to change it (status 404).",
                status=_NOT_FOUND,
                body="",
            )
        return None

    def _pause(
        self, due: ProfileChange, error: UnavailableError, attempt: int, started: float
    ) -> None:
        """Wait before the next attempt.

        Raises:
            UnavailableError: There have been enough attempts.
            StoppedError: The process is to stop.
        """
        if error.status == _TOO_MANY:
            self._drop(due)
        client, elapsed = self._client, self._runtime.monotonic() - started
        is_enough = attempt >= client.retry_tries and elapsed >= client.retry_seconds
        if is_enough or asks_too_long(error.retry_after, client):
            self._read_back(due.person)
            raise error
        pause = max(min(2.0 ** (attempt - 1), client.retry_max_wait), error.retry_after or 0)
        logger.warning("%s It is read back in %g s.", error, pause)
        self._shutdown.requested.wait(pause)
        self._shutdown.check()

    def _has_profile(self, spelling: str) -> bool:
        """Return whether a look has found the person's profile."""
        key = self.key_of(spelling)
        person = self._ledger.read([key]).get(key)
        return person is not None and person.profile_id is not None

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
            if isinstance(error, UnexpectedResponseError):
                self.unexpected = error
            return _Look(None)
        except RequestRejectedError as error:
            if not error.is_record_level:
                raise all_refused(error) from None
            return _Look(None, refused=error)
        if shown is None:
            return _Look(None, missing=True)
        read_at = to_micros(self._runtime.now())
        choices = self._reader.choices(shown.attributes, shown.subscriptions)
        spelling = self._reader.spelling(shown.attributes) or person
        if self.key_of(spelling) != self.key_of(person):
            logger.warning(
                "%s: Actito showed another person's profile where that of person %s was to be "
                "looked at. Without a look only an opt-out is written.",
                codes.UNEXPECTED_RESPONSE,
                self._ledger.hash(person),
            )
            return _Look(None)
        created = self._reader.created(shown.attributes)
        return _Look(Sight(spelling, shown.profile_id, choices, asked_at, read_at, created))

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
            if look.missing and not self._guards.may_create():
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

    def _end(self, due: ProfileChange, written: Written, refused: RefusedAttributes | None) -> None:
        """Record that a write was carried out, without the attributes that were refused."""
        key = self.key_of(due.person)
        with self._ledger.change([key]) as change:
            person = change.people[key]
            if written is Written.UNMATCHED:
                self._learner.drop(person, due)
                self.note_missing(person)
            else:
                if refused is not None:
                    self._learner.end_attributes(person, refused.change)
                self._learner.end(person, due, to_micros(self._runtime.now()))

    def _drop(self, due: ProfileChange, *, refused_as: str = "") -> bool:
        """Record that a write was certainly not carried out.

        Args:
            due: The write.
            refused_as: Why it was refused.

        Returns:
            Whether it was refused for the same reason before.
        """
        key = self.key_of(due.person)
        with self._ledger.change([key]) as change:
            person = change.people[key]
            self._learner.drop(person, due)
            known = person.retries.get(ACTITO)
        return known is not None and known.code == refused_as

    def _note_refusal(self, due: ProfileChange, error: RequestRejectedError) -> None:
        """Record that a write was refused; what was refused the same way often waits longer."""
        key = self.key_of(due.person)
        now = to_micros(self._runtime.now())
        with self._ledger.change([key]) as change:
            note_refusal(change.people[key], _refusal(error), now)


def _refusal(error: RequestRejectedError) -> str:
    """Return what a refusal is called in the ledger."""
    return f"{codes.CHANGE_REFUSED.name}:{error.status}"


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
