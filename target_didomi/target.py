"""The target: gathers consent events, and writes to Didomi what differs there."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.consent.choices import ConsentChoices, read_choices, readable
from actito_didomi.consent.conflicts import OPT_OUT, to_micros
from actito_didomi.consent.records import Shape
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.consent.scope import Scope
from actito_didomi.didomi.consents import ConsentApi
from actito_didomi.didomi.session import open_session
from actito_didomi.errors import RequestRejectedError
from actito_didomi.plugin.breaker import RefusalBreaker
from actito_didomi.plugin.guards import Guards
from actito_didomi.plugin.parallel import run_parallel
from actito_didomi.plugin.progress import Progress
from actito_didomi.plugin.rejects import Reject
from actito_didomi.plugin.target import ConsentTarget
from target_didomi.answers import Decision
from target_didomi.config import Settings, find_problems
from target_didomi.delivery import Delivery
from target_didomi.events import IncomingEvent, find_odd, opt_outs_id, read_incoming
from target_didomi.guarding import DueCounts
from target_didomi.known import KnownChoices
from target_didomi.summary import DidomiSummary
from target_didomi.writer import Outcome, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.records import ConsentRecord
    from actito_didomi.http import ApiSession
    from target_didomi.delivery import PersonResult, Posting

logger = logging.getLogger("target-didomi")

_PEOPLE_AT_ONCE = 25
"""People whose events go together: enough for arrays, few enough for concurrent requests."""


class TargetDidomi(ConsentTarget):
    """Singer target for Didomi: writes consent events, such as those of changes in Actito.

    It takes events of Didomi's form from any tap, and posts only what differs from what Didomi
    holds. A newer choice there stays; where the order can't be known, the opt-out wins.
    """

    name = "target-didomi"
    system = "Didomi"
    direction = "reverse"
    summary_class = DidomiSummary
    settings_class = Settings
    settings: Settings
    summary: DidomiSummary
    guards: Guards

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.guards = Guards(self.settings.guards)
        self._deferred_people: set[str] = set()
        self._scope = Scope(self.settings.didomi.regulation, skip_delegates=frozenset())
        self._people: dict[str, list[IncomingEvent]] = {}
        self._oldest: int | None = None
        self._seen: set[str] = set()
        self._written: set[str] = set()
        self._created: set[str] = set()
        self._unmatched: set[str] = set()
        self._rejected: set[str] = set()
        self._warned_of_odd = False
        self._looked_for: set[str] = set()
        self._writer: Writer | None = None
        self._delivery: Delivery | None = None

    # Settings

    def find_problems(self) -> list[str]:
        """Check that everything needed for requests to Didomi is set."""
        return find_problems(self.settings)

    # Gathering

    def open(self) -> ApiSession:
        """Open the session; the first request checks it."""
        settings = self.settings
        session = open_session(
            settings.didomi,
            settings.client,
            max_concurrency=settings.max_concurrency,
            stop=self.shutdown.requested,
            runtime=self.runtime,
        )
        api = ConsentApi(session, settings.didomi.organization_id, settings.didomi.regulation_id)
        known = KnownChoices(api, refuses=settings.unknown_ids == "refuse", runtime=self.runtime)
        threshold = settings.guards.breaker_threshold
        self._breaker = RefusalBreaker[Outcome](threshold, "Didomi")
        if self.ledger is not None:
            self._delivery = Delivery(
                ledger=self.ledger,
                api=api,
                known=known,
                session=session,
                settings=settings,
                guards=self.guards,
                breaker=RefusalBreaker(threshold, "Didomi"),
                events=self,
                trial=self.trial,
                shutdown=self.shutdown,
                runtime=self.runtime,
            )
        else:
            self._writer = Writer(
                api,
                known,
                regulation=settings.didomi.regulation_id,
                create_users=settings.create_users,
                respect_approval=settings.respect_approval,
                guards=self.guards,
            )
        return session

    def ledger_scope(self) -> LedgerScope:
        """Return the pair as far as it is known here: the organisation in Didomi."""
        didomi = self.settings.didomi
        return LedgerScope(organization=didomi.organization_id, regulation=didomi.regulation)

    @property
    def waiting(self) -> int:
        """Number of people whose events are gathered."""
        return len(self._people)

    @property
    def oldest_waiting(self) -> int | None:
        """Number of the earliest record that is gathered; None if none is."""
        return self._oldest

    def may_opt_out(self, part: dict[str, Any]) -> bool:
        """Return whether a record that could not be read may hold an opt-out."""
        consents = part.get("consents")
        if not isinstance(consents, dict):
            return consents is not None
        odd, choices = find_odd(consents), read_choices(readable(consents))
        return (odd is not None and odd.opt_out) or not all(choices.single.values())

    def take(self, consent: ConsentRecord, part: Mapping[str, Any]) -> None:
        """Gather an event."""
        reason = self._scope.reason_to_skip(
            consent.person, consent.status, consent.regulation, consent.delegate
        )
        if consent.shape is not Shape.EVENT:
            reason = codes.NOT_AN_EVENT
        if reason:
            self.summary.skip(reason)
            return
        self._check_odd(consent, part)
        number = self.summary.records
        incoming = read_incoming(consent, part, number, self.settings.delegate, self.arrival)
        self._people.setdefault(incoming.person, []).append(incoming)
        self._seen.add(incoming.person)
        if self._oldest is None:
            self._oldest = number

    def _check_odd(self, consent: ConsentRecord, part: Mapping[str, Any]) -> None:
        """Reject choices that can't be read; what else the event says is posted."""
        odd = find_odd(part.get("consents"))
        if odd is None:
            return
        if odd.is_rejected:
            self.reject(
                Reject(
                    codes.INVALID_VALUE,
                    odd.reason,
                    consent.person,
                    opt_out=odd.opt_out,
                    record=part,
                )
            )
        elif not self._warned_of_odd:
            self._warned_of_odd = True
            logger.warning(
                "%s: a choice is not a boolean, but a text or number; only opt-outs are read so.",
                codes.ODD_BOOLEAN,
            )

    # Writing

    def write_gathered(self) -> None:
        """Write the events of all people gathered, those of each person in order of time."""
        people, self._people, self._oldest = self._people, {}, None
        if self._delivery is not None:
            self._deliver(self._delivery, people)
            return
        if not people or self._writer is None:
            return
        self.expect(event.number for events in people.values() for event in events)
        people = self._check_guards(people)
        total = sum(map(len, people.values()))
        logger.info("Writing events: %d, people: %d.", total, len(people))
        opt_outs = sum(map(_has_opt_out, chain.from_iterable(people.values())))
        progress = Progress(logger, "Didomi", self.runtime, lambda: self.waits_since)
        progress.begin(total, opt_outs)

        def handle_results(outcomes: list[Outcome]) -> None:
            for outcome in outcomes:
                self._handle_outcome(outcome)
                progress.add(opt_out=_has_opt_out(outcome.incoming))

        with self.collecting_garbage():
            run_parallel(
                _groups(sorted(events, key=_timestamp) for events in people.values()),
                self._writer.write,
                handle_results,
                workers=self.settings.max_concurrency,
                shutdown=self.shutdown,
                runtime=self.runtime,
                on_progress=progress.check,
            )
            self._conclude(self._breaker.finish())
        progress.finish()

    def _check_guards(
        self, people: dict[str, list[IncomingEvent]]
    ) -> dict[str, list[IncomingEvent]]:
        """Return what of the events may be posted: all, or if a limit is passed, opt-outs."""
        counts = DueCounts()
        newest = {person: _newest_choices(events) for person, events in people.items()}
        for choices in newest.values():
            counts.add(choices)
        self.guards.check_plan(
            counts.opt_ins,
            lambda _, enough: min(enough, len(people)),
            changed=len(people),
            people=lambda: len(self._seen),
        )
        if not self.guards.tripped:
            return people
        kept: dict[str, list[IncomingEvent]] = {}
        for person, events in people.items():
            rest = [_only_opt_outs(event, newest[person]) for event in events]
            if not self._writes_opt_outs:
                rest = []
            if rest != events:
                self._deferred_people.add(person)
            if rest := [event for event in rest if event.choices.single]:
                kept[person] = rest
        return kept

    def _handle_outcome(self, outcome: Outcome) -> None:
        """Count what became of an event; a refusal once it is clear that it concerns one person.

        Raises:
            ApiError: All is refused alike.
        """
        person = outcome.incoming.person
        if not outcome.deferred:
            self._looked_for.add(person)
        ready = [outcome]
        if isinstance(outcome.refused, RequestRejectedError):
            ready = self._breaker.refuse(outcome, outcome.refused.status)
        elif outcome.posted:
            ready = [*self._breaker.accept(), outcome]
        elif outcome.unmatched:
            self.guards.check_unmatched(len({*self._unmatched, person}), len(self._looked_for))
            outcome.deferred = self.guards.stops_lookups
        self._conclude(ready)

    def _conclude(self, outcomes: list[Outcome]) -> None:
        """Count what became of events, and acknowledge those that are not deferred."""
        for outcome in outcomes:
            if outcome.deferred:
                self._deferred_people.add(outcome.incoming.person)
                continue
            self._handle_result(outcome)
            self.acknowledge(outcome.incoming.number)

    def _deliver(self, delivery: Delivery, people: dict[str, list[IncomingEvent]]) -> None:
        """Learn the events of people into the ledger, and post what is owed."""
        numbers = [event.number for events in people.values() for event in events]
        self.expect(numbers)
        with self.collecting_garbage():
            delivery.learn(people)
            delivery.deliver()
        self.acknowledge(*numbers)

    def on_results(self, results: list[PersonResult]) -> None:
        """Count what became of people whom the ledger names, and keep what was refused."""
        summary = self.summary
        for result in results:
            summary.equal += result.present
            summary.newer += result.newer
            if result.deferred:
                self._deferred_people.add(result.key)
            if result.unmatched and result.key not in self._unmatched:
                self._unmatched.add(result.key)
                self.note_unmatched(result.key)
            if isinstance(result.unread, RequestRejectedError):
                self._reject_unread(result.key, result.unread, opt_out=result.owes_opt_out)
            for posting in result.postings:
                if posting.error is not None:
                    self._reject_posting(posting)
                if posting.stored is None and (self.trial is None or posting.error is not None):
                    continue
                said = posting.choices if self.trial is not None else posting.said()
                summary.posted += 1
                summary.pending += posting.pending
                summary.written += len(said)
                summary.written_opt_outs += sum(not choice for choice in said.values())
                self._written.add(posting.person)
                for path, choice in said.items():
                    summary.count_change("/".join(path), choice)
                if result.created:
                    self._created.add(posting.person)
            self._count_opt_out(result)

    def _count_opt_out(self, result: PersonResult) -> None:
        """Count a person to whom an opt-out was due, by what became of it."""
        opt_outs = [posting for posting in result.postings if posting.opt_out]
        is_open = any(posting.stored is None for posting in opt_outs) or result.owes_opt_out
        if is_open and self.trial is None:
            self.summary.count_opt_out("deferred" if result.deferred else "rejected")
        elif opt_outs:
            self.summary.count_opt_out("written")
        if result.opted_out_at is not None and self._session is not None:
            now = to_micros(self._session.now())
            self.summary.opt_out_latency.add((now - result.opted_out_at) / 1_000_000)

    def _reject_unread(self, key: str, error: RequestRejectedError, *, opt_out: bool) -> None:
        self._rejected.add(key)
        self.reject(
            Reject(
                code=codes.EVENT_REFUSED,
                reason=error.message,
                person=key,
                opt_out=opt_out,
                status=error.status,
                response=error.body,
            )
        )

    def _reject_posting(self, posting: Posting) -> None:
        error = posting.error
        self._rejected.add(posting.person)
        self.reject(
            Reject(
                code=posting.code,
                reason=error.message if error else "Didomi refused the event.",
                person=posting.person,
                opt_out=posting.opt_out,
                change={"consents": posting.event["consents"]},
                status=error.status if error else None,
                response=error.body if error else None,
            )
        )

    def _reject_unknown(self, outcome: Outcome) -> None:
        texts = {found.to_text() for found in outcome.unknown.values()}
        self._rejected.add(outcome.incoming.person)
        self.reject(
            Reject(
                code=codes.UNKNOWN_ID,
                reason=f"{'; '.join(sorted(texts))}. Such choices were not posted.",
                person=outcome.incoming.person,
                opt_out=outcome.unknown_opt_out,
                record=outcome.incoming.record,
            )
        )

    def _handle_result(self, outcome: Outcome) -> None:
        """Count what became of an event, and keep what was refused."""
        summary, incoming, decisions = self.summary, outcome.incoming, outcome.decisions
        if outcome.unknown:
            self._reject_unknown(outcome)
        summary.equal += decisions[Decision.PRESENT]
        summary.newer += decisions[Decision.NEWER]
        summary.superseded += decisions[Decision.SUPERSEDED]
        summary.tied += decisions[Decision.OPT_OUT]
        summary.existed += outcome.existed
        summary.posted += outcome.posted
        summary.pending += outcome.pending
        if outcome.unmatched and incoming.person not in self._unmatched:
            self._unmatched.add(incoming.person)
            self.note_unmatched(incoming.person)
        if error := outcome.refused:
            self._rejected.add(incoming.person)
            refused = error if isinstance(error, RequestRejectedError) else None
            self.reject(
                Reject(
                    code=codes.EVENT_REFUSED if refused else error.code,
                    reason=error.message,
                    person=incoming.person,
                    opt_out=outcome.refused_opt_out,
                    record=incoming.record,
                    status=refused.status if refused else None,
                    response=refused.body if refused else None,
                )
            )
            return
        if outcome.posted:
            summary.written += decisions[Decision.WRITE]
            summary.written_opt_outs += outcome.opt_outs
            self._written.add(incoming.person)
            if outcome.created:
                self._created.add(incoming.person)

    @property
    def regulation(self) -> str:
        """The regulation whose consents are synced."""
        return self.settings.didomi.regulation

    def close(self) -> None:
        """Count the people."""
        summary = self.summary
        summary.people = len(self._seen)
        summary.updated = len(self._written)
        summary.created = len(self._created)
        summary.deferred = len(self._deferred_people)
        others = self._written | self._unmatched | self._rejected | self._deferred_people
        summary.unchanged = len(self._seen - others)


def _newest_choices(events: list[IncomingEvent]) -> dict[Path, bool]:
    """Return what a person chose last in some events, by path."""
    choices: dict[Path, bool] = {}
    for event in sorted(events, key=_timestamp):
        choices.update(event.choices.single)
    return choices


def _only_opt_outs(event: IncomingEvent, newest: Mapping[Path, bool]) -> IncomingEvent:
    """Return an event with its opt-outs that no newer opt-in of the person supersedes."""
    kept = {
        path: choice
        for path, choice in event.choices.single.items()
        if choice is OPT_OUT and newest[path] is OPT_OUT
    }
    choices = ConsentChoices(kept)
    if choices == event.choices:
        return event
    return replace(event, id=opt_outs_id(event.id), choices=choices)


def _timestamp(event: IncomingEvent) -> Any:
    return event.latest


def _groups(people: Iterable[list[IncomingEvent]]) -> Iterator[list[list[IncomingEvent]]]:
    waiting = iter(people)
    while group := list(islice(waiting, _PEOPLE_AT_ONCE)):
        yield group


def _has_opt_out(event: IncomingEvent) -> bool:
    return not all(event.choices.single.values())
