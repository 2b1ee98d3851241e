"""The sandbox's Didomi keeps to the documented shapes of objects, and serves what is documented."""

from __future__ import annotations

from typing import Any

import didomi_schemas
import pytest
from jsonschema import Draft202012Validator
from support import EVENTS, USERS, Actito, Didomi, email_choice

WHOLE_EVENT = {
    "id": "whole",
    "organization_id": "org-current",
    "created_at": "2026-10-01T10:00:00Z",
    "status": "confirmed",
    "regulation": "gdpr",
    "user": {"id": "u", "organization_user_id": "ann", "metadata": {}, "country": "FR"},
    "consents": {
        "channels": [{"id": "email", "enabled": True, "metadata": {}}],
        "purposes": [{"id": "surveys", "enabled": True, "enabled_li": False, "values": {}}],
        "vendors": {"enabled": ["v"], "disabled": []},
        "tcfcs": "CPx",
    },
    "proofs_id": ["p"],
    "delegate": {"id": "d", "name": "D", "metadata": {}},
}


@pytest.fixture
def call(url: str) -> Didomi:
    """A client with a session."""
    return Didomi(url)


def check(schema: dict[str, Any], value: Any) -> None:
    """Assert that a value fits a schema."""
    found = Draft202012Validator(schema).iter_errors(value)
    errors = [f"{list(error.path)}: {error.message}" for error in found]
    assert errors == []


def test_events_look_as_documented(call: Didomi, actito: Actito) -> None:
    """Posted, read, listed and patched."""
    actito.steer("reset", {"people": 100})
    posted = call("POST", EVENTS, email_choice("ann", False)).json()
    check(didomi_schemas.EVENT, posted)
    query = {"organization_user_id": "ann"}
    check(didomi_schemas.EVENT, call("GET", f"{EVENTS}/{posted['id']}", **query).json())
    patched = call("PATCH", f"{EVENTS}/{posted['id']}", {"delegate": {"id": "x"}}, **query).json()
    check(didomi_schemas.EVENT, patched)
    checked = 0
    for user in call("GET", USERS).json()["data"]:
        for event in call("GET", EVENTS, user_id=user["id"]).json()["data"]:
            check(didomi_schemas.EVENT, event)
            checked += 1
    assert checked > 100


def test_users_look_as_documented(call: Didomi, actito: Actito) -> None:
    """Listed, read, created, patched and deleted."""
    actito.steer("reset", {"people": 100})
    users = call("GET", USERS).json()["data"]
    assert len(users) == 100
    for user in users:
        check(didomi_schemas.USER, user)
    check(didomi_schemas.USER, call("GET", f"{USERS}/{users[0]['id']}").json())
    made = call("POST", USERS, {"organization_user_id": "new", "metadata": {"a": 1}}).json()
    check(didomi_schemas.USER, made)
    path = f"{USERS}/{made['id']}"
    check(didomi_schemas.USER, call("PATCH", path, {"country": "FR"}).json())
    check(didomi_schemas.USER, call("DELETE", path).json())


def test_an_event_is_stored_with_every_documented_field(call: Didomi) -> None:
    """And comes back with each of them as it was sent."""
    check(didomi_schemas.POSTED_EVENT, WHOLE_EVENT)
    stored = call("POST", EVENTS, WHOLE_EVENT).json()
    assert {k: stored[k] for k in WHOLE_EVENT} == WHOLE_EVENT


def test_sessions_look_as_documented(call: Didomi) -> None:
    """The secret is not sent back."""
    check(didomi_schemas.SESSION, call.session)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (didomi_schemas.EVENT, {**WHOLE_EVENT, "id": 1}),
        (didomi_schemas.EVENT, {k: v for k, v in WHOLE_EVENT.items() if k != "consents"}),
        (didomi_schemas.EVENT, {**WHOLE_EVENT, "consents": {"channels": {"email": True}}}),
        (didomi_schemas.POSTED_EVENT, {**WHOLE_EVENT, "created_at": "yesterday"}),
        (didomi_schemas.USER, {"id": "u"}),
        (didomi_schemas.SESSION, {"type": "api-key", "key": "k", "access_token": "t", "x": 1}),
    ],
)
def test_the_schemas_refuse_what_is_not_documented(schema: dict[str, Any], value: Any) -> None:
    """So that they prove something."""
    assert not Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, methods in didomi_schemas.REQUESTS.items() for method in methods],
)
def test_every_documented_request_is_served(call: Didomi, path: str, method: str) -> None:
    """Events, users and sessions: what a consent sync can need."""
    response = call(method, path.replace("{id}", "x"), {})
    assert response.status_code != 405
    assert b"No such route" not in response.content
