"""Didomi's requests: sessions, consent events, consent users, configuration tree, regulations."""

from __future__ import annotations

import base64
import json
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from actito_didomi.sandbox.didomi_consents import Consents
from actito_didomi.sandbox.didomi_organizations import ORGANIZATIONS, REGULATIONS, Organization
from actito_didomi.sandbox.options import DIDOMI_KEY, DIDOMI_SECRET
from actito_didomi.sandbox.traffic import Guarded, Traffic, error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from actito_didomi.runtime import Runtime
    from actito_didomi.sandbox.database import Database
    from actito_didomi.sandbox.options import SandboxOptions

PAGE = 100
MOST_EVENTS = 100
_RATE, _WINDOW = 100, 15.0
_EVENT_FIELDS = frozenset({"status", "consents", "proofs", "proofs_id", "delegate"})
_USER_FILTERS = frozenset({"organization_user_id", "id", "user_id"})


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DidomiApi:
    """The requests of Didomi's platform API.

    Args:
        database: Where consents are kept.
        options: Behaviour where Didomi's is unknown.
        traffic: Counts and faults.
        runtime: Clock, and what ids and tokens are drawn from.
    """

    def __init__(
        self, database: Database, options: SandboxOptions, traffic: Traffic, runtime: Runtime
    ) -> None:
        self.consents = Consents(database, options, runtime)
        self._runtime = runtime
        self._options = options
        self._traffic = traffic
        self._tokens: dict[str, float] = {}
        self._limited: deque[float] = deque()

    def routes(self) -> list[Route]:
        """List the routes below `/didomi/v1`."""
        table = [
            ("GET", "consents/events", "list_events", self._list_events),
            ("POST", "consents/events", "post_events", self._post_events),
            ("DELETE", "consents/events", "delete_events", self._delete_events),
            ("GET", "consents/events/{id}", "get_event", self._get_event),
            ("PATCH", "consents/events/{id}", "patch_event", self._patch_event),
            ("DELETE", "consents/events/{id}", "delete_event", self._delete_event),
            ("GET", "consents/users", "list_users", self._list_users),
            ("POST", "consents/users", "post_user", self._post_user),
            ("GET", "consents/users/{id}", "get_user", self._get_user),
            ("PATCH", "consents/users/{id}", "patch_user", self._patch_user),
            ("DELETE", "consents/users/{id}", "delete_user", self._delete_user),
            ("GET", "config-trees", "config_trees", self._config_trees),
            ("GET", "compliance/v1/regulations", "regulations", self._regulations),
        ]
        session = Guarded(self._traffic, "didomi", "sessions", self._session)
        return [
            Route("/didomi/v1/sessions", session, methods=["POST"]),
            *(
                Route(
                    f"/didomi/v1/{path}",
                    Guarded(self._traffic, "didomi", name, self._authorised(handler)),
                    methods=[method],
                )
                for method, path, name, handler in table
            ),
        ]

    def _authorised(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or self._tokens.get(token, 0) < self._runtime.monotonic():
                return error_response("didomi", 401, "Not authenticated")
            limited = "/consents/" not in request.url.path or _flag(request, "$include_full_tree")
            if limited and (refused := self._rate_limit()):
                return refused
            try:
                return await handler(request)
            except _RefusedError as error:
                return error_response("didomi", error.status, str(error))

        return respond

    def _rate_limit(self) -> Response | None:
        """Limit requests outside `/consents/*` to 100 in 15 seconds (documented)."""
        if not self._options.limits:
            return None
        now = self._runtime.monotonic()
        while self._limited and self._limited[0] <= now - _WINDOW:
            self._limited.popleft()
        if len(self._limited) < _RATE:
            self._limited.append(now)
            return None
        reset = max(1, int(self._limited[0] + _WINDOW - now + 1))
        response = error_response("didomi", 429, "Too many requests")
        response.headers["RateLimit"] = f"limit={_RATE}, remaining=0, reset={reset}"
        response.headers["RateLimit-Policy"] = f"{_RATE};w={int(_WINDOW)}"
        response.headers["Retry-After"] = str(reset)
        return response

    async def _session(self, request: Request) -> Response:
        body = await _json(request)
        if not isinstance(body, dict) or (body.get("key"), body.get("secret")) != (
            DIDOMI_KEY,
            DIDOMI_SECRET,
        ):
            return error_response("didomi", 400, "Invalid authentication information")
        token = self._runtime.token(32)
        now = self._runtime.monotonic()
        self._tokens = {t: end for t, end in self._tokens.items() if end > now}
        self._tokens[token] = now + self._options.didomi_token_ttl
        return JSONResponse({"type": "api-key", "key": DIDOMI_KEY, "access_token": token})

    # Events

    async def _list_events(self, request: Request) -> Response:
        organization = _organization(request)
        events = self.consents.events(
            organization.id,
            self._user_ids(request, organization),
            statuses=_values(request, "status", "confirmed"),
            regulations=_values(request, "regulation", "gdpr"),
        )
        return self._page(request, events, self._options.event_list_form, len(events))

    async def _post_events(self, request: Request) -> Response:
        organization = _organization(request)
        body = await _json(request)
        events = body if isinstance(body, list) else [body]
        if not 1 <= len(events) <= MOST_EVENTS:
            raise _RefusedError(400, f"An array holds 1 to {MOST_EVENTS} events")
        problems = [
            self._problem(organization, event, events[:n]) for n, event in enumerate(events)
        ]
        bad = [p for p in problems if p]
        if bad and not (isinstance(body, list) and self._options.array_per_item):
            raise bad[0]
        stored = []
        for event, problem in zip(events, problems, strict=True):
            if problem is None:
                stored.append(self.consents.add_event(organization.id, event))
        self._traffic.count_write("didomi", "post_events", len(stored))
        if not _flag(request, "$disable_integrations"):
            self._traffic.stats["didomi"].notified += len(stored)
        if bad:
            raise bad[0]
        return JSONResponse(stored if isinstance(body, list) else stored[0])

    def _problem(
        self, organization: Organization, event: Any, before: list[Any]
    ) -> _RefusedError | None:
        if not isinstance(event, dict) or not isinstance(event.get("consents"), dict):
            return _RefusedError(400, "consents is required")
        if event.get("status") not in (None, "confirmed", "pending_approval"):
            return _RefusedError(400, "Unknown status")
        if problem := organization.problem_with(event["consents"]):
            return _RefusedError(400, problem)
        event_id = event.get("id")
        if event_id is not None and (
            self.consents.find_event(organization.id, event_id)
            or any(isinstance(e, dict) and e.get("id") == event_id for e in before)
        ):
            return _RefusedError(
                self._options.duplicate_event_status, "An event with this id already exists"
            )
        return None

    async def _get_event(self, request: Request) -> Response:
        return JSONResponse(self._event(request))

    async def _patch_event(self, request: Request) -> Response:
        event = self._event(request)
        body = await _json(request)
        if not isinstance(body, dict) or set(body) - _EVENT_FIELDS:
            raise _RefusedError(400, f"May be changed: {', '.join(sorted(_EVENT_FIELDS))}")
        organization = _organization(request)
        if problem := organization.problem_with(body.get("consents") or {}):
            raise _RefusedError(400, problem)
        changes = {k: v for k, v in body.items() if k != "proofs"}
        if "consents" in changes:
            changes["consents"] = {"vendors": {}, **changes["consents"]}
        changed = self.consents.change_event(organization.id, event, changes)
        self._traffic.count_write("didomi", "patch_event")
        return JSONResponse(changed)

    async def _delete_event(self, request: Request) -> Response:
        event = self._event(request)
        self.consents.delete_events(_organization(request).id, [event])
        self._traffic.count_write("didomi", "delete_event")
        return Response(status_code=204)

    async def _delete_events(self, request: Request) -> Response:
        organization = _organization(request)
        own = {"organization_id", "user_id", "organization_user_id"}
        filters = {k: v for k, v in request.query_params.items() if k not in own}
        if not filters:
            raise _RefusedError(400, "A filter is required")
        events = self.consents.events(
            organization.id,
            self._user_ids(request, organization),
            statuses=["confirmed", "pending_approval"],
            regulations=[r["id"] for r in REGULATIONS],
        )
        matching = [
            e for e in events if all(str(_dig(e, k.split("."))) == v for k, v in filters.items())
        ]
        self.consents.delete_events(organization.id, matching)
        self._traffic.count_write("didomi", "delete_events", len(matching))
        return Response(status_code=204)

    def _event(self, request: Request) -> dict[str, Any]:
        organization = _organization(request)
        event = self.consents.find_event(organization.id, unquote(request.path_params["id"]))
        if event is None or event["user"]["id"] not in self._user_ids(request, organization):
            raise _RefusedError(404, "No such event for this user")
        return event

    def _user_ids(self, request: Request, organization: Organization) -> list[str]:
        query = request.query_params
        if user_id := query.get("user_id"):
            return [user_id]
        if person := query.get("organization_user_id"):
            every = [r["id"] for r in REGULATIONS]
            users = self.consents.users(organization.id, regulations=every, person=person)
            return list(dict.fromkeys(user["id"] for _, user in users))
        raise _RefusedError(400, "user_id or organization_user_id is required")

    # Users

    async def _list_users(self, request: Request) -> Response:
        organization = _organization(request)
        query = request.query_params
        known = _USER_FILTERS | {
            "organization_id", "regulation", "regulation[$in]", "$cursor", "$skip", "$limit",
            "$include_full_tree",
        }  # fmt: skip
        if self._options.reject_unknown_filters and (unknown := set(query) - known):
            raise _RefusedError(400, f"Unknown filters: {', '.join(sorted(unknown))}")
        regulations = _values(request, "regulation", "gdpr")
        form = self._options.user_list_form
        if form == "envelope":
            after, limit = _read_cursor(query.get("$cursor")), PAGE + 1
        else:
            after, limit = 0, 1_000_000
        found = self.consents.users(
            organization.id,
            regulations=regulations,
            person=query.get("organization_user_id"),
            user_id=query.get("id") or query.get("user_id"),
            after=after,
            limit=limit,
        )
        users = [self._shown(request, organization, user) for _, user in found]
        if form != "envelope":
            return self._page(request, users, form, len(users))
        cursor = _make_cursor(found[PAGE - 1][0]) if len(found) > PAGE else None
        page = users[:PAGE]
        return JSONResponse({"data": page, "limit": len(page), "cursor": cursor})

    async def _post_user(self, request: Request) -> Response:
        organization = _organization(request)
        body = await _json(request)
        if not isinstance(body, dict):
            raise _RefusedError(400, "A user must be an object")
        if problem := organization.problem_with(body.get("consents") or {}):
            raise _RefusedError(400, problem)
        user = self.consents.add_user(organization.id, body)
        self._traffic.count_write("didomi", "post_user")
        return JSONResponse(user)

    async def _get_user(self, request: Request) -> Response:
        organization = _organization(request)
        return JSONResponse(self._shown(request, organization, self._user(request)))

    async def _patch_user(self, request: Request) -> Response:
        organization, user = _organization(request), self._user(request)
        body = await _json(request)
        if not isinstance(body, dict):
            raise _RefusedError(400, "A user must be an object")
        if body.get("version") not in (None, user["version"]):
            raise _RefusedError(409, "The version is not the current one")
        if problem := organization.problem_with(body.get("consents") or {}):
            raise _RefusedError(400, problem)
        changed = self.consents.change_user(organization.id, "gdpr", user, body)
        self._traffic.count_write("didomi", "patch_user")
        return JSONResponse(changed)

    async def _delete_user(self, request: Request) -> Response:
        user = self._user(request)
        self.consents.delete_user(_organization(request).id, user["id"])
        self._traffic.count_write("didomi", "delete_user")
        return JSONResponse(user)

    def _user(self, request: Request) -> dict[str, Any]:
        organization = _organization(request)
        key = unquote(request.path_params["id"])
        by_person = _flag(request, "$by_organization_user_id")
        found = self.consents.users(
            organization.id,
            regulations=_values(request, "regulation", "gdpr"),
            **({"person": key} if by_person else {"user_id": key}),  # type: ignore[arg-type]
        )
        if not found:
            raise _RefusedError(404, "No such user")
        return max((user for _, user in found), key=lambda user: user["updated_at"])

    def _shown(
        self, request: Request, organization: Organization, user: dict[str, Any]
    ) -> dict[str, Any]:
        if _flag(request, "$include_full_tree"):
            return {**user, "consents": organization.full_tree(user["consents"])}
        return user

    # Catalogue

    async def _config_trees(self, request: Request) -> Response:
        return JSONResponse([_organization(request).tree()])

    async def _regulations(self, request: Request) -> Response:
        del request
        total = len(REGULATIONS)
        return JSONResponse({"total": total, "limit": total, "skip": 0, "data": REGULATIONS})

    def _page(
        self, request: Request, items: list[dict[str, Any]], form: str, total: int
    ) -> Response:
        if form == "list":
            return JSONResponse(items)
        if form == "total":
            try:
                skip = int(request.query_params.get("$skip", 0))
            except ValueError:
                raise _RefusedError(400, "$skip must be a whole number") from None
            page = items[skip : skip + PAGE]
            return JSONResponse({"total": total, "limit": PAGE, "skip": skip, "data": page})
        return JSONResponse({"data": items, "limit": len(items), "cursor": None})


def _organization(request: Request) -> Organization:
    name = request.query_params.get("organization_id")
    if not name:
        raise _RefusedError(400, "organization_id is required")
    organization = ORGANIZATIONS.get(name)
    if organization is None:
        raise _RefusedError(403, "Not your organization")
    return organization


def _values(request: Request, name: str, default: str) -> list[str]:
    query = request.query_params
    return query.getlist(f"{name}[$in]") or query.getlist(name) or [default]


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in {"true", "1"}


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError:
        raise _RefusedError(400, "The body is not valid JSON") from None


def _dig(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _make_cursor(number: int) -> str:
    return base64.urlsafe_b64encode(f"after:{number}".encode()).decode()


def _read_cursor(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor).decode().removeprefix("after:"))
    except ValueError:
        raise _RefusedError(400, "The cursor is invalid") from None
