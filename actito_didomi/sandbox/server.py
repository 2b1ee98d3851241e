"""Serves the sandbox on a loopback address."""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import uvicorn

from actito_didomi.sandbox.app import Sandbox
from actito_didomi.sandbox.exports import write_exports
from actito_didomi.sandbox.options import (
    ACTITO_KEY,
    DIDOMI_KEY,
    DIDOMI_SECRET,
    ENTITY,
    LEGACY_ORGANIZATION,
    ORGANIZATION,
    SandboxOptions,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

HOST = "127.0.0.1"


def _config(sandbox: Sandbox) -> uvicorn.Config:
    return uvicorn.Config(
        sandbox.app(),
        log_level="critical",  # requests that are cut off on purpose would be logged as errors
        access_log=False,
        lifespan="off",
        http="httptools",
        ws="none",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )


def _bind_port(port: int) -> socket.socket:
    # With the protocol named, asyncio sends small responses at once; without, each waits for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    return listener


def serve(options: SandboxOptions, port: int, exports: str | None = None) -> None:
    """Print addresses and credentials, and serve until interrupted.

    Args:
        options: Switches and limits.
        port: Port on 127.0.0.1; 0 for any free one.
        exports: Folder to write batch exports of the people to, before serving.

    Raises:
        OSError: The port is in use.
    """
    listener = _bind_port(port)
    if options.people:
        sys.stderr.write(
            f"Creating {options.people:,} people; of 100,000 that takes a minute or two.\n"
        )
        sys.stderr.flush()
    sandbox = Sandbox(options, exports=exports)
    if exports:
        for organization in (ORGANIZATION, LEGACY_ORGANIZATION):
            write_exports(
                sandbox.didomi.consents,
                exports,
                organization=organization,
                export_id=organization,
                pending=options.export_pending,
            )
    listener.listen(128)
    url = f"http://{HOST}:{listener.getsockname()[1]}"
    sys.stderr.write(
        f"Sandbox ready.\n"
        f"  Actito  {url}/actito      api_key {ACTITO_KEY}, entity_id {ENTITY}, "
        f"table_name Profiles, user_unique_key customerId\n"
        f"  Didomi  {url}/didomi/v1   api_key {DIDOMI_KEY}, api_secret {DIDOMI_SECRET}, "
        f"organization_id {ORGANIZATION} or {LEGACY_ORGANIZATION}\n"
        f"  people {options.people}, database {sandbox.database.path}"
        + (f", batch exports in {exports}" if exports else "")
        + "\n"
    )
    sys.stderr.flush()
    try:
        uvicorn.Server(_config(sandbox)).run(sockets=[listener])
    finally:
        sandbox.database.close()


class BackgroundSandbox:
    """A sandbox in a thread of this process, on a free port, for tests.

    Use it as a context manager; `url` is the address of the server. Unless `exports` names a
    folder, it may write batch exports anywhere.
    """

    def __init__(
        self, options: SandboxOptions | None = None, *, exports: str | None = os.sep
    ) -> None:
        self._options = options or SandboxOptions(limits=False)
        self._exports = exports
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._server: uvicorn.Server | None = None
        self._listener = _bind_port(0)
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"

    def _run(self) -> None:
        sandbox = Sandbox(self._options, exports=self._exports)
        self._server = uvicorn.Server(_config(sandbox))
        self._listener.listen(128)
        self._ready.set()
        try:
            self._server.run(sockets=[self._listener])
        finally:
            sandbox.database.close()

    def __enter__(self) -> Self:
        """Start it, and wait until it accepts requests."""
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.ask_to_stop()
        self._thread.join(10)
        self._listener.close()

    def ask_to_stop(self) -> None:
        """Ask it to stop, which takes a fifth of a second, and don't wait for that."""
        if self._server:
            self._server.should_exit = True
