"""Consent records of Didomi, distinguished by their shape, brought to one form.

Three shapes arrive: consent events, consent users, and lines of batch exports, which hold `user`
and `events`.
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi import codes
from actito_didomi.errors import BadInputError
from actito_didomi.tolerant import UNREADABLE, is_unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIRMED = "confirmed"
PENDING = "pending_approval"
_FIRST_YEAR, _LAST_YEAR = 1, 9999
DEFAULT_REGULATION = "gdpr"
"""Of an event that names none (documented)."""


OWNER_IDS = ("id", "organization_user_id")
COUNTRIES = ("country", "last_seen_country")
OWNER_PARTS = (*OWNER_IDS, "metadata")
"""What an event of a batch-export line takes over from the line's user."""
ROOT_FIELDS = (*OWNER_IDS, *COUNTRIES, "updated_at", "created_at")
"""What stands at the root of a record in the user form, next to `metadata` and `consents`."""
POSTED_EVENT_PARTS = ("domain", "metadata", "proofs", "proofs_id")
POSTED_USER_PARTS = ("organization_user_id_type", "metadata", *COUNTRIES)
"""What target-didomi passes on of an event and of its user, next to ids and choices."""


class Shape(enum.Enum):
    """What a record is."""

    EVENT = "consent event"
    USER = "consent user"
    LINE = "batch-export line"


@dataclass(frozen=True)
class ConsentRecord:
    """What one record says about one person, at one timestamp.

    Attributes:
        shape: What it came from.
        person: `organization_user_id`; None for a guest.
        timestamp: When the choices were made; aware of its zone.
        status: `confirmed` or `pending_approval`.
        regulation: None where the record names none and so can't be of another one.
        delegate: Id of who acted for the person.
        tree: The record in the user form: what mappings are looked up in.
        metadata: Free-form metadata of the user.
        event_id: Id of the event, of whatever type; None for a user.
        user_id: Id of the Didomi user, of whatever type; None where the record names none.
    """

    shape: Shape
    person: str | None
    timestamp: datetime
    status: str = CONFIRMED
    regulation: str | None = None
    delegate: str | None = None
    tree: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    event_id: Any = None
    user_id: Any = None


def shape_of(record: Mapping[str, Any]) -> Shape | None:
    """Return what a record is; None for anything else."""
    if "user" in record:
        if "events" in record and (record["events"] or "consents" not in record):
            return Shape.LINE
        return Shape.EVENT if "consents" in record else None
    if "consents" in record or ("organization_user_id" in record and "updated_at" in record):
        return Shape.USER
    return None


def split_record(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Split a batch-export line into its events and its user; other records stay whole.

    A line's user holds the whole status. That is not what changed, so its choices are left out and
    only its metadata is kept. A line that has `consents` of its own is an event as well.

    Raises:
        BadInputError: The line is broken. The text holds no value of the record.
    """
    if shape_of(record) is not Shape.LINE:
        return [record]
    parts: list[Mapping[str, Any]] = list(events_of_line(record))
    if "consents" in record:
        parts.append({name: part for name, part in record.items() if name != "events"})
    if record["user"].get("metadata"):
        parts.append({**record["user"], "consents": {}})
    return parts


def read_record(record: Mapping[str, Any]) -> ConsentRecord:
    """Read a consent event or a consent user.

    Raises:
        BadInputError: The record is neither, or a part of it is broken. The text holds no value of
            the record.
    """
    shape = shape_of(record)
    if shape is Shape.EVENT:
        return _read_event(record)
    if shape is Shape.USER:
        return _read_user(record)
    raise BadInputError(
        codes.INVALID_RECORD,
        "The record is no consent event (`user` and `consents`), no consent user (`consents`) and "
        "no batch-export line (`user` and `events`).",
    )


def events_of_line(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a batch-export line, each with its user.

    That the key is `events` is inferred. Where an event doesn't say whose it is, the line's user
    says so: id, organisation user id and metadata.

    Raises:
        BadInputError: The line isn't of that form.
    """
    user, events = line.get("user"), line.get("events")
    if not isinstance(user, dict) or is_unreadable(user):
        raise BadInputError(codes.INVALID_RECORD, "`user` must be an object.")
    if not isinstance(events, list) or not all(isinstance(e, dict) for e in events):
        raise BadInputError(codes.INVALID_RECORD, "`events` must be a list of objects.")
    owner = {k: user[k] for k in OWNER_PARTS if k in user}
    result = []
    for event in events:
        own = event.get("user")
        if own is None:
            own = owner
        elif isinstance(own, dict):
            own = {**{k: v for k, v in owner.items() if k != "metadata"}, **_present(own)}
        result.append({**event, "user": own})
    return result


class _RawLine(msgspec.Struct, gc=False):
    user: dict[str, msgspec.Raw]
    events: list[dict[str, msgspec.Raw]]


_RAW_LINES = msgspec.json.Decoder(_RawLine)


def raw_events(line: bytes) -> list[dict[str, msgspec.Raw]] | None:
    """Return the events of a line, each with its user, their parts not decoded.

    The same as `events_of_line` returns, several times as fast; None for a line that isn't made as
    usual, which must be decoded in full.
    """
    try:
        if not line.isascii():
            line.decode()  # what is not decoded would not be checked
        found = _RAW_LINES.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    owner = msgspec.Raw(
        msgspec.json.encode({name: found.user[name] for name in OWNER_PARTS if name in found.user})
    )
    for event in found.events:
        if "user" in event:
            return None
        event["user"] = owner
    return found.events


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None}


def _read_event(event: Mapping[str, Any]) -> ConsentRecord:
    user = _object(event, "user")
    delegate = _object(event, "delegate")
    return ConsentRecord(
        shape=Shape.EVENT,
        person=_person(user),
        timestamp=_time_of_event(event),
        status=_text(event, "status") or CONFIRMED,
        regulation=_text(event, "regulation") or DEFAULT_REGULATION,
        delegate=_text(delegate, "id"),
        tree={
            **_user_form(user, _object(event, "consents")),
            "created_at": event.get("created_at"),
        },
        metadata=_metadata(user),
        event_id=event.get("id"),
        user_id=user.get("id"),
    )


def _read_user(user: Mapping[str, Any]) -> ConsentRecord:
    return ConsentRecord(
        shape=Shape.USER,
        person=_person(user),
        timestamp=_timestamp(user, "updated_at", "created_at"),
        regulation=_text(user, "regulation"),
        tree={**_user_form(user, _object(user, "consents")), "created_at": user.get("created_at")},
        metadata=_metadata(user),
        user_id=user.get("id"),
    )


def _user_form(user: Mapping[str, Any], consents: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: user[name] for name in ROOT_FIELDS if name in user},
        "metadata": UNREADABLE if _has_odd_metadata(user) else user.get("metadata") or {},
        "consents": consents,
    }


def _metadata(user: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata; anything but an object counts as none, since no choice depends on it."""
    return {} if _has_odd_metadata(user) else user.get("metadata") or {}


def _has_odd_metadata(user: Mapping[str, Any]) -> bool:
    metadata = user.get("metadata")
    return metadata is not None and (not isinstance(metadata, dict) or is_unreadable(metadata))


def _person(user: Mapping[str, Any]) -> str | None:
    person = user.get("organization_user_id")
    if person is None or person == "":
        return None
    if isinstance(person, (bool, dict, list, float)):
        raise BadInputError(
            codes.INVALID_RECORD, "`organization_user_id` is neither text nor a whole number."
        )
    return str(person)


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or is_unreadable(value):
        raise BadInputError(codes.INVALID_RECORD, f"`{name}` must be an object.")
    return value


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadInputError(codes.INVALID_RECORD, f"`{name}` must be a string.")
    return value


def user_text(user_id: Any) -> str:
    """Return the id of a Didomi user as text; empty for what is no id."""
    if user_id.__class__ is int:
        return str(user_id)
    return user_id if user_id.__class__ is str else ""


def user_key(user_id: str) -> int:
    """Return the key that stands for a Didomi user among the users of one person.

    Args:
        user_id: The id; empty if there is none.

    Returns:
        The CRC-32 of the id; 0 if there is none. A person has few users, so 32 bits are enough.
    """
    return zlib.crc32(user_id.encode())


def time_of_event(created: datetime, updated: datetime | None) -> datetime:
    """Return from when an event counts: its creation, or when Didomi updated it since.

    An update is an approval or a correction.
    """
    return created if updated is None or updated <= created else updated


def _time_of_event(event: Mapping[str, Any]) -> datetime:
    created = _timestamp(event, "created_at")
    updated = event.get("updated_at")
    return time_of_event(
        created, None if updated is None else parse_timestamp(updated, "updated_at")
    )


def _timestamp(record: Mapping[str, Any], *names: str) -> datetime:
    for name in names:
        if (value := record.get(name)) is not None:
            return parse_timestamp(value, name)
    raise BadInputError(
        codes.INVALID_RECORD, f"`{names[0]}` is missing, so the order of the choices is unknown."
    )


def parse_timestamp(value: Any, name: str) -> datetime:
    """Read an ISO 8601 timestamp (or a `datetime`); UTC where it names no zone.

    Raises:
        BadInputError: It is none.
    """
    try:
        timestamp = value if isinstance(value, datetime) else msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        raise BadInputError(
            codes.INVALID_RECORD, f"`{name}` is no timestamp in ISO 8601 form."
        ) from None
    if timestamp.tzinfo is None:
        return timestamp.replace(tzinfo=timezone.utc)
    if _FIRST_YEAR < timestamp.year < _LAST_YEAR:
        return timestamp
    try:
        return timestamp.astimezone(timezone.utc)
    except OverflowError:  # some hours before the first year, or after the last one
        return timestamp.replace(tzinfo=timezone.utc)


def read_arrival(time_extracted: Any) -> datetime | None:
    """Return when a record had arrived at the latest, from its message; None if it says nothing.

    Args:
        time_extracted: What a RECORD message holds under this name (documented by Singer).
    """
    try:
        return None if not time_extracted else parse_timestamp(time_extracted, "time_extracted")
    except BadInputError:
        return None


@lru_cache(maxsize=4096)
def format_timestamp(timestamp: datetime) -> str:
    """Write a timestamp as Didomi does: UTC, to the millisecond."""
    text = timestamp.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
