"""What a server may send: bounded in size and time, and odd values in it hide nothing else."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actito_didomi.errors import BadInputError, UnavailableError
from actito_didomi.http import ApiSession, Authenticator, ClientSettings, find_url_problem
from actito_didomi.runtime import Runtime
from actito_didomi.tolerant import UNREADABLE

RUNTIME = Runtime()


class NoAuthenticator(Authenticator):
    """One token for all."""

    def fetch(self, session: ApiSession) -> tuple[object, float]:
        del session
        return "token", 900.0


@contextlib.contextmanager
def serving(parts: list[bytes], pause: float = 0.0) -> Iterator[str]:
    """Serve one body, part by part."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(sum(map(len, parts))))
            self.end_headers()
            with contextlib.suppress(OSError):
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()
                    time.sleep(pause)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(url: str, **client: Any) -> Any:
    session = ApiSession(
        url,
        authenticator=NoAuthenticator(RUNTIME),
        api="Actito",
        max_concurrency=1,
        client=ClientSettings(**{"retry_tries": 1, "retry_seconds": 0, **client}),
        stop=RUNTIME.event(),
        runtime=RUNTIME,
    )
    return session.request("GET", "/x").body


def test_rule_12_an_odd_value_in_a_response_hides_nothing_else() -> None:
    """It is marked."""
    with serving([b'{"profiles":[{"a":"\xff"},{"b":NaN},{"c":1}]}']) as url:
        assert get(url) == {"profiles": [{"a": UNREADABLE}, {"b": UNREADABLE}, {"c": 1}]}


def test_a_response_may_come_in_parts() -> None:
    """Whole in the end."""
    with serving([b'{"a":', b"[" + b"1," * 100_000, b"2]}"], pause=0.02) as url:
        assert len(get(url)["a"]) == 100_001


def test_a_large_response_is_not_read_on() -> None:
    """`max_response_bytes` bounds the memory; the message says what to do."""
    body = b'"' + b"x" * 100_000 + b'"'
    with serving([body]) as url, pytest.raises(BadInputError, match="larger than 50,000 bytes"):
        get(url, max_response_bytes=50_000)


def test_a_response_that_trickles_in_ends_with_the_call_timeout() -> None:
    """However short its pauses are."""
    began = time.monotonic()
    with serving([b" "] * 100, pause=0.1) as url:
        with pytest.raises(UnavailableError, match="call_timeout"):
            get(url, call_timeout=0.5)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://api.example", None),
        ("http://127.0.0.1:8700/x", None),
        ("http://localhost/x", None),
        ("http://[::1]:1/x", None),
        ("http://api.example", "in clear"),
        ("http://10.0.0.1", "in clear"),
        ("http://localhost.example", "in clear"),
        ("https://user:secret@api.example", "must hold no user"),
        ("https://api.example?key=x", "must hold no user"),
        ("ftp://api.example", "must begin with https://"),
        ("https://", "name a host"),
    ],
)
def test_keys_are_not_sent_in_clear(url: str, problem: str | None) -> None:
    """Unless `allow_insecure` says that the way is safe."""
    found = find_url_problem(url, allow_insecure=False)
    assert found is None if problem is None else problem in str(found)
    assert "secret" not in str(found)
    if problem == "in clear":
        assert find_url_problem(url, allow_insecure=True) is None


def test_a_host_that_never_responds_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its name and the setting, whatever patience is set for outages later on."""
    monkeypatch.setattr("actito_didomi.http._START_PATIENCE", 0.2)
    with serving([b"{}"]) as url:
        pass  # nobody serves the port any more
    client = {"retry_tries": 5, "retry_seconds": 300.0, "retry_max_wait": 0.1}
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"can't be reached at 127\.0\.0\.1.*`api_url`"):
        get(url, **client)
    assert time.monotonic() - began < 5
