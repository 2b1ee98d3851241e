"""No key, token or person in any output, at debug level, however a run fails."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support import (
    Actito,
    Didomi,
    Run,
    event,
    lines,
    post_config,
    record,
    run_plugin,
    run_target,
    schema,
    select_all,
    state,
    stream_of,
    tap_config,
)

from actito_didomi import privacy
from actito_didomi.runtime import Runtime
from actito_didomi.sandbox.options import DIDOMI_SECRET

PEOPLE = ["ann.secret@example.com", "bob/+secret@example.com", "çelik-secret-7"]
WORDS = ["Anastasia", "+32470123456"]


def assert_clean(run: Run, *secrets: str) -> None:
    """Look for every planted text, plain and percent-encoded, in all that was printed."""
    printed = run.out + run.err
    for text in [*PEOPLE, *WORDS, *secrets]:
        for form in (text, quote(text), quote(text, safe=""), json.dumps(text)[1:-1]):
            assert form not in printed, f"{form!r} was printed"


def choices(person: str, **more: Any) -> dict[str, Any]:
    return event(
        person,
        channels={"email": False},
        metadata={"firstName": WORDS[0], "loyaltyPoints": WORDS[1]},
        **more,
    )


@pytest.fixture
def seen_tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that the sandbox gives out, which runs in this process."""
    given: list[str] = []
    make = Runtime.token

    def remember(runtime: Runtime, size: int) -> str:
        given.append(make(runtime, size))
        return given[-1]

    monkeypatch.setattr(Runtime, "token", remember)
    return given


def test_a_run_with_every_kind_of_failure_prints_no_person_key_or_token(
    actito: Actito, config: dict[str, Any], tmp_path: Path, seen_tokens: list[str]
) -> None:
    """Refusals, retries, broken connections, rejects, unmatched people, unusable metadata."""
    actito.create_many(PEOPLE[:2])
    actito.steer(
        "faults",
        [
            {"side": "actito", "route": "patch_profile", "action": "status", "status": 429},
            {"side": "actito", "route": "patch_profile", "action": "drop_after"},
            {"side": "actito", "route": "patch_profile", "action": "half_body"},
            {"side": "actito", "route": "patch_profile", "action": "status", "status": 400},
        ],
    )
    odd = choices(PEOPLE[0])
    odd["consents"]["channels"].append({"id": "sms", "enabled": "yes"})
    events = [odd, *(choices(p) for p in PEOPLE), choices(PEOPLE[0], created_at=WORDS[1])]
    run = run_target(config, tmp_path, stream_of(*events), LOGLEVEL="DEBUG")
    assert run.exit_code == 3
    assert seen_tokens
    assert_clean(run, config["api_key"], *seen_tokens)


@pytest.mark.parametrize(
    "broken",
    [
        f"{PEOPLE[0]} is not JSON",
        json.dumps({"type": "RECORD", "stream": "consent_events", "who": PEOPLE[0]}),
        json.dumps({"stream": "consent_events", "record": {"who": PEOPLE[0]}}),
        json.dumps({"type": "HELLO", "who": PEOPLE[0]}),
        json.dumps({"type": PEOPLE[0]}),
        json.dumps([PEOPLE[0]]),
        json.dumps({"type": "RECORD", "stream": "consent_events", "record": PEOPLE[0]}),
        json.dumps({"type": "RECORD", "stream": "other", "record": {"who": PEOPLE[0]}}),
        json.dumps({"type": "SCHEMA", "stream": "x", "schema": {"who": PEOPLE[0]}}),
        json.dumps({"type": "STATE", "who": PEOPLE[0]}),
    ],
)
def test_a_broken_message_is_not_shown(
    actito: Actito, config: dict[str, Any], tmp_path: Path, broken: str
) -> None:
    """The line that can't be parsed, lacks a key, or crashes the target stays unprinted."""
    messages = [schema(), record(choices(PEOPLE[1])), broken, state({})]
    run = run_target(config, tmp_path, messages, LOGLEVEL="DEBUG")
    assert run.exit_code != 0
    assert_clean(run, config["api_key"])
    assert actito.calls("patch_profile") == 1  # what came before is written


def test_an_invalid_record_is_not_shown(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The SDK would print the whole instance of a record that fails validation."""
    bad = {**choices(PEOPLE[0]), "id": {"who": PEOPLE[0]}, "user": PEOPLE[1]}
    run = run_target(config, tmp_path, stream_of(bad), LOGLEVEL="DEBUG")
    assert "Rejected" in run.err
    assert_clean(run, config["api_key"])


def test_a_crash_inside_the_target_shows_no_value(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """A stream map that fails on a record raises with the record at hand."""
    maps = {"consent_events": {"id": "int(record['user']['organization_user_id'])"}}
    run = run_target(
        {**config, "stream_maps": maps},
        tmp_path,
        stream_of(choices(PEOPLE[0])),
        LOGLEVEL="DEBUG",
    )
    assert run.exit_code == 1
    assert run.states == []
    assert "unexpected_error" in run.err
    assert_clean(run, config["api_key"])


def test_wrong_settings_are_told_without_their_values(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """Neither a key of the wrong type nor one in an unreadable file is repeated."""
    key = "123456789012"
    run = run_target({**config, "api_key": int(key)}, tmp_path, [], LOGLEVEL="DEBUG")
    assert run.exit_code == 1
    assert "api_key: must be a string" in run.err
    assert_clean(run, key)
    text = '{"api_key": "' + config["api_key"] + '", "entity_id": }'
    run = run_plugin("target-actito", text, tmp_path, LOGLEVEL="DEBUG")
    assert run.exit_code == 1
    assert "line 1" in run.err
    assert_clean(run, config["api_key"])


@pytest.mark.parametrize("mode", ["users", "events"])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_failing_tap_prints_no_person_key_or_token(
    url: str, actito: Actito, tmp_path: Path, mode: str, status: int, seen_tokens: list[str]
) -> None:
    """The SDK would print the body of a response."""
    for person in PEOPLE:
        Didomi(url).say({"user": {"id": person, "organization_user_id": person}, "consents": {}})
    config = tap_config(url)
    catalog = json.loads(run_plugin("tap-didomi", config, tmp_path, "--discover").out)
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(select_all(catalog)))
    fault = {"side": "didomi", "action": "status", "status": status, "count": 100}
    route = "list_users" if mode == "users" else "list_events"
    actito.steer("faults", {**fault, "route": route, "skip": 0 if mode == "users" else 2})
    run = run_plugin("tap-didomi", config, tmp_path, "--catalog", str(path), LOGLEVEL="DEBUG")
    assert run.exit_code == 1
    assert len(run.records("consent_events")) == (0 if mode == "users" else 2)
    run = Run(run.exit_code, "", run.err)  # its records are meant to hold people
    assert_clean(run, config["api_key"], DIDOMI_SECRET, *seen_tokens)


@pytest.mark.parametrize(
    ("route", "status"),
    [
        ("none", 200),
        ("list_users", 401),
        ("list_events", 400),
        ("post_events", 409),
        ("post_events", 500),
        ("get_event", 403),
    ],
)
def test_target_didomi_prints_no_person_key_or_token(
    url: str, actito: Actito, tmp_path: Path, route: str, status: int, seen_tokens: list[str]
) -> None:
    """Whatever fails: people stand in its queries, bodies and answers."""
    didomi = Didomi(url)
    for person in PEOPLE:
        didomi.say(event(person, "2026-09-01T10:00:00Z", channels={"email": True}))
    config = post_config(url, tmp_path)
    fault = {"side": "didomi", "action": "status", "status": status, "count": 100}
    actito.steer("faults", {**fault, "route": route})
    unknown = {"purposes": {"never-heard-of": True}} if route == "get_event" else {}
    given = [event(p, channels={"email": False}, **unknown) for p in PEOPLE]
    run = run_plugin(
        "target-didomi", config, tmp_path, stdin=lines(stream_of(*given)), LOGLEVEL="DEBUG"
    )
    assert run.exit_code in {0, 1, 3}
    assert_clean(run, config["api_key"], DIDOMI_SECRET, *seen_tokens)


def test_a_broken_export_is_named_and_not_shown(tmp_path: Path) -> None:
    """The file and the line, without what stands there."""
    import gzip

    folder = tmp_path / "data" / "export-id=e" / "date=2026-10-01" / "users"
    folder.mkdir(parents=True)
    (folder.parent / "_SUCCESS").touch()
    with gzip.open(folder / "a.json.gz", "wt") as file:
        file.write(json.dumps({"user": {"id": PEOPLE[0]}, "events": []}) + "\n")
        file.write(f'{{"user": {{"id": "{PEOPLE[1]}"')
    settings = {"export_root": f"file://{tmp_path}"}
    run = run_plugin("tap-didomi", settings, tmp_path, LOGLEVEL="DEBUG")
    assert run.exit_code == 1
    assert "a.json.gz, line 2: not valid JSON" in run.err
    assert_clean(run)


def test_secrets_are_masked_in_messages_arguments_and_tracebacks() -> None:
    """The filter covers every way into a log line."""
    privacy.protect(["s3cr3t-value"])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(privacy.PrivacyFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("a s3cr3t-value")
    logger.warning("b %s", {"key": "s3cr3t-value"})
    try:
        raise KeyError("ann@example.com s3cr3t-value")
    except KeyError:
        logger.exception("c")
    text = stream.getvalue()
    assert "s3cr3t-value" not in text
    assert "ann@example.com" not in text
    assert "KeyError" in text
    assert text.count("***") == 2


def test_a_person_has_one_short_name_for_each_key() -> None:
    """So that logs and commands of one ledger can be matched, and nobody can guess whose it is."""
    assert privacy.hash_person("ann", b"k") == privacy.hash_person("ann", b"k")
    assert len(privacy.hash_person("ann", b"k")) == 10
    assert privacy.hash_person("ann", b"k") != privacy.hash_person("bob", b"k")
    assert privacy.hash_person("ann", b"k") != privacy.hash_person("ann", b"l")
