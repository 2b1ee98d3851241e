"""The sandbox's Didomi: consents, their merging, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from support import EVENTS, USERS, Actito, Didomi, email_choice


@pytest.fixture
def call(url: str) -> Didomi:
    """A client with a session."""
    return Didomi(url)


def state(call: Didomi, person: str) -> dict[str, Any]:
    """Read a person's channels."""
    query = {"$by_organization_user_id": "true"}
    user = call("GET", f"{USERS}/{person}", **query).json()
    return {c["id"]: c["enabled"] for c in user["consents"]["channels"]}


def test_sessions(call: Didomi, url: str) -> None:
    """Bad credentials are a 400 in Didomi's words; no token is a 401."""
    assert set(call.session) == {"type", "key", "access_token"}
    wrong = requests.post(f"{url}/didomi/v1/sessions", json={"key": "x"}, timeout=10)
    assert wrong.status_code == 400
    assert wrong.json() == {
        "code": 400,
        "name": "BadRequest",
        "message": "Invalid authentication information",
        "errors": {},
    }
    assert requests.get(f"{url}/didomi/v1{USERS}", timeout=10).status_code == 401


def test_an_event_makes_and_changes_a_user(call: Didomi) -> None:
    """Unknown users are created; metadata is merged; the version counts."""
    first = call("POST", EVENTS, email_choice("ann", True, user={
        "organization_user_id": "ann", "metadata": {"a": 1}}))  # fmt: skip
    assert first.status_code == 200
    second = email_choice("ann", False, "2026-10-02T10:00:00Z")
    second["user"]["metadata"] = {"b": 2}
    call("POST", EVENTS, second)
    (user,) = call("GET", USERS, organization_user_id="ann").json()["data"]
    assert user["metadata"] == {"a": 1, "b": 2}
    assert user["version"] == 2
    assert state(call, "ann") == {"email": False}


@pytest.mark.parametrize(("last", "expected"), [(False, False), (True, True)])
def test_a_late_event_is_slotted_in_by_its_timestamp_or_by_a_switch_applied_last(
    actito: Actito, call: Didomi, last: bool, expected: bool
) -> None:
    """Nobody knows what Didomi does; both can be had."""
    actito.steer("options", {"late_events_last": last})
    call("POST", EVENTS, email_choice("ann", False, "2026-10-02T10:00:00Z"))
    call("POST", EVENTS, email_choice("ann", True, "2026-10-01T10:00:00Z"))
    assert state(call, "ann") == {"email": expected}


def test_null_is_no_choice(call: Didomi) -> None:
    """It leaves an earlier choice as it is."""
    call("POST", EVENTS, email_choice("ann", False))
    call("POST", EVENTS, email_choice("ann", None, "2026-10-02T10:00:00Z"))
    assert state(call, "ann") == {"email": False}


def test_pending_events_count_once_approved(call: Didomi) -> None:
    """They are stored, not listed unless asked for, and applied by approval."""
    event = call("POST", EVENTS, email_choice("ann", True, status="pending_approval")).json()
    assert state(call, "ann") == {}
    query: dict[str, Any] = {"organization_user_id": "ann"}
    assert call("GET", EVENTS, **query).json()["data"] == []
    both = {"status[$in]": ["confirmed", "pending_approval"]}
    assert len(call("GET", EVENTS, **query, **both).json()["data"]) == 1
    path = f"{EVENTS}/{event['id']}"
    assert call("PATCH", path, {"status": "confirmed"}, **query).json()["status"] == "confirmed"
    assert state(call, "ann") == {"email": True}
    assert call("PATCH", path, {"user": {}}, **query).status_code == 400


def test_deleting_events_recomputes_the_state(call: Didomi) -> None:
    """As if they had never been; without a filter nothing is deleted."""
    first = call("POST", EVENTS, email_choice("ann", True)).json()
    second = email_choice("ann", False, "2026-10-02T10:00:00Z", metadata={"booking_id": 123})
    call("POST", EVENTS, second)
    query = {"organization_user_id": "ann"}
    assert call("DELETE", EVENTS, **query).status_code == 400
    assert call("DELETE", EVENTS, **query, **{"metadata.booking_id": "123"}).status_code == 204
    assert state(call, "ann") == {"email": True}
    assert call("DELETE", f"{EVENTS}/{first['id']}", **query).status_code == 204
    assert call("GET", f"{EVENTS}/{first['id']}", **query).status_code == 404


def test_arrays_of_up_to_a_hundred(actito: Actito, call: Didomi) -> None:
    """In order; over a hundred none; with one bad event none, or by a switch the others."""
    events = [email_choice(f"p{n}", True) for n in range(100)]
    answer = call("POST", EVENTS, events)
    assert [e["user"]["organization_user_id"] for e in answer.json()] == [
        f"p{n}" for n in range(100)
    ]
    assert call("POST", EVENTS, [email_choice("x", True)] * 101).status_code == 400
    assert call("POST", EVENTS, []).status_code == 400
    bad = [email_choice("good", True), email_choice("bad", True, consents=None)]
    assert call("POST", EVENTS, bad).status_code == 400
    assert call("GET", USERS, organization_user_id="good").json()["data"] == []
    actito.steer("options", {"array_per_item": True})
    assert call("POST", EVENTS, bad).status_code == 400
    assert len(call("GET", USERS, organization_user_id="good").json()["data"]) == 1


@pytest.mark.parametrize("status", [409, 400])
def test_an_id_that_exists_is_refused(actito: Actito, call: Didomi, status: int) -> None:
    """With 409, or by a switch 400; nothing is written."""
    actito.steer("options", {"duplicate_event_status": status})
    assert call("POST", EVENTS, email_choice("ann", True, id="e1")).status_code == 200
    again = call("POST", EVENTS, email_choice("ann", False, "2026-10-02T10:00:00Z", id="e1"))
    assert again.status_code == status
    assert state(call, "ann") == {"email": True}
    twice = [email_choice("bob", True, id="e2"), email_choice("bob", False, id="e2")]
    assert call("POST", EVENTS, twice).status_code == status


def test_integrations_can_be_left_out(actito: Actito, call: Didomi) -> None:
    """`$disable_integrations` keeps an event from them."""
    call("POST", EVENTS, email_choice("ann", True))
    call("POST", EVENTS, email_choice("ann", False), **{"$disable_integrations": "true"})
    assert actito.stats("didomi")["notified"] == 1
    assert actito.stats("didomi")["writes"] == 2


@pytest.mark.parametrize(
    ("purpose", "current", "legacy"),
    [
        ({"id": "surveys", "enabled": True}, 200, 200),
        ({"id": "unknown", "enabled": True}, 400, 200),
        ({"id": "old-campaign", "enabled": True}, 200, 200),  # it once existed
        ({"id": "newsletter-Kd8xQ", "values": {"frequency-Hj3": {"value": "x"}}}, 400, 200),
        ({"id": "newsletter-Kd8xQ", "values": {"topics-Zu7": {"value": "sport-a1"}}}, 200, 200),
        ({"id": "surveys", "preferences": [{"id": "a", "enabled": True}]}, 400, 200),
    ],
)
def test_organisations_with_and_without_validation(
    call: Didomi, purpose: dict[str, Any], current: int, legacy: int
) -> None:
    """The current one knows its ids and takes no nested preferences; the old one takes all."""
    event = {"user": {"organization_user_id": "ann"}, "consents": {"purposes": [purpose]}}
    assert call("POST", EVENTS, event).status_code == current
    assert call("POST", EVENTS, event, organization="org-legacy").status_code == legacy


def test_regulations_are_kept_apart(call: Didomi) -> None:
    """A user is what the events of one regulation make of it."""
    call("POST", EVENTS, email_choice("ann", True))
    call("POST", EVENTS, email_choice("ann", False, regulation="cpra"))
    assert state(call, "ann") == {"email": True}
    (user,) = call("GET", USERS, organization_user_id="ann", regulation="cpra").json()["data"]
    assert user["consents"]["channels"] == [{"id": "email", "enabled": False}]
    ids = [r["id"] for r in call("GET", "/compliance/v1/regulations").json()["data"]]
    assert {"gdpr", "cpra"} <= set(ids)


def test_users_come_by_cursor_a_hundred_a_page(actito: Actito, call: Didomi) -> None:
    """Until the cursor is null."""
    actito.steer("reset", {"people": 250})
    sizes, ids, cursor = [], set(), None
    while True:
        page = call("GET", USERS, **({"$cursor": cursor} if cursor else {})).json()
        assert page["limit"] == len(page["data"])
        sizes.append(page["limit"])
        ids |= {u["id"] for u in page["data"]}
        cursor = page["cursor"]
        if cursor is None:
            break
    assert sizes[:-1] == [100] * (len(sizes) - 1)
    assert len(ids) == sum(sizes) > 200
    assert call("GET", USERS, **{"$cursor": "nonsense"}).status_code == 400


def test_users_can_be_changed_and_deleted_by_the_organisations_id(call: Didomi) -> None:
    """Odd ids are encoded in the path; a stale version is a conflict."""
    person = "a/b+c@example.com"
    call("POST", EVENTS, email_choice(person, True))
    path = f"{USERS}/a%2Fb%2Bc%40example.com"
    query = {"$by_organization_user_id": "true"}
    assert call("PATCH", path, {"metadata": {"x": 1}, "version": 9}, **query).status_code == 409
    changed = call("PATCH", path, {"metadata": {"x": 1}, "version": 1}, **query).json()
    assert (changed["metadata"], changed["version"]) == ({"x": 1}, 2)
    assert call("DELETE", path, **query).json()["organization_user_id"] == person
    assert call("GET", path, **query).status_code == 404


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (EVENTS, {}, 400),  # neither user_id nor organization_user_id
        (USERS, {"organization_id": None}, 400),
        (USERS, {"organization_id": "someone-else"}, 403),
    ],
)
def test_what_is_refused(call: Didomi, path: str, query: dict[str, Any], status: int) -> None:
    """In Feathers' form."""
    answer = call("GET", path, **query)
    assert answer.status_code == status
    assert answer.json()["code"] == status


def test_the_configuration_tree_names_purposes_preferences_and_values(call: Didomi) -> None:
    """With it, every mapping can be proven."""
    (tree,) = call("GET", "/config-trees").json()
    purposes = {p["purpose"]["id"]: p for p in tree["selected_purposes"]}
    preferences = purposes["newsletter-Kd8xQ"]["selected_preferences"]
    found = {
        p["preference"]["id"]: [v["id"] for v in p["preference"]["values"]] for p in preferences
    }
    assert found["frequency-Hj3"] == ["weekly-1a2b", "monthly-3c4d"]


def test_calls_beside_consents_are_limited(actito: Actito, call: Didomi) -> None:
    """100 in 15 seconds, with the documented headers; `/consents/*` is free."""
    actito.steer("options", {"limits": True})
    codes = [call("GET", "/config-trees").status_code for _ in range(101)]
    assert codes == [200] * 100 + [429]
    refused = call("GET", "/config-trees")
    assert refused.headers["RateLimit-Policy"] == "100;w=15"
    assert int(refused.headers["Retry-After"]) >= 1
    assert call("GET", USERS).status_code == 200
    assert call("GET", USERS, **{"$include_full_tree": "true"}).status_code == 429


def test_batch_exports_are_laid_out_as_documented(actito: Actito, tmp_path: Path) -> None:
    """One folder per day, one line per user; guests and other regulations are left out."""
    actito.steer("reset", {"people": 300})
    written = actito.steer("exports", {"root": str(tmp_path), "export_id": "e"})
    assert sorted(written) == ["2026-10-01", "2026-10-02", "2026-10-03"]
    for day, count in written.items():
        folder = tmp_path / "data" / "export-id=e" / f"date={day}"
        assert (folder / "_SUCCESS").exists()
        lines: list[dict[str, Any]] = []
        for path in sorted((folder / "users").glob("*.json.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as file:
                lines += [json.loads(line) for line in file]
        assert len(lines) == count > 50
        for line in lines:
            assert line["user"]["organization_user_id"]
            assert line["events"]
            for event in line["events"]:
                assert event["created_at"].startswith(day)
                assert event["regulation"] == "gdpr"
                assert event["user"]["id"] == line["user"]["id"]
    unfinished = tmp_path / "other"
    actito.steer("exports", {"root": str(unfinished), "export_id": "e", "success": False})
    assert not list(unfinished.rglob("_SUCCESS"))


def test_the_people_hold_what_breaks_programs(actito: Actito, call: Didomi) -> None:
    """Some on one side only, guests, second devices, pending, other regulation, odd ids, nulls."""
    actito.steer("reset", {"people": 300})
    profiles = set(actito.all())
    users: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = call("GET", USERS, **({"$cursor": cursor} if cursor else {})).json()
        users += page["data"]
        if not (cursor := page["cursor"]):
            break
    persons = [u.get("organization_user_id") for u in users]
    assert profiles - set(persons)
    assert set(persons) - profiles - {None}
    assert None in persons
    known = [p for p in persons if p]
    assert len(known) > len(set(known))
    cpra = call("GET", USERS, regulation="cpra").json()["data"]
    assert cpra
    text = json.dumps(users)
    assert '"enabled": null' in text
    for word in ("partner_offers", "loyalty_club-R4", "food_wine-c3", "push-app"):
        assert word in text
