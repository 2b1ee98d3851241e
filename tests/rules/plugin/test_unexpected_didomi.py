"""Responses of Didomi of another form than expected show nothing, and confirm nothing.

Messages name the fields that were found and what was expected; never a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from between import Answer, Ask, Between, Rule
from support import (
    EVENTS,
    USERS,
    Didomi,
    event,
    lines,
    post_config,
    run_plugin,
    select_all,
    stream_of,
    tap_config,
    with_ledger,
)

PROXY = {"login": "https://proxy.example/ann@example.org", "session": "secret-value"}
"""What a proxy returns with status 200."""
VALUES = ("ann@example.org", "secret-value")
OTHER = {"id": "user-eve", "organization_user_id": "secret-value", "consents": {}}


@pytest.fixture
def didomi(url: str) -> Didomi:
    """The sandbox's Didomi, past the server between."""
    return Didomi(url)


@pytest.fixture
def between(url: str) -> Iterator[Between]:
    """A server that answers by a rule."""
    server = Between(url, "/v1/")
    yield server
    server.close()


@pytest.fixture
def config(between: Between, tmp_path: Path) -> dict[str, Any]:
    """Settings of target-didomi with a ledger."""
    return post_config(between.url, tmp_path, **with_ledger(tmp_path), clock_tolerance=0)


def answering(body: Any, *, part: str, method: str = "GET") -> Rule:
    """Return a rule: a body for requests of a method to a path."""

    def rule(asked: str, path: str, sent: Any, ask: Ask) -> Answer:
        return (200, body) if asked == method and part in path.partition("?")[0] else ask(sent)

    return rule


def now(seconds: float = 0) -> str:
    """Return the present time, or another."""
    when = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return when.isoformat(timespec="milliseconds")


def chosen(person: str, **channels: bool) -> dict[str, Any]:
    """An event of tap-actito: a choice made in Actito just now."""
    return {**event(person, now(), channels=channels), "delegate": {"id": "actito"}}


def say(didomi: Didomi, person: str, **channels: bool) -> None:
    """Have a person choose in Didomi, some time ago."""
    didomi.say(event(person, now(-3600), status="confirmed", channels=channels))


def email(didomi: Didomi, person: str) -> list[Any]:
    """What the Didomi users of a person show of e-mail."""
    return [
        {c["id"]: c["enabled"] for c in user["consents"]["channels"]}.get("email")
        for user in didomi.users(person)
    ]


def expect_named(text: str, *names: str) -> None:
    """Check that a message names what was found and expected, and no value."""
    assert all(name in text for name in names), text
    assert not any(value in text for value in VALUES), text


ODD_LISTS = [
    (PROXY, "an object with login, session"),
    (["secret-value"], "a list of strings"),
    ({"data": [{"error": "secret-value"}]}, "a list of objects with error"),
    ({"data": [], "cursor": {"next": "secret-value"}}, "an object with next"),
]


@pytest.mark.parametrize(("body", "found"), ODD_LISTS)
@pytest.mark.parametrize("part", [USERS, EVENTS])
def test_rule_11_an_odd_page_ends_the_tap_without_a_bookmark(
    didomi: Didomi, between: Between, tmp_path: Path, part: str, body: Any, found: str
) -> None:
    """Of users or events, after no record of it was emitted."""
    say(didomi, "ann", email=False)
    between.rule = answering(body, part=part)
    config, catalog = tap_config(between.url), tmp_path / "catalog.json"
    offered = json.loads(run_plugin("tap-didomi", config, tmp_path, "--discover").out)
    catalog.write_text(json.dumps(select_all(offered)))
    run = run_plugin("tap-didomi", config, tmp_path, "--catalog", str(catalog))
    assert run.exit_code == 1
    assert "AD505 unexpected_response" in run.err
    expect_named(run.err, found)
    assert run.records("consent_events") == []
    states = [m["value"]["bookmarks"] for m in run.messages if m["type"] == "STATE"]
    assert not any("replication_key_value" in s.get("consent_events", {}) for s in states)


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize(
    ("body", "found"), [*ODD_LISTS, ({"data": [OTHER]}, "holds another person")]
)
def test_rule_11_odd_users_leave_the_choice_owed(
    didomi: Didomi,
    between: Between,
    config: dict[str, Any],
    tmp_path: Path,
    body: Any,
    found: str,
    *,
    ledger: bool,
) -> None:
    """The run fails, STATE stays, nobody else gets the choice, and the next run posts it."""
    say(didomi, "ann", email=True)
    say(didomi, "eve", email=True)
    between.rule = answering(body, part=USERS)
    config |= {} if ledger else {"ledger_url": "none"}
    messages = lines(stream_of(chosen("ann", email=False)))
    run = run_plugin("target-didomi", config, tmp_path, stdin=messages)
    assert (run.exit_code, run.out) == (1, "")
    assert "AD505 unexpected_response" in run.err
    expect_named(run.err, found)
    assert (email(didomi, "ann"), email(didomi, "eve")) == ([True], [True])
    between.rule = answering(None, part="nothing")
    run = run_plugin("target-didomi", config, tmp_path, stdin=messages)
    assert run.exit_code == 0, run.err
    assert email(didomi, "ann") == [False]


def test_rule_11_events_of_another_person_are_not_learned(
    didomi: Didomi, between: Between, config: dict[str, Any], tmp_path: Path
) -> None:
    """They would count as choices of the person who was asked about."""
    say(didomi, "ann", email=True)
    later = event("secret-value", now(60), status="confirmed", channels={"email": True})
    between.rule = answering({"data": [later], "cursor": None}, part=EVENTS)
    messages = lines(stream_of(chosen("ann", email=False)))
    run = run_plugin("target-didomi", config, tmp_path, stdin=messages)
    assert (run.exit_code, run.out) == (1, "")
    expect_named(run.err, "holds another person")
    between.rule = answering(None, part="nothing")
    assert run_plugin("target-didomi", config, tmp_path, stdin=messages).exit_code == 0
    assert email(didomi, "ann") == [False]


@pytest.mark.parametrize("shown", ["absent", "list"])
def test_rule_11_a_user_without_consents_gets_opt_outs_only(
    didomi: Didomi, between: Between, config: dict[str, Any], tmp_path: Path, shown: str
) -> None:
    """What it holds may be an opt-out that no event explains; an opt-in waits, and is reported."""
    consents = {"channels": [{"id": "sms", "enabled": False}, {"id": "email", "enabled": True}]}
    body = {"id": "user-ann", "organization_user_id": "ann", "consents": consents}
    assert didomi("POST", USERS, body).ok

    def rule(method: str, path: str, sent: Any, ask: Ask) -> Answer:
        status, answer = ask(sent)
        if method == "GET" and USERS in path:
            for user in answer["data"]:
                user["consents"] = ["secret-value"]
                if shown == "absent":
                    del user["consents"]
        return status, answer

    between.rule = rule
    messages = lines(stream_of(chosen("ann", email=False, sms=True)))
    run = run_plugin("target-didomi", config, tmp_path, stdin=messages)
    assert run.exit_code == 0, run.err
    (user,) = didomi.users("ann")
    held = {c["id"]: c["enabled"] for c in user["consents"]["channels"]}
    assert held == {"sms": False, "email": False}
    rejects = Path(config["rejects_path"]).read_text()
    expect_named(rejects, "a user without an object `consents`", "organization_user_id")


@pytest.mark.parametrize("body", [PROXY, None, ["secret-value"], {"data": {}}])
def test_rule_11_a_proxy_confirms_no_event(
    didomi: Didomi, between: Between, config: dict[str, Any], tmp_path: Path, body: Any
) -> None:
    """It is read back; what isn't there is owed, with exit 3 for an opt-out."""
    say(didomi, "ann", email=True)
    between.rule = answering(body, part=EVENTS, method="POST")
    messages = lines(stream_of(chosen("ann", email=False)))
    run = run_plugin("target-didomi", config, tmp_path, stdin=messages)
    assert run.exit_code == 3
    expect_named(run.err, "AD505 unexpected_response", "with `id` and `created_at`")
    between.rule = answering(None, part="nothing")
    assert run_plugin("target-didomi", config, tmp_path, stdin=messages).exit_code == 0
    assert email(didomi, "ann") == [False]


def test_rule_11_an_odd_configuration_tree_refuses_nothing(
    didomi: Didomi, between: Between, config: dict[str, Any], tmp_path: Path
) -> None:
    """It is reported; ids aren't checked then."""
    say(didomi, "ann", email=True)
    between.rule = answering(PROXY, part="/config-trees")
    given = event("ann", now(), purposes={"partner_offers": False}, channels={"email": False})
    run = run_plugin("target-didomi", config, tmp_path, stdin=lines(stream_of(given)))
    assert run.exit_code == 0, run.err
    expect_named(run.err, "/config-trees must be a list", "ids aren't checked")
    assert email(didomi, "ann") == [False]
