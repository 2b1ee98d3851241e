"""Settings on the Didomi organisation, the same for every plugin that calls Didomi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from actito_didomi.http import find_url_problem
from actito_didomi.settings import NO_BLANKS, setting

if TYPE_CHECKING:
    from actito_didomi.http import ClientSettings

API_URL = "https://api.didomi.io/v1"
REQUIRED = ("api_key", "api_secret", "organization_id")
"""Settings without which the API can't be called."""


class DidomiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on the Didomi organisation."""

    api_key: Annotated[
        str,
        setting(
            "API key",
            "Private API key of the Didomi organisation. Required for requests to the API.",
            secret=True,
            pattern=NO_BLANKS,
        ),
    ] = ""
    api_secret: Annotated[
        str,
        setting(
            "API secret",
            "Secret of the API key. Required for requests to the API.",
            secret=True,
            pattern=NO_BLANKS,
        ),
    ] = ""
    organization_id: Annotated[
        str,
        setting("Organisation", "Id of the Didomi organisation. Required for requests to the API."),
    ] = ""
    api_url: Annotated[
        str,
        setting(
            "API address",
            "Address of the API; for the sandbox, `http://127.0.0.1:8700/didomi/v1`.",
            advanced=True,
        ),
    ] = API_URL
    regulation: Annotated[
        str,
        setting(
            "Regulation",
            "Regulation whose consents are synced; records of any other are counted and skipped. "
            "Batch exports hold `gdpr` only.",
            advanced=True,
        ),
    ] = "gdpr"

    @property
    def regulation_id(self) -> str:
        """The regulation as Didomi writes it, in small letters."""
        return self.regulation.strip().lower()


def missing_settings(settings: DidomiSettings) -> list[str]:
    """Return the names of the required settings that are not set."""
    return [name for name in REQUIRED if not getattr(settings, name)]


def find_organization_problems(settings: DidomiSettings, client: ClientSettings) -> list[str]:
    """Check the address; return one line per problem."""
    problem = find_url_problem(settings.api_url, allow_insecure=client.allow_insecure)
    return [problem] if problem else []
