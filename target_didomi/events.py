"""Events on their way: as they came in, and as they are posted. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi.consent.choices import ConsentChoices, read_choices, to_consents
from actito_didomi.consent.conflicts import Window
from actito_didomi.consent.records import CONFIRMED, PENDING, format_timestamp, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from actito_didomi.consent.records import ConsentRecord

_EVENT_PARTS = ("domain", "metadata", "proofs", "proofs_id")
_USER_PARTS = ("organization_user_id_type", "metadata", "country", "last_seen_country")
_NAMESPACE = uuid.UUID("5ff4a6c4-8a39-5fb8-9b4c-6f9b7c0d2b1e")


@dataclass(frozen=True)
class Incoming:
    """An event that came in.

    Attributes:
        number: Number of its record.
        id: Its id; one made from its content, where it had none.
        person: `organization_user_id`.
        window: When its choices were made.
        choices: The choices.
        extra: What else is handed on of the event.
        user: What else is handed on of its user.
        record: The event as it came, for a reject.
    """

    number: int
    id: str
    person: str
    window: Window
    choices: ConsentChoices
    extra: Mapping[str, Any]
    user: Mapping[str, Any]
    record: Mapping[str, Any]


def read_incoming(
    consent: ConsentRecord, part: Mapping[str, Any], number: int, delegate: str
) -> Incoming:
    """Read an event.

    Args:
        consent: The event, read.
        part: The event as it came.
        number: Number of its record.
        delegate: Id of the delegate, where it names none.

    Raises:
        BadInputError: A part of it is broken.
    """
    after = part.get("changed_after")
    user = part.get("user") or {}
    event_id = part.get("id")
    return Incoming(
        number=number,
        id=str(event_id) if event_id else _id_of(part),
        person=consent.person or "",
        window=Window(
            consent.timestamp, None if after is None else parse_timestamp(after, "changed_after")
        ),
        choices=read_choices(part.get("consents") or {}),
        extra={
            "delegate": part.get("delegate") or {"id": delegate},
            **{name: part[name] for name in _EVENT_PARTS if part.get(name)},
        },
        user={name: user[name] for name in _USER_PARTS if user.get(name)},
        record=part,
    )


def to_event(
    incoming: Incoming,
    choices: ConsentChoices,
    *,
    timestamp: datetime,
    regulation: str,
    user_id: str | None,
    pending: bool = False,
) -> dict[str, Any]:
    """Make what is posted.

    Args:
        incoming: The event that came in.
        choices: What of it is written.
        timestamp: When Didomi is to take them as made.
        regulation: Id of the regulation.
        user_id: Didomi's id of the user it is for; None to have the user created.
        pending: Whether it waits for approval. Its id then follows from that of the event that came
            in, so that it is the same when that comes again.
    """
    user = {"organization_user_id": incoming.person, **incoming.user}
    if user_id is not None:
        user["id"] = user_id
    return {
        **incoming.extra,
        "id": str(uuid.uuid5(_NAMESPACE, incoming.id)) if pending else incoming.id,
        "created_at": format_timestamp(timestamp),
        "regulation": regulation,
        "status": PENDING if pending else CONFIRMED,
        "user": user,
        "consents": to_consents(choices.single.items(), choices.answers.items()),
    }


def _id_of(part: Mapping[str, Any]) -> str:
    """Make an id that is the same whenever the same event comes."""
    text = msgspec.json.encode(part, order="deterministic", enc_hook=str)
    return str(uuid.uuid5(_NAMESPACE, text.decode()))
