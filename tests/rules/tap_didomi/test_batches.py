"""tap-didomi's two quick ways out of batch exports: bytes as they are, and BATCH messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Actito, run_plugin, run_target, schema, state

from actito_didomi.consent.records import events_of_line, raw_events
from actito_didomi.didomi.exports import decode_line

BATCH = {
    "encoding": {"format": "jsonl", "compression": "gzip"},
    "storage": {"root": "file:///unused"},
}
values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=5),
    st.lists(st.booleans(), max_size=2), st.just({"é": [1.5]}),
)  # fmt: skip
parts = st.dictionaries(st.sampled_from(["id", "created_at", "consents", "x"]), values)
owners = st.dictionaries(
    st.sampled_from(["id", "organization_user_id", "metadata", "consents"]), values
)
export_lines = st.fixed_dictionaries(
    {"user": owners},
    optional={"events": st.lists(st.one_of(parts, parts.map(lambda p: {**p, "user": None})))},
)


@given(export_lines)
def test_events_as_bytes_are_the_events(line) -> None:
    """What isn't decoded is the same as what is."""
    text = json.dumps(line).encode()
    raw = raw_events(text)
    decoded = decode_line("f", 1, text)
    assert decoded.value is not None
    if raw is not None:
        assert json.loads(json.dumps(events_of_line(decoded.value))) == [
            {name: json.loads(bytes(part)) for name, part in event.items()} for event in raw
        ]
    else:
        assert "events" not in line or any("user" in event for event in line["events"])


@pytest.fixture
def exports(actito: Actito, tmp_path: Path) -> Path:
    """Exports of some people."""
    actito.steer("reset", {"people": 60})
    root = tmp_path / "exports"
    actito.steer("exports", {"root": str(root), "export_id": "one"})
    return root


def test_bytes_and_the_sdks_way_give_the_same_records(exports, tmp_path) -> None:
    """A map that changes nothing takes the SDK's way."""
    config: dict[str, Any] = {"export_root": exports.as_uri()}
    quick = run_plugin("tap-didomi", config, tmp_path)
    slow = run_plugin("tap-didomi", {**config, "stream_maps": {"other": {"x": "y"}}}, tmp_path)
    assert quick.exit_code == slow.exit_code == 0
    assert quick.records("consent_events") == slow.records("consent_events") != []
    states = [[m for m in run.messages if m["type"] == "STATE"] for run in (quick, slow)]
    assert states[0] == states[1] != []
    assert [m["type"] for m in quick.messages][:1] == ["SCHEMA"]
    assert all(m["time_extracted"] for m in quick.messages if m["type"] == "RECORD")


def test_batches_name_the_files_as_they_are_and_arrive(exports, tmp_path, config, actito) -> None:
    """The target reads the export's own files, and ends with the same profiles."""
    settings: dict[str, Any] = {"export_root": exports.as_uri()}
    one_by_one = run_plugin("tap-didomi", settings, tmp_path)
    first = run_target(config, tmp_path, one_by_one.messages)
    assert first.exit_code == 0, first.err
    expected = {p: v["subscriptions"] for p, v in actito.all().items()}
    actito.steer("reset", {"people": 60})
    batches = run_plugin("tap-didomi", {**settings, "batch_config": BATCH}, tmp_path)
    kinds = [m["type"] for m in batches.messages]
    assert set(kinds) == {"SCHEMA", "BATCH", "STATE"}
    named = [f for m in batches.messages if m["type"] == "BATCH" for f in m["manifest"]]
    assert sorted(named) == sorted(f"file://{p}" for p in exports.rglob("*.json.gz"))
    second = run_target({**config, "batch_root": str(exports)}, tmp_path, batches.messages)
    assert second.exit_code == 0, second.err
    assert {p: v["subscriptions"] for p, v in actito.all().items()} == expected
    assert second.states[-1] == batches.messages[-1]["value"]
    # The state is the same in both ways, so the setting can be changed at any time.
    (tmp_path / "state.json").write_text(json.dumps(second.states[-1]))
    again = run_plugin("tap-didomi", settings, tmp_path, "--state", str(tmp_path / "state.json"))
    assert again.records("consent_events") == []


def test_state_does_not_pass_a_batch_that_can_not_be_read(exports, tmp_path, config) -> None:
    """A truncated file: what came before is kept, STATE stays before it."""
    settings = {"export_root": exports.as_uri(), "batch_config": BATCH}
    batches = run_plugin("tap-didomi", settings, tmp_path)
    last = max(exports.rglob("*.json.gz"))
    last.write_bytes(last.read_bytes()[:-20])
    run = run_target(config, tmp_path, batches.messages)
    assert run.exit_code == 1
    assert last.name in run.err
    dates = [s["bookmarks"]["consent_events"].get("exports", {}).get("one") for s in run.states]
    assert "2026-10-03" not in dates


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_b13_state_does_not_pass_an_empty_batch_file(tmp_path, config, compression) -> None:
    """A file of 0 bytes is not one without lines: something is missing."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    batch = {
        "type": "BATCH",
        "stream": "consent_events",
        "encoding": {"format": "jsonl", "compression": compression},
        "manifest": [empty.as_uri()],
    }
    run = run_target(config, tmp_path, [schema(), batch, state({"read": 1})])
    assert run.exit_code == 1
    assert "AD204 unreadable_batch" in run.err
    assert "empty (0 bytes)" in run.err
    assert run.states == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch_config": {**BATCH, "encoding": {"format": "parquet"}}}, "gzip JSON lines"),
        ({"export_root": None, "batch_config": BATCH}, "only batch exports"),
    ],
)
def test_a_wrong_batch_config_is_told(tmp_path, change, problem) -> None:
    """Before anything is read."""
    run = run_plugin("tap-didomi", {"export_root": "file:///nowhere", **change}, tmp_path)
    assert run.exit_code == 1
    assert problem in run.err
