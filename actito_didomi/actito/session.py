"""Session with Actito: the key is exchanged for a token that lives 15 minutes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from actito_didomi.http import ApiSession, Authenticator, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actito_didomi.runtime import Event, Runtime

ENVIRONMENTS: Mapping[str, str] = {
    "env0": "https://api.actito.com",
    "env1": "https://api1.actito.com",
    "env3": "https://api3.actito.com",
    "preprod": "https://api-pre1.actito.com",
}
"""Hosts by environment (documented); a licence lives on one of them."""

_DEFAULT_LIFETIME = 900.0
_EARLY = 60.0
"""Seconds before its end at which a token is renewed, or a fifth of its life if that is less."""


class _KeyAuthenticator(Authenticator):
    """Turns the API key into a token."""

    def __init__(self, api_key: str, runtime: Runtime) -> None:
        super().__init__(runtime, api_key)
        self._api_key = api_key

    def fetch(self, session: ApiSession) -> tuple[object, float]:
        answer = session.request(
            "GET", "/auth/token", route="/auth/token", headers={"Authorization": self._api_key}
        )
        body = answer.body if isinstance(answer.body, dict) else {}
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


def open_session(
    api_key: str,
    *,
    base_url: str,
    calls_per_minute: int,
    max_concurrency: int,
    timeout: float,
    retry: RetryPolicy,
    stop: Event,
    runtime: Runtime,
) -> ApiSession:
    """Open a session with Actito; no call is made yet.

    Args:
        api_key: The raw key of an API user.
        base_url: One of `ENVIRONMENTS`, or another host.
        calls_per_minute: Documented limit: 100.
        max_concurrency: Documented limit: 5.
        timeout: Seconds; throttling shows as slowness.
        retry: When to give up.
        stop: Set to end all waiting at once.
        runtime: Clock and transport.
    """
    return ApiSession(
        base_url,
        authenticator=_KeyAuthenticator(api_key, runtime),
        api="Actito",
        max_concurrency=max_concurrency,
        calls_per_minute=calls_per_minute,
        timeout=timeout,
        retry=retry,
        stop=stop,
        runtime=runtime,
    )
