"""Settings of target-didomi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from singer_sdk import typing as th

from actito_didomi.didomi.config import REQUIRED, missing_settings, organization_settings
from actito_didomi.plugin.base import RETRY_SETTINGS, read_retry
from actito_didomi.plugin.config import target_settings

if TYPE_CHECKING:
    from actito_didomi.http import RetryPolicy

CONFIG = th.PropertiesList(
    *organization_settings(
        required="Required.",
        regulation="The regulation that choices are read and written under. Events of any other "
        "one are counted and skipped.",
    ),
    th.Property(
        "create_users",
        th.BooleanType,
        default=False,
        title="Create unknown users",
        description="Whether a person whom Didomi doesn't know gets a user there. If not, they are "
        "counted as unmatched and nothing is created. A person who was erased is unknown, too, and "
        "comes back with this.",
    ),
    th.Property(
        "respect_approval",
        th.BooleanType,
        default=False,
        title="Respect approval",
        description="Whether opt-ins wait for approval (`pending_approval`) rather than being sent "
        "as confirmed. Set it where Didomi asks people to confirm what they chose. Opt-outs always "
        "count at once.",
    ),
    th.Property(
        "delegate",
        th.StringType,
        default="actito",
        title="Delegate",
        description="Id of the delegate of events that name none. target-actito must skip it: see "
        "its `skip_delegates`.",
    ),
    th.Property(
        "max_concurrency",
        th.IntegerType(minimum=1, maximum=50),
        default=8,
        title="Calls at once",
        description="Most calls at the same time.",
    ),
    *RETRY_SETTINGS,
    *target_settings("didomi-rejects.jsonl"),
).to_dict()

GROUPS = [list(REQUIRED)]
"""Settings that are complete together."""


@dataclass(frozen=True)
class Settings:
    """The settings, checked and typed. Units as in their descriptions."""

    api_key: str
    api_secret: str
    organization_id: str
    api_url: str
    regulation: str
    create_users: bool
    respect_approval: bool
    delegate: str
    max_concurrency: int
    request_timeout: float
    retry: RetryPolicy


def find_problems(config: dict[str, Any]) -> list[str]:
    """Check settings beyond what a JSON schema can say; a line a problem."""
    problems = [
        f"{name} is missing. Set {name}, or TARGET_DIDOMI_{name.upper()} in the environment."
        for name in missing_settings(config)
    ]
    if not str(config["api_url"]).startswith(("http://", "https://")):
        problems.append("api_url must begin with https:// (or http:// for a sandbox).")
    return problems


def read_settings(config: dict[str, Any]) -> Settings:
    """Turn checked settings into typed ones."""
    return Settings(
        api_key=config["api_key"],
        api_secret=config["api_secret"],
        organization_id=config["organization_id"],
        api_url=config["api_url"],
        regulation=config["regulation"],
        create_users=config["create_users"],
        respect_approval=config["respect_approval"],
        delegate=config["delegate"],
        max_concurrency=config["max_concurrency"],
        request_timeout=float(config["request_timeout"]),
        retry=read_retry(config),
    )
