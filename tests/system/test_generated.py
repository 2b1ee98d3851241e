"""What is generated from the plugins is up to date, and is what Meltano takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
_REGISTRIES = ("py" + "pi.org", "pythonhosted" + ".org", "npm" + "js.", "deb.deb" + "ian")


@pytest.fixture
def project() -> dict[str, Any]:
    """meltano.yml."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture
def definitions(project: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The plugins that meltano.yml includes, by name."""
    paths = [path for pattern in project["include_paths"] for path in sorted(ROOT.glob(pattern))]
    kinds = [yaml.safe_load(path.read_text(encoding="utf-8"))["plugins"] for path in paths]
    return {p["name"]: p for kind in kinds for plugins in kind.values() for p in plugins}


def test_generated_files_are_up_to_date() -> None:
    """Meltano's definitions, .env.example and the references follow from the declarations."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_meltano_yml_is_short_and_says_what_is_needed(project: dict[str, Any]) -> None:
    """People read it: no statistics, an active environment, the jobs and their schedules."""
    assert len((ROOT / "meltano.yml").read_text(encoding="utf-8").splitlines()) <= 75
    assert "plugins" not in project
    assert project["send_anonymous_usage_stats"] is False
    assert project["project_id"]  # or Meltano rewrites the file
    assert project["requires_meltano"] == ">=4.0"
    assert project["default_environment"] == "sandbox"
    assert [e["name"] for e in project["environments"]] == ["sandbox", "prod"]
    assert project["jobs"] == [
        {"name": "actito-to-didomi", "tasks": ["tap-actito target-didomi"]},
        {"name": "didomi-to-actito", "tasks": ["tap-didomi target-actito"]},
    ]
    # The reverse sync goes first.
    assert [s["job"] for s in project["schedules"]] == ["actito-to-didomi", "didomi-to-actito"]


def test_the_sandbox_sets_only_settings_that_exist(
    project: dict[str, Any], definitions: dict[str, dict[str, Any]]
) -> None:
    """Of plugins that are defined."""
    plugins = project["environments"][0]["config"]["plugins"]
    overrides = [*plugins["extractors"], *plugins["loaders"]]
    assert {o["name"] for o in overrides} == set(definitions)
    for override in overrides:
        known = {s["name"] for s in definitions[override["name"]]["settings"]}
        assert set(override["config"]) <= known


def test_definitions_are_what_meltano_takes(definitions: dict[str, dict[str, Any]]) -> None:
    """Secrets are marked, kinds are known, groups name settings that exist."""
    assert set(definitions) == {"tap-didomi", "target-actito", "tap-actito", "target-didomi"}
    for plugin in definitions.values():
        assert plugin["namespace"]
        assert "schema-flattening" not in plugin["capabilities"]
        settings = {s["name"]: s for s in plugin["settings"]}
        secrets = {
            "api_key",
            "api_secret",
            "connector",
            "storage_options",
            "ledger_url",
            "ledger_key",
        }
        for name in secrets & set(settings):
            assert settings[name]["sensitive"] is True
        assert not any(name.startswith("flattening_") for name in settings)
        kinds = {s["kind"] for s in settings.values()}
        assert kinds <= {
            "array", "boolean", "date_iso8601", "integer", "object", "options", "string"
        }  # fmt: skip
        named = {n for group in plugin["settings_group_validation"] for n in group}
        assert named <= set(settings)


def test_the_reference_lists_every_setting_once(definitions: dict[str, dict[str, Any]]) -> None:
    """Common ones first, then advanced ones."""
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    for name, plugin in definitions.items():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        rows = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert rows == [s["name"] for s in plugin["settings"]]
        common = section.split("Advanced settings:")[0]
        assert "`api_key`" in common
        assert "`retry_tries`" not in common


def test_no_file_names_a_package_registry_or_this_machine() -> None:
    """And there is no lock file."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    paths = [ROOT / name for name in tracked] or [p for p in ROOT.glob("*") if p.is_file()]
    assert paths
    for path in paths:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for word in (*_REGISTRIES, str(ROOT)):
            assert word not in text, f"{path.name} names {word}"
        assert path.name not in {"uv.lock", "poetry.lock", "package-lock.json"}
