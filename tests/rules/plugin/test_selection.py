"""Which streams a tap reads: discovery and a run without a catalog agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import Actito, back_config, run_plugin, tap_config

BATCH = {
    "encoding": {"format": "jsonl", "compression": "gzip"},
    "storage": {"root": "file:///unused"},
}
EVENTS, USERS, PROFILES, CHANGES = (
    "consent_events",
    "consent_users",
    "profiles",
    "subscription_changes",
)
MODES: dict[str, tuple[str, dict[str, Any], set[str], set[str]]] = {
    # Plugin, settings, streams that are offered, streams that are read.
    "didomi exports": ("tap-didomi", {"export_root": "EXPORTS"}, {EVENTS}, {EVENTS}),
    "didomi exports as batches": (
        "tap-didomi", {"export_root": "EXPORTS", "batch_config": BATCH}, {EVENTS}, {EVENTS},
    ),
    "didomi exports with users": (
        "tap-didomi", {"export_root": "EXPORTS", "read_users": True},
        {EVENTS, USERS}, {EVENTS, USERS},
    ),
    "didomi api": ("tap-didomi", {}, {EVENTS, USERS}, {USERS}),
    "actito mapped": ("tap-actito", {}, {EVENTS, PROFILES, CHANGES}, {EVENTS}),
    "actito exports": (
        "tap-actito", {"change_source": "exports", "export_root": "CHANGES"},
        {EVENTS, PROFILES, CHANGES}, {EVENTS},
    ),
    "actito unmapped": (
        "tap-actito", {"mappings": None}, {EVENTS, PROFILES, CHANGES}, {PROFILES, CHANGES},
    ),
}  # fmt: skip


@pytest.fixture
def folders(actito: Actito, tmp_path: Path) -> dict[str, str]:
    """Exports of both sides, by the name that stands for them in `MODES`."""
    actito.steer("reset", {"people": 5})
    actito.steer("exports", {"root": str(tmp_path / "exports")})
    (tmp_path / "changes").mkdir()
    return {
        "EXPORTS": (tmp_path / "exports").as_uri(),
        "CHANGES": (tmp_path / "changes").as_uri(),
    }


def settings_of(
    name: str, settings: dict[str, Any], url: str, folder: Path, folders: dict[str, str]
) -> dict[str, Any]:
    """Return the whole configuration of a mode."""
    base = tap_config(url) if name == "tap-didomi" else back_config(url, folder)
    known = {k: folders.get(v, v) if isinstance(v, str) else v for k, v in settings.items()}
    return {k: v for k, v in {**base, **known}.items() if v is not None}


def selected(catalog: dict[str, Any]) -> set[str]:
    """Return the streams that a catalog selects."""
    return {
        stream["stream"]
        for stream in catalog["streams"]
        for item in stream["metadata"]
        if not item["breadcrumb"] and item["metadata"]["selected"]
    }


@pytest.mark.parametrize("mode", MODES)
def test_discovery_and_a_run_without_a_catalog_agree(mode, url, folders, tmp_path) -> None:
    """What discovery shows as selected is what is read."""
    name, settings, offered, read = MODES[mode]
    config = settings_of(name, settings, url, tmp_path, folders)
    catalog = json.loads(run_plugin(name, config, tmp_path, "--discover").out)
    assert {stream["stream"] for stream in catalog["streams"]} == offered
    assert selected(catalog) == read
    run = run_plugin(name, config, tmp_path)
    assert run.exit_code == 0, run.err
    assert {m["stream"] for m in run.messages if m["type"] == "SCHEMA"} == read
    assert ("are both selected" in run.err) is ({EVENTS, USERS} <= read)


@pytest.mark.parametrize("mode", ["didomi exports", "didomi api", "actito mapped"])
@pytest.mark.parametrize("kind", ["empty", "nothing selected", "not an object"])
def test_a_catalog_that_selects_nothing_is_an_error(mode, kind, url, folders, tmp_path) -> None:
    """Rather than a run that reads nothing and succeeds."""
    name, settings, offered, _ = MODES[mode]
    config = settings_of(name, settings, url, tmp_path, folders)
    catalog: Any = {"empty": {}, "not an object": []}.get(kind)
    if catalog is None:
        catalog = json.loads(run_plugin(name, config, tmp_path, "--discover").out)
        for stream in catalog["streams"]:
            (root,) = (item for item in stream["metadata"] if not item["breadcrumb"])
            root["metadata"]["selected"] = False
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(catalog))
    run = run_plugin(name, config, tmp_path, "--catalog", str(path))
    assert run.exit_code == 1
    if kind == "not an object":
        assert f"--catalog {path} must hold a JSON object" in run.err
    else:
        assert "--catalog: no stream is selected" in run.err
        assert ", ".join(sorted(offered)) in run.err
    assert run.out == ""
