"""Settings: flat, from a connector object, from files and from the environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIN,
    MAPPINGS,
    Actito,
    clean_environment,
    event,
    lines,
    run_plugin,
    run_target,
    stream_of,
)

from actito_didomi.plugin.connector import unfold_connector

NEW_FORM = {
    "type_id": "actito",
    "authentication": {"private_api_key": "sandbox-actito-key"},
    "properties": {
        "entity_id": "demo",
        "table_name": "Profiles",
        "user_unique_key": "customerId",
    },
    "mappings": MAPPINGS,
    "upsert_mode": False,
    "enable_webhooks": True,
    "enable_emailing": True,
}
OLD_FORM = {
    "upsert_mode": False,
    "config": {
        "api_key": "sandbox-actito-key",
        "entity_id": "demo",
        "table_name": "Profiles",
        "user_unique_key": "customerId",
        "properties": MAPPINGS,
    },
}


def rest(config: dict[str, Any]) -> dict[str, Any]:
    """Give the settings that a connector object doesn't hold."""
    return {k: config[k] for k in ("api_url", "rejects_path", "report_path", "calls_per_minute")}


@pytest.mark.parametrize("form", [NEW_FORM, OLD_FORM], ids=["new", "old"])
@pytest.mark.parametrize("way", ["own file", "setting", "text"])
def test_a_connector_object_works_as_it_is(
    actito: Actito, config: dict[str, Any], tmp_path: Path, form: dict[str, Any], way: str
) -> None:
    """As a file of its own, as the setting `connector`, or as its text."""
    actito.create("ann")
    messages = stream_of(event("ann", channels={"email": True}))
    if way == "own file":
        path = tmp_path / "connector.json"
        path.write_text(json.dumps(form))
        run = run_target(rest(config), tmp_path, messages, "--config", str(path))
    else:
        given = form if way == "setting" else json.dumps(form)
        run = run_target({**rest(config), "connector": given}, tmp_path, messages)
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"]
    if form is NEW_FORM:
        assert "sends no e-mail" in run.err


def test_trailing_commas_are_read(actito: Actito, config: dict[str, Any], tmp_path: Path) -> None:
    """As they stand in published examples."""
    actito.create("ann")
    text = json.dumps({**rest(config), **NEW_FORM}, indent=1).replace("\n}", ",\n}")
    assert ",\n}" in text
    messages = lines(stream_of(event("ann", channels={"email": True})))
    run = run_plugin("target-actito", text, tmp_path, stdin=messages)
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"]


def test_flat_names_win_over_a_connector() -> None:
    """Whatever is set by its own name counts."""
    known = {"table_name", "upsert_mode", "entity_id"}
    given = {"connector": NEW_FORM, "table_name": "Contacts", "upsert_mode": True}
    flat, problems = unfold_connector(given, known)
    assert problems == []
    assert flat["table_name"] == "Contacts"
    assert flat["upsert_mode"] is True
    assert flat["entity_id"] == "demo"


def test_settings_come_from_the_environment(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """`--config ENV` reads TARGET_ACTITO_..., nested ones as JSON."""
    import subprocess

    actito.create("ann")
    environment = {
        f"TARGET_ACTITO_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in config.items()
    }
    done = subprocess.run(
        [str(BIN / "target-actito"), "--config", "ENV"],
        input=lines(stream_of(event("ann", channels={"email": True}))),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=clean_environment(**environment),
    )
    assert done.returncode == 0, done.stderr
    assert actito.subscriptions("ann")["Newsletter"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_key": None}, "api_key is missing"),
        ({"mappings": None}, "mappings is missing"),
        ({"mappings": []}, "mappings is missing"),
        ({"mappings": [{"id": "A"}]}, "mappings.0: value missing"),
        ({"mappings": "Newsletter"}, "mappings: must be a list, found a string"),
        ({"mappings": ["x"]}, "mappings.0: must be an object, found a string"),
        ({"mappings": [{"id": "A", "value": ""}]}, "mappings.0.value: must not be empty"),
        ({"mappings": [{**MAPPINGS[0], "typ": "x"}]}, "mappings.0: unknown part typ. Known: id"),
        (
            {"mappings": [{**MAPPINGS[0], "type": "segment"}]},
            "mappings.0.type: must be one of attribute, subscription",
        ),
        ({"mappings": [{**MAPPINGS[0], "path": "a.b"}]}, "mappings.0.path: must be a list"),
        ({"mappings": [{**MAPPINGS[0], "invert": "no"}]}, "mappings.0.invert: must be true or f"),
        ({"mappings": [MAPPINGS[0], MAPPINGS[0]]}, "'Newsletter' occurs 2 times"),
        ({"environment": "env2"}, "environment: must be one of env0, env1, env3, preprod"),
        ({"calls_per_minute": 0}, "calls_per_minute: must be at least 1"),
        ({"upsert_mode": "yes"}, "upsert_mode: must be true or false, found a string"),
        ({"time_zone": "Mars/Olympus"}, "time_zone: 'Mars/Olympus' is not an IANA time zone"),
        ({"api_url": "api.actito.com"}, "api_url must begin with https://"),
        ({"type_id": "hubspot"}, "for another system"),
        ({"mapings": []}, "Unknown setting 'mapings' ignored. Did you mean 'mappings'?"),
    ],
)
def test_a_wrong_setting_says_which_and_what_to_do(
    config: dict[str, Any], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Before anything is read."""
    run = run_target({**config, **changes}, tmp_path, [])
    assert words in run.err
    assert run.exit_code == (0 if "mapings" in changes else 1)
    assert "Traceback" not in run.err


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Not one a run."""
    run = run_target({}, tmp_path, [])
    for name in ("api_key", "entity_id", "table_name", "user_unique_key", "mappings"):
        assert f"{name} is missing" in run.err


@pytest.mark.parametrize("plugin", ["target-actito", "target-didomi", "tap-actito", "tap-didomi"])
def test_about_documents_every_setting(tmp_path: Path, plugin: str) -> None:
    """With title and description, and secrets marked."""
    about = json.loads(run_plugin(plugin, {}, tmp_path, "--about", "--format", "json").out)
    settings = about["settings"]["properties"]
    assert len(settings) > 10
    for name, setting in settings.items():
        assert setting.get("description"), name
    secrets = {n for n, s in settings.items() if s.get("secret")}
    assert "api_key" in secrets
    for name in ("load_method", "add_record_metadata", "batch_size_rows"):
        assert name not in settings


def test_a_missing_configuration_file_is_told(tmp_path: Path, config: dict[str, Any]) -> None:
    """By its name."""
    run = run_target(config, tmp_path, [], "--config", "nowhere.json")
    assert run.exit_code == 1
    assert "there is no file nowhere.json" in run.err


def test_proxies_of_the_environment_count_and_a_netrc_does_not(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Calls go where a company's network wants them, with the plugin's own credentials."""
    actito.create("ann")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    messages = stream_of(event("ann", channels={"email": True}))
    run = run_target(config, tmp_path, messages, NETRC=str(netrc), NO_PROXY="127.0.0.1")
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"]
    # The sandbox stands in for a proxy: it answers calls to a host that doesn't exist.
    elsewhere = {**config, "api_url": "http://api.invalid/actito"}
    calls = actito.calls("patch_profile")
    run = run_target(elsewhere, tmp_path, messages, HTTP_PROXY=actito.url, NO_PROXY="")
    assert run.exit_code == 0, run.err
    assert actito.calls("patch_profile") == calls + 1
