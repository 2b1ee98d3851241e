"""A new Meltano project, in which nobody wrote `select`: every stream that a tap offers is read."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import BIN, Actito, Didomi, clean_environment, event, tap_config, target_config

MELTANO = Path(__file__).parents[2] / ".venv-meltano" / "bin" / "meltano"
NOW = datetime.now(timezone.utc)


def at(**later: int) -> str:
    """Return a timestamp of about now."""
    return (NOW + timedelta(**later)).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_day(root: Path, date: str, status: dict[str, bool], updated: str, *events: Any) -> None:
    """Write a partition with one person: the whole status, and what happened that day."""
    folder = root / "data" / "export-id=e1" / f"date={date}" / "users"
    folder.mkdir(parents=True)
    channels = [{"id": name, "enabled": enabled} for name, enabled in status.items()]
    user = {
        "id": "user-ann",
        "organization_user_id": "ann",
        "version": len(date),
        "updated_at": updated,
        "consents": {"channels": channels, "purposes": []},
    }
    with gzip.open(folder / "part-0.json.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"user": user, "events": list(events)}) + "\n")
    (folder.parent / "_SUCCESS").touch()


def plugin(name: str, capabilities: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """Return a custom plugin that is installed already: Meltano has nothing to install."""
    kinds = {bool: "boolean", int: "integer", list: "array", dict: "object"}
    settings = [{"name": k, "kind": kinds.get(type(v), "string")} for k, v in config.items()]
    return {
        "name": name,
        "namespace": name.replace("-", "_"),
        "executable": str(BIN / name),
        "capabilities": capabilities,
        "settings": settings,
        "config": config,
    }


def meltano(folder: Path, *arguments: str) -> str:
    """Run Meltano; return what it logged."""
    done = subprocess.run(
        [str(MELTANO), *arguments],
        cwd=folder,
        env=clean_environment(MELTANO_SEND_ANONYMOUS_USAGE_STATS="false"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def definition(name: str) -> dict[str, Any]:
    """Return the generated definition of a loader."""
    file = Path(__file__).parents[2] / "meltano.d" / f"{name}.meltano.yml"
    (loader,) = yaml.safe_load(file.read_text())["plugins"]["loaders"]
    found: dict[str, Any] = loader
    return found


@pytest.mark.skipif(
    not MELTANO.exists() and not os.environ.get("CI"),
    reason="Meltano isn't installed; `make test` installs it",
)
@pytest.mark.long
@pytest.mark.xdist_group("meltano")
@pytest.mark.timeout(600)
def test_settings_are_checked_with_meltano(url: str, actito: Actito, tmp_path: Path) -> None:
    """As the definitions offer it: settings of the plugin are passed, those of a tap in `.env`."""
    meltano(tmp_path, "init", "project")
    project = tmp_path / "project"
    path = project / "meltano.yml"
    document = yaml.safe_load(path.read_text())
    own = target_config(url, tmp_path, ledger_url=f"sqlite:///{tmp_path}/ledger.db")
    loader = plugin("target-actito", [], own)
    loader["commands"] = definition("target-actito")["commands"]
    for command in loader["commands"].values():
        command["executable"] = str(BIN / command["executable"])
    document["plugins"] = {"loaders": [loader]}
    path.write_text(yaml.safe_dump(document))
    didomi = tap_config(url, ledger_url=own["ledger_url"])
    lines = [f"TAP_DIDOMI_{name.upper()}={value}" for name, value in didomi.items()]
    (project / ".env").write_text("\n".join(lines) + "\n")
    actito.create("ann")
    Didomi(url).say(event("ann", channels={"email": True}, status="confirmed"))
    log = meltano(project, "invoke", "target-actito:check")
    assert "✓ Actito: fields of the mappings" in log
    assert "✓ people and profiles: 1 of 1 people of Didomi have a profile" in log
    assert "Ready." in log


@pytest.mark.skipif(
    not MELTANO.exists() and not os.environ.get("CI"),
    reason="Meltano isn't installed; `make test` installs it",
)
@pytest.mark.xdist_group("meltano")
@pytest.mark.timeout(600)
def test_without_select_an_unsubscribe_in_actito_stays(
    url: str, actito: Actito, tmp_path: Path
) -> None:
    """The status in the next day's export is newer than the unsubscribe, but nobody chose it."""
    exports = tmp_path / "exports"
    meltano(tmp_path, "init", "project")
    project = tmp_path / "project"
    path = project / "meltano.yml"
    document = yaml.safe_load(path.read_text())
    target = target_config(url, tmp_path)
    tap = {"export_root": exports.as_uri()}
    document["plugins"] = {
        "extractors": [plugin("tap-didomi", ["catalog", "state", "discover"], tap)],
        "loaders": [plugin("target-actito", [], target)],
    }
    path.write_text(yaml.safe_dump(document))
    actito.create("ann")
    on = event("ann", at(hours=-2), channels={"email": True})
    write_day(exports, "2026-10-01", {"email": True, "sms": False}, at(hours=-2), on)
    first = meltano(project, "run", "tap-didomi", "target-actito")
    assert actito.subscriptions("ann")["Newsletter"] is True, first[-3000:]
    actito.change("ann", Newsletter=False)
    sms = event("ann", at(hours=1), channels={"sms": True})
    write_day(exports, "2026-10-02", {"email": True, "sms": True}, at(hours=1), sms)
    second = meltano(project, "run", "tap-didomi", "target-actito")
    held = actito.subscriptions("ann")
    assert held["SmsAlerts"] is True, second[-3000:]
    assert held["Newsletter"] is False
