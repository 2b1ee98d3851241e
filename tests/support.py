"""What several tests need: messages, settings for the sandbox, and plugins as real processes."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import forks
import requests

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.rejects import StoredReject
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.runtime import Runtime
from actito_didomi.sandbox.options import ACTITO_KEY, DIDOMI_KEY, DIDOMI_SECRET, ORGANIZATION
from target_actito.target import TargetActito

BIN = Path(sys.executable).parent
EVENTS, USERS = "/consents/events", "/consents/users"
"""Routes of Didomi."""
MAPPINGS = [
    {"id": "Newsletter", "value": "consents_channels_email_enabled"},
    {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"},
    {"id": "PartnerOffers", "value": "consents_purposes_partner_offers_enabled"},
    {"id": "Loyalty_Club", "value": "consents_purposes_loyalty_club-R4_enabled"},
]
EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "created_at": {"type": ["string", "null"]},
        "user": {"type": ["object", "null"]},
        "consents": {"type": ["object", "null"]},
    },
}


def event(
    person: str | None,
    when: str = "2026-10-01T10:00:00Z",
    *,
    channels: dict[str, Any] | None = None,
    purposes: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Make a consent event: choices by channel id and by purpose id."""
    user: dict[str, Any] = {"id": f"user-{person}"}
    if person is not None:
        user["organization_user_id"] = person
    if metadata is not None:
        user["metadata"] = metadata
    return {
        "id": f"event-{person}-{when}",
        "created_at": when,
        "user": user,
        "consents": {
            "channels": [{"id": k, "enabled": v} for k, v in (channels or {}).items()],
            "purposes": [
                {"id": k, **(v if isinstance(v, dict) else {"enabled": v})}
                for k, v in (purposes or {}).items()
            ],
        },
        **more,
    }


def schema(stream: str = "consent_events", **extra: Any) -> dict[str, Any]:
    """Make a SCHEMA message."""
    return {
        "type": "SCHEMA",
        "stream": stream,
        "schema": EVENT_SCHEMA,
        "key_properties": ["id"],
        **extra,
    }


def record(value: Any, stream: str = "consent_events") -> dict[str, Any]:
    """Make a RECORD message."""
    return {"type": "RECORD", "stream": stream, "record": value}


def state(value: Any) -> dict[str, Any]:
    """Make a STATE message."""
    return {"type": "STATE", "value": value}


def stream_of(*events: Any) -> list[dict[str, Any]]:
    """Make a whole input: SCHEMA, RECORDs, and a STATE that says how many."""
    return [schema(), *map(record, events), state({"read": len(events)})]


def lines(messages: Iterable[Any]) -> str:
    """Write messages as a tap does; texts go in as they are."""
    return "".join((m if isinstance(m, str) else json.dumps(m)) + "\n" for m in messages)


def target_config(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of target-actito for a sandbox, quick to give up."""
    return {
        "api_key": ACTITO_KEY,
        "api_url": f"{url}/actito",
        "entity_id": "demo",
        "table_name": "Profiles",
        "user_unique_key": "customerId",
        "ledger_url": "none",
        "mappings": MAPPINGS,
        "calls_per_minute": 1_000_000,
        "retry_tries": 3,
        "retry_seconds": 0,
        "retry_max_wait": 0.05,
        "rejects_path": str(folder / "rejects.jsonl"),
        "report_path": str(folder / "report.json"),
        "batch_root": str(folder),
        "max_opt_in_pct": 100,
        "max_unmatched_pct": 100,
        **changes,
    }


def with_ledger(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings that put a ledger into a folder, the same for all plugins."""
    return {
        "ledger_url": f"sqlite:///{folder / 'ledger.db'}",
        "baseline": "didomi",
        **changes,
    }


def tap_config(url: str, **changes: Any) -> dict[str, Any]:
    """Settings of tap-didomi for a sandbox's API, quick to give up."""
    return {
        "api_key": DIDOMI_KEY,
        "api_secret": DIDOMI_SECRET,
        "organization_id": ORGANIZATION,
        "api_url": f"{url}/didomi/v1",
        "ledger_url": "none",
        "retry_tries": 3,
        "retry_seconds": 0,
        "retry_max_wait": 0.05,
        **changes,
    }


def post_config(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of target-didomi for a sandbox, quick to give up."""
    return tap_config(
        url,
        rejects_path=str(folder / "didomi-rejects.jsonl"),
        report_path=str(folder / "didomi-report.json"),
        **changes,
    )


def back_config(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of tap-actito for a sandbox, quick to give up."""
    return {
        "api_key": ACTITO_KEY,
        "api_url": f"{url}/actito",
        "entity_id": "demo",
        "table_name": "Profiles",
        "user_unique_key": "customerId",
        "mappings": MAPPINGS,
        "calls_per_minute": 1_000_000,
        "retry_tries": 3,
        "retry_seconds": 0,
        "retry_max_wait": 0.05,
        "ledger_url": f"sqlite:///{folder / 'ledger.db'}",
        **changes,
    }


@dataclass
class Actito:
    """Looks into, and changes, a sandbox's Actito, past all limits and counts that matter."""

    url: str

    def _headers(self) -> dict[str, str]:
        token = requests.get(
            f"{self.url}/actito/auth/token", headers={"Authorization": ACTITO_KEY}, timeout=30
        ).json()["accessToken"]
        return {"Authorization": f"Bearer {token}"}

    def _profiles(self, table: str = "Profiles") -> str:
        return f"{self.url}/actito/profiles/v5/entities/demo/profile-tables/{table}/profiles"

    def create(self, person: str, **given: Any) -> None:
        """Create a profile with all subscriptions off unless given."""
        attributes = {"customerId": person, "lastName": "Doe", **given.pop("attributes", {})}
        body = {"attributes": attributes, "subscriptions": given}
        answer = requests.post(self._profiles(), json=body, headers=self._headers(), timeout=30)
        assert answer.status_code == 201, answer.text

    def create_many(self, people: Iterable[str]) -> None:
        """Create many profiles over one connection."""
        with requests.Session() as session:
            session.headers.update(self._headers())
            for person in people:
                body = {"attributes": {"customerId": person, "lastName": "Doe"}}
                session.post(self._profiles(), json=body, timeout=30).raise_for_status()

    def change(self, person: str, **subscriptions: bool) -> None:
        """Change subscriptions as a person does: past our pipelines."""
        requests.patch(
            f"{self._profiles()}/customerId={person}",
            json={"subscriptions": subscriptions},
            headers=self._headers(),
            timeout=30,
        ).raise_for_status()

    def patch(self, person: str, attributes: dict[str, Any]) -> None:
        """Change attributes past our pipelines, the key among them."""
        requests.patch(
            f"{self._profiles()}/customerId={person}",
            json={"attributes": attributes},
            headers=self._headers(),
            timeout=30,
        ).raise_for_status()

    def patch_by_id(self, profile_id: int, body: dict[str, Any]) -> None:
        """Change a profile past our pipelines, by its id: the whole body of a PATCH."""
        requests.patch(
            f"{self._profiles()}/{profile_id}", json=body, headers=self._headers(), timeout=30
        ).raise_for_status()

    def delete(self, profile_id: int) -> None:
        """Delete a profile."""
        requests.delete(
            f"{self._profiles()}/{profile_id}", headers=self._headers(), timeout=30
        ).raise_for_status()

    def all(self) -> dict[str, dict[str, Any]]:
        """Read all profiles, by customer id."""
        headers, found, page = self._headers(), {}, 0
        while True:
            answer = requests.get(
                self._profiles(),
                params={"page": page, "pageSize": 1000},
                headers=headers,
                timeout=30,
            ).json()
            found |= {p["attributes"]["customerId"]: p for p in answer["profiles"]}
            if not answer["profiles"] or len(found) >= answer["total"]:
                return found
            page += 1

    def subscriptions(self, person: str) -> dict[str, bool]:
        """Read one person's subscriptions."""
        result: dict[str, bool] = self.all()[person]["subscriptions"]
        return result

    def attributes(self, person: str) -> dict[str, Any]:
        """Read one person's attributes."""
        result: dict[str, Any] = self.all()[person]["attributes"]
        return result

    def stats(self, side: str = "actito") -> dict[str, Any]:
        """Read the sandbox's counts."""
        result: dict[str, Any] = requests.get(f"{self.url}/sandbox/stats", timeout=30).json()[side]
        return result

    def calls(self, route: str) -> int:
        """Count the calls of one route."""
        return int(self.stats()["routes"].get(route, {}).get("calls", 0))

    def steer(self, what: str, body: Any) -> Any:
        """Steer the sandbox: `faults`, `options`, `reset` or `exports`."""
        answer = requests.post(f"{self.url}/sandbox/{what}", json=body, timeout=60)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None


class Didomi:
    """A bare client of a sandbox's Didomi: what the site and the app of a company do."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/didomi/v1"
        body = {"type": "api-key", "key": DIDOMI_KEY, "secret": DIDOMI_SECRET}
        self.session = requests.post(f"{self.url}/sessions", json=body, timeout=10).json()

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        organization: str = ORGANIZATION,
        **query: Any,
    ) -> requests.Response:
        return requests.request(
            method,
            self.url + path,
            params={"organization_id": organization, **query},
            json=body,
            headers={"Authorization": f"Bearer {self.session['access_token']}"},
            timeout=30,
        )

    def say(self, given: dict[str, Any], **more: Any) -> None:
        """Store an event as it is, or as several changes say."""
        answer = self("POST", "/consents/events", {**given, **more})
        assert answer.ok, answer.text
        time.sleep(0.002)  # what follows is later by more than Didomi's timestamps show

    def users(self, person: str) -> list[dict[str, Any]]:
        """The Didomi users of a person."""
        found: list[dict[str, Any]] = self(
            "GET", "/consents/users", organization_user_id=person
        ).json()["data"]
        return found

    def events(self, person: str, status: str = "confirmed") -> list[dict[str, Any]]:
        """The events of a person, in order of arrival."""
        found: list[dict[str, Any]] = self(
            "GET", "/consents/events", organization_user_id=person, status=status
        ).json()["data"]
        return found

    def state(self, person: str) -> dict[str, Any]:
        """The choices that hold for a person, by names such as `email` or `surveys`."""
        consents = max(self.users(person), key=lambda user: user["updated_at"])["consents"]
        found = {n["id"]: n["enabled"] for n in consents["channels"]}
        for purpose in consents["purposes"]:
            if purpose.get("enabled") is not None:
                found[purpose["id"]] = purpose["enabled"]
            found |= {k: v["value"] for k, v in purpose.get("values", {}).items()}
        return found


def select_all(catalog: dict[str, Any]) -> dict[str, Any]:
    """Select all streams of a catalog, also those that are off by default."""
    for stream in catalog["streams"]:
        (root,) = (item for item in stream["metadata"] if not item["breadcrumb"])
        root["metadata"]["selected"] = True
    return catalog


@dataclass
class Run:
    """What a plugin's process did."""

    exit_code: int
    out: str
    err: str

    @property
    def states(self) -> list[Any]:
        """What a target printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What a tap printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    def records(self, stream: str) -> list[dict[str, Any]]:
        """The records of one stream of a tap."""
        found = [m for m in self.messages if m["type"] == "RECORD" and m["stream"] == stream]
        return [m["record"] for m in found]


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without settings of plugins."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("TAP_", "TARGET_", "MELTANO_", "LOGLEVEL"))
    }
    return {**kept, **more}


def run_plugin(
    name: str,
    config: dict[str, Any] | str,
    folder: Path,
    *arguments: str,
    stdin: str = "",
    **environment: str,
) -> Run:
    """Run a plugin as a process of its own, forked from one that has imported it."""
    path = folder / f"{name}.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    given = ["--config", str(path), *arguments]
    return Run(*forks.run(name, given, stdin.encode(), folder, clean_environment(**environment)))


def run_target(
    config: dict[str, Any], folder: Path, messages: Iterable[Any], *arguments: str, **env: str
) -> Run:
    """Run target-actito over messages, as a process."""
    return run_plugin("target-actito", config, folder, *arguments, stdin=lines(messages), **env)


def listen(config: dict[str, Any], messages: Iterable[Any]) -> TargetActito:
    """Run target-actito over messages in this process; give the target."""
    target = TargetActito(config=dict(config))
    target.listen(io.StringIO(lines(messages)))
    return target


def report(config: dict[str, Any]) -> dict[str, Any]:
    """Read the report of the last run."""
    result: dict[str, Any] = json.loads(Path(config["report_path"]).read_text())
    return result


def rejects(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the rejects file."""
    path = Path(config["rejects_path"])
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rejects_kept(url: str) -> list[StoredReject]:
    """Return the open rejects in a ledger, which has one pair."""
    ledger = Ledger.open(LedgerSettings(ledger_url=url), LedgerScope(), Runtime())
    try:
        return ledger.list_rejects()
    finally:
        ledger.close()


def start_plugin(
    name: str, config: dict[str, Any], folder: Path, *arguments: str, **pipes: IO[bytes]
) -> forks.Process:
    """Start a plugin with pipes, or the files given; what it logs goes to a file."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    with (folder / f"{name}.log").open("ab") as log:
        return forks.start(
            name,
            ["--config", str(path), *arguments],
            folder,
            clean_environment(),
            log=log,
            **pipes,
        )


def feed(process: forks.Process, text: str, *, close: bool = True) -> None:
    """Write input to a process, which may die meanwhile."""
    forks.feed(process, text.encode(), close=close)


def email_choice(
    person: str, enabled: Any, when: str = "2026-10-01T10:00:00Z", **more: Any
) -> dict[str, Any]:
    """Make the body of an event with one choice, that of the channel `email`."""
    return {
        "created_at": when,
        "user": {"organization_user_id": person},
        "consents": {"channels": [{"id": "email", "enabled": enabled}]},
        **more,
    }
