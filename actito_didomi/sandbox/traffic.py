"""Counts, limits and faults around each request."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message, Receive, Scope, Send

    from actito_didomi.runtime import Runtime
    from actito_didomi.sandbox.options import SandboxOptions

Side = Literal["actito", "didomi"]
TRANSPORT = "sandbox.transport"
"""Key of the scope under which the connection of a request is found."""
_MINUTE = 60.0
_REFUSAL = 400


@dataclass
class RouteCount:
    """Counts of one route."""

    calls: int = 0
    refusals: int = 0
    writes: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass
class Stats:
    """Counts of one side since the last reset.

    Attributes:
        routes: By name of the route.
        most_at_once: Highest number of concurrent requests.
        most_a_minute: Highest number of requests in any 60 seconds.
        notified: Didomi: events passed to integrations.
    """

    routes: dict[str, RouteCount] = field(default_factory=dict)
    most_at_once: int = 0
    most_a_minute: int = 0
    notified: int = 0
    at_once: int = 0
    recent: deque[float] = field(default_factory=deque)

    def enter(self, now: float) -> None:
        """Count a request that begins now, in seconds."""
        self.recent.append(now)
        while self.recent and self.recent[0] <= now - _MINUTE:
            self.recent.popleft()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.most_a_minute = max(self.most_a_minute, len(self.recent))

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        routes = {
            name: {
                "calls": r.calls,
                "refusals": r.refusals,
                "writes": r.writes,
                "statuses": {str(s): n for s, n in sorted(r.statuses.items())},
            }
            for name, r in sorted(self.routes.items())
        }
        return {
            "calls": sum(r.calls for r in self.routes.values()),
            "refusals": sum(r.refusals for r in self.routes.values()),
            "writes": sum(r.writes for r in self.routes.values()),
            "most_at_once": self.most_at_once,
            "most_a_minute": self.most_a_minute,
            "notified": self.notified,
            "routes": routes,
        }


@dataclass
class Fault:
    """A fault of the next requests to a route.

    Attributes:
        side: `actito` or `didomi`.
        route: Name of the route, as in the statistics; None for any.
        action: `status` responds with `status`; `drop_before` and `drop_after` cut the connection
            before or after the work is done; `half_body` does the work and sends half of the
            response; `stall` waits `seconds` and then continues.
        count: How many requests are affected.
        skip: Requests that pass before the first affected one.
        every: Only every n-th request is affected.
        status: HTTP status for `status`.
        retry_after: Seconds in a `Retry-After` header; None for no header.
        seconds: For `stall`.
    """

    side: Side
    action: Literal["status", "drop_before", "drop_after", "half_body", "stall"]
    route: str | None = None
    count: int = 1
    skip: int = 0
    every: int = 1
    status: int = 500
    retry_after: float | None = None
    seconds: float = 1.0
    seen: int = 0

    def affects(self, side: Side, route: str) -> bool:
        """Return whether this request is affected, and count it."""
        if self.count <= 0 or side != self.side or self.route not in (None, route):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.seen - self.skip) % self.every:
            return False
        self.count -= 1
        return True


class Traffic:
    """Counts, limits and faults of both sides.

    Args:
        options: Limits.
        runtime: Clock.
    """

    def __init__(self, options: SandboxOptions, runtime: Runtime) -> None:
        self.options = options
        self.runtime = runtime
        self.faults: list[Fault] = []
        self.stats: dict[Side, Stats] = {"actito": Stats(), "didomi": Stats()}

    def reset(self) -> None:
        """Clear counts and faults; requests under way stay counted as such."""
        self.faults.clear()
        for side, stats in self.stats.items():
            self.stats[side] = Stats(at_once=stats.at_once)

    def count_write(self, side: Side, route: str, writes: int = 1) -> None:
        """Count changes that were stored."""
        self.stats[side].routes.setdefault(route, RouteCount()).writes += writes

    def fault_for(self, side: Side, route: str) -> Fault | None:
        """Return the first fault that affects this request."""
        return next((f for f in self.faults if f.affects(side, route)), None)

    def throttle(self, side: Side) -> float:
        """Return the delay of a request, in seconds."""
        delay = self.options.latency
        if side == "actito" and self.options.limits:
            beyond = len(self.stats[side].recent) - self.options.calls_per_minute
            if beyond > 0:
                delay += min(self.options.slowest, beyond * self.options.slowdown)
        return delay


class Guarded:
    """An endpoint with its counts, limits and faults.

    Args:
        traffic: Shared by all endpoints.
        side: `actito` or `didomi`.
        route: Name for counts and faults.
        handler: Returns the response.
    """

    def __init__(
        self,
        traffic: Traffic,
        side: Side,
        route: str,
        handler: Callable[[Request], Awaitable[Response]],
    ) -> None:
        self._traffic = traffic
        self._side = side
        self._route = route
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        traffic, side = self._traffic, self._side
        stats = traffic.stats[side]
        count = stats.routes.setdefault(self._route, RouteCount())
        count.calls += 1
        stats.enter(traffic.runtime.monotonic())
        try:
            status = await self._respond(scope, receive, send)
        finally:
            traffic.stats[side].at_once -= 1
        count.statuses[status] += 1
        count.refusals += status >= _REFUSAL

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> int:
        traffic, side = self._traffic, self._side
        options = traffic.options
        fault = traffic.fault_for(side, self._route)
        action = fault.action if fault else None
        if (
            side == "actito"
            and options.limits
            and traffic.stats[side].at_once > options.max_concurrency
        ):
            return await _send(
                error_response(side, 429, "Too many concurrent requests"), scope, receive, send
            )
        if delay := traffic.throttle(side):
            await asyncio.sleep(delay)
        if fault and action == "stall":
            await asyncio.sleep(fault.seconds)
        if fault and action == "status":
            response = error_response(side, fault.status, "Injected by /sandbox/faults")
            if fault.retry_after is not None:
                response.headers["Retry-After"] = f"{fault.retry_after:g}"
            return await _send(response, scope, receive, send)
        if action == "drop_before":
            scope[TRANSPORT].abort()
            return 0
        response = await self._handler(Request(scope, receive))
        if action == "drop_after":
            scope[TRANSPORT].abort()
            return 0
        if action == "half_body":
            await _send_half(response, send)
            scope[TRANSPORT].close()
            return 0
        return await _send(response, scope, receive, send)


async def _send(response: Response, scope: Scope, receive: Receive, send: Send) -> int:
    await response(scope, receive, send)
    return response.status_code


async def _send_half(response: Response, send: Send) -> None:
    """Announce the whole body, and send half of it."""
    body = bytes(response.body) or b"{}"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    start: Message = {
        "type": "http.response.start",
        "status": response.status_code if response.body else 200,
        "headers": headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


def error_response(side: Side, status: int, message: str) -> Response:
    """Return an error response in the form of its side.

    Didomi's form is documented (Feathers); Actito's is unknown, and this one is the sandbox's own.
    """
    if side == "actito":
        return JSONResponse({"status": status, "message": message}, status)
    names = {
        400: "BadRequest",
        401: "NotAuthenticated",
        403: "Forbidden",
        404: "NotFound",
        405: "MethodNotAllowed",
        409: "Conflict",
        429: "TooManyRequests",
        503: "Unavailable",
    }
    name = names.get(status, "GeneralError")
    return JSONResponse({"code": status, "name": name, "message": message, "errors": {}}, status)
