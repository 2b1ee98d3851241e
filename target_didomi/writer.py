"""Writes the events of people: reads what Didomi holds of each, and posts what differs."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from actito_didomi.consent.choices import is_value, read_choices, readable, to_consents
from actito_didomi.consent.conflicts import newest
from actito_didomi.consent.records import CONFIRMED
from actito_didomi.didomi.consents import MAX_EVENTS
from actito_didomi.errors import BadInputError, RequestRejectedError
from target_didomi.answers import (
    Decision,
    HeldEvent,
    HeldStatus,
    decide,
    differs,
    expand,
    latest_user,
    merge,
    read_event,
    read_status,
)
from target_didomi.events import (
    EXTRAS_REFUSED,
    other_user_id,
    pending_id,
    timestamp_to_post,
    to_event,
    without_extras,
)

if TYPE_CHECKING:
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Act
    from actito_didomi.consent.known_ids import UnknownId
    from actito_didomi.didomi.consents import ConsentApi
    from actito_didomi.plugin.guards import Guards
    from target_didomi.events import IncomingEvent
    from target_didomi.known import KnownChoices

logger = logging.getLogger("target-didomi")


@dataclass
class Outcome:
    """The result for one event.

    Attributes:
        incoming: The event.
        decisions: How many of its choices had which decision.
        opt_outs: How many opt-outs are among those written.
        posted: Events that were posted of it.
        pending: How many of these wait for approval.
        existed: Whether Didomi held it already.
        unmatched: Whether Didomi doesn't know the person, and nothing was created.
        created: Whether it created the person.
        refused: Why it could not be written.
        refused_opt_out: Whether what could not be written holds an opt-out.
        unknown: What is wrong with choices that Didomi doesn't have.
        unknown_opt_out: Whether one of these is an opt-out.
        deferred: Whether a guard deferred it.
    """

    incoming: IncomingEvent
    decisions: Counter[Decision] = field(default_factory=Counter)
    opt_outs: int = 0
    posted: int = 0
    pending: int = 0
    existed: bool = False
    unmatched: bool = False
    created: bool = False
    refused: RequestRejectedError | BadInputError | None = None
    refused_opt_out: bool = False
    unknown: dict[Path, UnknownId] = field(default_factory=dict)
    unknown_opt_out: bool = False
    deferred: bool = False


@dataclass(frozen=True)
class _Posting:
    """An event to post, and the outcome it belongs to."""

    event: dict[str, Any]
    outcome: Outcome
    opt_out: bool


class Writer:
    """Writes events, person by person.

    Args:
        api: The organisation's consents.
        known: Finds choices that Didomi doesn't have.
        regulation: Id of the regulation.
        create_users: Whether people whom Didomi doesn't know are created.
        respect_approval: Whether opt-ins are sent to wait for approval.
        guards: Stop writing if too many people are unknown, or would be created.
    """

    def __init__(
        self,
        api: ConsentApi,
        known: KnownChoices,
        *,
        regulation: str,
        create_users: bool,
        respect_approval: bool,
        guards: Guards,
    ) -> None:
        self._guards = guards
        self._api = api
        self._known = known
        self._regulation = regulation
        self._create_users = create_users
        self._respect_approval = respect_approval
        self._newest: dict[tuple[str, Path], Act] = {}

    def write(self, people: list[list[IncomingEvent]]) -> list[Outcome]:
        """Write the events of some people.

        Args:
            people: For each person the events, in order of time.

        Returns:
            The result for each event.

        Raises:
            ApiError: Didomi can't be used; what was posted stays, and the next run finds it.
            StoppedError: The process is to stop; likewise.
        """
        outcomes: list[Outcome] = []
        postings: list[_Posting] = []
        for events in people:
            own = [Outcome(event) for event in events]
            outcomes += own
            if self._guards.stops_lookups:
                _defer(own)
                continue
            try:
                postings += self._prepare(own)
            except (BadInputError, RequestRejectedError) as error:
                if isinstance(error, RequestRejectedError):
                    self._api.check_access(error)
                for outcome in own:
                    outcome.refused = error
                    outcome.refused_opt_out = _holds_opt_out(outcome.incoming)
        for start in range(0, len(postings), MAX_EVENTS):
            self._post(postings[start : start + MAX_EVENTS])
        return outcomes

    def _prepare(self, outcomes: list[Outcome]) -> list[_Posting]:
        """Decide what of one person's events is posted.

        Raises:
            BadInputError: What Didomi holds of the person can't be read.
        """
        person = outcomes[0].incoming.person
        users = self._read_users(person)
        if not users and not self._may_create(outcomes):
            return []
        user = latest_user(users)
        status = read_status(user)
        held: list[HeldEvent] | None = None if users else []
        postings: list[_Posting] = []
        for outcome in outcomes:
            incoming = outcome.incoming
            wanted = self._drop_superseded(outcome, expand(incoming.choices, status))
            wanted = self._drop_unknown(outcome, wanted)
            others = [other for other in users if other is not user]
            made, held = self._for_other_users(outcome, wanted, others, held)
            postings += made
            if not any(differs(path, choice, status) for path, choice in wanted.items()):
                outcome.decisions[Decision.PRESENT] += len(wanted)
                continue
            if held is None:
                held = self._events(person)
            # With approval, an event may be there without its opt-ins: posting shows it.
            if not self._respect_approval and any(event.id == incoming.id for event in held):
                outcome.existed = True
                continue
            written: dict[Path, bool] = {}
            for path, choice in wanted.items():
                decision = decide(path, incoming.act(choice), status, held)
                outcome.decisions[decision] += 1
                if decision is Decision.WRITE:
                    written[path] = choice
            if not written:
                continue
            outcome.created = not users
            outcome.opt_outs = sum(not choice for choice in written.values())
            made, status, held = self._make(outcome, written, user.get("id"), status, held)
            postings += made
        return postings

    def _may_create(self, outcomes: list[Outcome]) -> bool:
        """Return whether a person whom Didomi doesn't know is created, and note it if not."""
        if self._create_users and self._guards.may_create():
            return True
        for outcome in outcomes:
            outcome.unmatched = not self._create_users
            outcome.deferred = self._create_users
        return False

    def _read_users(self, person: str) -> list[dict[str, Any]]:
        users = self._api.users(person)
        for user in users:
            self._known.see(user.get("consents"))
        return users

    def _events(self, person: str) -> list[HeldEvent]:
        return [read_event(event) for event in self._api.events(person)]

    def _for_other_users(
        self,
        outcome: Outcome,
        wanted: dict[Path, bool],
        users: list[dict[str, Any]],
        held: list[HeldEvent] | None,
    ) -> tuple[list[_Posting], list[HeldEvent] | None]:
        """Return what is posted for other users, and the person's events if they were read."""
        postings: list[_Posting] = []
        for user in users:
            if opt_outs := _missing_opt_outs(wanted, user):
                if held is None:
                    held = self._events(outcome.incoming.person)
                postings += self._for_other_user(outcome, opt_outs, user, held)
        return postings, held

    def _for_other_user(
        self,
        outcome: Outcome,
        opt_outs: dict[Path, bool],
        user: dict[str, Any],
        held: list[HeldEvent],
    ) -> list[_Posting]:
        """Return what is posted for another user of the person: opt-outs go to each of them."""
        incoming, status = outcome.incoming, read_status(user)
        event_id = other_user_id(incoming.id, str(user.get("id")))
        written = {
            path: choice
            for path, choice in opt_outs.items()
            if decide(path, incoming.act(choice), status, held) is Decision.WRITE
        }
        if not written or any(event.id == event_id for event in held):
            return []
        said = merge(written, status, frozenset())
        event = to_event(
            incoming,
            to_consents(said.single.items(), said.answers.items()),
            timestamp=timestamp_to_post(incoming.latest, {event.timestamp for event in held}),
            regulation=self._regulation,
            user_id=str(user.get("id")),
            event_id=event_id,
            person=incoming.person,
        )
        return [_Posting(event, outcome, opt_out=True)]

    def _drop_superseded(self, outcome: Outcome, choices: dict[Path, bool]) -> dict[Path, bool]:
        """Learn choices, and return those that no newer one of this run supersedes.

        A newer one may have been written before, or may have been present already.
        """
        wanted: dict[Path, bool] = {}
        for path, choice in choices.items():
            place = (outcome.incoming.person, path)
            act = newest(self._newest.get(place), outcome.incoming.act(choice))
            self._newest[place] = act
            if act.value is choice:
                wanted[path] = choice
            else:
                outcome.decisions[Decision.SUPERSEDED] += 1
        return wanted

    def _drop_unknown(self, outcome: Outcome, wanted: dict[Path, bool]) -> dict[Path, bool]:
        """Return the choices that Didomi may have, and note the others."""
        for path, choice in wanted.items():
            if found := self._known.find_unknown(path):
                outcome.unknown[path] = found
                outcome.unknown_opt_out = outcome.unknown_opt_out or not choice
        return {path: choice for path, choice in wanted.items() if path not in outcome.unknown}

    def _make(
        self,
        outcome: Outcome,
        written: dict[Path, bool],
        user_id: str | None,
        status: HeldStatus,
        held: list[HeldEvent],
    ) -> tuple[list[_Posting], HeldStatus, list[HeldEvent]]:
        """Return what is posted of an event, and what Didomi holds after it."""
        incoming = outcome.incoming
        single_choice: frozenset[str] = frozenset()
        if any(is_value(path) for path in written):
            single_choice = self._known.tree.single_choice
        parts = [(False, written)]
        if self._respect_approval:
            parts = [
                (choice, {p: c for p, c in written.items() if c is choice})
                for choice in (False, True)
            ]
        timestamp = timestamp_to_post(incoming.latest, {event.timestamp for event in held})
        made: list[_Posting] = []
        for pending, part in parts:
            if not part:
                continue
            said = merge(part, status, single_choice)
            event = to_event(
                incoming,
                to_consents(said.single.items(), said.answers.items()),
                timestamp=timestamp,
                regulation=self._regulation,
                user_id=user_id,
                event_id=pending_id(incoming.id) if pending else incoming.id,
                person=incoming.person,
                pending=pending,
            )
            made.append(_Posting(event, outcome, opt_out=not all(part.values())))
            if not pending:
                status = HeldStatus(status.choices.after(said), status.updated_at)
                held = [*held, HeldEvent(event["id"], timestamp, said)]
        return made, status, held

    def _post(self, postings: list[_Posting]) -> None:
        """Post events in one request; one by one if Didomi refuses them together."""
        try:
            stored = self._api.post([posting.event for posting in postings])
        except RequestRejectedError as error:
            if len(postings) == 1:
                self._handle_refusal(postings[0], error)
                return
            logger.info(
                "Didomi refuses an array of %d events (status %s); posting them one by one.",
                len(postings),
                error.status,
            )
            for posting in postings:
                self._post([posting])
            return
        found = {event["id"] for event in stored}
        for posting in postings:
            if posting.event["id"] in found and self._is_there(posting):
                posting.outcome.posted += 1
                posting.outcome.pending += posting.event["status"] != CONFIRMED
            elif len(postings) > 1:  # every id must come back
                self._post([posting])
            else:
                self._handle_refusal(
                    posting,
                    RequestRejectedError(
                        "Didomi accepted an event that is not there.", status=None, body=""
                    ),
                )

    def _is_there(self, posting: _Posting) -> bool:
        """Return whether an accepted event is there: one with a new channel is read back."""
        paths = read_choices(readable(posting.event["consents"])).single
        if not self._known.unproven(paths):
            return True
        stored = self._api.event(posting.event["id"], posting.outcome.incoming.person)
        self._known.see((stored or {}).get("consents"))
        return stored is not None

    def _handle_refusal(self, posting: _Posting, error: RequestRejectedError) -> None:
        """Look whether the event is there all the same: only then it counts as posted."""
        outcome = posting.outcome
        if self._api.event(posting.event["id"], outcome.incoming.person) is not None:
            outcome.existed = True
            return
        bare = without_extras(posting.event)
        if bare != posting.event:
            logger.warning(EXTRAS_REFUSED, error.status)
            self._post([replace(posting, event=bare)])
            return
        outcome.refused = error
        outcome.refused_opt_out = outcome.refused_opt_out or posting.opt_out


def _defer(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        outcome.deferred = True


def _missing_opt_outs(wanted: dict[Path, bool], user: dict[str, Any]) -> dict[Path, bool]:
    """Return the opt-outs that a user doesn't show."""
    status = read_status(user)
    return {
        path: choice
        for path, choice in wanted.items()
        if not choice and differs(path, choice, status)
    }


def _holds_opt_out(incoming: IncomingEvent) -> bool:
    return not all(incoming.choices.single.values()) or bool(incoming.choices.answers)
