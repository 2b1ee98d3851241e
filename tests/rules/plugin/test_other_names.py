"""`facts_path`: every plugin that calls Actito works where Actito has other names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from between import Answer, Ask, Between
from other_names import FACTS, other_names
from support import (
    Actito,
    back_config,
    event,
    listen,
    rejects,
    report,
    run_plugin,
    stream_of,
    target_config,
    with_ledger,
)

from actito_didomi.errors import SettingsError
from tap_actito.tap import TapActito


@pytest.fixture
def between(url: str) -> Iterator[Between]:
    """An Actito with other names."""
    server = Between(url, "/v")
    server.rule = other_names
    yield server
    server.close()


def write_facts(folder: Path, facts: dict[str, Any]) -> str:
    """Write a file of facts; return its path."""
    path = folder / "facts.json"
    path.write_text(json.dumps(facts))
    return str(path)


@pytest.fixture
def config(between: Between, tmp_path: Path) -> dict[str, Any]:
    """Settings of target-actito for it."""
    return target_config(
        between.url, tmp_path, facts_path=write_facts(tmp_path, FACTS), **with_ledger(tmp_path)
    )


def read(tap: TapActito, capsys: pytest.CaptureFixture[str], stream: str) -> list[dict[str, Any]]:
    """Run a tap, and return the records of one stream."""
    capsys.readouterr()
    tap.sync_all()
    messages = map(json.loads, capsys.readouterr().out.splitlines())
    return [m["record"] for m in messages if m["type"] == "RECORD" and m["stream"] == stream]


def test_single_requests_with_other_names(actito: Actito, config: dict[str, Any]) -> None:
    """An opt-out, an opt-in, a new profile: looked at, written, and confirmed."""
    actito.create("ann", Newsletter=True)
    actito.create("bob")
    config |= {"upsert_mode": True, "write_mode": "single"}
    meta = {"lastName": "Roe", "loyaltyPoints": 7}
    listen(
        config,
        stream_of(
            event("ann", channels={"email": False}),
            event("bob", channels={"email": True}, metadata=meta),
            event("eve", channels={"email": True}, metadata=meta),
        ),
    )
    states = {name: actito.subscriptions(name)["Newsletter"] for name in ("ann", "bob", "eve")}
    assert states == {"ann": False, "bob": True, "eve": True}
    assert actito.attributes("bob")["loyaltyPoints"] == 7, "an integer by its word"
    found = report(config)
    assert (found["updated"], found["created"]) == (2, 1)


def test_imports_with_other_names(actito: Actito, config: dict[str, Any]) -> None:
    """The definition, the status, and a row in error, by its line."""
    actito.create_many(f"p{n}" for n in range(5))
    actito.steer("options", {"etl_bad_person": "p3", "etl_rows_per_second": 1e6})
    config |= {"write_mode": "bulk", "bulk_poll_interval": 0.05}
    listen(config, stream_of(*(event(f"p{n}", channels={"email": True}) for n in range(5))))
    assert actito.calls("one_shot") == 1
    assert [reject["person"] for reject in rejects(config)] == ["p3"]
    assert rejects(config)[0]["response"] == "The row can't be loaded"
    states = [actito.subscriptions(f"p{n}")["Newsletter"] for n in range(5)]
    assert states == [True, True, True, False, True]


def test_tap_actito_with_other_names(
    url: str, actito: Actito, between: Between, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Profiles, and what changed between two looks."""
    actito.create("ann", Newsletter=True)
    facts = write_facts(tmp_path, FACTS)
    plain = back_config(between.url, tmp_path, facts_path=facts, mappings=[], page_size=1)
    (ann,) = read(TapActito(config=plain), capsys, "profiles")
    assert (ann["customerId"], ann["subscription_Newsletter"]) == ("ann", True)
    config = back_config(between.url, tmp_path, facts_path=facts)
    assert read(TapActito(config=config), capsys, "consent_events") == []
    actito.change("ann", Newsletter=False)
    (found,) = read(TapActito(config=config), capsys, "consent_events")
    assert found["consents"] == {"channels": [{"id": "email", "enabled": False}]}


def test_a_list_of_tables_and_subscriptions_that_are_known(
    actito: Actito, between: Between, tmp_path: Path
) -> None:
    """Then the list isn't requested, and the structure needn't list subscriptions."""

    def rule(method: str, path: str, body: Any, ask: Ask) -> Answer:
        if path.endswith("/profile-tables"):
            return 200, {"content": [{"code": "Profiles"}]}
        status, answer = ask(body)
        if "/profile-table-structure/" in path:
            del answer["subscriptions"]
        return status, answer

    between.rule = rule
    actito.create("ann", Newsletter=True)
    config = target_config(between.url, tmp_path)
    messages = stream_of(event("ann", channels={"email": False}))
    with pytest.raises(SettingsError, match=r"an object with content.*`facts_path`") as found:
        listen(config, messages)
    assert found.value.code.number == 505
    assert "Profiles" not in str(found.value), "no values"
    config["facts_path"] = write_facts(tmp_path, {"tables": {"known": {"Profiles": "16"}}})
    with pytest.raises(SettingsError, match=r"must have a list `subscriptions`.*attributes, disp"):
        listen(config, messages)
    assert actito.subscriptions("ann")["Newsletter"] is True
    known = {"known": {"Profiles": "16"}, "known_subscriptions": list(actito.subscriptions("ann"))}
    config["facts_path"] = write_facts(tmp_path, {"tables": known})
    listen(config, messages)
    assert actito.subscriptions("ann")["Newsletter"] is False


def test_mappings_of_attributes_need_no_subscriptions(
    actito: Actito, between: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A structure that doesn't list them is a warning then."""

    def rule(_method: str, path: str, body: Any, ask: Ask) -> Answer:
        status, answer = ask(body)
        if "/profile-table-structure/" in path and not path.endswith("-tables"):
            answer["subscriptions"] = {"Newsletter": True}
        return status, answer

    between.rule = rule
    actito.create("ann", attributes={"vip": True})
    mapping = {"id": "vip", "type": "attribute", "value": "consents_channels_email_enabled"}
    config = target_config(between.url, tmp_path, mappings=[mapping])
    listen(config, stream_of(event("ann", channels={"email": False})))
    assert actito.attributes("ann")["vip"] is False
    assert "AD505 unexpected_response: table_name" in caplog.text


def test_a_wrong_file_of_facts_ends_the_start(config: dict[str, Any], tmp_path: Path) -> None:
    """It names the place inside of the file; so does `meltano config test`, which runs this."""
    config["facts_path"] = write_facts(tmp_path, {"tables": {"list": ["x"]}})
    run = run_plugin("target-actito", config, tmp_path)
    assert run.exit_code == 1
    last = run.err.strip().splitlines()[-1]
    assert "AD101 invalid_setting: facts_path: " in last
    assert "`$.tables`: there is no fact `list`; did you mean `lists`" in last
