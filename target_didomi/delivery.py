"""From the ledger to Didomi: learn what Actito's people chose, and post what is owed.

For each person: read their users and events, learn them, decide on what the ledger holds then,
post, and learn what was posted. Ids of events derive from what they say and replace, so that one
whose response was lost is found at the next look.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import structs

from actito_didomi import codes
from actito_didomi.clocks import RESOLUTION
from actito_didomi.consent.choices import (
    ConsentChoices,
    Path,
    is_value,
    read_choices,
    readable,
    to_consents,
)
from actito_didomi.consent.conflicts import (
    ACTITO,
    BEGINNING,
    DIDOMI,
    OPT_OUT,
    Micros,
    to_datetime,
    to_micros,
)
from actito_didomi.consent.entries import (
    forget_user,
    learn,
    learn_event,
    learn_status,
    winner,
)
from actito_didomi.consent.event_ids import is_ours, make_event_id
from actito_didomi.consent.identity import match_key, profile_of
from actito_didomi.consent.owing import due_users, flag_didomi, flag_fields, known_users
from actito_didomi.consent.person import Owed, Person
from actito_didomi.consent.places import is_user, user_key, user_place
from actito_didomi.consent.records import CONFIRMED, DEFAULT_REGULATION, PENDING, parse_timestamp
from actito_didomi.consent.retries import next_retry
from actito_didomi.didomi.consents import MAX_EVENTS
from actito_didomi.errors import (
    BadInputError,
    RequestRejectedError,
    UnavailableError,
)
from actito_didomi.plugin.parallel import run_parallel
from actito_didomi.plugin.progress import Progress
from actito_didomi.privacy import shape_of
from target_didomi.answers import HeldStatus, merge
from target_didomi.events import EXTRAS_REFUSED, IncomingEvent, to_event, without_extras
from target_didomi.guarding import DeliveryGuard, DueCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from actito_didomi.codes import Code
    from actito_didomi.consent.conflicts import Act
    from actito_didomi.consent.entries import Entry
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.didomi.consents import ConsentApi
    from actito_didomi.errors import ApiError
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.breaker import RefusalBreaker
    from actito_didomi.plugin.guards import Guards
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.trial import Trial
    from actito_didomi.runtime import Runtime
    from target_didomi.config import Settings
    from target_didomi.known import KnownChoices

logger = logging.getLogger("target-didomi")

_PEOPLE_AT_ONCE = 25
"""People whose events go together: enough for arrays, few enough for concurrent requests."""
_READ_AT_ONCE = 1_000
_LEARN_AT_ONCE = 5_000
_MOST_UNANSWERED = 3
"""Events without any usable response before the run ends; each takes all its attempts."""
_HOUR = 3_600_000_000
_STEP = 1_000
"""The precision of Didomi's timestamps, in microseconds."""
_CLOCK_ERROR = int(RESOLUTION * 1_000_000)
"""By how much the measured clock may be ahead of Didomi's, in microseconds.

An event of ours that is dated in the future would hide what the person chooses before that time.
"""


@dataclass
class Posting:
    """An event to post for one user of a person, and what came of it.

    Attributes:
        key: The person's key.
        person: `organization_user_id`.
        user_id: Id of the Didomi user; None to have one created.
        choices: The choices that it states.
        event: The event.
        say: Returns the consents that state some of the choices.
        pending: Whether it waits for approval.
        code: Of the reject, if it is refused.
        parts: What was posted instead, choice by choice, after a refusal.
        stored: The event as Didomi stored it; None if it isn't known to be there.
        error: Why it was refused; None if it wasn't.
    """

    key: str
    person: str
    user_id: str | None
    choices: dict[Path, bool]
    event: dict[str, Any]
    say: Callable[[Mapping[Path, bool]], dict[str, Any]]
    pending: bool = False
    code: Code = codes.EVENT_REFUSED
    parts: list[Posting] = field(default_factory=list)
    stored: dict[str, Any] | None = None
    error: RequestRejectedError | None = None

    def said(self) -> dict[Path, bool]:
        """Return the choices that the event states as Didomi stored it."""
        stored = self.stored.get("consents") if self.stored is not None else {}
        if not isinstance(stored, dict):
            return self.choices  # the response doesn't show them
        found = read_choices(readable(stored))
        return {path: choice for path, choice in self.choices.items() if found.says(path) is choice}

    @property
    def opt_out(self) -> bool:
        """Whether it states an opt-out."""
        return not all(self.choices.values())


@dataclass
class PersonResult:
    """What became of one person.

    Attributes:
        key: The person's key.
        postings: What was posted, or refused.
        unmatched: Whether Didomi doesn't know the person, and nothing was created.
        created: Whether a user was created.
        present: Choices that Didomi showed already.
        newer: Choices not posted since another one in Didomi counts.
        unread: Why nothing could be read of the person; None if it could.
        owes_opt_out: Whether an opt-out is still owed to one who could not be read.
        deferred: Whether a guard deferred something.
        is_repeated: Whether the person was unmatched in an earlier run.
        opted_out_at: When the earliest opt-out that was posted was chosen; None if none was, or
            nobody knows.
    """

    key: str
    postings: list[Posting] = field(default_factory=list)
    unmatched: bool = False
    created: bool = False
    present: int = 0
    newer: int = 0
    unread: ApiError | None = None
    owes_opt_out: bool = False
    deferred: bool = False
    is_repeated: bool = False
    opted_out_at: Micros | None = None

    @property
    def is_posted(self) -> bool:
        """Whether Didomi holds an event that was posted."""
        return any(posting.stored is not None for posting in self.postings)

    @property
    def refusal(self) -> RequestRejectedError | None:
        """How Didomi refused all that concerns the person; None if it didn't."""
        if self.is_posted:
            return None
        for posting in self.postings:
            if posting.error is not None and posting.code is codes.EVENT_REFUSED:
                return posting.error
        return self.unread if isinstance(self.unread, RequestRejectedError) else None


class DeliveryEvents(Protocol):
    """Counts what became of people."""

    def on_results(self, results: list[PersonResult]) -> None:
        """Count what became of some people."""


@dataclass(frozen=True)
class _Sight:
    """What Didomi holds of a person.

    Attributes:
        users: The users, by their places.
        events: The confirmed events, by their users' places.
    """

    users: Mapping[str, dict[str, Any]]
    events: Mapping[str, list[dict[str, Any]]]

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Yield all users and events."""
        yield from self.users.values()
        for events in self.events.values():
            yield from events

    def answers(self) -> dict[Path, set[str]]:
        """Return the values of preferences that some user has chosen."""
        found: dict[Path, set[str]] = {}
        for user in self.users.values():
            for path, answer in read_choices(readable(user.get("consents"))).answers.items():
                found.setdefault(path, set()).update(answer)
        return found


@dataclass(frozen=True)
class _Aim:
    """A Didomi user to whom something is posted.

    Attributes:
        key: The person's key.
        person: `organization_user_id`.
        user_id: Id of the user; None to have one created.
        acts: Ids of the acts that are to be shown, by path.
        user: The user as Didomi holds it.
        events: The user's events.
        replaces: What is replaced, where no events are known.
        newest: The newest timestamp that is known of the person's users; 0 if none is.
    """

    key: str
    person: str
    user_id: str | None
    acts: Mapping[Path, str]
    user: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    replaces: str = ""
    newest: Micros = 0


class Delivery:
    """Learns choices made in Actito, and posts what Didomi is owed.

    Args:
        ledger: The ledger.
        api: The organisation's consents.
        known: Finds choices that Didomi doesn't have.
        session: The session of `api`: its clock.
        settings: Settings of target-didomi.
        guards: Defer all but opt-outs once a limit is passed.
        breaker: Stops the run if all is refused alike.
        events: Counts what became of people.
        trial: Shows what would be posted, and nothing is sent; None for a run that posts.
        shutdown: Checked between requests.
        runtime: Clock and threads.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        api: ConsentApi,
        known: KnownChoices,
        session: ApiSession,
        settings: Settings,
        guards: Guards,
        breaker: RefusalBreaker[PersonResult],
        events: DeliveryEvents,
        trial: Trial | None,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._ledger = ledger
        self._api = api
        self._session = session
        self._settings = settings
        self._guard = DeliveryGuard(guards, ledger)
        self._guards = guards
        self._breaker = breaker
        self._events = events
        self._trial = trial
        self._shutdown = shutdown
        self._runtime = runtime
        self._regulation = settings.didomi.regulation_id
        self._matching = ledger.matching(settings.ledger.key_matching)
        self._scope_text = ""
        self._incoming: dict[str, IncomingEvent] = {}
        self._answers: dict[str, list[IncomingEvent]] = {}
        self._seen: dict[str, set[Path]] = {}
        self._spellings: dict[str, set[str]] = {}
        self._tried: set[str] = set()
        self._unread: ApiError | None = None
        self._known = known
        self._lock = runtime.lock()
        self._unanswered = 0
        self._looked_for = 0
        self._unmatched: list[str] = []

    # Learning

    def learn(self, people: Mapping[str, Sequence[IncomingEvent]]) -> None:
        """Learn the choices of people in Actito; once this returns, nothing of it can be lost."""
        items = iter(people.items())
        while part := dict(islice(items, _LEARN_AT_ONCE)):
            self._shutdown.check()
            keys = {person: match_key(person, self._matching) for person in part}
            with self._ledger.change(sorted(set(keys.values()))) as change:
                for person, incoming in part.items():
                    key = keys[person]
                    row = change.people[key]
                    if self._learn_all(row, incoming):
                        row.retries.pop(DIDOMI, None)  # what was refused was something else
                    self._tried.discard(key)
                    self._spellings.setdefault(key, set()).add(person)
                    for event in incoming:
                        self._incoming[key] = event
                        if event.choices.answers:
                            self._answers.setdefault(key, []).append(event)
                        self._seen.setdefault(key, set()).update(event.choices.single)
                    if row.spelling is None:
                        row.spelling = person
                    flag_fields(row, self._ledger.rules)
                    flag_didomi(row, self._ledger.rules)

    def _learn_all(self, person: Person, incoming: Iterable[IncomingEvent]) -> bool:
        """Learn the choices of events; return whether they held anything new."""
        before = {path: entry.acts.get(ACTITO) for path, entry in person.entries.items()}
        for event in incoming:
            self._learn_incoming(person, event, {})
        return any(
            entry.acts.get(ACTITO) != before.get(path) for path, entry in person.entries.items()
        )

    def _learn_incoming(
        self, person: Person, event: IncomingEvent, others: Mapping[Path, Collection[str]]
    ) -> None:
        """Learn the choices of one event as acts of the person in Actito.

        Args:
            person: The person.
            event: The event.
            others: Values of preferences that Didomi holds: an answer without them opts out.
        """
        act = self._act_of(event)
        for path, choice in event.choices.single.items():
            learn(person.entry(path), structs.replace(act, value=choice))
        for path, answer in event.choices.answers.items():
            values = {known[-1] for known in person.entries if known[:-1] == path}
            for value in values | set(answer) | set(others.get(path, ())):
                entry = person.entry((*path, value))
                learn(entry, structs.replace(act, value=value in answer))

    def _act_of(self, event: IncomingEvent) -> Act:
        """Return an act with the window of an event; a timestamp in the future says nothing."""
        act, arrival = event.act(OPT_OUT), to_micros(self._runtime.now())
        if event.arrival is not None:
            arrival = min(arrival, to_micros(event.arrival))
        margin = max(self._ledger.rules.clock_tolerance, round(abs(self._session.skew) * 1e6))
        if act.latest <= arrival + margin:
            return act
        earliest = act.earliest if act.earliest <= arrival + margin else BEGINNING
        return structs.replace(act, earliest=min(earliest, arrival), latest=arrival)

    # Posting

    def deliver(self) -> None:
        """Post what is owed to Didomi, opt-outs first.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        self._scope_text = self._ledger.scope_text
        owed = self._ledger.count_owed()
        progress = Progress(logger, "Didomi", self._runtime, lambda: self._session.waits_since)
        progress.begin(owed.to("reverse"), owed.opt_outs("reverse"))

        def handle_results(results: list[PersonResult]) -> None:
            self._handle_results(results)
            for _ in results:
                progress.add(opt_out=opt_outs_only)

        self._check_guards(progress.check)
        for opt_outs_only in (True, False):
            run_parallel(
                self._groups(self._tried, opt_outs_only=opt_outs_only),
                self._deliver,
                handle_results,
                workers=self._settings.max_concurrency,
                shutdown=self._shutdown,
                runtime=self._runtime,
                on_progress=progress.check,
            )
        self._conclude(self._breaker.finish())
        progress.finish()
        for gathered in (self._incoming, self._answers, self._seen, self._spellings):
            gathered.clear()
        if self._unread is not None:
            raise self._unread

    def _check_guards(self, on_progress: Callable[[], None]) -> None:
        """See before the first post whether more is due than the guards allow.

        If that seems so by what the ledger knows, Didomi is asked first what is due in fact.
        """
        if self._guards.tripped:
            return
        seeming = DueCounts()
        for _, person in self._people_owed(set(self._tried), opt_outs_only=False):
            due = due_users(person, self._ledger.rules)
            acts = {path: winner(person.entries[path], self._ledger.rules) for path in due}
            seeming.add({path: act.value for path, act in acts.items() if act is not None})
        if not self._guard.may_pass_limit(seeming):
            return
        found = DueCounts()

        def handle_results(results: list[PersonResult]) -> None:
            for result in results:
                found.add({p: c for posting in result.postings for p, c in posting.choices.items()})
                if not result.postings and result.unread is None:
                    self._tried.add(result.key)
                    self._handle_results([result])

        run_parallel(
            self._groups(set(self._tried), opt_outs_only=False),
            lambda keys: [self._prepare(key, is_plan=True) for key in keys],
            handle_results,
            workers=self._settings.max_concurrency,
            shutdown=self._shutdown,
            runtime=self._runtime,
            on_progress=on_progress,
        )
        self._guard.check(found)
        if (trip := self._guards.trip) is not None:
            logger.warning("%s: %s.", trip.code, trip.text)

    def _groups(self, tried: set[str], *, opt_outs_only: bool) -> Iterator[list[str]]:
        """Yield the keys of people to whom something is owed now, in groups."""
        keys = (key for key, _ in self._people_owed(tried, opt_outs_only=opt_outs_only))
        while group := list(islice(keys, _PEOPLE_AT_ONCE)):
            yield group

    def _people_owed(self, tried: set[str], *, opt_outs_only: bool) -> Iterator[tuple[str, Person]]:
        """Yield the people to whom something is owed now, but those tried, and add them there."""
        now = to_micros(self._runtime.now())
        after: str | None = None
        while rows := self._ledger.owed(
            Owed.DIDOMI, after=after, limit=_READ_AT_ONCE, opt_outs_only=opt_outs_only, due_at=now
        ):
            after = rows[-1][0]
            for key, person in rows:
                if key in tried or profile_of(key) is not None or _waits(person, now):
                    continue
                tried.add(key)
                yield key, person

    def _deliver(self, keys: list[str]) -> list[PersonResult]:
        """Bring some people up to date in Didomi."""
        results = [self._prepare(key) for key in keys]
        for result in results:
            if isinstance(result.unread, RequestRejectedError):
                self._api.check_access(result.unread)
        postings = [
            posting for result in results for posting in result.postings if posting.error is None
        ]
        if self._trial is not None:
            self._show(self._trial, postings)
            return results
        postings.sort(key=lambda posting: not posting.opt_out)
        for start in range(0, len(postings), MAX_EVENTS):
            self._post(postings[start : start + MAX_EVENTS])
        for result in results:
            result.postings = [
                part for posting in result.postings for part in (posting.parts or [posting])
            ]
            if result.refusal is None:
                self._settle(result)
        return results

    def _handle_results(self, results: list[PersonResult]) -> None:
        """Count what became of people; a refusal once it is clear that it concerns one of them.

        Raises:
            ApiError: All is refused alike.
        """
        for result in results:
            error = result.refusal
            if error is not None:
                self._conclude(self._breaker.refuse(result, error.status))
                continue
            if result.is_posted:
                self._conclude(self._breaker.accept())
            self._events.on_results([result])
            if not result.deferred and not result.is_repeated:
                self._looked_for += 1
                if result.unmatched:
                    self._unmatched.append(result.key)
                    self._check_unmatched()

    def _conclude(self, refused: list[PersonResult]) -> None:
        """Record refusals that concern people."""
        for result in refused:
            self._settle(result)
        if refused:
            self._events.on_results(refused)

    def _check_unmatched(self) -> None:
        """Keep people owed, rather than without a user, if too many are unknown."""
        self._guards.check_unmatched(len(self._unmatched), self._looked_for)
        if not self._guards.stops_lookups:
            return
        keys, self._unmatched = sorted(self._unmatched), []
        with self._ledger.change(keys) as change:
            for person in change.people.values():
                person.owed &= ~Owed.NO_USER
                flag_didomi(person, self._ledger.rules)
                self._note_deferred(person)

    def _note_deferred(self, person: Person) -> None:
        self._guard.note(person, to_micros(self._runtime.now()))

    def _show(self, trial: Trial, postings: Iterable[Posting]) -> None:
        """Show what would be posted."""
        for posting in postings:
            with self._lock:
                trial.show(
                    self._ledger.hash(posting.key),
                    [("/".join(path), None, choice) for path, choice in posting.choices.items()],
                )

    # One person: look and decide

    def _prepare(self, key: str, *, is_plan: bool = False) -> PersonResult:
        """Read what Didomi holds of a person, learn it, and decide what is posted.

        Args:
            key: The person's key.
            is_plan: Whether it is only to be counted.
        """
        result = PersonResult(key)
        known = self._ledger.read([key]).get(key)
        if known is None:
            return result
        before = known.retries.get(DIDOMI)
        result.is_repeated = before is not None and before.code == codes.UNMATCHED.name
        if self._guards.stops_lookups and not known_users(known):
            result.deferred = True
            with self._ledger.change([key]) as change:
                self._note_deferred(change.people[key])
            return result
        spelling = known.spelling or key
        sight = self._see(key, spelling)
        if not isinstance(sight, _Sight):
            return self._prepare_unread(key, spelling, sight)
        self._decide(result, spelling, sight, is_plan=is_plan)
        return result

    def _see(self, key: str, spelling: str) -> _Sight | ApiError:
        """Return what Didomi holds of a person, or why it can't be read."""
        if self._unread is not None:
            return self._unread
        try:
            sight = self._look({spelling, key, *self._spellings.get(key, ())})
        except RequestRejectedError as error:
            return error
        except UnavailableError as error:
            self._unread = error
            return error
        for record in sight.records():
            self._known.see(record.get("consents"))
        return sight

    def _decide(self, result: PersonResult, spelling: str, sight: _Sight, *, is_plan: bool) -> None:
        """Learn what Didomi holds of a person, and decide what is posted."""
        key = result.key
        with self._ledger.change([key]) as change:
            person = change.people[key]
            for event in self._answers.get(key, ()):
                self._learn_incoming(person, event, sight.answers())
            self._learn_sight(person, sight)
            flag_fields(person, self._ledger.rules)
            flag_didomi(person, self._ledger.rules)
            due = due_users(person, self._ledger.rules)
            self._count(result, person, due)
            if not sight.users and not self._settings.create_users:
                if due:
                    person.owed |= Owed.NO_USER
                    self._note_retry(person, codes.UNMATCHED.name, wait=24 * _HOUR)
                result.unmatched = bool(due)
                return
            acts = {path: winner(person.entries[path], self._ledger.rules) for path in due}
            allowed = self._allow(due, acts, creates=not sight.users and not is_plan)
            if len(allowed) < len(due):
                due, result.deferred = allowed, True
                self._note_deferred(person)
            result.created = bool(due) and not sight.users
        acts, result.unread = _over_what_is_shown(acts, sight.users.values())
        names = {path: act.id for path, act in acts.items() if act is not None}
        newest = max((_timestamp(record) or 0 for record in sight.records()), default=0)
        for user_id, choices in _wanted(due, acts, sight).items():
            place = user_place(user_key(user_id or ""))
            user = sight.users.get(place, {}) if user_id else {}
            aim = _Aim(
                key,
                str(user.get("organization_user_id") or spelling),
                user_id,
                names,
                user,
                sight.events.get(place, ()) if user_id else (),
                newest=newest,
            )
            result.postings += self._make_known(aim, choices)

    def _allow(
        self,
        due: dict[Path, list[str]],
        acts: Mapping[Path, Act | None],
        *,
        creates: bool,
    ) -> dict[Path, list[str]]:
        """Return what the guards let be posted to a person."""
        allowed = {
            path: places
            for path, places in due.items()
            if (act := acts[path]) is None or self._guard.allows(act.value)
        }
        if not (creates and allowed):
            return allowed
        with self._lock:
            return allowed if self._guards.may_create() else {}

    def _make_known(self, aim: _Aim, choices: dict[Path, bool]) -> list[Posting]:
        """Return what is posted for one user, and what is refused, choice by choice."""
        unknown = {path: found for path in choices if (found := self._known.find_unknown(path))}
        known = {path: choice for path, choice in choices.items() if path not in unknown}
        postings = self._make(aim, known) if known else []
        for path, found in unknown.items():
            for posting in self._make(aim, {path: choices[path]}):
                posting.code = codes.UNKNOWN_ID
                posting.error = RequestRejectedError(
                    f"{found.to_text()}; it was not posted.", status=None, body=""
                )
                postings.append(posting)
        return postings

    def _prepare_unread(self, key: str, spelling: str, error: ApiError) -> PersonResult:
        """Decide what is posted to a person of whom Didomi shows nothing now: opt-outs alone.

        They go to the person, of whom the ledger must know a user: none is to be created.
        """
        result = PersonResult(key, unread=error)
        rules = self._ledger.rules
        person = self._ledger.read([key]).get(key)
        if person is None or not known_users(person) or not self._guard.allows(OPT_OUT):
            return result
        names: dict[Path, str] = {}
        replaced: list[str] = []
        newest = 0
        for path, places in due_users(person, rules).items():
            act = winner(person.entries[path], rules)
            if act is not None and act.value is OPT_OUT and not is_value(path):
                names[path] = act.id
                held = [person.entries[path].place(place).held for place in places]
                replaced += [str(found.began) for found in held if found is not None]
                newest = max(newest, *(found.ended for found in held if found is not None), 0)
        if names:
            aim = _Aim(key, spelling, None, names, {}, (), " ".join(sorted(replaced)), newest)
            result.postings = self._make(aim, dict.fromkeys(names, OPT_OUT))
        return result

    def _count(self, result: PersonResult, person: Person, due: Mapping[Path, list[str]]) -> None:
        """Count the choices of this run's records that need not be posted."""
        for path in self._seen.get(result.key, ()):
            if path in due or path not in person.entries:
                continue
            best = winner(person.entries[path], self._ledger.rules)
            if best is not None and best.side == DIDOMI:
                result.newer += 1
            else:
                result.present += 1

    def _look(self, spellings: Collection[str]) -> _Sight:
        """Read the users and events of a person, of whom several spellings may be known."""
        users: dict[str, dict[str, Any]] = {}
        events: dict[str, list[dict[str, Any]]] = {}
        for spelling in sorted(spellings):
            found = {
                user_place(user_key(str(user.get("id") or ""))): user
                for user in self._api.users(spelling)
                if self._is_of_regulation(user)
            }
            users |= found
            events |= {place: [] for place in found}
            for event in self._api.events(spelling) if found else ():
                if self._counts(event):
                    events.setdefault(user_place(user_key(_user_id(event))), []).append(event)
        return _Sight(users, events)

    def _is_of_regulation(self, record: Mapping[str, Any]) -> bool:
        regulation = record.get("regulation") or DEFAULT_REGULATION
        return str(regulation).casefold() == self._regulation.casefold()

    def _counts(self, event: Mapping[str, Any]) -> bool:
        status = event.get("status") or CONFIRMED
        return str(status).casefold() == CONFIRMED and self._is_of_regulation(event)

    def _learn_sight(self, person: Person, sight: _Sight) -> None:
        """Learn what Didomi holds of the choices that are known of a person."""
        arrival = to_micros(self._session.now())
        for place, events in sight.events.items():
            for event in events:
                self._learn_event(person, place, event, arrival)
        _forget_users(person, sight.users)
        for place, user in sight.users.items():
            self._learn_status(person, place, user, arrival)
            # A user who has said nothing of these choices is a user as well.
            if not any(place in entry.places for entry in person.entries.values()):
                for path in [path for path in person.entries if path[0] == "consents"]:
                    person.entries[path].place(place)

    def _learn_event(
        self, person: Person, place: str, event: Mapping[str, Any], arrival: Micros
    ) -> None:
        own = is_ours(self._scope_text, event.get("id"))
        created = _timestamp(event, "created_at") if own else _timestamp(event)
        if created is None:
            return
        # What a delegate brought from Actito is a copy as well.
        ours = own or self._is_of_delegate(event)
        for path, choice in _choices(person, event.get("consents")).items():
            learn_event(
                person.entry(path),
                place,
                choice,
                created,
                ours=ours,
                arrival=max(arrival, created) if ours else arrival,
                rules=self._ledger.rules,
            )

    def _is_of_delegate(self, event: Mapping[str, Any]) -> bool:
        delegate = event.get("delegate")
        found = delegate.get("id") if isinstance(delegate, dict) else None
        return found in self._settings.skip_delegates

    def _learn_status(
        self, person: Person, place: str, user: Mapping[str, Any], arrival: Micros
    ) -> None:
        updated = _timestamp(user)
        for path, choice in _choices(person, user.get("consents")).items():
            learn_status(
                person.entry(path),
                place,
                choice,
                arrival if updated is None else updated,
                arrival=arrival,
                rules=self._ledger.rules,
            )

    # What is posted

    def _make(self, aim: _Aim, choices: dict[Path, bool]) -> list[Posting]:
        """Return what is posted for one user: opt-ins apart where they wait for approval."""
        parts = [(False, choices)]
        if self._settings.respect_approval:
            parts = [
                (choice, {path: c for path, c in choices.items() if c is choice})
                for choice in (False, True)
            ]
        held = read_choices(readable(aim.user.get("consents")))
        postings: list[Posting] = []
        for pending, part in parts:
            if part:
                postings.append(self._posting(aim, part, held, pending=pending))
                # What waits for approval must not say again what was opted out of just now.
                held = held.after(read_choices(readable(postings[-1].event["consents"])))
        return postings

    def _posting(
        self, aim: _Aim, choices: dict[Path, bool], held: ConsentChoices, *, pending: bool
    ) -> Posting:
        status = HeldStatus(held, None)
        has_values = any("values" in path for path in choices)
        single = self._known.tree.single_choice if has_values else frozenset()

        def say(some: Mapping[Path, bool]) -> dict[str, Any]:
            said = merge(some, status, single)
            return to_consents(said.single.items(), said.answers.items())

        now = to_micros(self._session.now())
        newest = max(_timestamp(record) or 0 for record in (aim.user, *aim.events))
        if aim.newest <= now:  # else it would hide for long what another user chooses
            newest = max(newest, aim.newest)
        timestamp = max(now - _CLOCK_ERROR, newest + _STEP)
        event = to_event(
            self._incoming.get(aim.key) or _nothing(aim.person, self._settings.delegate),
            say(choices),
            timestamp=to_datetime(timestamp),
            regulation=self._regulation,
            user_id=aim.user_id,
            event_id=self._event_id(aim, choices, pending=pending),
            person=aim.person,
            pending=pending,
        )
        return Posting(aim.key, aim.person, aim.user_id, choices, event, say, pending=pending)

    def _event_id(self, aim: _Aim, choices: Mapping[Path, bool], *, pending: bool) -> str:
        """Return the id: of the acts, the user, and the events that are replaced."""
        names = [f"{aim.acts[path]} {'/'.join(path)}={choice}" for path, choice in choices.items()]
        if pending:
            names.append(PENDING)
        replaces = _replaced(choices, aim.events) or aim.replaces
        return make_event_id(self._scope_text, names, aim.user_id or aim.key, replaces)

    def _post(self, postings: list[Posting]) -> None:
        """Post events in one request; one by one if Didomi refuses them together."""
        try:
            stored = self._api.post([posting.event for posting in postings])
        except RequestRejectedError as error:
            self._handle_refusal(postings, error)
            return
        except UnavailableError as error:
            self._handle_no_answer(postings, error)
            return
        found = {event["id"]: event for event in stored}
        for posting in postings:
            posting.stored = found.get(posting.event["id"])
            if posting.stored is not None and self._known.unproven(posting.choices):
                self._read_back(posting)
                self._known.see((posting.stored or {}).get("consents"))
        missing = [posting for posting in postings if posting.stored is None]
        for posting in missing:  # every id must come back
            if len(postings) > 1:
                self._post([posting])
                continue
            self._read_back(posting)
            if posting.stored is None:
                posting.error = RequestRejectedError(
                    "Didomi accepted an event that is not there.", status=None, body=""
                )

    def _handle_refusal(self, postings: list[Posting], error: RequestRejectedError) -> None:
        """Post events one by one that were refused together, and choices if one is refused."""
        if len(postings) > 1:
            logger.info(
                "Didomi refuses an array of %d events (status %s); posting them one by one.",
                len(postings),
                error.status,
            )
            for posting in postings:
                self._post([posting])
            return
        posting = postings[0]
        self._read_back(posting)
        if posting.stored is not None:
            return
        bare = without_extras(posting.event)
        if bare != posting.event:
            logger.warning(EXTRAS_REFUSED, error.status)
            posting.event = bare
            self._post([posting])
            return
        self._post_choice_by_choice(posting, error)

    def _handle_no_answer(self, postings: list[Posting], error: UnavailableError) -> None:
        """Find out what became of events on which no usable response came.

        Raises:
            UnavailableError: Didomi doesn't respond to anything, or to too many of them.
        """
        for posting in postings:
            self._read_back(posting)
        missing = [posting for posting in postings if posting.stored is None]
        if len(postings) > 1:
            for posting in missing:
                self._post([posting])
            return
        for posting in missing:  # Didomi responds, but not to this event
            with self._lock:
                self._unanswered += 1
                if self._unanswered > _MOST_UNANSWERED:
                    raise error
            posting.error = RequestRejectedError(error.message, status=error.status, body="")

    def _read_back(self, posting: Posting) -> None:
        """Find out whether Didomi holds an event."""
        posting.stored = self._api.event(posting.event["id"], posting.person)

    def _post_choice_by_choice(self, posting: Posting, error: RequestRejectedError) -> None:
        """Post each choice of a refused event by itself, so that one never stops another."""
        posting.error = error
        parts = _by_itself(posting.choices)
        if len(parts) == 1:
            return
        for part in parts:
            event = {
                **posting.event,
                "id": make_event_id(
                    self._scope_text, [posting.event["id"], *map("/".join, part)], "", ""
                ),
                "consents": posting.say(part),
            }
            single = Posting(
                posting.key,
                posting.person,
                posting.user_id,
                part,
                event,
                posting.say,
                pending=posting.pending,
            )
            self._post([single])
            posting.parts.append(single)

    # What came of it

    def _settle(self, result: PersonResult) -> None:
        """Learn what was posted, and note what was refused: one transaction."""
        for posting in result.postings:
            if posting.stored is not None and len(posting.said()) < len(posting.choices):
                posting.error = RequestRejectedError(
                    "Didomi stored an event without some of its choices.", status=None, body=""
                )
        if not result.postings and result.unread is None:
            return
        with self._ledger.change([result.key]) as change:
            person = change.people[result.key]
            self._learn_posted(person, result)
            refused = None
            for posting in result.postings:
                if posting.error is not None:
                    refused = f"{posting.code.name}:{posting.error.status}"
            flag_didomi(person, self._ledger.rules)
            result.owes_opt_out = bool(person.owed & Owed.OPT_OUT_DIDOMI)
            if refused is not None:
                self._note_retry(person, refused)
            elif isinstance(result.unread, RequestRejectedError):
                self._note_retry(person, f"{codes.REQUEST_REFUSED.name}:{result.unread.status}")
            else:
                person.retries.pop(DIDOMI, None)
            if result.deferred:
                self._note_deferred(person)

    def _learn_posted(self, person: Person, result: PersonResult) -> None:
        """Learn what Didomi has stored of what was posted."""
        arrival = to_micros(self._session.now())
        for posting in result.postings:
            if posting.stored is None:
                continue
            user_id = posting.user_id or _user_id(posting.stored)
            created = _timestamp(posting.stored, "created_at") or arrival
            for path, choice in posting.said().items():
                self._note_opt_out(result, person.entry(path), choice)
                learn_event(
                    person.entry(path),
                    user_place(user_key(user_id)) if user_id else user_place(0),
                    choice,
                    created,
                    ours=True,
                    arrival=max(arrival, created),
                    rules=self._ledger.rules,
                )

    @staticmethod
    def _note_opt_out(result: PersonResult, entry: Entry, choice: bool) -> None:
        """Note when an opt-out was chosen that was posted; of a look, when the one before began."""
        act = entry.acts.get(ACTITO)
        if choice is OPT_OUT and act is not None and act.value is OPT_OUT:
            known = result.opted_out_at
            if act.earliest > BEGINNING and (known is None or act.earliest < known):
                result.opted_out_at = act.earliest

    def _note_retry(self, person: Person, code: str, wait: int = 0) -> None:
        now = to_micros(self._runtime.now())
        person.retries[DIDOMI] = next_retry(person.retries.get(DIDOMI), code, now, wait=wait)


def _waits(person: Person, now: Micros) -> bool:
    """Return whether what is owed to Didomi is not to be tried yet."""
    retry = person.retries.get(DIDOMI)
    if retry is None or retry.next_at <= now:
        return False
    # One who had no user may have one by now.
    return retry.code != codes.UNMATCHED.name or not known_users(person)


def _over_what_is_shown(
    acts: dict[Path, Act | None], users: Iterable[Mapping[str, Any]]
) -> tuple[dict[Path, Act | None], RequestRejectedError | None]:
    """Return the acts that may be posted, and why others may not.

    What a user holds whose `consents` the response lacks may be an opt-out: only opt-outs are
    posted over it.
    """
    odd = [user for user in users if not isinstance(user.get("consents", ""), (dict, type(None)))]
    opt_outs = {path: act for path, act in acts.items() if act is None or act.value is OPT_OUT}
    if not odd or len(opt_outs) == len(acts):
        return acts, None
    error = RequestRejectedError(
        f"Didomi shows a user without an object `consents`: {shape_of(odd[0])}. So what it holds "
        "isn't known, and opt-ins wait.",
        status=None,
        body="",
    )
    return opt_outs, error


def _by_itself(choices: Mapping[Path, bool]) -> list[dict[Path, bool]]:
    """Return choices by themselves, opt-outs first.

    The values of a preference stay together: an event states the whole answer.
    """
    parts: dict[Path, dict[Path, bool]] = {}
    for path, choice in choices.items():
        parts.setdefault(path[:-1] if is_value(path) else path, {})[path] = choice
    return sorted(parts.values(), key=lambda part: all(part.values()))


def _forget_users(person: Person, places: Collection[str]) -> None:
    """Forget the Didomi users who are gone: nothing is owed to them. What they chose stays."""
    for entry in person.entries.values():
        for name in [name for name in entry.places if is_user(name)]:
            if name not in places:
                forget_user(entry, name)


def _wanted(
    due: Mapping[Path, list[str]], acts: Mapping[Path, Act | None], sight: _Sight
) -> dict[str | None, dict[Path, bool]]:
    """Return the choices to post, by the id of the Didomi user; None for one to be created."""
    wanted: dict[str | None, dict[Path, bool]] = {}
    for path, places in due.items():
        act = acts.get(path)
        if act is None:
            continue
        if not sight.users:
            wanted.setdefault(None, {})[path] = act.value
            continue
        for place in places:
            user = sight.users.get(place)
            if user is not None:
                wanted.setdefault(str(user.get("id")), {})[path] = act.value
    return wanted


def _user_id(event: Mapping[str, Any]) -> str:
    """Return the id of an event's Didomi user; an empty text if it names none."""
    user = event.get("user")
    return str(user.get("id") or "") if isinstance(user, dict) else ""


def _timestamp(record: Mapping[str, Any], *names: str) -> Micros | None:
    """Return the timestamp of an event or user of Didomi's response; None if it has none.

    What Didomi has updated since counts from then. But an event of ours counts from its creation:
    its update says when it arrived, and Didomi orders events by their creation.

    Args:
        record: The event or user.
        names: Of the timestamps of which the latest counts; all if none is named.
    """
    found: list[datetime] = []
    for name in names or ("created_at", "updated_at"):
        try:
            if record.get(name) is not None:
                found.append(parse_timestamp(record[name], name))
        except BadInputError:
            continue
    return to_micros(max(found)) if found else None


def _choices(person: Person, consents: Any) -> dict[Path, bool]:
    """Return what consents say of the choices that are known of a person."""
    said = read_choices(readable(consents))
    return {
        path: choice for path in list(person.entries) if (choice := said.says(path)) is not None
    }


def _replaced(choices: Mapping[Path, bool], events: Sequence[Mapping[str, Any]]) -> str:
    """Return the ids of the events that set a user's present choices at some paths."""
    newest: dict[Path, tuple[Micros, str]] = {}
    for event in events:
        said = read_choices(readable(event.get("consents")))
        created = _timestamp(event) or 0
        for path in choices:
            if said.says(path) is not None:
                newest[path] = max(newest.get(path, (0, "")), (created, str(event.get("id"))))
    return " ".join(sorted({event_id for _, event_id in newest.values()}))


def _nothing(person: str, delegate: str) -> IncomingEvent:
    """Return an event that says nothing, for what earlier runs left owed."""
    epoch = to_datetime(0)
    return IncomingEvent(
        number=0,
        id="",
        person=person,
        earliest=epoch,
        latest=epoch,
        choices=ConsentChoices(),
        extra={"delegate": {"id": delegate}},
        user={},
        record={},
    )
