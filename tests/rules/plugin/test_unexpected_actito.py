"""Responses of Actito of another form than expected show nothing, and confirm nothing.

Messages name the fields that were found, what was expected, and `facts_path`; never a value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from between import Answer, Ask, Between
from support import (
    Actito,
    back_config,
    event,
    listen,
    report,
    run_target,
    state,
    stream_of,
    target_config,
    with_ledger,
)

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.errors import ActitoDidomiError
from actito_didomi.runtime import Runtime
from tap_actito.tap import TapActito

PROXY = {"login": "https://proxy.example/ann@example.org", "session": "secret-value"}
"""What a proxy returns with status 200."""
VALUES = ("ann@example.org", "secret-value")


@pytest.fixture
def between(url: str) -> Iterator[Between]:
    """A server that answers by a rule."""
    server = Between(url, "/v5/")
    yield server
    server.close()


@pytest.fixture
def config(between: Between, tmp_path: Path) -> dict[str, Any]:
    """Settings of target-actito with a ledger."""
    return target_config(between.url, tmp_path, write_mode="single", **with_ledger(tmp_path))


def answering(
    body: Any, *, method: str, part: str, asks: bool = False
) -> Callable[[str, str, Any, Ask], Answer]:
    """Return a rule: a body for some requests.

    Args:
        body: What is returned, with status 200.
        method: Of the requests.
        part: How their paths end, up to an equals sign; or what is in them, if it ends with `/`.
        asks: Whether they are carried out.
    """

    def rule(asked: str, path: str, sent: Any, ask: Ask) -> Answer:
        clean = path.partition("?")[0]
        is_meant = part in clean if part.endswith("/") else clean.partition("=")[0].endswith(part)
        if asked != method or not is_meant:
            return ask(sent)
        if asks:
            ask(sent)
        return 200, body

    return rule


def run_tap(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Run tap-actito in this process; return its messages."""
    capsys.readouterr()
    TapActito(config=config).sync_all()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def expect_named(text: str, *names: str) -> None:
    """Check that a message names fields and the setting, and no value."""
    assert "facts_path" in text
    assert all(name in text for name in names), text
    assert not any(value in text for value in VALUES), text


TABLES, TABLE, PROFILES = "/profile-tables", "/profile-tables/16", "/profiles"


@pytest.mark.parametrize(
    ("part", "body", "names"),
    [
        (TABLES, PROXY, ["profile tables", "login, session", "`profileTables` or `tables`"]),
        (TABLES, {"profileTables": [{"name": "x"}]}, ["an object with profileTables"]),
        (TABLES, ["secret-value"], ["a list of strings"]),
        (TABLE, PROXY, ["structure", "login, session", "a list `attributes`"]),
        (TABLE, {"attributes": {"a": "secret-value"}}, ["structure", "an object with attributes"]),
        (TABLE, {"attributes": [{"title": "secret-value"}]}, ["objects with `name`"]),
        (TABLE, {"attributes": [{"name": "customerId", "unique": True}]}, ["list `subscriptions`"]),
    ],
)
def test_rule_11_odd_tables_and_structures_end_the_start(
    between: Between,
    config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    body: Any,
    names: list[str],
) -> None:
    """Of both plugins, with exit 1 and without STATE."""
    between.rule = answering(body, method="GET", part=part)
    with pytest.raises(ActitoDidomiError) as found:
        listen(config, stream_of(event("ann", channels={"email": False})))
    with pytest.raises(ActitoDidomiError) as also:
        run_tap(back_config(between.url, tmp_path), capsys)
    for error in (found.value, also.value):
        assert (error.code.number, error.exit_code) == (505, 1)
        expect_named(str(error), *names)
    assert '"STATE"' not in capsys.readouterr().out


def test_rule_11_odd_entities_are_reported(
    actito: Actito, between: Between, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """They only check a setting, which the tables check as well."""
    actito.create("ann", Newsletter=True)
    between.rule = answering(PROXY, method="GET", part="/entities")
    listen(config, stream_of(event("ann", channels={"email": False})))
    assert actito.subscriptions("ann")["Newsletter"] is False
    (line,) = (r.getMessage() for r in caplog.records if "the entities" in r.getMessage())
    expect_named(line, "login, session", "`entities`")


@pytest.mark.parametrize(
    "body",
    [
        PROXY,
        {"profiles": {"ann@example.org": 1}},
        ["secret-value"],
        {"profiles": [{"profileId": 1}]},
        {"profiles": [{"attributes": {"customerId": "secret-value"}}]},
        {"profiles": [{"profileId": 1, "attributes": ["secret-value"]}]},
    ],
)
@pytest.mark.parametrize("mappings", [True, False])
def test_rule_11_an_odd_page_advances_nothing(
    actito: Actito,
    between: Between,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    body: Any,
    *,
    mappings: bool,
) -> None:
    """No look is complete, no bookmark of profiles moves."""
    actito.create("ann", Newsletter=True)
    between.rule = answering(body, method="GET", part=PROFILES)
    config = back_config(between.url, tmp_path, **({} if mappings else {"mappings": []}))
    with pytest.raises(ActitoDidomiError) as found:
        run_tap(config, capsys)
    assert (found.value.code.number, found.value.exit_code) == (505, 1)
    expect_named(str(found.value))
    states = [m for m in map(json.loads, capsys.readouterr().out.splitlines()) if "value" in m]
    assert not any("replication_key_value" in json.dumps(m) for m in states)
    assert last_look(config) is None


def last_look(config: dict[str, Any]) -> Any:
    """Return the last complete look in the ledger."""
    ledger = Ledger.open(LedgerSettings(ledger_url=config["ledger_url"]), LedgerScope(), Runtime())
    try:
        return ledger.last_look()
    finally:
        ledger.close()


def test_rule_11_a_page_without_subscriptions_moves_no_bookmark(
    actito: Actito, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither that of profiles, nor does the look count as complete."""
    actito.create("ann", Newsletter=True)
    actito.steer("options", {"page_subscriptions": "absent"})
    plain = back_config(url, tmp_path, mappings=[])
    last = [m["value"] for m in run_tap(plain, capsys) if m["type"] == "STATE"][-1]
    assert "replication_key_value" not in last["bookmarks"].get("profiles", {})
    config = back_config(url, tmp_path)
    run_tap(config, capsys)
    assert last_look(config) is None
    actito.steer("options", {"page_subscriptions": "whole"})
    run_tap(config, capsys)
    assert last_look(config) is not None


@pytest.mark.parametrize("body", [PROXY, ["secret-value"], {"profileId": 1}, None])
def test_rule_11_an_odd_look_lets_opt_ins_wait(
    actito: Actito, between: Between, config: dict[str, Any], tmp_path: Path, body: Any
) -> None:
    """Opt-outs are written without a look; an attribute isn't taken for one without a value.

    The run fails at its end, so that it is seen.
    """
    actito.create("ann", Newsletter=True)
    actito.create("bob")
    vip = {"id": "vip", "type": "attribute", "value": "consents_channels_sms_enabled"}
    config["mappings"] = [config["mappings"][0], vip]
    between.rule = answering(body, method="GET", part="/customerId")
    run = run_target(
        config,
        tmp_path,
        stream_of(
            event("ann", channels={"email": False}),
            event("bob", channels={"email": True, "sms": True}),
        ),
    )
    assert run.exit_code == 1
    assert "AD505 unexpected_response" in run.err.splitlines()[-1]
    expect_named(run.err, "about a profile", "`attributes`", "stay owed")
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.subscriptions("bob")["Newsletter"] is False
    assert "vip" not in actito.attributes("bob")
    between.rule = answering(None, method="none", part="none")
    listen(config, [state({})])
    assert actito.subscriptions("bob")["Newsletter"] is True


@pytest.mark.parametrize(("method", "ledger"), [("PATCH", True), ("PUT", True), ("PATCH", False)])
def test_rule_11_a_proxy_confirms_no_write(
    actito: Actito,
    between: Between,
    config: dict[str, Any],
    tmp_path: Path,
    method: str,
    *,
    ledger: bool,
) -> None:
    """The run fails, STATE stays, and the opt-out is written by the next run."""
    actito.create("ann", Newsletter=True)
    between.rule = answering(PROXY, method=method, part="/customerId" if method == "PATCH" else "s")
    config |= {"upsert_mode": True} | ({} if ledger else {"ledger_url": "none"})
    person = "ann" if method == "PATCH" else "eve"
    meta = {"lastName": "Roe"}
    messages = stream_of(event(person, channels={"email": False}, metadata=meta))
    run = run_target(config, tmp_path, messages)
    assert (run.exit_code, run.out) == (1, "")
    assert "AD505 unexpected_response" in run.err.splitlines()[-1]
    expect_named(run.err, f"the {method} of a profile", "`profileId`", "login, session")
    assert (report(config)["updated"], report(config)["created"]) == (0, 0)
    between.rule = answering(None, method="none", part="none")
    listen(config, messages)
    assert actito.subscriptions(person)["Newsletter"] is False


def test_rule_11_a_write_that_is_confirmed_oddly_is_read_back(
    actito: Actito, between: Between, config: dict[str, Any]
) -> None:
    """Where the look after it shows what was written, it is done."""

    def rule(method: str, _path: str, body: Any, ask: Ask) -> Answer:
        answer = ask(body)
        return (200, {"result": "ok"}) if method == "PATCH" else answer

    between.rule = rule
    actito.create("ann", Newsletter=True)
    listen(config, stream_of(event("ann", channels={"email": False})))
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.calls("patch_profile") == 1


# Imports


@pytest.fixture
def importing(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that import everything."""
    return {**config, "write_mode": "bulk", "bulk_poll_interval": 0.01, "bulk_timeout": 60}


def opt_outs(actito: Actito, *people: str) -> list[dict[str, Any]]:
    """Messages with an opt-out of people who are subscribed."""
    for person in people:
        actito.create(person, Newsletter=True)
    actito.steer("options", {"etl_rows_per_second": 1e6})
    return stream_of(*(event(person, channels={"email": False}) for person in people))


@pytest.mark.parametrize(
    ("method", "body", "names", "ledger"),
    [
        ("POST", PROXY, ["about the import", "login, session", "`id`"], True),
        ("POST", ["secret-value"], ["about the import", "a list of strings"], False),
        ("GET", PROXY, ["executions of imports", "login, session"], False),
        ("GET", [{"key": "secret-value"}], ["a list of objects with key", "`id`"], False),
    ],
)
def test_rule_11_odd_responses_about_imports_acknowledge_nothing(
    actito: Actito,
    between: Between,
    importing: dict[str, Any],
    tmp_path: Path,
    method: str,
    body: Any,
    names: list[str],
    *,
    ledger: bool,
) -> None:
    """The run fails, STATE stays, and the next run brings every opt-out there."""
    importing |= {} if ledger else {"ledger_url": "none"}
    messages = opt_outs(actito, "ann", "bob")
    between.rule = answering(body, method=method, part="/etl-executions", asks=method == "POST")
    run = run_target(importing, tmp_path, messages)
    assert (run.exit_code, run.out) == (1, "")
    assert "AD505 unexpected_response" in run.err.splitlines()[-1]
    expect_named(run.err, *names)
    between.rule = answering(None, method="none", part="none")
    again = run_target(importing, tmp_path, messages)
    assert again.exit_code == 0, again.err
    assert [actito.subscriptions(p)["Newsletter"] for p in ("ann", "bob")] == [False, False]


@pytest.mark.parametrize(("body", "ledger"), [(PROXY, True), (["secret-value"], False)])
def test_rule_11_an_import_of_unknown_state_counts_as_written_nowhere(
    actito: Actito,
    between: Between,
    importing: dict[str, Any],
    tmp_path: Path,
    body: Any,
    *,
    ledger: bool,
) -> None:
    """Single requests write what was in it; with a ledger it is followed by the next run."""
    importing |= {} if ledger else {"ledger_url": "none"}
    messages = opt_outs(actito, "ann", "bob")
    between.rule = answering(body, method="GET", part="/etl-executions/")
    run = run_target(importing, tmp_path, messages)
    assert run.exit_code == (1 if ledger else 0)
    expect_named(run.err, "the execution", "`status`", "AD505 unexpected_response")
    assert "rows, 0 rejected" not in run.err
    assert actito.calls("patch_profile") == 2
    between.rule = answering(None, method="none", part="none")
    again = run_target(importing, tmp_path, messages)
    assert again.exit_code == 0, again.err
    assert [actito.subscriptions(p)["Newsletter"] for p in ("ann", "bob")] == [False, False]


@pytest.mark.parametrize(("body", "ledger"), [(PROXY, True), ({"errors": ["secret-value"]}, False)])
def test_rule_11_odd_rows_in_error_count_as_written_nowhere(
    actito: Actito,
    between: Between,
    importing: dict[str, Any],
    tmp_path: Path,
    body: Any,
    *,
    ledger: bool,
) -> None:
    """Which of the file's people were written isn't known, so each is written again or owed."""
    importing |= {} if ledger else {"ledger_url": "none"}
    messages = opt_outs(actito, "ann", "bob", "eve")
    actito.steer("options", {"etl_bad_person": "bob"})
    between.rule = answering(body, method="GET", part="/errors")
    run = run_target(importing, tmp_path, messages)
    assert not any(value in run.err for value in VALUES)
    states = {p: actito.subscriptions(p)["Newsletter"] for p in ("ann", "bob", "eve")}
    assert (states["ann"], states["eve"]) == (False, False)
    assert states["bob"] is False or run.exit_code == 3, run.err


def test_rule_11_an_import_that_wrote_no_row_counts_as_written_nowhere(
    actito: Actito, between: Between, importing: dict[str, Any], tmp_path: Path
) -> None:
    """A look has just shown the profiles, so "success" can't be true: single requests follow."""
    messages = opt_outs(actito, "ann", "bob")
    execution = {"id": "e1", "rowsCreated": 0, "rowsUpdated": 0, "rowsInError": 0}

    def rule(method: str, path: str, body: Any, ask: Ask) -> Answer:
        if "/etl-executions" in path and "/errors" not in path:
            return 200, {**execution, "status": "SUCCESS" if method == "GET" else "RUNNING"}
        return ask(body)

    between.rule = rule
    run = run_target(importing, tmp_path, messages)
    assert "it wrote no row" in run.err
    assert [actito.subscriptions(p)["Newsletter"] for p in ("ann", "bob")] == [False, False]
