"""Events as they come in, and as they are posted. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from actito_didomi.consent.choices import (
    CHOICES,
    ConsentChoices,
    read_choices,
    read_odd_boolean,
    readable,
)
from actito_didomi.consent.conflicts import ACTITO, Act, to_micros
from actito_didomi.consent.mapping import odd_nodes, show_path
from actito_didomi.consent.records import (
    CONFIRMED,
    PENDING,
    POSTED_EVENT_PARTS,
    POSTED_USER_PARTS,
    format_timestamp,
    parse_timestamp,
)
from actito_didomi.errors import BadInputError
from actito_didomi.tolerant import readable_part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from datetime import datetime

    from actito_didomi.consent.conflicts import Source
    from actito_didomi.consent.records import ConsentRecord

_NAMESPACE = uuid.UUID("5ff4a6c4-8a39-5fb8-9b4c-6f9b7c0d2b1e")
_STEP = timedelta(milliseconds=1)
"""The precision of Didomi's timestamps."""
EXTRAS_REFUSED = (
    "Didomi refuses an event (status %s). Its choices are posted without metadata and the like."
)
"""What is logged before `without_extras` is posted."""


@dataclass(frozen=True)
class IncomingEvent:
    """An event that came in.

    Attributes:
        number: Number of its record.
        id: Its id; one made from its content if it had none.
        person: `organization_user_id`.
        earliest: Its choices were made at this timestamp or later; aware of its zone.
        latest: Its choices were made at this timestamp or earlier; aware of its zone.
        choices: The choices.
        extra: Other parts of the event that are posted.
        user: Other parts of its user that are posted.
        record: The event as it came, for a reject.
        arrival: When it had arrived at the latest; aware of its zone. None for now.
    """

    number: int
    id: str
    person: str
    earliest: datetime
    latest: datetime
    choices: ConsentChoices
    extra: Mapping[str, Any]
    user: Mapping[str, Any]
    record: Mapping[str, Any]
    arrival: datetime | None = None

    def act(self, choice: bool) -> Act:
        """Return one of its choices as an act in Actito."""
        source: Source = "look" if self.earliest < self.latest else "row"
        return Act(choice, to_micros(self.earliest), to_micros(self.latest), ACTITO, source)


def read_incoming(
    consent: ConsentRecord,
    part: Mapping[str, Any],
    number: int,
    delegate: str,
    arrival: datetime | None = None,
) -> IncomingEvent:
    """Read an event.

    Its choices were made at `created_at`; with `changed_after`, between the two, both included.

    Args:
        consent: The event, read.
        part: The event as it came.
        number: Number of its record.
        delegate: Id of the delegate if it names none.
        arrival: When it had arrived at the latest; None for now.

    Raises:
        BadInputError: A part of it is broken.
    """
    after = part.get("changed_after")
    latest = consent.timestamp
    earliest = latest if after is None else parse_timestamp(after, "changed_after")
    user = readable_part(part.get("user")) or {}
    event_id = part.get("id")
    event_id = event_id if isinstance(event_id, (str, int)) else None
    extra = {name: readable_part(part.get(name)) for name in POSTED_EVENT_PARTS}
    return IncomingEvent(
        number=number,
        id=str(event_id) if event_id else _id_of(part),
        person=consent.person or "",
        earliest=min(earliest, latest),
        latest=latest,
        choices=read_choices(readable(part.get("consents"))),
        extra={
            "delegate": readable_part(part.get("delegate")) or {"id": delegate},
            **{name: value for name, value in extra.items() if value},
        },
        user={name: user[name] for name in POSTED_USER_PARTS if user.get(name)},
        record=part,
        arrival=arrival,
    )


class OddChoices(NamedTuple):
    """Choices of an event that can't be read, or only in another form than documented.

    Attributes:
        reason: What is wrong, for a reject; holds no personal data.
        opt_out: Whether one may be an opt-out that is not posted.
        is_rejected: Whether one is not posted at all.
    """

    reason: str
    opt_out: bool
    is_rejected: bool


def find_odd(consents: Any) -> OddChoices | None:
    """Return what of an event's consents is not of Didomi's form; None if all is.

    What is readable next to it is posted, and of choices that are not booleans the opt-outs.
    """
    if not isinstance(consents, dict):
        return None
    if (path := next(odd_nodes(consents), None)) is not None:
        reason = f"`{show_path(path)}` holds something that can't be read; all else is posted."
        return OddChoices(reason, opt_out=True, is_rejected=True)
    said = [read_odd_boolean(choice) for choice in _odd_choices(consents)]
    if said:
        reason = "A choice is not true, false or null; all else is posted."
        unclear = [choice is not False for choice in said]
        return OddChoices(reason, opt_out=None in said, is_rejected=any(unclear))
    try:
        read_choices(consents)
    except BadInputError as error:
        return OddChoices(error.message, opt_out=True, is_rejected=True)
    return None


def _odd_choices(node: Any) -> Iterator[Any]:
    if isinstance(node, list):
        for element in node:
            yield from _odd_choices(element)
    elif isinstance(node, dict):
        for name, part in node.items():
            if name not in CHOICES:
                yield from _odd_choices(part)
            elif part is not None and not isinstance(part, bool):
                yield part


def to_event(
    incoming: IncomingEvent,
    consents: Mapping[str, Any],
    *,
    timestamp: datetime,
    regulation: str,
    user_id: str | None,
    event_id: str,
    person: str,
    pending: bool = False,
) -> dict[str, Any]:
    """Return the event to post, as Didomi's API takes it.

    Args:
        incoming: The event that came in.
        consents: What is written of it, in the form of an event.
        timestamp: When Didomi is to consider them made; aware of its zone.
        regulation: Id of the regulation.
        user_id: Didomi's id of the user it is for; None to have the user created.
        event_id: Its id.
        person: `organization_user_id`.
        pending: Whether it waits for approval.
    """
    user = {"organization_user_id": person, **incoming.user}
    if user_id is not None:
        user["id"] = user_id
    return {
        **incoming.extra,
        "id": event_id,
        "created_at": format_timestamp(timestamp),
        "regulation": regulation,
        "status": PENDING if pending else CONFIRMED,
        "user": user,
        "consents": consents,
    }


def without_extras(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event to post without what is no choice, such as metadata: it may be refused."""
    kept = {name: part for name, part in event.items() if name not in POSTED_EVENT_PARTS}
    user = {name: part for name, part in event["user"].items() if name not in POSTED_USER_PARTS}
    return {**kept, "user": user}


def pending_id(event_id: str) -> str:
    """Return the id of the part of an event that waits for approval: the same each time."""
    return str(uuid.uuid5(_NAMESPACE, event_id))


def other_user_id(event_id: str, user_id: str) -> str:
    """Return the id of an event that is posted for another user as well: the same each time."""
    return str(uuid.uuid5(_NAMESPACE, f"{event_id} {user_id}"))


def opt_outs_id(event_id: str) -> str:
    """Return the id of an event of which only the opt-outs are posted: the same each time."""
    return str(uuid.uuid5(_NAMESPACE, f"{event_id} opt-outs"))


def timestamp_to_post(latest: datetime, held: Collection[datetime]) -> datetime:
    """Return the timestamp to post choices with: not one of an event that Didomi holds.

    So Didomi applies them after the events that they were compared with.

    Args:
        latest: When they were made at the latest; aware of its zone.
        held: The timestamps of the events that Didomi holds.
    """
    timestamp = latest
    while timestamp in held:
        timestamp += _STEP
    return timestamp


def _id_of(part: Mapping[str, Any]) -> str:
    """Return an id that is the same whenever the same event comes."""
    text = msgspec.json.encode(part, order="deterministic", enc_hook=str)
    return str(uuid.uuid5(_NAMESPACE, text.decode()))
