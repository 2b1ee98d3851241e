"""Session with Actito: the key is exchanged for a token that lives 15 minutes."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

from actito_didomi import privacy
from actito_didomi.errors import AuthenticationError
from actito_didomi.http import ApiSession, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class _KeyAuthenticator:
    """Turns the API key into a bearer token, and keeps one for all threads."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._lock = threading.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        privacy.protect([api_key])

    def headers(self, session: ApiSession) -> dict[str, str]:
        with self._lock:
            if self._token is None or time.monotonic() >= self._renew_at:
                self._fetch(session)
            return {"Authorization": f"Bearer {self._token}"}

    def expire(self, headers: dict[str, str]) -> None:
        with self._lock:
            # Another thread may have renewed it already: its new token must stay.
            if headers.get("Authorization") == f"Bearer {self._token}":
                self._token = None

    def _fetch(self, session: ApiSession) -> None:
        asked_at = time.monotonic()
        answer = session.request(
            "GET", "/auth/token", route="/auth/token", headers={"Authorization": self._api_key}
        )
        body = answer.body if isinstance(answer.body, dict) else {}
        token = body.get("accessToken")
        if not isinstance(token, str) or not token:
            raise AuthenticationError(
                "Actito's answer to GET /auth/token holds no accessToken. Check `api_url`."
            )
        privacy.protect([token])
        lifetime = read_lifetime(body.get("expiresIn"))
        self._token = token
        self._renew_at = asked_at + lifetime - min(_EARLY, lifetime / 5)


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
    stop: threading.Event,
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
    """
    return ApiSession(
        base_url,
        authenticator=_KeyAuthenticator(api_key),
        api="Actito",
        max_concurrency=max_concurrency,
        calls_per_minute=calls_per_minute,
        timeout=timeout,
        retry=retry,
        stop=stop,
    )
