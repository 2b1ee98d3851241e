"""When Actito or the network fails: retried as long as that helps, and written once in effect."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from support import Actito, event, listen, report, run_target, stream_of, tap_config, target_config

from actito_didomi.actito.config import ActitoSettings
from actito_didomi.actito.session import open_session
from actito_didomi.errors import ApiError, AuthenticationError, UnavailableError
from actito_didomi.http import Action, ClientSettings, _retry_after, action_for
from actito_didomi.plugin.shutdown import Shutdown
from actito_didomi.runtime import Runtime
from actito_didomi.sandbox.options import SandboxOptions
from actito_didomi.sandbox.server import BackgroundSandbox

PEOPLE = [f"p{n}" for n in range(50)]


def opt_ins() -> list[dict[str, Any]]:
    return stream_of(*(event(p, channels={"email": True}) for p in PEOPLE))


def subscribed(actito: Actito) -> list[str]:
    return sorted(p for p, v in actito.all().items() if v["subscriptions"]["Newsletter"])


@pytest.mark.parametrize("action", ["drop_before", "drop_after", "half_body"])
def test_a_broken_connection_is_tried_again(
    actito: Actito, config: dict[str, Any], action: str
) -> None:
    """Whether the write took place or not, the profile is right and nobody is created."""
    actito.create_many(PEOPLE)
    actito.steer(
        "faults",
        {"side": "actito", "route": "patch_profile", "action": action, "count": 10, "every": 5},
    )
    # A retry can be struck again, so there are enough attempts for all ten.
    listen({**config, "retry_tries": 12}, opt_ins())
    assert subscribed(actito) == sorted(PEOPLE)
    result = report(config)
    assert result["updated"] == len(PEOPLE)
    assert result["retries"] >= 10


@pytest.mark.parametrize("route", ["token", "tables", "patch_profile", "put_profile"])
def test_a_dropped_create_makes_one_profile(
    actito: Actito, config: dict[str, Any], route: str
) -> None:
    """A create-or-update whose answer was lost is repeated without making a second profile."""
    fault = {"side": "actito", "route": route, "action": "drop_after", "count": 1}
    actito.steer("faults", fault)
    person = event("new", channels={"email": True}, metadata={"lastName": "New"})
    listen({**config, "upsert_mode": True}, stream_of(person))
    assert subscribed(actito) == ["new"]
    assert len(actito.all()) == 1


def test_every_tenth_call_is_429(actito: Actito, config: dict[str, Any]) -> None:
    """Too many requests are waited out; `Retry-After` is honoured."""
    actito.create_many(PEOPLE)
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 429}
    actito.steer("faults", {**fault, "every": 10, "count": 1000, "retry_after": 1})
    listen(config, opt_ins())
    assert subscribed(actito) == sorted(PEOPLE)
    assert actito.stats()["routes"]["patch_profile"]["statuses"]["429"] >= 5


def test_retry_after_is_waited_for(actito: Actito, config: dict[str, Any]) -> None:
    """The pause is at least what the server asks for."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 503}
    actito.steer("faults", {**fault, "retry_after": 2})
    began = time.monotonic()
    listen(config, stream_of(event("ann", channels={"email": True})))
    assert time.monotonic() - began >= 2


def test_a_server_that_asks_to_wait_for_hours_ends_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Rather than hang, the run fails, with nothing acknowledged."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 429}
    actito.steer("faults", {**fault, "retry_after": 86400})
    run = run_target(config, tmp_path, stream_of(event("ann", channels={"email": True})))
    assert run.exit_code == 1
    assert run.states == []
    assert "api_unavailable" in run.err


def test_tokens_that_live_two_seconds_are_renewed_in_time(tmp_path: Path) -> None:
    """No call fails for an old token: it is renewed before its end."""
    with BackgroundSandbox(SandboxOptions(limits=False, token_ttl=2)) as sandbox:
        actito = Actito(sandbox.url)
        actito.create_many(PEOPLE)
        actito.steer("options", {"latency": 0.15})
        actito.steer("reset", {})
        config = target_config(sandbox.url, tmp_path, max_concurrency=2)
        listen(config, opt_ins())
        actito.steer("options", {"latency": 0})
        stats = actito.stats()
        assert subscribed(actito) == sorted(PEOPLE)
    assert stats["routes"]["token"]["calls"] >= 3
    # On a machine that stands still for a timestamp a call may arrive late; that is repaired.
    assert stats["routes"]["patch_profile"]["statuses"].get("401", 0) <= 2


def test_a_token_refused_before_its_time_is_renewed_once(
    actito: Actito, config: dict[str, Any]
) -> None:
    """On 401 a new token is fetched and the call repeated."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 401}
    actito.steer("faults", fault)
    listen(config, stream_of(event("ann", channels={"email": True})))
    assert subscribed(actito) == ["ann"]


def test_a_second_401_is_final(actito: Actito, config: dict[str, Any], tmp_path: Path) -> None:
    """Credentials that don't hold end the run with a clear error, not a reject."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 401}
    actito.steer("faults", {**fault, "count": 5})
    run = run_target(config, tmp_path, stream_of(event("ann", channels={"email": True})))
    assert run.exit_code == 1
    assert run.states == []
    assert "refuses the credentials" in run.err
    assert actito.calls("patch_profile") == 2


def test_a_wrong_key_is_told_at_once(config: dict[str, Any]) -> None:
    """401 at the request for a token is final."""
    with pytest.raises(AuthenticationError, match="Check `api_key`"):
        listen({**config, "api_key": "wrong-key"}, stream_of(event("ann")))


def test_an_outage_fails_the_run_and_nothing_is_lost(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """After all attempts the run ends; the next one from the same state completes it."""
    actito.create_many(PEOPLE)
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 500}
    actito.steer("faults", {**fault, "skip": 20, "count": 100_000})
    run = run_target(config, tmp_path, opt_ins())
    assert run.exit_code == 1
    assert run.states == []
    assert "Nothing is lost" in run.err
    actito.steer("reset", {})
    assert run_target(config, tmp_path, opt_ins()).states == [{"read": len(PEOPLE)}]
    assert subscribed(actito) == sorted(PEOPLE)


def test_opt_outs_are_written_first(actito: Actito, config: dict[str, Any]) -> None:
    """When an outage cuts a run short, opt-outs have gone before."""
    actito.create_many(PEOPLE)
    for person in ("out1", "out2"):
        actito.create(person, Newsletter=True)
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 500}
    actito.steer("faults", {**fault, "skip": 2, "count": 100_000})
    events = [event(p, channels={"email": True}) for p in PEOPLE]
    events += [event(p, channels={"email": False}) for p in ("out1", "out2")]
    with pytest.raises(UnavailableError):
        listen({**config, "max_concurrency": 1}, stream_of(*events))
    assert subscribed(actito) == []


def test_no_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    """With limits on and slow answers the server never sees a sixth call."""
    options = SandboxOptions(limits=True, latency=0.05, calls_per_minute=100_000)
    with BackgroundSandbox(options) as sandbox:
        actito = Actito(sandbox.url)
        actito.create_many(PEOPLE)
        actito.steer("reset", {})
        listen(target_config(sandbox.url, tmp_path, max_concurrency=5), opt_ins())
        stats = actito.stats()
    assert stats["most_at_once"] == 5
    assert "429" not in stats["routes"]["patch_profile"]["statuses"]


def test_no_more_calls_a_minute_than_allowed(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The budget includes tokens and repeated attempts; a run over it waits, and can be stopped."""
    actito.create_many(PEOPLE)
    actito.steer("reset", {})
    stop = Shutdown(Runtime(), 30)
    settings = ActitoSettings(
        api_key=config["api_key"], api_url=config["api_url"], calls_per_minute=10
    )
    session = open_session(
        settings,
        ClientSettings(request_timeout=5),
        max_concurrency=5,
        stop=stop.requested,
        runtime=Runtime(),
    )
    import threading

    threading.Timer(2, stop.requested.set).start()
    path = "/entities/v5/entities"
    with pytest.raises(ApiError, match="shutting down"):
        for _ in range(20):
            session.request("GET", path)
    assert session.count.calls == 10
    assert actito.stats()["calls"] == 10


def test_the_sandbox_slows_down_beyond_the_limit_and_refuses_nothing(tmp_path: Path) -> None:
    """More than the documented requests per minute get a late response, with success."""
    options = SandboxOptions(limits=True, calls_per_minute=10, slowdown=0.02)
    with BackgroundSandbox(options) as sandbox:
        actito = Actito(sandbox.url)
        began = time.monotonic()
        for _ in range(20):
            actito.all()
        assert time.monotonic() - began >= 0.02 * sum(range(1, 20))
        assert actito.stats()["refusals"] == 0


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (200, Action.SUCCESS),
        (201, Action.SUCCESS),
        (204, Action.SUCCESS),
        (400, Action.REFUSE),
        (401, Action.REAUTHENTICATE),
        (403, Action.REFUSE),
        (404, Action.REFUSE),
        (405, Action.REFUSE),
        (406, Action.REFUSE),
        (409, Action.REFUSE),
        (429, Action.RETRY),
        (500, Action.RETRY),
        (501, Action.REFUSE),
        (503, Action.RETRY),
        (302, Action.REFUSE),
    ],
)
def test_what_is_done_with_each_status(status: int, action: Action) -> None:
    """The table of answers."""
    assert action_for(status) is action


def test_retry_after_is_read_in_both_forms() -> None:
    """Seconds, or an HTTP date; anything else counts as absent."""
    assert _retry_after({"Retry-After": "7"}) == 7
    assert 50 < (_retry_after({"Retry-After": formatdate(time.time() + 60, usegmt=True)}) or 0) < 61
    assert _retry_after({"Retry-After": "soon"}) is None
    assert _retry_after({}) is None


def test_didomi_is_tried_again_as_well(url: str, actito: Actito, tmp_path: Path) -> None:
    """The tap's calls go through the same rules."""
    from support import run_plugin

    actito.steer("reset", {"people": 30})
    actito.steer(
        "faults",
        [
            {"side": "didomi", "route": "sessions", "action": "drop_before"},
            {"side": "didomi", "route": "list_users", "action": "status", "status": 503},
            {"side": "didomi", "route": "list_users", "action": "half_body"},
        ],
    )
    run = run_plugin("tap-didomi", tap_config(url, retry_tries=5), tmp_path)
    assert run.exit_code == 0
    assert len(run.records("consent_users")) > 20
