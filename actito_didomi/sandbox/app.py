"""The sandbox as one application: Actito, Didomi, and `/sandbox` to control it in tests."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from actito_didomi.runtime import Runtime
from actito_didomi.sandbox.actito_api import ActitoApi
from actito_didomi.sandbox.database import Database
from actito_didomi.sandbox.didomi_api import DidomiApi
from actito_didomi.sandbox.exports import write_exports
from actito_didomi.sandbox.options import ORGANIZATION, SandboxOptions
from actito_didomi.sandbox.people import populate
from actito_didomi.sandbox.traffic import TRANSPORT, Fault, Side, Traffic, error_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send


_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_PORT = re.compile(r":\d+$")
_NAME = re.compile(r"[\w-]*", re.ASCII)


class Sandbox:
    """Both systems, and their controls.

    Args:
        options: Switches and limits; they can be changed at run time.
        actito: Actito's clock, and what its ids are drawn from; None for the real ones.
        didomi: The same of Didomi.
        timer: Whether the event loop loads imports as time passes; else `ActitoApi.load_slice`
            must be called.
        exports: Folder in and below which batch exports may be written; None for none. It can't be
            changed at run time: a request must not choose where files are written.
    """

    def __init__(
        self,
        options: SandboxOptions,
        *,
        actito: Runtime | None = None,
        didomi: Runtime | None = None,
        timer: bool = True,
        exports: str | None = None,
    ) -> None:
        self._exports_root = None if exports is None else Path(exports).resolve()
        actito, didomi = actito or Runtime(), didomi or Runtime()
        self.options = options
        self.database = Database(options.database)
        self.traffic = Traffic(options, actito)
        self.actito = ActitoApi(self.database, options, self.traffic, actito, timer=timer)
        self.didomi = DidomiApi(self.database, options, self.traffic, didomi)
        if options.people and not self.database.one("SELECT 1 FROM profile LIMIT 1"):
            self.populate(options.people, options.seed)

    def populate(self, people: int, seed: int) -> None:
        """Add people to both sides."""
        self.database.run("BEGIN")
        populate(self.actito.profiles, self.didomi.consents, people=people, seed=seed)
        self.database.run("COMMIT")

    def app(self) -> ASGIApp:
        """Return the application."""
        control = [
            Route("/sandbox/stats", self._stats, methods=["GET"]),
            Route("/sandbox/reset", self._reset, methods=["POST"]),
            Route("/sandbox/faults", self._faults, methods=["POST"]),
            Route("/sandbox/options", self._options, methods=["POST"]),
            Route("/sandbox/exports", self._exports, methods=["POST"]),
        ]
        app = Starlette(
            routes=[*self.actito.routes(), *self.didomi.routes(), *control],
            exception_handlers={HTTPException: _not_routed, ValueError: _bad_control},
        )
        return _AsSent(app)

    async def _stats(self, request: Request) -> Response:
        del request
        return JSONResponse({side: s.as_dict() for side, s in self.traffic.stats.items()})

    async def _reset(self, request: Request) -> Response:
        """Clear counts and faults; with `people` (and `seed`) replace all data."""
        body = await _body(request)
        self.traffic.reset()
        if "people" in body:
            self.database.clear()
            self.actito.imports.clear()
            self.populate(int(body["people"]), int(body.get("seed", self.options.seed)))
        return Response(status_code=204)

    async def _faults(self, request: Request) -> Response:
        """Add faults: one object or a list, with the fields of `Fault`."""
        body = await _body(request)
        try:
            faults = [Fault(**item) for item in (body if isinstance(body, list) else [body])]
        except TypeError as error:
            raise ValueError(str(error)) from None
        self.traffic.faults += faults
        return Response(status_code=204)

    async def _options(self, request: Request) -> Response:
        """Change switches at run time: an object with fields of `SandboxOptions`."""
        body = await _body(request)
        known = {f.name for f in dataclasses.fields(SandboxOptions)}
        if unknown := set(body) - known:
            raise ValueError(f"Unknown options: {', '.join(sorted(unknown))}")
        for name, value in body.items():
            setattr(self.options, name, value)
        return Response(status_code=204)

    def _folder_for_exports(self, root: str) -> str:
        """Return where exports are to be written, if that is allowed.

        Raises:
            ValueError: It is neither the folder given at start nor below it.
        """
        folder = Path(root).resolve()
        if self._exports_root is None or not folder.is_relative_to(self._exports_root):
            raise ValueError(
                "root must be the folder that the sandbox was started with (--exports), or lie "
                "below it"
            )
        return str(folder)

    async def _exports(self, request: Request) -> Response:
        """Write batch exports to `root`, which lies in the folder given at start.

        Optional fields: `export_id`, `days`, `organization`, `success`.
        """
        body = await _body(request)
        root = self._folder_for_exports(body.get("root") or "")
        for name in [body.get("export_id", ""), *(body.get("days") or [])]:
            if not _NAME.fullmatch(name):
                raise ValueError("export_id and days must consist of letters, digits, - and _")
        written = write_exports(
            self.didomi.consents,
            root,
            organization=body.get("organization", ORGANIZATION),
            export_id=body.get("export_id", "sandbox"),
            days=body.get("days"),
            pending=self.options.export_pending,
            success=body.get("success", True),
        )
        return JSONResponse(written)


class _AsSent:
    """Routes by the path as it was sent, and passes the connection.

    An encoded `/` in a profile key is no separator. The `send` of a server is the method of an
    object that knows the connection; faults need it to cut requests off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if refusal := _refusal_of(scope):
                await refusal(scope, receive, send)
                return
            scope = {
                **scope,
                "path": scope["raw_path"].decode("latin-1").partition("?")[0],
                TRANSPORT: getattr(getattr(send, "__self__", None), "transport", None),
            }
        await self._app(scope, receive, send)


def _refusal_of(scope: Scope) -> Response | None:
    """Return the refusal of what a page in a browser of this machine may have sent.

    Such a page names its origin, or reaches the sandbox by a name of its own; a form of it can't
    send JSON.
    """
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"localhost").decode("latin-1")
    if _PORT.sub("", host) not in _HOSTS:
        return JSONResponse({"message": "The sandbox serves this machine only."}, 403)
    if b"origin" in headers:
        return JSONResponse({"message": "The sandbox serves no web pages."}, 403)
    is_control = scope["method"] == "POST" and scope["path"].startswith("/sandbox/")
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if is_control and kind != b"application/json":
        return JSONResponse({"message": "Content-Type must be application/json."}, 415)
    return None


async def _body(request: Request) -> Any:
    raw = await request.body()
    return json.loads(raw) if raw.strip() else {}


async def _not_routed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    side: Side = "didomi" if request.url.path.startswith("/didomi") else "actito"
    return error_response(side, status, "No such route" if status == 404 else "Method not allowed")  # noqa: PLR2004


async def _bad_control(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse({"message": str(error)}, 400)
