"""The profile tables of the sandbox's Actito, and the values that they accept."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

from actito_didomi.sandbox.options import ENTITY

ENTITIES = [{"id": 1, "name": ENTITY, "comment": None}]


def _custom(
    name: str, value_type: str, *, unique: bool = False, mandatory: bool = False, **restriction: Any
) -> dict[str, Any]:
    attribute: dict[str, Any] = {
        "type": "CUSTOM",
        "name": name,
        "unique": unique,
        "mandatory": mandatory,
        "valueType": value_type,
        "multiValued": False,
    }
    if restriction:
        attribute["valueRestriction"] = restriction
    return attribute


def _predefined(
    name: str, kind: str, *, unique: bool = False, mandatory: bool = False
) -> dict[str, Any]:
    return {"type": kind, "name": name, "unique": unique, "mandatory": mandatory}


_TECHNICAL = [
    _custom("profileId", "INTEGER", unique=True, mandatory=True),
    _custom("creationMoment", "TIMESTAMP", mandatory=True),
    _custom("updateMoment", "TIMESTAMP", mandatory=True),
]
TECHNICAL = frozenset(a["name"] for a in _TECHNICAL)

SUBSCRIPTIONS = [
    "Newsletter",
    "PartnerOffers",
    "SmsAlerts",
    "Loyalty_Club",
    "WeeklyDigest",
    "Surveys",
    "LegacyMagazine",
]

TABLES: list[dict[str, Any]] = [
    {
        "id": "16",
        "name": "Profiles",
        "attributes": [
            *_TECHNICAL,
            _custom("customerId", "STRING", unique=True, mandatory=True, maxLength=255),
            _predefined("lastName", "LASTNAME", mandatory=True),
            _predefined("firstName", "FIRSTNAME"),
            _predefined("birthDate", "BIRTHDATE"),
            _predefined("sex", "SEX"),
            _predefined("motherLanguage", "MOTHER_LANGUAGE"),
            _predefined("emailAddress", "EMAIL_ADDRESS", unique=True),
            _custom("marketingConsent", "BOOLEAN"),
            _custom("shop", "STRING", maxLength=20, minLength=0),
            _custom("loyaltyPoints", "INTEGER"),
            _custom("averageBasket", "DECIMAL"),
            _custom("vip", "BOOLEAN"),
            _custom("lastVisit", "TIMESTAMP"),
            _custom("firstPurchase", "DATE"),
            _custom("contactFrequency", "STRING", maxLength=255),
        ],
        "subscriptions": [{"name": name} for name in SUBSCRIPTIONS],
        "segmentations": [],
        "displayOptions": {"forAttributes": [{"name": "lastName", "description": "Last name"}]},
    },
    {
        "id": "17",
        "name": "Contacts",
        "attributes": [
            *_TECHNICAL,
            _custom("contactNumber", "INTEGER", unique=True, mandatory=True),
            _custom("note", "STRING", maxLength=255),
        ],
        "subscriptions": [{"name": "Newsletter"}],
        "segmentations": [],
    },
]


def find_table(key: str) -> dict[str, Any] | None:
    """Find a table by id or name."""
    return next((t for t in TABLES if key in (t["id"], t["name"])), None)


def unique_attributes(table: dict[str, Any]) -> list[str]:
    """Return the names of a table's unique attributes."""
    return [a["name"] for a in table["attributes"] if a["unique"]]


def check_attributes(table: dict[str, Any], attributes: dict[str, Any]) -> str | None:
    """Return what is wrong with values for a table's attributes, or None."""
    known = {a["name"]: a for a in table["attributes"]}
    for name, value in attributes.items():
        if name not in known:
            return f"Unknown attribute {name}"
        if value is None:
            if known[name]["mandatory"]:
                return f"Attribute {name} is mandatory"
        elif problem := _check_value(known[name], value):
            return f"Attribute {name}: {problem}"
    return None


def missing_attributes(table: dict[str, Any], attributes: dict[str, Any]) -> list[str]:
    """Return the names of the mandatory attributes without a value."""
    return [
        a["name"]
        for a in table["attributes"]
        if a["mandatory"] and a["name"] not in TECHNICAL and attributes.get(a["name"]) is None
    ]


def _check_value(attribute: dict[str, Any], value: Any) -> str | None:
    kind = attribute.get("valueType") or attribute["type"]
    checks: dict[str, tuple[bool, str]] = {
        "INTEGER": (isinstance(value, int) and not isinstance(value, bool), "must be an integer"),
        "DECIMAL": (
            isinstance(value, (int, float)) and not isinstance(value, bool),
            "must be a number",
        ),
        "BOOLEAN": (isinstance(value, bool) or value in (0, 1), "must be a boolean"),
        "DATE": (_is_date(value), "must be a date as yyyy-MM-dd"),
        "BIRTHDATE": (_is_date(value), "must be a date as yyyy-MM-dd"),
        "TIMESTAMP": (_is_timestamp(value), "must be a timestamp as yyyy-MM-dd HH:mm:ss"),
        "SEX": (value in ("M", "F"), "must be M or F"),
        "EMAIL_ADDRESS": (
            isinstance(value, str) and bool(re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value)),
            "must be an e-mail address",
        ),
    }
    fits, problem = checks.get(kind, (isinstance(value, str), "must be a string"))
    if not fits:
        return problem
    longest = attribute.get("valueRestriction", {}).get("maxLength")
    if longest is not None and isinstance(value, str) and len(value) > longest:
        return f"longer than {longest} characters"
    return None


def _is_date(value: Any) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_timestamp(value: Any) -> bool:
    try:
        datetime.strptime(value, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - Actito's have no zone
    except (TypeError, ValueError):
        return False
    return True
