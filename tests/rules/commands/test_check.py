"""`check`: each mistake in settings is found before a run, and nothing is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import ACTITO_KEY, MAPPINGS, Actito, Didomi, event, tap_config

from actito_didomi.commands import main

MAIL = {"id": "Newsletter", "value": "consents_channels_email_enabled"}


@pytest.fixture
def people(url: str, actito: Actito) -> list[str]:
    """People on both sides, each with a choice of mail."""
    found = [f"p{number:02}" for number in range(24)]
    actito.create_many(found)
    for person in found:
        actito.change(person, Newsletter=True)
    didomi = Didomi(url)
    for person in found:
        didomi.say(event(person, channels={"email": True}, status="confirmed"))
    return found


def ask(
    tmp_path, actito: dict[str, Any] | None, didomi: dict[str, Any] | None, *arguments: str
) -> Result:
    given = [*arguments]
    for name, config in (("actito", actito), ("didomi", didomi)):
        if config is not None:
            file = tmp_path / f"{name}.json"
            file.write_text(json.dumps(config))
            given += ["--config", str(file)]
    return CliRunner().invoke(main, ["check", *given])


def found(result: Result) -> dict[str, Any]:
    return {step["name"]: step for step in json.loads(result.stdout)["steps"]}


def test_right_settings_are_ready_and_nothing_is_written(
    config, url: str, actito: Actito, people, tmp_path
) -> None:
    config = {**config, "mappings": [MAIL], "ledger_url": f"sqlite:///{tmp_path}/ledger.db"}
    before = (actito.stats()["writes"], actito.stats("didomi")["writes"])
    didomi = {**tap_config(url), "ledger_url": config["ledger_url"]}
    result = ask(tmp_path, config, didomi)
    assert result.exit_code == 0, result.output
    assert "✓ ledger: there is none yet: the first run makes it" in result.stdout
    assert result.stdout.endswith("Ready.\n")
    assert "✓ people and profiles: 20 of 20 people of Didomi have a profile" in result.stdout
    assert "each mapping met a value, among 24 consent users" in result.stdout
    assert (actito.stats()["writes"], actito.stats("didomi")["writes"]) == before
    assert not (tmp_path / "ledger.db").exists()
    assert not any(person in result.output for person in people)


MISTAKES = [
    ({"api_key": "wrong-key"}, "Actito: address, key, entity, table", "credentials_refused"),
    ({"entity_id": "other"}, "Actito: address, key, entity, table", "unknown_entity"),
    ({"table_name": "Other"}, "Actito: address, key, entity, table", "unknown_table"),
    ({"user_unique_key": "lastName"}, "Actito: address, key, entity, table", "unsuitable_key"),
    ({"api_url": "http://127.0.0.1:9"}, "Actito: address, key, entity, table", "api_unavailable"),
    (
        {"mappings": [{**MAIL, "id": "newsletter"}]},
        "Actito: fields of the mappings",
        "unknown_field",
    ),
    (
        {"mappings": [{**MAIL, "id": "customerId", "type": "attribute"}]},
        "Actito: fields of the mappings",
        "unsuitable_field",
    ),
    ({"mappings": [{**MAIL, "value": "consent_email"}]}, "mappings", "invalid_mapping"),
    ({"mappings": [MAIL, MAIL]}, "mappings", "invalid_mapping"),
    (
        {"mappings": [{**MAIL, "value": "consents_purposes_newsleter_enabled"}]},
        "mappings and Didomi's configuration tree",
        "invalid_mapping",
    ),
    (
        {"mappings": [{**MAIL, "value": "consents_channels_emial_enabled"}]},
        "mappings and people",
        "mapping_silent",
    ),
    ({"user_unique_key": "emailAddress"}, "people and profiles", "unmatched"),
    ({"mappings": [{**MAIL, "invert": True}]}, "choices and profiles", "too_many_opt_ins"),
    ({"calls_per_minute": "many"}, "settings of Actito", "invalid_setting"),
]


@pytest.mark.parametrize(("changes", "name", "code"), MISTAKES)
def test_each_mistake_is_named(config, url, people, tmp_path, changes, name, code) -> None:
    config = {**config, "mappings": [MAIL], **changes}
    result = ask(tmp_path, config, tap_config(url), "--output", "json")
    assert result.exit_code == 5, result.output
    steps = [step for step in json.loads(result.stdout)["steps"] if step["state"] == "mistake"]
    assert (name, code) in [(step["name"], step["code"]) for step in steps], steps
    assert ACTITO_KEY not in result.output


def test_a_missing_right_is_named(config, url: str, actito: Actito, people, tmp_path) -> None:
    """That to read profiles; that to write them shows in the first run."""
    fault = {"side": "actito", "action": "status", "status": 403, "count": 99}
    actito.steer("faults", {**fault, "route": "list_profiles"})
    config = {**config, "mappings": [MAIL]}
    steps = found(ask(tmp_path, config, tap_config(url), "--output", "json"))
    step = steps["Actito: a profile can be read"]
    assert (step["state"], step["code"]) == ("mistake", "request_refused")
    assert "403" in step["text"]
    assert steps["Actito: the right to write"]["state"] == "not_checked"


def test_what_a_missing_side_prevents_is_listed(config, url: str, tmp_path) -> None:
    """It is no mistake."""
    result = ask(tmp_path, {**config, "mappings": [MAIL]}, None, "--output", "json")
    assert result.exit_code == 0, result.output
    steps = found(result)
    assert steps["settings of Didomi"]["state"] == "not_checked"
    assert steps["Didomi: address and key"]["state"] == "not_checked"
    assert steps["Actito: a profile can be read"]["state"] == "ok"
    offline = ask(tmp_path, {**config, "api_url": "http://127.0.0.1:9"}, None, "--offline")
    assert offline.exit_code == 0, offline.output
    assert "no request is made" in offline.output


def test_people_without_profiles_are_noticed(config, url: str, actito: Actito, tmp_path) -> None:
    didomi = Didomi(url)
    for number in range(4):
        didomi.say(event(f"p{number}", channels={"email": True}, status="confirmed"))
    actito.create("p0")
    config = {**config, "mappings": [MAIL]}
    step = found(ask(tmp_path, config, tap_config(url), "--output", "json"))["people and profiles"]
    assert (step["state"], step["code"]) == ("warning", "unmatched")
    assert step["text"].startswith("1 of 4 people of Didomi have a profile")


def test_settings_come_from_the_environment(
    config, url: str, people, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Meltano passes them, and those of the other side as in `.env`."""
    monkeypatch.chdir(tmp_path)
    didomi = tap_config(url)
    for prefix, given in (("TARGET_ACTITO_", config), ("TAP_DIDOMI_", didomi)):
        for name, value in given.items():
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(prefix + name.upper(), text)
    monkeypatch.setenv("TARGET_ACTITO_MAPPINGS", json.dumps([MAIL]))
    for name in ("TARGET_ACTITO", "TAP_DIDOMI"):
        monkeypatch.setenv(f"{name}_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    result = CliRunner().invoke(main, ["check", "--direction", "both"])
    assert result.exit_code == 0, result.output
    assert "forward sync" in result.stdout
    assert "reverse sync" in result.stdout


def test_the_reverse_sync_needs_paths(config, url: str, tmp_path) -> None:
    """A name that stands for no choice can't be synced to Didomi."""
    attribute = {"id": "lastName", "type": "attribute", "value": "metadata_lastname"}
    config = {**config, "mappings": [*MAPPINGS, attribute]}
    result = ask(tmp_path, config, None, "--offline", "--direction", "reverse", "--output", "json")
    assert result.exit_code == 5
    assert found(result)["mappings"]["code"] == "invalid_mapping"


def test_mappings_are_proposed_and_nothing_is_changed(
    config, url: str, actito: Actito, people, tmp_path
) -> None:
    """For subscriptions that none names; what is mapped stays as it is."""
    Didomi(url).say(event("sms-77", channels={"sms": True}, status="confirmed"))
    files = []
    given = {"actito": {**config, "mappings": [MAIL]}, "didomi": tap_config(url)}
    for name, settings in given.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
        files += ["--config", str(tmp_path / f"{name}.json")]
    before = (actito.stats()["writes"], actito.stats("didomi")["writes"])
    result = CliRunner().invoke(main, ["mappings", "suggest", *files, "--output", "json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    values = {one["id"]: one["value"] for one in shown["mappings"]}
    assert shown["mappings"][0] == {**MAIL, "type": "subscription"}
    assert values["SmsAlerts"] == "consents_channels_sms_enabled"
    assert values["Loyalty_Club"] == "consents_purposes_loyalty_club-R4_enabled"
    assert "LegacyMagazine" in shown["subscriptions_left"]
    assert (actito.stats()["writes"], actito.stats("didomi")["writes"]) == before
    text = CliRunner().invoke(main, ["mappings", "suggest", *files]).stdout
    assert "SmsAlerts <- consents_channels_sms_enabled" in text
    alone = CliRunner().invoke(main, ["mappings", "suggest", *files[:2]])
    assert alone.exit_code == 2
    assert "of Didomi are not set" in alone.output
