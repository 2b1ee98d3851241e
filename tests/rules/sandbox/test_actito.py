"""The sandbox's Actito: what it answers, and what it refuses."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any
from urllib.parse import quote

import pytest
import requests
from support import Actito

from actito_didomi.sandbox.options import ACTITO_KEY, SandboxOptions
from actito_didomi.sandbox.people import person_id
from actito_didomi.sandbox.server import BackgroundSandbox

TABLE = "/profiles/v5/entities/demo/profile-tables/16/profiles"
MINIMUM = {"customerId": "ann", "lastName": "Doe"}


class Client:
    """A bare client of the sandbox's Actito."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/actito"
        answer = requests.get(
            f"{self.url}/auth/token", headers={"Authorization": ACTITO_KEY}, timeout=10
        )
        self.token = answer.json()
        self.headers = {"Authorization": f"Bearer {self.token['accessToken']}"}

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        return requests.request(
            method, self.url + path, json=body, headers=headers, timeout=30, **more
        )


@pytest.fixture
def call(url: str) -> Client:
    """A client with a token."""
    return Client(url)


def test_the_token_call_is_as_documented(call: Client, url: str) -> None:
    """GET with the raw key; `expiresIn` is a text with a unit."""
    assert call.token["tokenType"] == "bearer"
    assert call.token["expiresIn"] == "900s"
    wrong = requests.get(
        f"{url}/actito/auth/token", headers={"Authorization": f"Bearer {ACTITO_KEY}"}, timeout=10
    )
    assert wrong.status_code == 401


def test_tokens_end(url: str) -> None:
    """After its life a token is refused."""
    with BackgroundSandbox(SandboxOptions(limits=False, token_ttl=0.5)) as sandbox:
        call = Client(sandbox.url)
        assert call("GET", "/entities/v5/entities").status_code == 200
        time.sleep(0.6)
        assert call("GET", "/entities/v5/entities").status_code == 401


def test_structure(call: Client) -> None:
    """Entities, tables by id and by name."""
    assert call("GET", "/entities/v5/entities").json()["entities"][0]["name"] == "demo"
    path = "/profile-table-structure/v5/entities/demo/profile-tables"
    listed = call("GET", path).json()["profileTables"]
    assert {"id": "16", "name": "Profiles"} in listed
    by_id, by_name = call("GET", f"{path}/16").json(), call("GET", f"{path}/Profiles").json()
    assert by_id == by_name
    assert {"name": "Newsletter"} in by_id["subscriptions"]


def test_create_read_change_delete(call: Client) -> None:
    """The five calls of V5, with their statuses."""
    created = call("POST", TABLE, {"attributes": MINIMUM, "subscriptions": {"Newsletter": True}})
    assert created.status_code == 201
    profile_id = created.json()["profileId"]
    assert created.headers["Location"].endswith(f"/{profile_id}")
    for key in (str(profile_id), "customerId=ann"):
        found = call("GET", f"{TABLE}/{key}").json()
        assert found["attributes"]["lastName"] == "Doe"
        assert found["subscriptions"]["Newsletter"] is True
    path = f"{TABLE}/customerId=ann"
    assert call("PATCH", path, {"subscriptions": {"Newsletter": False}}).status_code == 200
    assert call("PATCH", path, {"attributes": {"shop": "Gent"}}).status_code == 200
    assert call("PATCH", path, {"attributes": {"shop": None}}).status_code == 200
    after = call("GET", f"{path}?subscriptions=Newsletter").json()
    assert after["subscriptions"] == {"Newsletter": False}
    assert "shop" not in after["attributes"]
    assert call("DELETE", path).status_code == 204
    assert call("GET", path).status_code == 404


@pytest.mark.parametrize("replaces", [False, True])
def test_put_creates_or_updates_and_merging_is_a_switch(
    actito: Actito, call: Client, replaces: bool
) -> None:
    """Subscriptions that aren't named stay, either way."""
    actito.steer("options", {"put_replaces": replaces})
    body = {
        "key": {"customerId": "ann"},
        "attributes": {**MINIMUM, "shop": "Gent"},
        "subscriptions": {"Newsletter": True},
    }
    assert call("PUT", TABLE, body).status_code == 201
    assert (
        call("PUT", TABLE, {**body, "attributes": MINIMUM, "subscriptions": {}}).status_code == 200
    )
    after = call("GET", f"{TABLE}/customerId=ann").json()
    assert after["subscriptions"]["Newsletter"] is True
    assert ("shop" in after["attributes"]) is not replaces


@pytest.mark.parametrize("moves", [False, True])
def test_whether_a_subscription_moves_update_moment_is_a_switch(
    actito: Actito, call: Client, moves: bool
) -> None:
    """A change of an attribute always does."""
    actito.steer("options", {"subscription_moves_update_moment": moves})
    call("POST", TABLE, {"attributes": MINIMUM})
    path = f"{TABLE}/customerId=ann"
    before = call("GET", path).json()["attributes"]["updateMoment"]
    time.sleep(1.1)
    call("PATCH", path, {"subscriptions": {"Newsletter": True}})
    assert (call("GET", path).json()["attributes"]["updateMoment"] != before) is moves
    call("PATCH", path, {"attributes": {"shop": "Gent"}})
    assert call("GET", path).json()["attributes"]["updateMoment"] != before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", f"{TABLE}/customerId=ann", {"attributes": {"shoe": "x"}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"subscriptions": {"News": True}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"subscriptions": {"Newsletter": "yes"}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"attributes": {"loyaltyPoints": "7"}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"attributes": {"birthDate": "31/01/1980"}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"attributes": {"shop": "x" * 21}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"attributes": {"lastName": None}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"attribute": {}}, 400),
        ("PATCH", f"{TABLE}/customerId=ann", {"attributes": {"emailAddress": "b@x.be"}}, 409),
        ("PATCH", f"{TABLE}/customerId=nobody", {}, 404),
        ("PATCH", f"{TABLE}/shop=Gent", {}, 400),
        ("PATCH", f"{TABLE}/nothing", {}, 400),
        ("GET", f"{TABLE}/999", None, 404),
        ("POST", TABLE, {"attributes": {"customerId": "cy"}}, 400),
        ("POST", TABLE, {"attributes": MINIMUM}, 409),
        ("PUT", TABLE, {"attributes": MINIMUM}, 400),
        ("PUT", TABLE, {"key": {"profileId": 999}, "attributes": MINIMUM}, 404),
        ("GET", TABLE.replace("demo", "other"), None, 404),
        ("GET", TABLE.replace("16", "99"), None, 404),
        ("GET", f"{TABLE}?shoe=x", None, 400),
        ("PUT", f"{TABLE}/customerId=ann", {}, 405),
        ("POST", "/entities/v5/entities", {}, 405),
        ("GET", "/v5/entities", None, 404),
    ],
)
def test_what_is_refused(call: Client, method: str, path: str, body: Any, status: int) -> None:
    """With the documented status, and nothing changed."""
    call("POST", TABLE, {"attributes": MINIMUM})
    call("POST", TABLE, {"attributes": {**MINIMUM, "customerId": "b", "emailAddress": "b@x.be"}})
    before = call("GET", TABLE).json()
    answer = call(method, path, body)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert call("GET", TABLE).json() == before


def test_a_bad_token_and_a_bad_accept(call: Client) -> None:
    """401 and 406."""
    path = "/entities/v5/entities"
    assert call("GET", path, headers={"Authorization": "Bearer x"}).status_code == 401
    assert call("GET", path, headers={"Authorization": ""}).status_code == 401
    assert call("GET", path, headers={"Accept": "text/xml"}).status_code == 406


def test_other_switches(actito: Actito, call: Client) -> None:
    """A server without PATCH, other success codes, technical attributes refused, old conflicts."""
    call("POST", TABLE, {"attributes": MINIMUM})
    path = f"{TABLE}/customerId=ann"
    actito.steer("options", {"patch_status": 204, "strict_technical": True, "conflict_status": 400})
    empty = call("PATCH", path, {"attributes": {"shop": "x"}})
    assert (empty.status_code, empty.content) == (204, b"")
    assert call("PATCH", path, {"attributes": {"updateMoment": "x"}}).status_code == 400
    assert call("POST", TABLE, {"attributes": MINIMUM}).status_code == 400
    actito.steer("options", {"knows_patch": False})
    assert call("PATCH", path, {}).status_code == 405


def test_old_urls_are_a_switch() -> None:
    """Without a category, where that is switched on."""
    with BackgroundSandbox(SandboxOptions(limits=False, unprefixed_urls=True)) as sandbox:
        assert Client(sandbox.url)("GET", "/v5/entities").status_code == 200


def test_every_odd_id_can_be_a_key(call: Client) -> None:
    """A `/`, `+`, `%`, `=`, `;`, quote, space, accent or emoji in an id is no obstacle."""
    persons = [person_id(n) for n in range(0, 44, 4)]
    for sign in '@+/%=;" ,é😀':
        assert any(sign in person for person in persons), sign
    for person in persons:
        call("POST", TABLE, {"attributes": {**MINIMUM, "customerId": person}})
        found = call("GET", f"{TABLE}/customerId={quote(person, safe='')}").json()
        assert found["attributes"]["customerId"] == person


def test_lists_are_paged_and_filtered(call: Client) -> None:
    """Pages begin at 0."""
    for n in range(5):
        attributes = {**MINIMUM, "customerId": f"p{n}", "shop": "Gent" if n % 2 else "Namur"}
        call("POST", TABLE, {"attributes": attributes})
    page = call("GET", f"{TABLE}?page=1&pageSize=2").json()
    assert [p["attributes"]["customerId"] for p in page["profiles"]] == ["p2", "p3"]
    assert page["total"] == 5
    assert call("GET", f"{TABLE}?shop=Gent").json()["total"] == 2


def test_more_than_five_at_once_are_refused() -> None:
    """The sixth gets 429; after them calls are taken again."""
    with BackgroundSandbox(SandboxOptions(latency=0.5)) as sandbox:
        call = Client(sandbox.url)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda _: call("GET", TABLE).status_code, range(8)))
        assert sorted(codes) == [200] * 5 + [429] * 3
        assert call("GET", TABLE).status_code == 200


def test_stats_reset_and_faults(actito: Actito, call: Client, url: str) -> None:
    """Counts by side and route; faults strike the calls they are meant for; reset forgets."""
    fault = {"side": "actito", "route": "list_profiles", "action": "status", "status": 503}
    actito.steer("faults", {**fault, "skip": 1, "count": 2, "retry_after": 3})
    answers = [call("GET", TABLE) for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 503, 503, 200]
    assert answers[1].headers["Retry-After"] == "3"
    counted = actito.stats()["routes"]["list_profiles"]
    assert (counted["calls"], counted["refusals"]) == (4, 2)
    for action in ("drop_before", "drop_after", "half_body"):
        actito.steer("faults", {"side": "actito", "route": "post_profile", "action": action})
        with pytest.raises(requests.RequestException):
            call("POST", TABLE, {"attributes": {**MINIMUM, "customerId": action}})
    assert set(actito.all()) == {"drop_after", "half_body"}
    actito.steer("reset", {"people": 20, "seed": 3})
    assert actito.stats()["calls"] == 0
    assert len(actito.all()) == 18
    bad = requests.post(f"{url}/sandbox/faults", json={"side": "actito"}, timeout=10)
    assert bad.status_code == 400
    bad = requests.post(f"{url}/sandbox/options", json={"nonsense": 1}, timeout=10)
    assert "nonsense" in bad.json()["message"]


def test_the_same_seed_gives_the_same_people(actito: Actito) -> None:
    """Other seeds give others."""

    def draw(seed: int) -> dict[str, Any]:
        actito.steer("reset", {"people": 40, "seed": seed})
        return {p: v["subscriptions"] for p, v in actito.all().items()}

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
