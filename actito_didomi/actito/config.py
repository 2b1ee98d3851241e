"""Settings on the Actito account, the same for every plugin that calls Actito."""

from __future__ import annotations

import zoneinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from singer_sdk import typing as th

from actito_didomi.actito.session import ENVIRONMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUIRED = {
    "api_key": "the key of an Actito API user with access to profiles",
    "entity_id": "the name of the Actito entity",
    "table_name": "the name or id of the profile table",
    "user_unique_key": "the unique attribute that holds Didomi's organization_user_id",
}


def account_settings(elsewhere: str = "") -> tuple[th.Property[Any], ...]:
    """Describe the settings.

    Args:
        elsewhere: Where else the required ones may stand, such as ", in x or y".
    """
    required = f"Required{elsewhere}."
    return (
        th.Property(
            "api_key",
            th.StringType,
            secret=True,
            title="API key",
            description=f"Key of an Actito API user. {required}",
        ),
        th.Property(
            "environment",
            th.StringType,
            default="env0",
            allowed_values=list(ENVIRONMENTS),
            title="Environment",
            description="The Actito environment that the licence lives on; it is shown next to the "
            "key in Actito.",
        ),
        th.Property(
            "api_url",
            th.StringType,
            title="API address",
            description="Address of the API, in place of `environment`; for the sandbox, "
            "`http://127.0.0.1:8700/actito`.",
        ),
        th.Property(
            "entity_id",
            th.StringType,
            title="Entity",
            description=f"Name of the entity. {required}",
        ),
        th.Property(
            "table_name",
            th.StringType,
            title="Profile table",
            description=f"Name or id of the profile table. {required}",
        ),
        th.Property(
            "user_unique_key",
            th.StringType,
            title="Key attribute",
            description="The unique attribute of the table that holds Didomi's "
            f"`organization_user_id`. {required}",
        ),
    )


MAPPING_TYPE = th.ArrayType(
    th.ObjectType(
        th.Property("id", th.StringType, required=True),
        th.Property("value", th.StringType, required=True),
        th.Property("type", th.StringType, allowed_values=["subscription", "attribute"]),
        th.Property("invert", th.BooleanType),
        th.Property("path", th.ArrayType(th.StringType)),
    )
)
TIME_ZONE: th.Property[Any] = th.Property(
    "time_zone",
    th.StringType,
    default="Europe/Brussels",
    title="Time zone",
    description="Time zone of dates and timestamps in Actito, as an IANA name.",
)
CALLS_PER_MINUTE: th.Property[Any] = th.Property(
    "calls_per_minute",
    th.IntegerType(minimum=1),
    default=100,
    title="Calls a minute",
    description="Most calls in any minute; Actito slows down beyond 100.",
)


def base_url(config: Mapping[str, Any]) -> str:
    """Give the address of the API."""
    return str(config.get("api_url") or ENVIRONMENTS[config["environment"]])


def find_account_problems(config: Mapping[str, Any]) -> list[str]:
    """Check time zone and address; a line a problem."""
    problems = []
    try:
        ZoneInfo(config["time_zone"])
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        problems.append(
            f"time_zone: {config['time_zone']!r} is no IANA time zone such as Europe/Brussels."
        )
    url = config.get("api_url")
    if url and not str(url).startswith(("http://", "https://")):
        problems.append("api_url must begin with https:// (or http:// for a sandbox).")
    return problems
