"""Session with Didomi: key and secret are exchanged for a token that lives an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actito_didomi.errors import AuthenticationError, RequestRejectedError
from actito_didomi.http import ApiSession, Authenticator

if TYPE_CHECKING:
    from actito_didomi.didomi.config import DidomiSettings
    from actito_didomi.http import ClientSettings
    from actito_didomi.runtime import Event, Runtime

_RENEW_AFTER = 50 * 60.0
"""Seconds; a token lives 60 minutes (documented), and Didomi asks to reuse it."""
_BAD_REQUEST = 400


class _SecretAuthenticator(Authenticator):
    """Exchange key and secret for a token."""

    def __init__(self, api_key: str, api_secret: str, runtime: Runtime) -> None:
        super().__init__(runtime, api_key, api_secret)
        self._credentials = {"type": "api-key", "key": api_key, "secret": api_secret}

    def fetch(self, session: ApiSession) -> tuple[object, float]:
        try:
            response = session.request("POST", "/sessions", json=self._credentials, headers={})
        except RequestRejectedError as error:
            if error.status != _BAD_REQUEST:
                raise
            raise AuthenticationError(
                "Didomi refuses api_key and api_secret. Create a pair in its console under "
                "Settings > Private API keys, in the right organisation."
            ) from None
        body = response.body if isinstance(response.body, dict) else {}
        return body.get("access_token"), _RENEW_AFTER


def open_session(
    didomi: DidomiSettings,
    client: ClientSettings,
    *,
    max_concurrency: int = 1,
    stop: Event,
    runtime: Runtime,
) -> ApiSession:
    """Open a session with Didomi; no request is made yet.

    Args:
        didomi: Address, key and secret.
        client: Timeout and retries.
        max_concurrency: Concurrent requests; Didomi sets no limit on `/consents/*`, so stay
            moderate.
        stop: Set to end all waiting at once.
        runtime: Clock and transport.
    """
    return ApiSession(
        didomi.api_url,
        authenticator=_SecretAuthenticator(didomi.api_key, didomi.api_secret, runtime),
        api="Didomi",
        key_settings="`api_key` and `api_secret`",
        max_concurrency=max_concurrency,
        client=client,
        stop=stop,
        runtime=runtime,
    )
