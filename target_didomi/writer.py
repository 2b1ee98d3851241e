"""Writes the events of people: reads what Didomi holds of each, and posts what remains."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actito_didomi.consent.choices import is_value, read_choices
from actito_didomi.consent.records import CONFIRMED, parse_timestamp
from actito_didomi.didomi.consents import MOST_EVENTS, says_it_exists
from actito_didomi.errors import BadInputError, RequestRejectedError
from target_didomi.answers import (
    LONG_AGO,
    Past,
    Status,
    Verdict,
    differs,
    expand,
    merge,
    settle,
    timestamp_to_post,
)
from target_didomi.events import to_event

if TYPE_CHECKING:
    from datetime import datetime

    from actito_didomi.consent.choices import Path
    from actito_didomi.didomi.consents import ConsentApi
    from target_didomi.events import Incoming

logger = logging.getLogger("target-didomi")


@dataclass
class Outcome:
    """What became of an event.

    Attributes:
        incoming: The event.
        verdicts: How many of its choices were treated how.
        opt_outs: How many opt-outs are among those written.
        posted: Events that were posted of it.
        pending: How many of these wait for approval.
        existed: Whether Didomi held it already.
        unmatched: Whether Didomi doesn't know the person, and nothing was created.
        created: Whether it created the person.
        refused: Why it could not be written.
        refused_opt_out: Whether what could not be written holds an opt-out.
    """

    incoming: Incoming
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    opt_outs: int = 0
    posted: int = 0
    pending: int = 0
    existed: bool = False
    unmatched: bool = False
    created: bool = False
    refused: RequestRejectedError | BadInputError | None = None
    refused_opt_out: bool = False


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
        regulation: Id of the regulation.
        create_users: Whether people whom Didomi doesn't know are created.
        respect_approval: Whether opt-ins are sent to wait for approval.
    """

    def __init__(
        self, api: ConsentApi, *, regulation: str, create_users: bool, respect_approval: bool
    ) -> None:
        self._api = api
        self._regulation = regulation
        self._create_users = create_users
        self._respect_approval = respect_approval

    def write(self, people: list[list[Incoming]]) -> list[Outcome]:
        """Write the events of some people.

        Args:
            people: For each person the events, in the order in which they count.

        Returns:
            What became of each event.

        Raises:
            ApiError: Didomi can't be used; what was posted stays, and counts as done next time.
            StoppedError: The process is to stop; likewise.
        """
        outcomes: list[Outcome] = []
        postings: list[_Posting] = []
        for events in people:
            own = [Outcome(event) for event in events]
            outcomes += own
            try:
                postings += self._prepare(own)
            except BadInputError as error:
                for outcome in own:
                    outcome.refused = error
                    outcome.refused_opt_out = _holds_opt_out(outcome.incoming)
        for start in range(0, len(postings), MOST_EVENTS):
            self._post(postings[start : start + MOST_EVENTS])
        return outcomes

    def _prepare(self, outcomes: list[Outcome]) -> list[_Posting]:
        """Decide what of one person's events is posted.

        Raises:
            BadInputError: What Didomi holds of the person can't be read.
        """
        person = outcomes[0].incoming.person
        users = self._api.users(person)
        if not users and not self._create_users:
            for outcome in outcomes:
                outcome.unmatched = True
            return []
        user = max(users, key=_updated_at, default={})
        status = Status(read_choices(user.get("consents") or {}), _updated_at(user))
        past: list[Past] | None = None if users else []
        postings: list[_Posting] = []
        for outcome in outcomes:
            incoming = outcome.incoming
            wanted = expand(incoming.choices, status)
            if not any(differs(path, choice, status) for path, choice in wanted.items()):
                outcome.verdicts[Verdict.EQUAL] += len(wanted)
                continue
            if past is None:
                past = [_read_past(event) for event in self._api.events(person)]
            # With approval, an event may be there without its opt-ins: Didomi tells when posting.
            if not self._respect_approval and any(event.id == incoming.id for event in past):
                outcome.existed = True
                continue
            written: dict[Path, bool] = {}
            for path, choice in wanted.items():
                verdict = settle(path, choice, incoming.window, status, past)
                outcome.verdicts[verdict] += 1
                if verdict is Verdict.WRITE:
                    written[path] = choice
            if not written:
                continue
            outcome.created = not users
            outcome.opt_outs = sum(not choice for choice in written.values())
            made, status, past = self._make(outcome, written, user.get("id"), status, past)
            postings += made
        return postings

    def _make(
        self,
        outcome: Outcome,
        written: dict[Path, bool],
        user_id: str | None,
        status: Status,
        past: list[Past],
    ) -> tuple[list[_Posting], Status, list[Past]]:
        """Make what is posted of an event, and what Didomi holds after it."""
        incoming = outcome.incoming
        single_choice: frozenset[str] = frozenset()
        if any(is_value(path) for path in written):
            single_choice = self._api.single_choice()
        parts = [(False, written)]
        if self._respect_approval:
            parts = [
                (choice, {p: c for p, c in written.items() if c is choice})
                for choice in (False, True)
            ]
        timestamp = timestamp_to_post(incoming.window, past)
        made: list[_Posting] = []
        for pending, part in parts:
            if not part:
                continue
            said = merge(part, status, single_choice)
            event = to_event(
                incoming,
                said,
                timestamp=timestamp,
                regulation=self._regulation,
                user_id=user_id,
                pending=pending,
            )
            made.append(_Posting(event, outcome, opt_out=not all(part.values())))
            if not pending:
                status = Status(status.choices.after(said), status.updated_at)
                past = [*past, Past(event["id"], timestamp, said)]
        return made, status, past

    def _post(self, postings: list[_Posting]) -> None:
        """Post events in one call; one by one where Didomi refuses that."""
        try:
            self._api.post([posting.event for posting in postings])
        except RequestRejectedError as error:
            if len(postings) == 1:
                self._settle_refusal(postings[0], error)
                return
            logger.info(
                "Didomi refuses an array of %d events (status %s); they go one by one.",
                len(postings),
                error.status,
            )
            for posting in postings:
                self._post([posting])
        else:
            for posting in postings:
                posting.outcome.posted += 1
                posting.outcome.pending += posting.event["status"] != CONFIRMED

    def _settle_refusal(self, posting: _Posting, error: RequestRejectedError) -> None:
        outcome = posting.outcome
        person = outcome.incoming.person
        if says_it_exists(error) or self._api.exists(posting.event["id"], person):
            outcome.existed = True
            return
        outcome.refused = error
        outcome.refused_opt_out = outcome.refused_opt_out or posting.opt_out


def _read_past(event: dict[str, Any]) -> Past:
    consents = event.get("consents")
    return Past(
        id=str(event.get("id")),
        timestamp=parse_timestamp(event.get("created_at"), "created_at"),
        choices=read_choices(consents if isinstance(consents, dict) else {}),
    )


def _updated_at(user: dict[str, Any]) -> datetime:
    timestamp = user.get("updated_at") or user.get("created_at")
    return LONG_AGO if timestamp is None else parse_timestamp(timestamp, "updated_at")


def _holds_opt_out(incoming: Incoming) -> bool:
    return not all(incoming.choices.single.values()) or bool(incoming.choices.answers)
