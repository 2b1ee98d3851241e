"""A server between a plugin and the sandbox, which answers by a rule of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

Answer = tuple[int, Any]
"""Status and body: bytes go out as a page of HTML, anything else as JSON."""
Ask = Callable[..., Answer]
"""Asks the sandbox, with a body and, if it differs, a path."""
Rule = Callable[[str, str, Any, Ask], Answer]
"""Answers a request: method, path with its query, body, and what asks the sandbox."""


def pass_on(_method: str, _path: str, body: Any, ask: Ask) -> Answer:
    """Answer as the sandbox does."""
    return ask(body)


class Between:
    """A server between the plugin and the sandbox, which answers by a rule of the test.

    Args:
        url: Address of the sandbox.
        about: Part of the paths that the rule is asked about.
    """

    def __init__(self, url: str, about: str) -> None:
        self.rule: Rule = pass_on
        self.posts: list[Any] = []
        self.reads = 0
        self._lock = threading.Lock()
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _respond(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length)
                is_json = "json" in self.headers.get("Content-Type", "")
                body: Any = json.loads(sent) if is_json and sent else sent or None
                headers = {
                    name: self.headers[name]
                    for name in ("Authorization", "Content-Type")
                    if name in self.headers
                }

                def ask(found: Any, path: str = self.path) -> Answer:
                    data = found if isinstance(found, bytes) else None
                    answer = requests.request(
                        self.command,
                        url + path,
                        data=data,
                        json=None if data is not None else found,
                        headers=headers,
                        timeout=30,
                    )
                    return answer.status_code, answer.json() if answer.content else None

                if about in self.path:
                    with between._lock:
                        between.reads += self.command == "GET"
                        if self.command == "POST":
                            between.posts.append(body)
                    status, found = between.rule(self.command, self.path, body, ask)
                else:
                    status, found = ask(body)
                raw = found if isinstance(found, bytes) else json.dumps(found).encode()
                kind = "text/html" if isinstance(found, bytes) else "application/json"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_PATCH = _respond  # noqa: N815 - names of the library

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        pause = {"poll_interval": 0.01}
        threading.Thread(target=self._server.serve_forever, kwargs=pause, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
