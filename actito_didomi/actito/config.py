"""Settings on the Actito account, the same for every plugin that calls Actito."""

from __future__ import annotations

import zoneinfo
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec

from actito_didomi.actito._wire import read_facts
from actito_didomi.errors import SettingsError
from actito_didomi.http import find_url_problem
from actito_didomi.settings import NO_BLANKS, setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actito_didomi.http import ClientSettings

Environment = Literal["env0", "env1", "env3", "preprod"]
ENVIRONMENTS: Mapping[Environment, str] = {
    "env0": "https://api.actito.com",
    "env1": "https://api1.actito.com",
    "env3": "https://api3.actito.com",
    "preprod": "https://api-pre1.actito.com",
}
"""Hosts by environment (documented); a licence lives on one of them."""


class ActitoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on the Actito account."""

    api_key: Annotated[
        str,
        setting(
            "API key",
            "Key of an Actito API user with access to profiles. Required, here or in `connector`.",
            secret=True,
            pattern=NO_BLANKS,
        ),
    ] = ""
    environment: Annotated[
        Environment,
        setting(
            "Environment",
            "Actito environment of the licence; Actito shows it next to the key.",
        ),
    ] = "env0"
    api_url: Annotated[
        str,
        setting(
            "API address",
            "Address of the API, instead of `environment`; for the sandbox, "
            "`http://127.0.0.1:8700/actito`.",
            advanced=True,
        ),
    ] = ""
    entity_id: Annotated[
        str, setting("Entity", "Name of the entity. Required, here or in `connector`.")
    ] = ""
    table_name: Annotated[
        str,
        setting(
            "Profile table", "Name or id of the profile table. Required, here or in `connector`."
        ),
    ] = ""
    user_unique_key: Annotated[
        str,
        setting(
            "Key attribute",
            "Unique attribute of the table that holds Didomi's `organization_user_id`. Required, "
            "here or in `connector`.",
        ),
    ] = ""
    time_zone: Annotated[
        str,
        setting("Time zone", "Time zone of dates and timestamps in Actito, as an IANA name."),
    ] = "Europe/Brussels"
    calls_per_minute: Annotated[
        int,
        setting(
            "Maximum requests per minute",
            "Maximum number of requests in any minute. Actito slows down beyond 100.",
            advanced=True,
            ge=1,
        ),
    ] = 100

    facts_path: Annotated[
        str,
        setting(
            "Facts file",
            "JSON file of what differs in the form of Actito's requests and responses, such as "
            "the names of fields: much of it is undocumented. See the reference of facts.",
            advanced=True,
        ),
    ] = ""

    @property
    def base_url(self) -> str:
        """Address of the API."""
        return self.api_url or ENVIRONMENTS[self.environment]

    @property
    def zone(self) -> ZoneInfo:
        """Time zone of dates and timestamps in Actito."""
        return ZoneInfo(self.time_zone)


REQUIRED: Mapping[str, str] = {
    "api_key": "the key of an Actito API user with access to profiles",
    "entity_id": "the name of the Actito entity",
    "table_name": "the name or id of the profile table",
    "user_unique_key": "the unique attribute that holds Didomi's organization_user_id",
}
"""What the required settings hold, for messages."""


def missing_settings(settings: ActitoSettings) -> list[str]:
    """Return the names of the required settings that are not set."""
    return [name for name in REQUIRED if not getattr(settings, name)]


def find_account_problems(settings: ActitoSettings, client: ClientSettings) -> list[str]:
    """Check time zone, address and facts; return one line per problem."""
    problems = []
    try:
        _ = settings.zone
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        problems.append(
            f"time_zone: {settings.time_zone!r} is not an IANA time zone such as Europe/Brussels."
        )
    if problem := find_url_problem(settings.base_url, allow_insecure=client.allow_insecure):
        problems.append(problem)
    try:
        read_facts(settings.facts_path)
    except SettingsError as error:
        problems.append(error.message)
    return problems
