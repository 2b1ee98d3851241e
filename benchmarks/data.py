"""Consent events for benchmarks, drawn from a seed, in three profiles.

- `realistic` (the default): messages of some 950 bytes; 30 % of the choices are null; each event
  has a TCF string of its own; one purpose has three preferences.
- `large`: the realistic profile with 18 more purposes of four channels each: some 4.3 kB.
- `friendly`: messages of some 850 bytes without TCF string and with hardly any null, so that there
  are few different consents.
"""

from __future__ import annotations

import gzip
import json
import random
from datetime import datetime, timedelta, timezone
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROFILES = ("realistic", "friendly", "large")
MAPPINGS = [
    {"id": "Newsletter", "value": "consents_channels_email_enabled"},
    {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"},
    {"id": "PartnerOffers", "value": "consents_purposes_partner_offers_enabled"},
    {"id": "Loyalty_Club", "value": "consents_purposes_loyalty_club-R4_enabled"},
]
"""What the end-to-end part maps, in both profiles."""
_FRIENDLY = ["partner_offers", "loyalty_club-R4", "surveys", "newsletter-Kd8xQ"]
_PREFERENCES = ["topics", "events", "offers"]
_OTHER = "consents_purposes_surveys_preferences"
_VALUES = [
    *(mapping["value"] for mapping in MAPPINGS),
    "consents_purposes_surveys_enabled",
    "consents_purposes_newsletter-Kd8xQ_enabled",
    "consents_purposes_partner_offers_enabled_li",
    "consents_purposes_loyalty_club-R4_enabled_li",
    "consents_purposes_surveys_enabled_li",
    "consents_purposes_newsletter-Kd8xQ_enabled_li",
    "consents_channels_push-app_enabled",
    *(f"{_OTHER}_{name}_enabled" for name in _PREFERENCES),
    f"{_OTHER}_topics_channels_email_enabled",
    "consents_channels_phone_enabled",
    *(f"consents_purposes_club-{n:02}_enabled" for n in range(5)),
]
SUBSCRIPTIONS = [f"Choice{n:02}" for n in range(40)]
"""What `server.py` adds to the sandbox's table, so that there is enough to map to."""


def mappings(count: int) -> list[dict[str, Any]]:
    """Return 1 to 20 mappings; the realistic profile holds choices for 16 of them."""
    return [{"id": SUBSCRIPTIONS[n], "value": value} for n, value in enumerate(_VALUES[:count])]


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
_TCF = "CQ0Ab1AQ0Ab1AAHABBENBVFgAP_AAELAAAYgKVtX_G_bXEtj8X516ftkeYxf9_hr7sQxB"
_SPREAD = 0x9E3779B97F4A7C15
"""Makes the id of a Didomi user of a person's number; each person has one."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def person_id(number: int) -> str:
    """Return a person's id."""
    return f"customer-{number:07d}"


def _realistic(rng: random.Random, profile: str) -> dict[str, Any]:
    def choice() -> bool | None:
        return None if rng.random() < 0.3 else rng.random() < 0.6

    purposes: list[dict[str, Any]] = [
        {"id": "partner_offers", "enabled": choice(), "enabled_li": choice()},
        {"id": "loyalty_club-R4", "enabled": choice()},
        {"id": "newsletter-Kd8xQ", "enabled": choice()},
        {
            "id": "surveys",
            "enabled": choice(),
            "preferences": [
                {
                    "id": name,
                    "enabled": choice(),
                    **({"channels": [{"id": "email", "enabled": choice()}]} if at == 0 else {}),
                }
                for at, name in enumerate(_PREFERENCES)
            ],
        },
    ]
    if profile == "large":
        purposes += [
            {
                "id": f"club-{n:02}",
                "enabled": choice(),
                "enabled_li": choice(),
                "channels": [
                    {"id": name, "enabled": choice()}
                    for name in ("email", "sms", "telephone", "post")
                ],
            }
            for n in range(18)
        ]
    return {
        "channels": [
            {"id": name, "enabled": choice()} for name in ("email", "sms", "push-app", "phone")
        ],
        "purposes": purposes,
        "tcfcs": _TCF + "".join(rng.choices(_LETTERS, k=30)),
    }


def _friendly(rng: random.Random) -> dict[str, Any]:
    return {
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
            for name in _FRIENDLY
        ],
    }


def events(
    count: int, people: int, profile: str = "realistic", seed: int = 1
) -> Iterator[dict[str, Any]]:
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
                "id": f"{person * _SPREAD % 2**64:016x}",
                "organization_user_id": person_id(person),
                "country": "BE",
                "metadata": {"firstName": f"Anna{person % 100}", "favouriteColour": "blue"},
            },
            "consents": _friendly(rng) if profile == "friendly" else _realistic(rng, profile),
        }


def expected(count: int, people: int) -> dict[str, dict[str, bool]]:
    """Compute what everybody's subscriptions must be, in the plainest way; absent: unchanged."""
    newest: dict[str, dict[str, tuple[str, bool]]] = {}
    for event in events(count, people):
        choices = {f"channels_{c['id']}": c["enabled"] for c in event["consents"]["channels"]}
        choices |= {f"purposes_{p['id']}": p["enabled"] for p in event["consents"]["purposes"]}
        person = newest.setdefault(event["user"]["organization_user_id"], {})
        for mapping in MAPPINGS:
            said = choices[mapping["value"].removeprefix("consents_").removesuffix("_enabled")]
            if said is not None:
                choice = event["created_at"], not said  # at equal times an opt-out counts
                person[mapping["id"]] = max(person.get(mapping["id"], choice), choice)
    return {
        person: {name: not refused for name, (_, refused) in found.items()}
        for person, found in newest.items()
    }


def write_messages(
    path: Path,
    count: int,
    people: int,
    profile: str = "realistic",
    *,
    schema: dict[str, Any] | None = None,
) -> int:
    """Write events as Singer messages, with STATE every 10,000 and at the end.

    The schema is the plain one unless another is given.

    Returns:
        Mean number of bytes of a RECORD message.
    """
    size = 0
    with path.open("w") as file:
        first = {
            "type": "SCHEMA",
            "stream": "consent_events",
            "schema": schema or SCHEMA,
            "key_properties": ["id"],
        }
        file.write(json.dumps(first) + "\n")
        for number, event in enumerate(events(count, people, profile), start=1):
            message = {"type": "RECORD", "stream": "consent_events", "record": event}
            size += file.write(json.dumps(message, separators=(",", ":")) + "\n")
            if number % 10_000 == 0 or number == count:
                file.write(json.dumps({"type": "STATE", "value": {"read": number}}) + "\n")
    return size // max(count, 1)


def open_gzip(path: Path) -> IO[str]:
    """Open a gzip file for text."""
    return gzip.open(path, "wt", compresslevel=1)


def write_export(root: Path, count: int, people: int) -> Path:
    """Write events as one partition of a batch export: one line per user with the day's events."""
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
    """Write events as one file of a BATCH message: gzip, one line per event."""
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
