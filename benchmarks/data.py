"""Consent events for benchmarks: some 840 bytes each, drawn from a seed."""

from __future__ import annotations

import gzip
import json
import random
from datetime import datetime, timedelta, timezone
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAPPINGS = [
    {"id": "Newsletter", "value": "consents_channels_email_enabled"},
    {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"},
    {"id": "PartnerOffers", "value": "consents_purposes_partner_offers_enabled"},
    {"id": "Loyalty_Club", "value": "consents_purposes_loyalty_club-R4_enabled"},
]
_TEXT = {"type": ["string", "null"]}
_CHOICES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "enabled": {"type": ["boolean", "null"]}},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "organization_id": _TEXT,
        "created_at": {"type": "string", "format": "date-time"},
        "regulation": _TEXT,
        "status": _TEXT,
        "user": {
            "type": "object",
            "properties": {"id": _TEXT, "organization_user_id": _TEXT, "country": _TEXT},
        },
        "consents": {
            "type": "object",
            "properties": {"channels": _CHOICES, "purposes": _CHOICES},
        },
    },
}
"""A plain schema. With the full one of tap-didomi, validation alone takes six times as long."""
_START = datetime(2026, 10, 1, 6, tzinfo=timezone.utc)
_PURPOSES = ["partner_offers", "loyalty_club-R4", "surveys", "newsletter-Kd8xQ"]


def person_id(number: int) -> str:
    """Give a person's id."""
    return f"customer-{number:07d}"


def events(count: int, people: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Draw events; each person has some in the first round, all else is chance."""
    rng = random.Random(seed)
    for number in range(count):
        person = number if number < people else rng.randrange(people)
        timestamp = _START + timedelta(milliseconds=rng.randrange(80_000_000))
        yield {
            "id": f"{rng.getrandbits(64):016x}-{number:08x}",
            "organization_id": "org-benchmark",
            "created_at": timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "regulation": "gdpr",
            "status": "confirmed",
            "user": {
                "id": f"{rng.getrandbits(64):016x}",
                "organization_user_id": person_id(person),
                "country": "BE",
                "metadata": {"firstName": f"Anna{person % 100}", "favouriteColour": "blue"},
            },
            "consents": {
                "channels": [
                    {"id": "email", "enabled": rng.random() < 0.7},
                    {"id": "sms", "enabled": rng.random() < 0.4},
                    {"id": "push-app", "enabled": None},
                ],
                "purposes": [
                    {
                        "id": name,
                        "enabled": rng.random() < 0.6,
                        "preferences": [
                            {
                                "id": "topic",
                                "enabled": rng.random() < 0.5,
                                "channels": [{"id": "email", "enabled": rng.random() < 0.5}],
                            }
                        ]
                        if name == "surveys"
                        else [],
                    }
                    for name in _PURPOSES
                ],
            },
        }


def expected(count: int, people: int) -> dict[str, dict[str, bool]]:
    """Reckon what everybody's subscriptions must be, in the plainest way."""
    newest: dict[str, dict[str, tuple[str, bool]]] = {}
    for event in events(count, people):
        choices = {f"channels_{c['id']}": c["enabled"] for c in event["consents"]["channels"]}
        choices |= {f"purposes_{p['id']}": p["enabled"] for p in event["consents"]["purposes"]}
        person = newest.setdefault(event["user"]["organization_user_id"], {})
        for mapping in MAPPINGS:
            name = mapping["value"].removeprefix("consents_").removesuffix("_enabled")
            choice = event["created_at"], not choices[name]  # at equal times an opt-out counts
            person[mapping["id"]] = max(person.get(mapping["id"], choice), choice)
    return {
        person: {name: not refused for name, (_, refused) in found.items()}
        for person, found in newest.items()
    }


def write_messages(
    path: Path,
    count: int,
    people: int,
    *,
    different: bool = False,
    schema: dict[str, Any] | None = None,
) -> None:
    """Write events as Singer messages, with STATE every 10,000 and at the end.

    The schema is the plain one unless another is given. With `different` no two consents are alike:
    each holds a consent string of its own.
    """
    with path.open("w") as file:
        first = {
            "type": "SCHEMA",
            "stream": "consent_events",
            "schema": schema or SCHEMA,
            "key_properties": ["id"],
        }
        file.write(json.dumps(first) + "\n")
        for number, event in enumerate(events(count, people), start=1):
            if different:
                event["consents"]["tcfcs"] = f"CPXxRfAPXxRf{number:012d}"
            message = {"type": "RECORD", "stream": "consent_events", "record": event}
            file.write(json.dumps(message, separators=(",", ":")) + "\n")
            if number % 10_000 == 0 or number == count:
                file.write(json.dumps({"type": "STATE", "value": {"read": number}}) + "\n")


def open_gzip(path: Path) -> IO[str]:
    """Open a gzip file for text."""
    return gzip.open(path, "wt", compresslevel=1)


def write_export(root: Path, count: int, people: int) -> Path:
    """Write events as one partition of a batch export: a line a user with the day's events."""
    folder = root / "data" / "export-id=benchmark" / "date=2026-10-01"
    (folder / "users").mkdir(parents=True)
    by_person: dict[str, list[dict[str, Any]]] = {}
    for event in events(count, people):
        by_person.setdefault(event["user"]["organization_user_id"], []).append(event)
    file = folder / "users" / "part-0.json.gz"
    with open_gzip(file) as out:
        for found in by_person.values():
            user = {**found[0]["user"], "updated_at": found[0]["created_at"]}
            own = [{k: v for k, v in event.items() if k != "user"} for event in found]
            line = {"user": user, "events": own}
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
    (folder / "_SUCCESS").touch()
    return file


def write_batch(path: Path, count: int, people: int) -> None:
    """Write events as one file of a BATCH message: gzip, a line an event."""
    with open_gzip(path) as out:
        for event in events(count, people):
            out.write(json.dumps(event, separators=(",", ":")) + "\n")


def write_changes(path: Path, count: int, people: int, seed: int = 1) -> None:
    """Write a file of Actito's export of profile changes."""
    rng = random.Random(seed)
    names = [mapping["id"] for mapping in MAPPINGS]
    with path.open("w") as file:
        file.write("profileId;customerId;eventType;subscription;subscribed;timestamp;source\n")
        for number in range(count):
            person = number % people
            timestamp = _START + timedelta(seconds=number // 10)
            file.write(
                f"{person};{person_id(person)};UPDATED_SUBSCRIPTION;{rng.choice(names)};"
                f"{rng.choice('YN')};{timestamp:%Y-%m-%d %H:%M:%S};LINK\n"
            )
