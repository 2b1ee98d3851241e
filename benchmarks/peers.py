"""What this project is measured against: plain Singer targets, as the SDK's template makes them."""

from __future__ import annotations

import sys
from typing import Any

import requests
from singer_sdk import Target
from singer_sdk import typing as th
from singer_sdk.sinks import BatchSink, RecordSink


class IdleSink(BatchSink):
    """Does nothing with its records."""

    max_size = 10_000

    def process_batch(self, context: dict[str, Any]) -> None:
        """Do nothing."""


class IdleTarget(Target):
    """The plain target: reading and checking by the SDK, and nothing else."""

    name = "target-idle"
    config_jsonschema = th.PropertiesList().to_dict()
    default_sink_class = IdleSink


class ProfileSink(RecordSink):
    """Writes each record by a call of its own."""

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
        choices = {c["id"]: c["enabled"] for c in record["consents"]["channels"]}
        choices |= {c["id"]: c["enabled"] for c in record["consents"]["purposes"]}
        names = {
            "Newsletter": "email",
            "SmsAlerts": "sms",
            "PartnerOffers": "partner_offers",
            "Loyalty_Club": "loyalty_club-R4",
        }
        session.patch(
            f"{base}/profiles/v5/entities/demo/profile-tables/16/profiles/"
            f"customerId={record['user']['organization_user_id']}",
            json={"subscriptions": {k: choices[v] for k, v in names.items()}},
            timeout=60,
        ).raise_for_status()


class ProfileTarget(Target):
    """The plain target that calls Actito once a record."""

    name = "target-plain"
    config_jsonschema = th.PropertiesList(
        th.Property("api_url", th.StringType, required=True),
        th.Property("api_key", th.StringType, required=True, secret=True),
    ).to_dict()
    default_sink_class = ProfileSink


if __name__ == "__main__":
    {"idle": IdleTarget, "profiles": ProfileTarget}[sys.argv.pop(1)].cli()
