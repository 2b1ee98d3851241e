"""The sandbox's Didomi held against the vendor's OpenAPI document.

The document lies beside the project and not in it. Where it is absent the tests are skipped, but
not in continuous integration, where it must be.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from support import EVENTS, USERS, Actito, Didomi, email_choice

DOCUMENT = Path(__file__).parents[4] / "shared" / "reference" / "didomi-consents-openapi.yml"

pytestmark = pytest.mark.skipif(
    not DOCUMENT.exists() and not os.environ.get("CI"),
    reason="the OpenAPI document lies beside the project and is not here",
)


@pytest.fixture
def call(url: str) -> Didomi:
    """A client with a session."""
    return Didomi(url)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document."""
    loaded: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
    return loaded


def nullable_choices(schema: Any) -> Any:
    """Let `enabled` be null: the document's own words say that it can be, its type does not."""
    if isinstance(schema, dict):
        changed = {k: nullable_choices(v) for k, v in schema.items()}
        for name in ("enabled", "enabled_li"):
            found = changed.get(name)
            if isinstance(found, dict) and found.get("type") == "boolean":
                changed[name] = {**found, "type": ["boolean", "null"]}
        return changed
    return [nullable_choices(s) for s in schema] if isinstance(schema, list) else schema


def check(document: dict[str, Any], definition: str, value: Any) -> None:
    """Hold a value against a definition of the document."""
    schema = nullable_choices(document["definitions"][definition])
    errors = [f"{list(e.path)}: {e.message}" for e in Draft7Validator(schema).iter_errors(value)]
    assert errors == []


def test_events_look_as_documented(document: dict[str, Any], call: Didomi, actito: Actito) -> None:
    """Posted, got, listed and patched."""
    actito.steer("reset", {"people": 100})
    posted = call("POST", EVENTS, email_choice("ann", False)).json()
    check(document, "consent-events", posted)
    query = {"organization_user_id": "ann"}
    check(document, "consent-events", call("GET", f"{EVENTS}/{posted['id']}", **query).json())
    patched = call("PATCH", f"{EVENTS}/{posted['id']}", {"delegate": {"id": "x"}}, **query).json()
    check(document, "consent-events", patched)
    checked = 0
    for user in call("GET", USERS).json()["data"]:
        for event in call("GET", EVENTS, user_id=user["id"]).json()["data"]:
            check(document, "consent-events", event)
            checked += 1
    assert checked > 100


def test_users_look_as_documented(document: dict[str, Any], call: Didomi, actito: Actito) -> None:
    """Listed, got, created, patched and deleted."""
    actito.steer("reset", {"people": 100})
    users = call("GET", USERS).json()["data"]
    assert len(users) == 100
    for user in users:
        check(document, "consent-users", user)
    check(document, "consent-users", call("GET", f"{USERS}/{users[0]['id']}").json())
    made = call("POST", USERS, {"organization_user_id": "new", "metadata": {"a": 1}}).json()
    check(document, "consent-users", made)
    path = f"{USERS}/{made['id']}"
    check(document, "consent-users", call("PATCH", path, {"country": "FR"}).json())
    check(document, "consent-users", call("DELETE", path).json())


def test_what_the_sandbox_takes_is_what_is_documented(
    document: dict[str, Any], call: Didomi
) -> None:
    """An event with every documented field is stored with every one of them."""
    event = {
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
    check(document, "consent-events-input", event)
    stored = call("POST", EVENTS, event).json()
    assert {k: stored[k] for k in event} == event


def test_sessions_look_as_documented(document: dict[str, Any], call: Didomi) -> None:
    """The document asks for `secret` in the answer too; Didomi's pages show that it isn't given."""
    schema = document["components"]["schemas"]["sessions"]
    required = set(schema["required"]) - {"secret"}
    assert required <= set(call.session)
    assert set(call.session) - set(schema["properties"]) == set()


def test_every_documented_consent_call_is_served(document: dict[str, Any], call: Didomi) -> None:
    """Events, users and sessions; tokens, links and proofs are beyond a consent sync."""
    for path, methods in document["paths"].items():
        if not path.startswith((EVENTS, USERS)) and path != "/sessions":
            continue
        for method in methods:
            answer = call(method.upper(), path.replace("{id}", "x"), {})
            assert answer.status_code != 405, (method, path)
            assert b"No such call" not in answer.content, (method, path)
