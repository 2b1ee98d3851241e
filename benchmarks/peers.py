"""What this project is measured against: plain Singer plugins, as the SDK's template makes them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from singer_sdk import Stream, Tap, Target
from singer_sdk import typing as th
from singer_sdk.sinks import RecordSink

from benchmarks import data

if TYPE_CHECKING:
    from collections.abc import Iterable


def choices_of(consents: dict[str, Any]) -> dict[str, bool | None]:
    """Return choices by the names that mappings have for them."""
    found = {f"consents_channels_{c['id']}_enabled": c["enabled"] for c in consents["channels"]}
    for purpose in consents["purposes"]:
        name = f"consents_purposes_{purpose['id']}"
        found[f"{name}_enabled"] = purpose["enabled"]
        found[f"{name}_enabled_li"] = purpose.get("enabled_li")
        for preference in purpose.get("preferences", ()):
            below = f"{name}_preferences_{preference['id']}"
            found[f"{below}_enabled"] = preference["enabled"]
            for channel in preference.get("channels", ()):
                found[f"{below}_channels_{channel['id']}_enabled"] = channel["enabled"]
    return found


class GatheringSink(RecordSink):
    """Keeps each person's newest choices; writes nothing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._people: dict[str, dict[str, tuple[str, bool]]] = {}

    def process_record(self, record: dict[str, Any], context: dict[str, Any]) -> None:
        """Gather one event: newest wins, and the opt-out at equal timestamps."""
        del context
        if record["status"] != "confirmed" or record["regulation"] != "gdpr":
            return
        person = self._people.setdefault(record["user"]["organization_user_id"], {})
        choices = choices_of(record["consents"])
        for mapping in self.config["mappings"]:
            choice = choices.get(mapping["value"])
            if choice is not None:
                said = record["created_at"], not choice
                person[mapping["id"]] = max(person.get(mapping["id"], said), said)


class GatheringTarget(Target):
    """The plain target that does in Python what target-actito does before it writes."""

    name = "target-gathering"
    config_jsonschema = th.PropertiesList(
        th.Property("mappings", th.ArrayType(th.ObjectType(additional_properties=True)))
    ).to_dict()
    default_sink_class = GatheringSink


class ExportStream(Stream):
    """The events of a batch export."""

    name = "consent_events"
    schema = data.SCHEMA
    primary_keys = ("id",)

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Read each line, and yield its events with their user."""
        del context
        for path in sorted(Path(self.config["root"]).rglob("*.json.gz")):
            with gzip.open(path, "rt") as file:
                for text in file:
                    line = json.loads(text)
                    for event in line["events"]:
                        yield {**event, "user": line["user"]}


class ExportTap(Tap):
    """The plain tap for a batch export."""

    name = "tap-export"
    config_jsonschema = th.PropertiesList(
        th.Property("root", th.StringType, required=True)
    ).to_dict()

    def discover_streams(self) -> list[Stream]:
        """Return the one stream."""
        return [ExportStream(self)]


class ProfileSink(RecordSink):
    """Writes each record by a request of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._http = requests.Session()

    def process_record(self, record: dict[str, Any], context: dict[str, Any]) -> None:
        """Change one profile."""
        del context
        base = self.config["api_url"]
        session = self._http
        if "Authorization" not in session.headers:
            key = {"Authorization": self.config["api_key"]}
            token = session.get(f"{base}/auth/token", headers=key, timeout=60).json()["accessToken"]
            session.headers["Authorization"] = f"Bearer {token}"
        choices = choices_of(record["consents"])
        said = {m["id"]: choices[m["value"]] for m in data.MAPPINGS}
        session.patch(
            f"{base}/profiles/v5/entities/demo/profile-tables/16/profiles/"
            f"customerId={record['user']['organization_user_id']}",
            json={"subscriptions": {k: v for k, v in said.items() if v is not None}},
            timeout=60,
        ).raise_for_status()


class ProfileTarget(Target):
    """The plain target that makes one request per record."""

    name = "target-plain"
    config_jsonschema = th.PropertiesList(
        th.Property("api_url", th.StringType, required=True),
        th.Property("api_key", th.StringType, required=True, secret=True),
    ).to_dict()
    default_sink_class = ProfileSink


if __name__ == "__main__":
    {"gathering": GatheringTarget, "export": ExportTap, "profiles": ProfileTarget}[
        sys.argv.pop(1)
    ].cli()
