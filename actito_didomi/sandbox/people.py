"""People for both sides, drawn from a seed: the same seed gives the same people.

Some people exist on one side only. Ids and choices include the unusual values of real data, such as
reserved characters and null.
"""

from __future__ import annotations

import random
import uuid
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from actito_didomi.sandbox import actito_tables
from actito_didomi.sandbox.options import LEGACY_ORGANIZATION, ORGANIZATION

if TYPE_CHECKING:
    from actito_didomi.sandbox.actito_profiles import Profiles
    from actito_didomi.sandbox.didomi_consents import Consents

FIRST_DAY = datetime(2026, 10, 1, 6, tzinfo=timezone.utc)
DAYS = 3

_FIRST = ["Alice", "Bruno", "Chloé", "Dries", "Élodie", "Femke", "Gaëlle", "Hugo", "Inès", "Jürgen"]
_LAST = ["Dupont", "Janssens", "O'Neill", "van den Berg", "Müller", "Peeters", "Łukasz", "García"]
_ODD = [
    "{n}+tag@example.com",
    "user/{n}@example.com",
    "{n}%41@example.com",
    "a=b;{n}@example.com",
    'say "hi" {n}',
    "Anne Marie, {n}",
    "zoé.{n}@exämple.be",
    "emoji-😀-{n}",
    "C-{n}&x#y?z",
    "{n}\\back:slash",
]


def person_id(number: int) -> str:
    """Return the organisation user id of a person; every fourth one is unusual."""
    if number % 4 == 0:
        return _ODD[number // 4 % len(_ODD)].format(n=f"p{number}")
    return f"customer-{number:06d}" if number % 2 else f"person{number}@example.com"


def populate(profiles: Profiles, consents: Consents, *, people: int, seed: int) -> None:
    """Fill both sides.

    Of ten people eight are known to both, one to Didomi only and one to Actito only.

    Args:
        profiles: Actito's side.
        consents: Didomi's side.
        people: Number of people.
        seed: Seed of all random values.
    """
    rng = random.Random(seed)
    table = actito_tables.TABLES[0]
    for number in range(people):
        person = person_id(number)
        if number % 10 != 3:
            profiles.create(table, *_profile(rng, number, person))
        if number % 10 != 7:
            _consent_history(rng, consents, number, person)
    for number in range(people // 20):
        _guest(rng, consents, number)


def _profile(
    rng: random.Random, number: int, person: str
) -> tuple[dict[str, Any], dict[str, bool]]:
    attributes = {
        "customerId": person,
        "firstName": rng.choice(_FIRST),
        "lastName": rng.choice(_LAST),
        "motherLanguage": rng.choice(["FR", "NL", "EN"]),
        "emailAddress": f"profile{number}@example.com",
        "marketingConsent": True,
        "loyaltyPoints": rng.randrange(500),
        "shop": rng.choice(["Gent", "Liège", "Namur"]),
    }
    return attributes, {name: rng.random() < 0.5 for name in actito_tables.SUBSCRIPTIONS}


def _consent_history(rng: random.Random, consents: Consents, number: int, person: str) -> None:
    user_id = _uuid(rng)
    events = []
    for turn in range(rng.choice([1, 1, 2, 3, 4])):
        timestamp = FIRST_DAY + timedelta(days=rng.randrange(DAYS), seconds=rng.randrange(60_000))
        # One person in fifteen uses a second device: another Didomi user for the same person.
        device = _uuid(rng) if number % 15 == 5 and turn else user_id
        events.append(_event(rng, person, device, timestamp, ORGANIZATION))
    if number % 12 == 2:
        events[-1]["status"] = "pending_approval"
    if number % 25 == 9:
        extra = _event(rng, person, user_id, FIRST_DAY + timedelta(days=1), ORGANIZATION)
        events.append({**extra, "regulation": "cpra"})
    if number % 30 == 11:
        events[0]["delegate"] = {"id": "actito", "name": "Actito"}
    rng.shuffle(events)  # they arrive out of order
    for event in events:
        consents.add_event(ORGANIZATION, event, at=event["created_at"])
    if number % 10 == 1:
        timestamp = FIRST_DAY + timedelta(seconds=rng.randrange(60_000))
        event = _event(rng, person, _uuid(rng), timestamp, LEGACY_ORGANIZATION)
        consents.add_event(LEGACY_ORGANIZATION, event, at=event["created_at"])


def _guest(rng: random.Random, consents: Consents, number: int) -> None:
    timestamp = FIRST_DAY + timedelta(days=number % DAYS, seconds=rng.randrange(60_000))
    event = _event(rng, None, _uuid(rng), timestamp, ORGANIZATION)
    consents.add_event(ORGANIZATION, event, at=event["created_at"])


def _event(
    rng: random.Random, person: str | None, user_id: str, timestamp: datetime, organization: str
) -> dict[str, Any]:
    user: dict[str, Any] = {"id": user_id, "country": rng.choice(["FR", "BE", "NL"])}
    if person is not None:
        user["organization_user_id"] = person
    if rng.random() < 0.4:
        user["metadata"] = _metadata(rng)
    more: dict[str, Any] = {}
    if rng.random() < 0.2:
        more = {"metadata": {"booking_id": rng.randrange(1000)}, "domain": "shop.example.com"}
    if rng.random() < 0.1:
        more |= {"proofs_id": [_uuid(rng)], "delegate": {"id": "call-centre", "name": "Calls"}}
    consents = _current_choices(rng) if organization == ORGANIZATION else _legacy_choices(rng)
    return {
        "id": _uuid(rng),
        "created_at": timestamp.strftime("%Y-%m-%dT%H:%M:%S.")
        + f"{timestamp.microsecond // 1000:03d}Z",
        "user": user,
        "consents": consents,
        **more,
    }


def _choice(rng: random.Random) -> bool | None:
    return rng.choice([True, True, False, False, None])


def _metadata(rng: random.Random) -> dict[str, Any]:
    every = {
        "firstName": rng.choice(_FIRST),
        "loyaltyPoints": rng.randrange(500),
        "averageBasket": round(rng.uniform(5, 200), 2),
        "vip": rng.random() < 0.1,
        "birthDate": f"19{rng.randrange(50, 99)}-0{rng.randrange(1, 9)}-15",
        "lastVisit": f"2026-09-{rng.randrange(10, 30)}T10:30:00Z",
        "firstPurchase": f"2020-01-{rng.randrange(10, 30)}",
        "shop": None,
        "favouriteColour": "blue",
        "address": {"city": "Gent", "zip": "9000"},
        "tags": ["a", "b"],
    }
    names = rng.sample(sorted(every), rng.randrange(1, 5))
    return {name: every[name] for name in names}


def _current_choices(rng: random.Random) -> dict[str, Any]:
    channels = [
        {"id": name, "enabled": _choice(rng)}
        for name in rng.sample(["email", "sms", "push-app"], rng.randrange(0, 3))
    ]
    purposes: list[dict[str, Any]] = []
    for name in rng.sample(
        ["newsletter-Kd8xQ", "partner_offers", "loyalty_club-R4", "surveys"], rng.randrange(1, 4)
    ):
        purpose: dict[str, Any] = {"id": name, "enabled": _choice(rng)}
        if name == "newsletter-Kd8xQ" and rng.random() < 0.5:
            topics = rng.sample(["sport-a1", "travel-b2", "food_wine-c3"], rng.randrange(0, 3))
            purpose["values"] = {
                "frequency-Hj3": {"value": rng.choice(["weekly-1a2b", "monthly-3c4d"])},
                "topics-Zu7": {"value": ",".join(topics)},
            }
        purposes.append(purpose)
    return {"channels": channels, "purposes": purposes}


def _legacy_choices(rng: random.Random) -> dict[str, Any]:
    return {
        "purposes": [
            {
                "id": "cookies",
                "enabled": None,
                "preferences": [
                    {
                        "id": "newsletter",
                        "enabled": None,
                        "channels": [{"id": "email", "enabled": _choice(rng)}],
                    }
                ],
            },
            {"id": "partner_offers", "enabled": _choice(rng)},
        ]
    }


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
