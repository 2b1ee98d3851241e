"""One HTTP session for both APIs: a request budget, retries, and an action for each status.

The action for a status stands in a table (`ACTIONS`), not in a chain of conditions. The path of a
request may name a person, so only its `route` (the path with placeholders) is ever printed.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import ipaddress
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, cast
from urllib.parse import quote, urlsplit

import msgspec
import requests
import tenacity
from msgspec import structs
from pyrate_limiter import InMemoryBucket, Rate, RateItem
from requests_toolbelt import MultipartEncoder
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util.retry import Retry

from actito_didomi import codes, privacy
from actito_didomi.clocks import ServerClock, to_server_time
from actito_didomi.errors import (
    ApiError,
    AuthenticationError,
    BadInputError,
    RequestRejectedError,
    StoppedError,
    UnavailableError,
)
from actito_didomi.reasons import reason_of, with_reason
from actito_didomi.request_metrics import RequestMetrics
from actito_didomi.settings import setting
from actito_didomi.tolerant import decode_tolerantly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from actito_didomi.runtime import Event, Runtime

    Parts = Mapping[str, tuple[str, Any, str]]

logger = logging.getLogger(__name__)

_BODY_LIMIT = 2_000
_CHUNK = 1 << 16
_PATIENCE = 60.0
"""Seconds that `Retry-After` may always ask for; a longer wait must fit into `retry_seconds`."""
_START_PATIENCE = 20.0
"""Seconds to try to reach a host that has never responded: its name is probably wrong."""
_CONNECT = 5.0
"""Longest time for the first connection, in seconds."""
_WINDOW_MS = 60_500
"""A little over a minute: the server counts a request on arrival, we count it when it is sent."""


class Action(enum.Enum):
    """What to do with a response."""

    SUCCESS = enum.auto()
    REAUTHENTICATE = enum.auto()
    RETRY = enum.auto()
    REFUSE = enum.auto()


ACTIONS: Mapping[int, Action] = {
    401: Action.REAUTHENTICATE,
    408: Action.RETRY,
    425: Action.RETRY,
    429: Action.RETRY,
}
"""By status. Any other 2xx is a success, any 5xx but 501 is retried, everything else is final.

501 is final since the server doesn't support the method.
"""


def action_for(status: int) -> Action:
    """Return what to do with an HTTP status."""
    if known := ACTIONS.get(status):
        return known
    if 200 <= status < 300:  # noqa: PLR2004
        return Action.SUCCESS
    if status >= 500 and status != 501:  # noqa: PLR2004
        return Action.RETRY
    return Action.REFUSE


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on requests, the same for every plugin that calls an API."""

    request_timeout: Annotated[
        float,
        setting(
            "Request timeout (s)",
            "Maximum time to wait for a response, in seconds. An API may throttle by responding "
            "slowly.",
            advanced=True,
            gt=0,
        ),
    ] = 60
    allow_insecure: Annotated[
        bool,
        setting(
            "Allow insecure connections",
            "Whether `api_url` may be an `http://` address of another machine, to which keys and "
            "personal data are sent in clear.",
            advanced=True,
        ),
    ] = False
    call_timeout: Annotated[
        float,
        setting(
            "Call timeout (s)",
            "Maximum time for a whole request, in seconds: also for a response that trickles in.",
            advanced=True,
            gt=0,
        ),
    ] = 600
    max_response_bytes: Annotated[
        int,
        setting(
            "Maximum response (bytes)",
            "Largest response that is read, in bytes after decompression.",
            advanced=True,
            ge=1024,
        ),
    ] = 64 << 20
    retry_tries: Annotated[
        int,
        setting(
            "Minimum attempts",
            "Minimum number of attempts before a request fails.",
            advanced=True,
            ge=1,
        ),
    ] = 5
    retry_seconds: Annotated[
        float,
        setting(
            "Minimum retry time (s)",
            "Minimum time to keep retrying, in seconds. A request fails only once `retry_tries` "
            "and this are both used up.",
            advanced=True,
            ge=0,
        ),
    ] = 300
    retry_max_wait: Annotated[
        float,
        setting(
            "Maximum pause (s)",
            "Maximum pause between two attempts, in seconds. Pauses double from one second.",
            advanced=True,
            gt=0,
        ),
    ] = 60


def find_url_problem(url: str, *, allow_insecure: bool) -> str | None:
    """Return what is wrong with the setting `api_url`; None if nothing is.

    Args:
        url: The address.
        allow_insecure: Whether keys may be sent in clear to another machine.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "api_url must begin with https:// (or http:// for a sandbox), and name a host."
    if parts.username or parts.password or parts.query:
        return "api_url must hold no user, password or query; set api_key instead."
    if parts.scheme == "https" or allow_insecure or is_loopback(parts.hostname):
        return None
    return (
        f"api_url: http:// to {parts.hostname} would send the key in clear. Use https://, or set "
        "`allow_insecure` if the way there is safe."
    )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Response:
    """A successful response.

    Attributes:
        status: HTTP status, 2xx.
        body: Decoded JSON, or None where there was none.
    """

    status: int
    body: Any


class _Received(NamedTuple):
    """A response as it came."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass
class RequestCount:
    """How many requests were sent, and how many of them repeated an earlier one."""

    calls: int = 0
    retries: int = 0

    def add(self, *, retry: bool) -> None:
        """Count one request; the caller holds a lock."""
        self.calls += 1
        self.retries += retry


class RequestLimits(Protocol):
    """Limits that several processes share."""

    def begin(self) -> bool:
        """Begin a request if the limits allow it now; each that begins must end."""

    def end(self) -> None:
        """End a request."""


class Authenticator(abc.ABC):
    """Keeps one bearer token for all threads, and renews it before its end.

    Args:
        runtime: Clock and lock.
        secrets: What must never be shown in a log.
    """

    def __init__(self, runtime: Runtime, *secrets: str) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self._token: str | None = None
        self._renew_at = 0.0
        privacy.protect(secrets)

    @abc.abstractmethod
    def fetch(self, session: ApiSession) -> tuple[object, float]:
        """Request a token.

        Returns:
            The token, and for how many seconds to use it.
        """

    def headers(self, session: ApiSession) -> dict[str, str]:
        """Return the headers of the next request; renew the token if needed.

        Raises:
            AuthenticationError: The response holds no token.
        """
        with self._lock:
            if self._token is None or self._runtime.monotonic() >= self._renew_at:
                asked_at = self._runtime.monotonic()
                token, use_for = self.fetch(session)
                if not isinstance(token, str) or not token:
                    raise AuthenticationError(
                        f"The response of {session.api} holds no token. Check `api_url`."
                    )
                privacy.protect([token])
                self._token, self._renew_at = token, asked_at + use_for
            return {"Authorization": f"Bearer {self._token}"}

    def expire(self, headers: dict[str, str]) -> None:
        """Discard the token in these headers, which the server refused."""
        with self._lock:
            # Another thread may have renewed it already: its new token must stay.
            if headers.get("Authorization") == f"Bearer {self._token}":
                self._token = None


class _RetryError(Exception):
    """An attempt that failed and is worth repeating."""

    def __init__(
        self, reason: str, retry_after: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.status = status


def fill_route(route: str, values: Mapping[str, str]) -> str:
    """Return the path of a route: each value is percent-encoded as a whole, `/` included.

    Raises:
        KeyError: A placeholder has no value.
    """
    return route.format_map({name: quote(value, safe="") for name, value in values.items()})


class _ServerRuntime:
    """A runtime with another clock."""

    def __init__(self, runtime: Runtime, now: Callable[[], datetime]) -> None:
        self._runtime = runtime
        self.now = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


class ApiSession:
    """Requests to one API, from any number of threads.

    Args:
        base_url: Address that paths are appended to.
        authenticator: Supplies the headers of requests.
        api: Name of the API for messages.
        max_concurrency: Connections kept open; callers limit their number of threads to it.
        calls_per_minute: Maximum requests in any minute, retries included; None for no limit.
        limits: Limits shared with other processes, in place of `calls_per_minute`.
        client: Timeout and retries. Actito slows down rather than refuse, hence a long timeout.
        stop: Set to end all waiting at once.
        runtime: Clock and transport.
        address_setting: What the address comes from, for messages.
        key_settings: What the credentials come from, for messages.

    Attributes:
        read_only: Whether requests that could change anything fail; those for tokens don't.
        waits_since: Since when requests wait for the limit, by the runtime's monotonic clock; None
            while they don't.
    """

    def __init__(
        self,
        base_url: str,
        *,
        authenticator: Authenticator,
        api: str,
        address_setting: str = "`api_url`",
        key_settings: str = "`api_key`",
        max_concurrency: int,
        calls_per_minute: int | None = None,
        limits: RequestLimits | None = None,
        client: ClientSettings,
        stop: Event,
        runtime: Runtime,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.api = api
        self._address_setting = address_setting
        self._key_settings = key_settings
        self.count = RequestCount()
        self._metrics = RequestMetrics(runtime)
        self.read_only = False
        self.waits_since: float | None = None
        self._clock = ServerClock()
        self._warned = False
        self._was_reached = False
        self._authenticator = authenticator
        self._client = client
        self._stop = stop
        self._runtime = runtime
        self._lock = runtime.lock()
        self._limits = limits
        self._budget: InMemoryBucket | None = None
        if calls_per_minute and limits is None:
            self._budget = InMemoryBucket([Rate(calls_per_minute, _WINDOW_MS)])
        self._http = requests.Session()
        # Proxies and certificates of the environment count; a .netrc must not replace our headers.
        self._http.auth = lambda request: request
        adapter = runtime.adapter(max_concurrency)
        self._http.mount("http://", adapter)
        self._http.mount("https://", adapter)
        privacy.install()

    @property
    def skew(self) -> float:
        """Seconds that the API's clock is ahead of ours, by the `Date` of its responses.

        0 before the first response, and where the clocks differ by less than two seconds.
        """
        return self._clock.skew

    def log_metrics(self) -> None:
        """Log the SDK's metrics of the requests since they were last logged."""
        with self._lock:
            self._metrics.log()

    def now(self) -> datetime:
        """Return the present time by the API's clock; aware of its zone."""
        return to_server_time(self._runtime.now(), self.skew)

    @property
    def runtime(self) -> Runtime:
        """The runtime with the API's clock, for all timestamps that are compared with the API's.

        Use it once some requests have shown what that clock is; times by two clocks must not be
        mixed.
        """
        return cast("Runtime", _ServerRuntime(self._runtime, self.now))

    def _check_may_send(self, method: str, call: str, *, is_for_token: bool) -> None:
        """Check that a request changes nothing, where nothing is to be changed.

        Raises:
            ApiError: It may change something.
        """
        if self.read_only and method != "GET" and not is_for_token:
            raise ApiError(
                codes.REQUEST_REFUSED,
                f"dry_run: {call} is not sent to {self.api}, since it could change something. "
                "Report this: a dry run should not have come to it.",
            )

    def request(
        self,
        method: str,
        route: str,
        values: Mapping[str, str] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        parts: Callable[[], Parts] | None = None,
        headers: dict[str, str] | None = None,
        once: bool = False,
        patience: float | None = None,
    ) -> Response:
        """Send a request, and retry while that makes sense.

        Args:
            method: HTTP method.
            route: Path below `base_url`, with placeholders such as `{table}`. Messages show it as
                it is, so whatever names a person must be a placeholder.
            values: Values of the placeholders; percent-encoded here.
            params: Query parameters.
            json: Body.
            parts: Makes the parts of a `multipart/form-data` body for each attempt: by name, what
                `requests` accepts as a file. Open files are streamed.
            headers: Headers in place of the authenticator's.
            once: Do not retry if it may have been carried out or was refused temporarily; only a
                refused token is renewed.
            patience: Seconds to wait for a response, retries included, instead of those of the
                settings.

        Raises:
            AuthenticationError: The credentials are refused, twice.
            RequestRejectedError: This request is refused for good.
            UnavailableError: No usable response after all attempts.
            StoppedError: The process is shutting down.
        """
        call = f"{method} {route}"
        self._check_may_send(method, call, is_for_token=headers is not None)
        path = fill_route(route, values or {})
        client = self._client
        if patience is not None:
            client = structs.replace(
                client,
                request_timeout=min(patience, client.request_timeout),
                retry_tries=1,
                retry_seconds=min(patience, client.retry_seconds),
            )
        renewed = False
        attempts = 0

        def attempt() -> Response:
            nonlocal renewed, attempts
            while True:
                own = headers if headers is not None else self._authenticator.headers(self)
                attempts += 1
                response = self._send(
                    method,
                    path,
                    call,
                    params=params,
                    json=json,
                    parts=parts() if parts else None,
                    headers=own,
                    timeout=client.request_timeout,
                    retry=attempts > 1,
                )
                action = action_for(response.status)
                if action is Action.SUCCESS:
                    return Response(response.status, _decode(response, call))
                if action is Action.RETRY:
                    raise _RetryError(
                        f"status {response.status}",
                        _retry_after(response.headers),
                        response.status,
                    )
                if action is Action.REAUTHENTICATE:
                    if headers is not None or renewed:
                        raise AuthenticationError(
                            f"{self.api} at {urlsplit(self.base_url).hostname} refuses the "
                            f"credentials ({call}: status 401). Check {self._key_settings}, and "
                            f"{self._address_setting}: a key is valid in one environment only, "
                            "until it is revoked or ends."
                        )
                    renewed = True
                    self._authenticator.expire(own)
                    continue
                body = response.content[:_BODY_LIMIT].decode(errors="replace")
                raise RequestRejectedError(
                    with_reason(
                        f"{self.api} refuses {call} with status {response.status}.",
                        privacy.redact(reason_of(body, [json, values, params])),
                    ),
                    status=response.status,
                    body=privacy.redact(body),
                )

        try:
            return attempt() if once else self._retrying(call, client)(attempt)
        except _RetryError as error:
            self._check_stop()
            if not self._was_reached:
                raise UnavailableError(
                    f"{self.api} can't be reached at {urlsplit(self.base_url).hostname}: "
                    f"{error.reason}, {attempts} attempts. Check {self._address_setting}, the "
                    "network and proxies. Nothing is lost."
                ) from None
            raise UnavailableError(
                f"{self.api}: {call} failed after {attempts} attempts: {error.reason}. Nothing is "
                "lost: run again when the API is available.",
                status=error.status,
                retry_after=error.retry_after,
            ) from None

    def _retrying(self, call: str, client: ClientSettings) -> tenacity.Retrying:
        """Return the retry rules; a pause ends at once when the process is to stop."""
        started = self._runtime.monotonic()
        backoff = tenacity.wait_exponential_jitter(
            multiplier=min(1.0, client.retry_max_wait),
            max=client.retry_max_wait,
            jitter=min(1.0, client.retry_max_wait),
        )

        def wait(state: tenacity.RetryCallState) -> float:
            asked = max(_retry_error(state).retry_after or 0.0, backoff(state))
            if self._was_reached:
                return asked
            left = _START_PATIENCE - (self._runtime.monotonic() - started)
            return min(asked, max(left, 0.0))

        def is_enough(state: tenacity.RetryCallState) -> bool:
            elapsed = self._runtime.monotonic() - started
            exhausted = (
                state.attempt_number >= client.retry_tries and elapsed >= client.retry_seconds
            )
            asked = _retry_error(state).retry_after
            unreachable = not self._was_reached and elapsed >= _START_PATIENCE
            impatient = asks_too_long(asked, client)
            return self._stop.is_set() or exhausted or unreachable or impatient

        def announce(state: tenacity.RetryCallState) -> None:
            logger.warning(
                "%s: %s failed: %s. Attempt %d follows in %.1f s.",
                self.api,
                call,
                _retry_error(state).reason,
                state.attempt_number + 1,
                state.next_action.sleep if state.next_action else 0,
            )

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_RetryError),
            wait=wait,
            stop=is_enough,
            sleep=self._pause,
            before_sleep=announce,
            reraise=True,
        )

    def _pause(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError(f"Request to {self.api} cancelled: shutting down.")

    def _take_turn(self) -> None:
        """Wait until the request budget allows one more request."""
        self._check_stop()
        while not self._acquire():
            self.waits_since = self.waits_since or self._runtime.monotonic()
            self._stop.wait(0.05)
            self._check_stop()

    def _acquire(self) -> bool:
        """Use one request of the budget; return False where none is left for now."""
        if self._limits is not None:
            return self._limits.begin()
        if self._budget is None:
            return True
        with self._lock:
            now = int(self._runtime.monotonic() * 1000)
            self._budget.leak(now)
            return bool(self._budget.put(RateItem(self.api, now)))

    def _send(
        self,
        method: str,
        path: str,
        call: str,
        *,
        params: Mapping[str, Any] | None,
        json: Any,
        parts: Parts | None,
        headers: dict[str, str],
        timeout: float,
        retry: bool,
    ) -> _Received:
        body: bytes | MultipartEncoder | None = None
        headers = {"Accept": "application/json", **headers}
        if json is not None:
            body = msgspec.json.encode(json)
            headers["Content-Type"] = "application/json"
        elif parts is not None:
            encoder = MultipartEncoder(parts)
            body, headers["Content-Type"] = encoder, encoder.content_type
        self._take_turn()
        self.waits_since = None
        with self._lock:
            self.count.add(retry=retry)
        started, sent = self._runtime.monotonic(), self._runtime.now()
        status: int | None = None
        try:
            response = self._http.request(
                method,
                self.base_url + path,
                params=params,
                data=body,
                headers=headers,
                timeout=timeout if self._was_reached else (min(timeout, _CONNECT), timeout),
                allow_redirects=False,
                stream=True,
            )
            content = self._read_body(response, call, started)
            status = response.status_code
        except (requests.Timeout, ReadTimeoutError):
            raise _RetryError("timed out") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            # The text of the error holds the address and so a person; its type says enough.
            raise _RetryError(f"connection error ({type(error).__name__})") from None
        finally:
            if self._limits is not None:
                self._limits.end()
            seconds = self._runtime.monotonic() - started
            with self._lock:
                self._metrics.add(call, status, seconds)
        self._compare_clocks(response.headers, sent)
        self._was_reached = True
        logger.debug("%s: %d in %.3f s", call, response.status_code, seconds)
        return _Received(response.status_code, response.headers, content)

    def _read_body(self, response: requests.Response, call: str, started: float) -> bytes:
        """Read the body of a response as it comes, within the limits of size and time.

        Raises:
            BadInputError: It is larger than `max_response_bytes`.
        """
        client, parts, size = self._client, [], 0
        with contextlib.closing(response):
            while part := response.raw.read1(_CHUNK, decode_content=True):
                parts.append(part)
                size += len(part)
                if size > client.max_response_bytes:
                    raise BadInputError(
                        codes.UNEXPECTED_RESPONSE,
                        f"{self.api}: the response to {call} is larger than "
                        f"{client.max_response_bytes:,} bytes. Lower `page_size`, or raise "
                        "`max_response_bytes`.",
                    )
                if self._runtime.monotonic() - started > client.call_timeout:
                    raise _RetryError(
                        f"no whole response within {client.call_timeout:g} s (call_timeout)"
                    )
        return b"".join(parts)

    def _compare_clocks(self, headers: Mapping[str, str], sent: datetime) -> None:
        """Compare the API's clock with ours; log once if they differ widely."""
        received = self._runtime.now()
        with self._lock:
            self._clock.add(headers, sent, received)
            warn = self._clock.is_large and not self._warned
            self._warned = self._warned or warn
        if warn:
            seconds = self._clock.skew
            logger.warning(
                "%s: our clock shows a time %.0f s %s that of %s. Its clock counts; "
                "synchronise the clock of this machine.",
                codes.CLOCK_SKEW,
                abs(seconds),
                "earlier than" if seconds > 0 else "later than",
                self.api,
            )


def _retry_error(state: tenacity.RetryCallState) -> _RetryError:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, _RetryError) else _RetryError("no response")


def _decode(response: _Received, call: str) -> Any:
    """Decode the body of a success; invalid JSON is worth another attempt.

    One odd value in it must not hide all else: it is decoded tolerantly then.
    """
    if not response.content.strip():
        return None
    try:
        return msgspec.json.decode(response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return decode_tolerantly(response.content)
    except ValueError:
        logger.debug("%s: response is not valid JSON", call)
        raise _RetryError("response is not valid JSON") from None


def asks_too_long(asked: float | None, client: ClientSettings) -> bool:
    """Return whether a response asks for a longer wait than there is patience for.

    Args:
        asked: Seconds of its `Retry-After`; None for none.
        client: How long to try.
    """
    return asked is not None and asked > max(client.retry_seconds, _PATIENCE)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After` (seconds or an HTTP date); None where it is absent or unreadable."""
    try:
        return float(Retry().parse_retry_after(headers["Retry-After"]))
    except (KeyError, InvalidHeader):
        return None
