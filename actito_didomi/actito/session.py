"""Session with Actito: the key is exchanged for a token that lives 15 minutes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from actito_didomi.actito._wire import FACTS, read_facts
from actito_didomi.http import ApiSession, Authenticator
from actito_didomi.privacy import shape_of

if TYPE_CHECKING:
    from actito_didomi.actito.config import ActitoSettings
    from actito_didomi.http import ClientSettings, RequestLimits
    from actito_didomi.runtime import Event, Runtime

_DEFAULT_LIFETIME = 900.0
_EARLY = 60.0
"""Seconds before its end at which a token is renewed, or a fifth of its life if that is less."""


class _KeyAuthenticator(Authenticator):
    """Exchange the API key for a token."""

    def __init__(self, api_key: str, runtime: Runtime) -> None:
        super().__init__(runtime, api_key)
        self._api_key = api_key

    def fetch(self, session: ApiSession) -> tuple[object, float]:
        response = session.request("GET", "/auth/token", headers={"Authorization": self._api_key})
        body = response.body if isinstance(response.body, dict) else {}
        lifetime = read_lifetime(body.get("expiresIn"))
        return body.get("accessToken"), lifetime - min(_EARLY, lifetime / 5)


def read_lifetime(expires_in: object) -> float:
    """Read the token's `expiresIn`, documented as a text with a unit (`"900s"`).

    Returns:
        Seconds; 900 when the field is absent or unreadable.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*", str(expires_in))
    if not found:
        return _DEFAULT_LIFETIME
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2] or "s"]


class ActitoSession(ApiSession):
    """A session with Actito.

    Attributes:
        facts: What is known about the form of requests and responses.
    """

    facts = FACTS


def unexpected(what: str, expected: str, body: Any) -> str:
    """Return what to say of a response of an unexpected form: its names, never its values.

    Args:
        what: What the response is about.
        expected: What it must be.
        body: The response.
    """
    return (
        f"Actito's response about {what} must be {expected}, and is {shape_of(body)}. Check "
        "`api_url` or `environment`, and what stands between Actito and this machine. If Actito "
        "has other names, set `facts_path`."
    )


def open_session(
    actito: ActitoSettings,
    client: ClientSettings,
    *,
    max_concurrency: int,
    stop: Event,
    runtime: Runtime,
    limits: RequestLimits | None = None,
) -> ActitoSession:
    """Open a session with Actito; no request is made yet.

    Args:
        actito: Address, key, facts, and requests per minute (documented limit: 100).
        client: Timeout and retries; throttling shows as slowness.
        max_concurrency: Documented limit: 5.
        stop: Set to end all waiting at once.
        runtime: Clock and transport.
        limits: Both limits, shared with other processes: `Ledger.share_limits`.

    Raises:
        SettingsError: The file of facts can't be read any more.
    """
    session = ActitoSession(
        actito.base_url,
        authenticator=_KeyAuthenticator(actito.api_key, runtime),
        api="Actito",
        address_setting="`api_url`" if actito.api_url else f"`environment` ({actito.environment})",
        max_concurrency=max_concurrency,
        calls_per_minute=actito.calls_per_minute,
        limits=limits,
        client=client,
        stop=stop,
        runtime=runtime,
    )
    session.facts = read_facts(actito.facts_path)
    return session
