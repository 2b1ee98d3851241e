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


def test_generated_files_are_up_to_date() -> None:
    """meltano.yml, .env.example and the README's tables follow from `--about`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_meltano_yml_says_what_is_needed(project: dict[str, Any]) -> None:
    """No statistics, an active environment, the job and its schedule, secrets marked."""
    assert project["send_anonymous_usage_stats"] is False
    assert project["requires_meltano"] == ">=4.0"
    assert project["default_environment"] == "sandbox"
    assert [e["name"] for e in project["environments"]] == ["sandbox", "prod"]
    assert project["jobs"] == [
        {"name": "actito-to-didomi", "tasks": ["tap-actito target-didomi"]},
        {"name": "didomi-to-actito", "tasks": ["tap-didomi target-actito"]},
    ]
    # The way back goes first.
    assert [s["job"] for s in project["schedules"]] == ["actito-to-didomi", "didomi-to-actito"]
    for kind in ("extractors", "loaders"):
        for plugin in project["plugins"][kind]:
            assert plugin["namespace"]
            settings = {s["name"]: s for s in plugin["settings"]}
            assert settings["api_key"]["sensitive"] is True
            assert all(s["kind"] not in {"password", "hidden"} for s in settings.values())
            named = {n for group in plugin["settings_group_validation"] for n in group}
            assert named <= set(settings)


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
