"""Settings: flat, from a connector object, from files and from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR
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

from actito_didomi.errors import InvalidSettingsError
from actito_didomi.plugin.config import (
    find_invalid,
    normalise,
    read_config_files,
    read_settings,
    read_text,
    schema_of,
    secret_texts,
)
from actito_didomi.plugin.connector import unfold_connector
from tap_actito.config import Settings as TapSettings
from target_actito.config import Settings

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


PUBLISHED = """{
  "type_id": "actito", // as it stands in Didomi's documentation
  "authentication": {"private_api_key:" "sandbox-actito-key"},
  "properties": {
    "entity_id": "demo", "table_name": "Profiles", "user_unique_key": "customerId",
  },
  "mappings": [{"id": "Newsletter", "value": "consents_channels_email_enabled"}],
  "upsert_mode": false,
}"""
SCHEMA = schema_of(Settings)
PREFIX = "TARGET_ACTITO_"


def rest(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a connector object doesn't hold."""
    names = ("api_url", "rejects_path", "report_path", "calls_per_minute", "ledger_url")
    return {name: config[name] for name in names}


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


def test_the_published_example_is_read() -> None:
    """Comments, trailing commas and its misplaced colon."""
    flat, problems = unfold_connector({"connector": PUBLISHED}, SCHEMA["properties"])
    assert problems == []
    assert flat == {
        "api_key": "sandbox-actito-key",
        "entity_id": "demo",
        "table_name": "Profiles",
        "user_unique_key": "customerId",
        "mappings": [MAPPINGS[0]],
        "upsert_mode": False,
    }


def test_tap_actito_takes_the_connector_object(url: str, tmp_path: Path) -> None:
    """As it is; what concerns targets only is left out without a word."""
    settings = {"api_url": f"{url}/actito"}
    text = PUBLISHED.replace('"type_id"', f'"api_url": "{settings["api_url"]}", "type_id"')
    for config in (text, json.dumps({**settings, "connector": NEW_FORM})):
        run = run_plugin("tap-actito", config, tmp_path, "--discover")
        assert run.exit_code == 0, run.err
        assert "Unknown setting" not in run.err
        assert "consent_events" in run.out


@pytest.mark.parametrize(
    ("connector", "words"),
    [
        ([1], "connector must be an object, or its text"),
        ("{x", "connector is not valid JSON (line 1)"),
        ("[]", "connector must be a JSON object of settings"),
        ({"type_id": "hubspot"}, "type_id must be 'actito'"),
    ],
)
def test_a_wrong_connector_says_so(connector: Any, words: str) -> None:
    """By one line, without its content."""
    _, problems = unfold_connector({"connector": connector}, SCHEMA["properties"])
    assert len(problems) == 1
    assert words in problems[0]


def test_parts_of_the_connector_are_no_settings() -> None:
    """They are unfolded before the check."""
    parts = {"type_id", "authentication", "properties", "config", "enable_webhooks"}
    for settings in (Settings, TapSettings):
        assert not parts & set(schema_of(settings)["properties"])
    flat, _ = unfold_connector(NEW_FORM, SCHEMA["properties"])
    assert not parts & set(flat)


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
        ({"api_key": "sandbox-actito-key\n"}, "api_key: must not contain blanks or line breaks"),
        ({"mappings": None}, "mappings is missing"),
        ({"mappings": []}, "mappings is missing"),
        ({"mappings": [{"id": "A"}]}, "mappings, entry 1: value missing"),
        (
            {"mappings": "Newsletter"},
            "mappings: must be a list in JSON; the text is not valid JSON (line 1)",
        ),
        ({"mappings": ["x"]}, "mappings, entry 1: must be an object, found a string"),
        ({"mappings": [{"id": "A", "value": ""}]}, "mappings, entry 1, value: must not be empty"),
        (
            {"mappings": [{**MAPPINGS[0], "typ": "x"}]},
            "mappings, entry 1: unknown part typ. Known: id",
        ),
        (
            {"mappings": [{**MAPPINGS[0], "type": "segment"}]},
            "mappings, entry 1, type: must be one of attribute, subscription, found 'segment'",
        ),
        ({"mappings": [{**MAPPINGS[0], "path": "a.b"}]}, "mappings, entry 1, path: must be a list"),
        (
            {"mappings": [{**MAPPINGS[0], "invert": "ja"}]},
            "mappings, entry 1, invert: must be true or false, found 'ja'.",
        ),
        ({"mappings": [MAPPINGS[0], MAPPINGS[0]]}, "'Newsletter' occurs 2 times"),
        (
            {"environment": "env2"},
            "environment: must be one of env0, env1, env3, preprod, found 'env2'",
        ),
        ({"calls_per_minute": 0}, "calls_per_minute: must be at least 1, found 0."),
        (
            {"upsert_mode": "ja"},
            "upsert_mode: must be true or false (also yes/no, on/off, 1/0), found 'ja'.",
        ),
        ({"calls_per_minute": "viele"}, "calls_per_minute: must be a whole number, found 'viele'"),
        ({"storage_options": "{HUSH"}, "storage_options: must be an object in JSON; the text is n"),
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


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("calls_per_minute", "50", 50),
        ("calls_per_minute", "100.0", 100),
        ("calls_per_minute", "100.5", "100.5"),
        ("calls_per_minute", "abc", "abc"),
        ("retry_seconds", "1.5", 1.5),
        ("retry_seconds", "soon", "soon"),
        ("upsert_mode", "TRUE", True),
        ("upsert_mode", "off", False),
        ("upsert_mode", "ja", "ja"),
        ("skip_delegates", '["a", "b"]', ["a", "b"]),
        ("skip_delegates", "a, b", ["a", "b"]),
        ("mappings", '[{"id": "A", "value": "v",}]', [{"id": "A", "value": "v"}]),
        ("mappings", "[{", "[{"),
        ("storage_options", '{"key": "k"}', {"key": "k"}),
        ("table_name", "12", "12"),
    ],
)
def test_texts_of_the_environment_are_read_as_the_schema_says(
    name: str, text: str, value: Any
) -> None:
    """What can't be read stays as it is, for the check to report."""
    read = read_text(text, SCHEMA["properties"][name])
    assert (read, type(read)) == (value, type(value))


def test_wrong_texts_of_the_environment_name_setting_and_variable(tmp_path: Path) -> None:
    """And what was expected, all at once and last; a value only if it is single and not secret."""
    texts = {
        "CALLS_PER_MINUTE": "abc",
        "RETRY_SECONDS": "nan",
        "UPSERT_MODE": "ja",
        "MAPPINGS": "[\n{hidden",
        "STORAGE_OPTIONS": "hidden",
        "API_KEY": "hidden key",
        "WRITE_MODE": "fast",
        "FLATTENING_ENABLED": "true",
    }
    environment = {PREFIX + name: text for name, text in texts.items()}
    run = run_plugin("target-actito", {}, tmp_path, "--config", "ENV", **environment)
    assert run.exit_code == 1
    _, reasons = run.err.split("Config validation failed")
    json_text = "in JSON; the text is not valid JSON"
    for name, words in {
        "CALLS_PER_MINUTE": "must be a whole number, found 'abc'.",
        "RETRY_SECONDS": "must be a number",
        "UPSERT_MODE": "must be true or false (also yes/no, on/off, 1/0), found 'ja'.",
        "MAPPINGS": f"must be a list {json_text} (line 2).",
        "STORAGE_OPTIONS": f"must be an object {json_text} (line 1).",
        "API_KEY": "must not contain blanks",
        "WRITE_MODE": "must be one of auto, bulk, single, found 'fast'.",
    }.items():
        named = f"{name.lower()} (environment variable {PREFIX}{name}): {words}"
        assert named in reasons
    assert "flattening_enabled: flattened records would hide opt-outs" in reasons
    assert "hidden" not in run.err


def test_texts_of_a_file_are_read_like_those_of_the_environment() -> None:
    """As Meltano passes them; an empty one is not set."""
    texts = {"upsert_mode": "off", "calls_per_minute": "7", "skip_delegates": "a,b", "mappings": ""}
    config = normalise({**texts, "storage_options": '{"key": "k"}', "bulk_threshold": ""}, SCHEMA)
    assert config["upsert_mode"] is False
    assert config["calls_per_minute"] == 7
    assert config["skip_delegates"] == ["a", "b"]
    assert config["storage_options"] == {"key": "k"}
    assert config["bulk_threshold"] == 200
    assert "mappings" not in config
    assert set(secret_texts(config, SCHEMA)) == {"k", "sqlite:///actito-didomi.db"}


def test_env_is_read_from_the_working_folder(tmp_path: Path) -> None:
    """`.env` counts with `--config ENV`; variables that are set win; empty ones are not set."""
    (tmp_path / ".env").write_text(
        f'{PREFIX}API_URL=api.file\n{PREFIX}TIME_ZONE=Mars/File\n{PREFIX}ENVIRONMENT=""\n'
    )
    environment = {f"{PREFIX}TIME_ZONE": "Mars/Shell", f"{PREFIX}RETRY_TRIES": ""}
    run = run_plugin("target-actito", {}, tmp_path, "--config", "ENV", **environment)
    assert "api_url must begin with" in run.err
    assert "'Mars/Shell' is not an IANA time zone" in run.err
    assert "environment:" not in run.err
    assert "retry_tries" not in run.err


@pytest.mark.parametrize("plugin", ["target-actito", "target-didomi", "tap-actito", "tap-didomi"])
def test_flattening_is_refused(tmp_path: Path, plugin: str) -> None:
    """It would hide opt-outs: even where it is switched off, its place is not here."""
    run = run_plugin(plugin, {"flattening_enabled": True}, tmp_path)
    assert run.exit_code == 1
    assert "flattening_enabled: flattened records would hide opt-outs" in run.err


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_is_finite(tmp_path: Path, number: str) -> None:
    """Whatever a lenient reader takes for one."""
    run = run_plugin("tap-didomi", f'{{"retry_seconds": {number}}}', tmp_path)
    assert run.exit_code == 1
    assert "retry_seconds: must be a number" in run.err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_a_file_is_read_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    """As Windows writes them, too."""
    path = tmp_path / "config.json"
    path.write_bytes('{"entity_id": "Société"}'.encode(encoding))
    assert read_config_files([str(path)]) == {"entity_id": "Société"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\xd8", "must be text in UTF-8"),
        (b"{", "is not valid JSON (line 1)"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"3", "must be a JSON object of settings"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, content: bytes, words: str) -> None:
    """By its name, without its content."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InvalidSettingsError) as caught:
        read_config_files([str(path)])
    assert words in caught.value.errors[0]
    assert "config.json" in caught.value.errors[0]


def test_a_file_may_be_a_pipe(tmp_path: Path) -> None:
    """As of `--config <(...)`."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    import threading

    threading.Thread(target=path.write_text, args=('{"entity_id": "x"}',)).start()
    assert read_config_files([str(path)]) == {"entity_id": "x"}


def test_every_text_of_a_secret_setting_is_secret() -> None:
    """Also inside of objects and lists."""
    config = {
        "api_key": "the-key",
        "entity_id": "demo",
        "storage_options": {"key": "access", "client": {"secrets": ["inner", 5]}},
        "ledger_url": "postgresql://user:password@host/db",
    }
    assert set(secret_texts(config, SCHEMA)) == {
        "the-key",
        "access",
        "inner",
        "postgresql://user:password@host/db",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(st.sampled_from(sorted(SCHEMA["properties"])), JSON)
def test_any_value_is_typed_or_reported(name: str, value: Any) -> None:
    """What passes the check has a type; nothing ends in an unexpected error."""
    config = normalise({name: value}, SCHEMA)
    found = DEFAULT_JSONSCHEMA_VALIDATOR(SCHEMA).iter_errors(config)
    if not find_invalid(config, found, SCHEMA, PREFIX):
        assert isinstance(read_settings(Settings, config), Settings)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Not only the first one."""
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
    # The sandbox stands in for a proxy: it answers calls to a port that nobody serves.
    elsewhere = {**config, "api_url": "http://localhost:1/actito"}
    calls = actito.calls("patch_profile")
    run = run_target(elsewhere, tmp_path, messages, HTTP_PROXY=actito.url, NO_PROXY="")
    assert run.exit_code == 0, run.err
    assert actito.calls("patch_profile") == calls + 1
