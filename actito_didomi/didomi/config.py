"""Settings on the Didomi organisation, the same for every plugin that calls Didomi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singer_sdk import typing as th

from actito_didomi.didomi.session import API_URL

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUIRED = ("api_key", "api_secret", "organization_id")
_SECRETS = ("api_key", "api_secret")


def organization_settings(*, required: str, regulation: str) -> tuple[th.Property[Any], ...]:
    """Describe the settings.

    Args:
        required: Says when the required ones are, such as "Required."
        regulation: What the regulation decides.
    """
    return (
        th.Property(
            "api_key",
            th.StringType,
            secret=True,
            title="API key",
            description=f"Private API key of the Didomi organisation. {required}",
        ),
        th.Property(
            "api_secret",
            th.StringType,
            secret=True,
            title="API secret",
            description=f"Secret of the API key. {required}",
        ),
        th.Property(
            "organization_id",
            th.StringType,
            title="Organisation",
            description=f"Id of the Didomi organisation. {required}",
        ),
        th.Property(
            "api_url",
            th.StringType,
            default=API_URL,
            title="API address",
            description="Address of the API; for the sandbox, `http://127.0.0.1:8700/didomi/v1`.",
        ),
        th.Property(
            "regulation",
            th.StringType,
            default="gdpr",
            title="Regulation",
            description=regulation,
        ),
    )


def missing_settings(config: Mapping[str, Any]) -> list[str]:
    """List the required settings that aren't there."""
    return [name for name in REQUIRED if not config.get(name)]


def secrets_of(config: Mapping[str, Any]) -> list[str]:
    """Collect the texts that must never be shown."""
    return [str(config[name]) for name in _SECRETS if config.get(name)]
