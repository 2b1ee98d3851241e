"""What Didomi documents of its consent objects and requests, as small JSON schemas of our own.

They hold what Didomi's API pages say about the shape of objects; what a plugin never reads is left
open. `enabled` may be null: the person made no choice for this node (documented).
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
TIMESTAMP = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$"}
CHOICE = {"type": ["boolean", "null"]}
FREE = {"type": "object"}
COUNTRY = {"type": "string", "minLength": 2, "maxLength": 2}
IDS = {"type": "array", "items": TEXT}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


CHANNEL = _object(("id",), id=TEXT, enabled=CHOICE, metadata=FREE)
PREFERENCE = _object(("id",), id=TEXT, enabled=CHOICE, metadata=FREE, channels=_list(CHANNEL))
VALUES = {
    "type": "object",
    "additionalProperties": _object((), value=TEXT, from_propagation={"type": "boolean"}),
}
PURPOSE = _object(
    ("id",),
    id=TEXT,
    enabled=CHOICE,
    enabled_li=CHOICE,
    metadata=FREE,
    values=VALUES,
    preferences=_list(PREFERENCE),
    channels=_list(CHANNEL),
)
VENDORS = _object((), enabled=IDS, enabled_li=IDS, disabled=IDS, disabled_li=IDS)
CONSENTS = _object(
    (),
    channels=_list(CHANNEL),
    purposes=_list(PURPOSE),
    vendors=VENDORS,
    tcfcs={"type": ["string", "null"]},
)
DELEGATE = _object((), id=TEXT, name=TEXT, metadata=FREE)
STATUS = {"enum": ["confirmed", "pending_approval"]}

EVENT = _object(
    ("id", "organization_id", "created_at", "user", "consents"),
    id=TEXT,
    organization_id=TEXT,
    created_at=TIMESTAMP,
    updated_at=TIMESTAMP,
    regulation=TEXT,
    status=STATUS,
    domain=TEXT,
    metadata=FREE,
    user=_object(
        ("id",),
        id=TEXT,
        organization_user_id=TEXT,
        metadata=FREE,
        country=COUNTRY,
        last_seen_country=COUNTRY,
    ),
    consents=CONSENTS,
    proofs_id=IDS,
    delegate=DELEGATE,
)
"""A consent event in a response."""

POSTED_EVENT = {
    **EVENT,
    "required": ["consents"],
    "properties": {**EVENT["properties"], "user": {**EVENT["properties"]["user"], "required": []}},
}
"""A consent event in a request: Didomi fills in what is left out."""

USER = _object(
    ("id", "organization_id", "version", "created_at", "updated_at"),
    id=TEXT,
    organization_id=TEXT,
    organization_user_id=TEXT,
    organization_user_id_type=TEXT,
    version={"type": "integer", "minimum": 1},
    created_at=TIMESTAMP,
    updated_at=TIMESTAMP,
    metadata=FREE,
    country=COUNTRY,
    last_seen_country=COUNTRY,
    consents=CONSENTS,
)
"""A consent user in a response."""

SESSION = {
    **_object(
        ("type", "key", "access_token"), type={"enum": ["api-key"]}, key=TEXT, access_token=TEXT
    ),
    "additionalProperties": False,
}
"""The response to a request for a session. The secret is not sent back."""

REQUESTS = {
    "/consents/events": ("GET", "POST", "DELETE"),
    "/consents/events/{id}": ("GET", "PATCH", "DELETE"),
    "/consents/users": ("GET", "POST"),
    "/consents/users/{id}": ("GET", "PATCH", "DELETE"),
    "/sessions": ("POST",),
}
"""The requests that a consent sync can need. Tokens, links and proofs are not among them."""
