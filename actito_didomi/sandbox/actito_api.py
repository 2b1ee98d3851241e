"""Actito's requests: token, entities, structure of profile tables, V5 profiles, ETL executions."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from actito_didomi.sandbox import actito_tables as tables
from actito_didomi.sandbox.actito_imports import PREDEFINED, Definition, Imports, read_definition
from actito_didomi.sandbox.actito_profiles import Profiles, RefusedError
from actito_didomi.sandbox.traffic import Guarded, Traffic, error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from actito_didomi.runtime import Runtime
    from actito_didomi.sandbox.database import Database
    from actito_didomi.sandbox.options import SandboxOptions

_ENTITIES = "entities/v5/entities"
_TABLES = "profile-table-structure/v5/entities/{entity}/profile-tables"
_PROFILES = "profiles/v5/entities/{entity}/profile-tables/{table}/profiles"
_IMPORTS = "mass-imports/v5/entities/{entity}"
_DATA_PART = "inputFile"
_SECTIONS = frozenset({"key", "attributes", "subscriptions", "segmentations"})


class ActitoApi:
    """The requests of one Actito licence.

    Args:
        database: Where profiles are kept.
        options: Limits, and behaviour where Actito's is unknown.
        traffic: Counts, limits and faults.
        runtime: Clock, and what tokens are drawn from.
        timer: Whether the event loop loads imports as time passes.
    """

    def __init__(
        self,
        database: Database,
        options: SandboxOptions,
        traffic: Traffic,
        runtime: Runtime,
        *,
        timer: bool,
    ) -> None:
        self.profiles = Profiles(database, options, runtime)
        self.imports = Imports(self.profiles, options, runtime)
        self._database = database
        self._runtime = runtime
        self._timer = timer
        self._loading: asyncio.Task[None] | None = None
        self._options = options
        self._traffic = traffic
        self._tokens: dict[str, float] = {}

    def routes(self) -> list[Route]:
        """List the routes below `/actito`; with `unprefixed_urls` also those without a category."""
        table = [
            ("GET", _ENTITIES, "entities", self._list_entities),
            ("GET", _TABLES, "tables", self._list_tables),
            ("GET", _TABLES + "/{table}", "table", self._get_table),
            ("GET", _PROFILES, "list_profiles", self._list_profiles),
            ("PUT", _PROFILES, "put_profile", self._put_profile),
            ("POST", _PROFILES, "post_profile", self._post_profile),
            ("GET", _PROFILES + "/{key}", "get_profile", self._get_profile),
            ("PATCH", _PROFILES + "/{key}", "patch_profile", self._patch_profile),
            ("DELETE", _PROFILES + "/{key}", "delete_profile", self._delete_profile),
            ("GET", _IMPORTS + "/etls", "etls", self._list_etls),
            ("GET", _IMPORTS + "/etls/{etl}", "etl", self._get_etl),
            ("POST", _IMPORTS + "/etls/{etl}/trigger-execution", "trigger", self._trigger),
            ("POST", _IMPORTS + "/etl-executions", "one_shot", self._one_shot),
            ("GET", _IMPORTS + "/etl-executions", "executions", self._list_executions),
            ("GET", _IMPORTS + "/etl-executions/{execution}", "execution", self._get_execution),
            (
                "GET",
                _IMPORTS + "/etl-executions/{execution}/errors",
                "execution_errors",
                self._execution_errors,
            ),
        ]
        found = [
            Route(
                "/actito/auth/token",
                Guarded(self._traffic, "actito", "token", self._token),
                methods=["GET"],
            )
        ]
        for method, path, name, handler in table:
            endpoint = Guarded(self._traffic, "actito", name, self._authorised(handler))
            paths = [path]
            if self._options.unprefixed_urls:
                paths.append(path.split("/", 1)[1])
            found += [Route(f"/actito/{p}", endpoint, methods=[method]) for p in paths]
        return found

    def _authorised(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or self._tokens.get(token, 0) < self._runtime.monotonic():
                return error_response("actito", 401, "Missing, invalid or expired token")
            accept = request.headers.get("accept", "*/*")
            if not any(kind in accept for kind in ("application/json", "*/*", "application/*")):
                return error_response("actito", 406, "Only application/json is available")
            try:
                return await handler(request)
            except RefusedError as error:
                return error_response("actito", error.status, error.message)

        return respond

    async def _token(self, request: Request) -> Response:
        if request.headers.get("authorization") != self._options.actito_key:
            return error_response("actito", 401, "Unknown API key")
        token = self._runtime.token(32)
        now = self._runtime.monotonic()
        self._tokens = {t: end for t, end in self._tokens.items() if end > now}
        self._tokens[token] = now + self._options.token_ttl
        return JSONResponse(
            {
                "accessToken": token,
                "tokenType": "bearer",
                "expiresIn": f"{self._options.token_ttl:g}s",
                "scope": "read write",
                "jti": self._runtime.token(8),
            }
        )

    async def _list_entities(self, request: Request) -> Response:
        del request
        return JSONResponse({"entities": tables.ENTITIES})

    async def _list_tables(self, request: Request) -> Response:
        _check_entity(request)
        return JSONResponse(
            {"profileTables": [{"id": t["id"], "name": t["name"]} for t in tables.TABLES]}
        )

    async def _get_table(self, request: Request) -> Response:
        return JSONResponse(_table(request))

    async def _list_profiles(self, request: Request) -> Response:
        table = _table(request)
        filters = dict(request.query_params)
        try:
            page = int(filters.pop("page", 0))
            size = int(filters.pop("pageSize", self._options.page_size))
        except ValueError:
            raise RefusedError(400, "page and pageSize must be whole numbers") from None
        known = {a["name"] for a in table["attributes"]}
        if unknown := sorted(set(filters) - known):
            raise RefusedError(400, f"Unknown criteria: {', '.join(unknown)}")
        size = max(1, min(size, self._options.largest_page))
        total, found = self.profiles.page(table, filters, max(0, page), size)
        for profile in found:
            self._hide_subscriptions(profile)
        body = {self._options.page_list: found, "page": page, "pageSize": size}
        return JSONResponse({**body, "total": total} if self._options.page_names_total else body)

    def _hide_subscriptions(self, profile: dict[str, Any]) -> None:
        match self._options.page_subscriptions:
            case "absent":
                del profile["subscriptions"]
            case "empty":
                profile["subscriptions"] = {}
            case "null":
                profile["subscriptions"] = None

    async def _get_profile(self, request: Request) -> Response:
        profile = self.profiles.read(self._existing(request))
        if names := request.query_params.get("subscriptions"):
            wanted = names.split(",")
            profile["subscriptions"] = {
                k: v for k, v in profile["subscriptions"].items() if k in wanted
            }
        if request.query_params.get("includeNulls") == "true":
            every = {a["name"]: None for a in _table(request)["attributes"]}
            profile["attributes"] = {**every, **profile["attributes"]}
        return JSONResponse(profile)

    async def _patch_profile(self, request: Request) -> Response:
        if not self._options.knows_patch:
            return error_response("actito", 405, "Method not allowed")
        profile_id = self._existing(request)
        attributes, subscriptions, _ = await _body(request)
        self.profiles.change(_table(request), profile_id, attributes, subscriptions)
        self._traffic.count_write("actito", "patch_profile")
        return _written(self._options.patch_status, profile_id)

    async def _put_profile(self, request: Request) -> Response:
        table = _table(request)
        attributes, subscriptions, key = await _body(request)
        if not isinstance(key, dict) or len(key) != 1:
            raise RefusedError(400, "key must hold one unique attribute")
        ((name, value),) = key.items()
        profile_id = self.profiles.find_by(table, name, value)
        if profile_id is None:
            if name == "profileId":
                raise RefusedError(404, "No such profile")
            created = self.profiles.create(table, {name: value, **attributes}, subscriptions)
            self._traffic.count_write("actito", "put_profile")
            return JSONResponse({"profileId": created}, 201)
        own = {} if name == "profileId" else {name: value}
        self.profiles.change(
            table,
            profile_id,
            {**own, **attributes},
            subscriptions,
            replace=self._options.put_replaces,
        )
        self._traffic.count_write("actito", "put_profile")
        return _written(self._options.put_update_status, profile_id)

    async def _post_profile(self, request: Request) -> Response:
        attributes, subscriptions, _ = await _body(request)
        created = self.profiles.create(_table(request), attributes, subscriptions)
        self._traffic.count_write("actito", "post_profile")
        location = f"{request.url.path}/{created}"
        return JSONResponse({"profileId": created}, 201, headers={"Location": location})

    async def _delete_profile(self, request: Request) -> Response:
        self.profiles.delete(self._existing(request))
        self._traffic.count_write("actito", "delete_profile")
        return Response(status_code=204)

    async def _list_etls(self, request: Request) -> Response:
        _check_entity(request)
        return JSONResponse({"etls": [d.as_dict() for d in PREDEFINED.values()]})

    async def _get_etl(self, request: Request) -> Response:
        return JSONResponse(_etl(request).as_dict())

    async def _trigger(self, request: Request) -> Response:
        definition = _etl(request)
        async with request.form() as form:
            return await self._start(definition, form.get(_DATA_PART), "trigger")

    async def _one_shot(self, request: Request) -> Response:
        _check_entity(request)
        async with request.form() as form:
            part = form.get(self._options.etl_definition_part)
            if part is None:
                raise RefusedError(400, f"The part {self._options.etl_definition_part} is missing")
            text = await part.read() if isinstance(part, UploadFile) else part
            try:
                raw = json.loads(text)
            except ValueError:
                raise RefusedError(400, "The definition is not valid JSON") from None
            return await self._start(read_definition(raw), form.get(_DATA_PART), "one_shot")

    async def _start(self, definition: Definition, part: object, route: str) -> Response:
        if not isinstance(part, UploadFile):
            raise RefusedError(400, f"The part {_DATA_PART} is missing or is not a file")
        content = await part.read()
        execution = self.imports.start(definition, part.filename or "", content)
        self._traffic.count_write("actito", route)
        if self._timer and (self._loading is None or self._loading.done()):
            self._loading = asyncio.create_task(self._load())
        return JSONResponse(self.imports.as_dict(execution), 201)

    async def _load(self) -> None:
        """Load files until none is left."""
        while self.imports.busy:
            more = self.load_slice()
            await asyncio.sleep(0 if more else 0.02)

    def load_slice(self) -> bool:
        """Load what is due of imports, at most one slice; return whether more is due already."""
        self._database.run("BEGIN")
        try:
            return self.imports.work()
        finally:
            self._database.run("COMMIT")

    async def _list_executions(self, request: Request) -> Response:
        _check_entity(request)
        if not self._options.etl_lists_executions:
            return error_response("actito", 405, "Method not allowed")
        self.load_slice()
        return JSONResponse(
            {"etlExecutions": [self.imports.as_dict(e) for e in self.imports.all()]}
        )

    async def _get_execution(self, request: Request) -> Response:
        _check_entity(request)
        self.load_slice()
        execution = self.imports.find(request.path_params["execution"])
        return JSONResponse(self.imports.as_dict(execution))

    async def _execution_errors(self, request: Request) -> Response:
        _check_entity(request)
        execution = self.imports.find(request.path_params["execution"])
        return JSONResponse({"errors": execution.errors[: self._options.etl_errors_shown]})

    def _existing(self, request: Request) -> int:
        key = unquote(request.path_params["key"])
        profile_id = self.profiles.find(_table(request), key)
        if profile_id is None:
            raise RefusedError(404, "No such profile")
        return profile_id


def _check_entity(request: Request) -> None:
    name = unquote(request.path_params["entity"])
    if name not in [e["name"] for e in tables.ENTITIES]:
        raise RefusedError(404, f"No entity {name}")


def _etl(request: Request) -> Definition:
    _check_entity(request)
    definition = PREDEFINED.get(request.path_params["etl"])
    if definition is None:
        raise RefusedError(404, f"No ETL {request.path_params['etl']}")
    return definition


def _table(request: Request) -> dict[str, Any]:
    _check_entity(request)
    key = unquote(request.path_params["table"])
    table = tables.find_table(key)
    if table is None:
        raise RefusedError(404, f"No profile table {key}")
    return table


async def _body(request: Request) -> tuple[dict[str, Any], dict[str, bool], Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise RefusedError(400, "The body is not valid JSON") from None
    if not isinstance(body, dict) or set(body) - _SECTIONS:
        raise RefusedError(400, f"The body may hold: {', '.join(sorted(_SECTIONS))}")
    attributes, subscriptions = body.get("attributes") or {}, body.get("subscriptions") or {}
    if not isinstance(attributes, dict) or not isinstance(subscriptions, dict):
        raise RefusedError(400, "attributes and subscriptions must be objects")
    return attributes, subscriptions, body.get("key")


def _written(status: int, profile_id: int) -> Response:
    if status == 204:  # noqa: PLR2004
        return Response(status_code=204)
    return JSONResponse({"profileId": profile_id}, status)
