"""The main job as its users run it: by a pipe, and by Meltano."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIN,
    MAPPINGS,
    Actito,
    Didomi,
    clean_environment,
    report,
    run_plugin,
    target_config,
)

from actito_didomi.didomi.exports import ExportFolder

ROOT = Path(__file__).parents[2]
MELTANO = ROOT / ".venv-meltano" / "bin" / "meltano"


def newest_choices(root: Path) -> dict[str, dict[str, bool]]:
    """Work out from the exports themselves what each person chose last, by mapping."""
    chosen: dict[str, dict[str, tuple[str, bool]]] = {}
    folder = ExportFolder(f"file://{root}")
    for partition in folder.partitions()["sandbox"]:
        for file in partition.files:
            for line in folder.lines(file.path):
                assert line.value
                for event in line.value["events"]:
                    if event["status"] != "confirmed" or event["regulation"] != "gdpr":
                        continue
                    if (event.get("delegate") or {}).get("id") == "actito":
                        continue
                    person = event["user"]["organization_user_id"]
                    nodes = [("channels", n) for n in event["consents"].get("channels", [])]
                    nodes += [("purposes", n) for n in event["consents"].get("purposes", [])]
                    for kind, node in nodes:
                        name = f"consents_{kind}_{node['id']}_enabled"
                        ids = [m["id"] for m in MAPPINGS if m["value"] == name]
                        if not ids or node.get("enabled") is None:
                            continue
                        known = chosen.setdefault(person, {}).get(ids[0])
                        new = (event["created_at"], node["enabled"])
                        if known is None or (new[0], not new[1]) > (known[0], not known[1]):
                            chosen[person][ids[0]] = new
    return {p: {i: v for i, (_, v) in c.items()} for p, c in chosen.items()}


@pytest.fixture
def exports(actito: Actito, tmp_path: Path) -> Path:
    """Batch exports of 300 people of the sandbox."""
    actito.steer("reset", {"people": 300})
    actito.steer("exports", {"root": str(tmp_path / "exports")})
    return tmp_path / "exports"


def expected(before: dict[str, Any], root: Path) -> dict[str, dict[str, bool]]:
    """Work out what Actito must hold: what it held, and each person's newest choices over it."""
    choices = newest_choices(root)
    assert len(choices) > 200
    return {p: {**v["subscriptions"], **choices.get(p, {})} for p, v in before.items()}


def test_tap_and_target_in_a_pipe(url: str, actito: Actito, exports: Path, tmp_path: Path) -> None:
    """Every profile ends with each person's newest choices, and nothing else has changed."""
    before = actito.all()
    config = target_config(url, tmp_path)
    (tmp_path / "tap.json").write_text(json.dumps({"export_root": f"file://{exports}"}))
    (tmp_path / "target.json").write_text(json.dumps(config))
    environment = clean_environment()
    with subprocess.Popen(
        [str(BIN / "tap-didomi"), "--config", str(tmp_path / "tap.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as tap:
        done = subprocess.run(
            [str(BIN / "target-actito"), "--config", str(tmp_path / "target.json")],
            stdin=tap.stdout,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
    assert (tap.returncode, done.returncode) == (0, 0), done.stderr
    after = actito.all()
    assert {p: v["subscriptions"] for p, v in after.items()} == expected(before, exports)
    result = report(config)
    assert result["unmatched"] > 0
    assert result["created"] == 0
    assert result["updated"] + result["unmatched"] + result["unchanged"] == result["people"]
    # From the state that came out, a second run has nothing to do.
    state = tmp_path / "state.json"
    state.write_text(done.stdout.splitlines()[-1])
    again = run_plugin(
        "tap-didomi", {"export_root": f"file://{exports}"}, tmp_path, "--state", str(state)
    )
    assert again.records("consent_events") == []


def test_through_the_api_as_well(url: str, actito: Actito, tmp_path: Path) -> None:
    """A first load by users: each person's latest status is written."""
    from support import listen, tap_config

    actito.steer("reset", {"people": 120})
    before = actito.all()
    run = run_plugin("tap-didomi", tap_config(url), tmp_path)
    listen(target_config(url, tmp_path), run.messages)
    latest: dict[str, Any] = {}
    for user in run.records("consent_users"):
        person = user.get("organization_user_id")
        if person and user["updated_at"] >= latest.get(person, user)["updated_at"]:
            latest[person] = user
    after, checked = actito.all(), 0
    for person, user in latest.items():
        for node in user["consents"]["purposes"]:
            if node["id"] == "partner_offers" and node["enabled"] is not None and person in after:
                assert after[person]["subscriptions"]["PartnerOffers"] is node["enabled"]
                checked += 1
    assert checked > 20
    untouched = set(before) - set(latest)
    assert untouched
    for person in untouched:
        assert after[person] == before[person]


@pytest.fixture
def meltano_environment(url: str, exports: Path, tmp_path: Path) -> dict[str, str]:
    """Settings from the environment, and a state of the test's own."""
    config = target_config(url, tmp_path)
    return clean_environment(
        MELTANO_DATABASE_URI=f"sqlite:///{tmp_path / 'meltano.db'}",
        MELTANO_VENV_BACKEND="virtualenv",
        PIP_CONSTRAINT=str(ROOT / "constraints.txt"),
        TAP_DIDOMI_EXPORT_ROOT=f"file://{exports}",
        TAP_DIDOMI_EXPORT_IDS='["sandbox"]',
        TARGET_ACTITO_API_URL=config["api_url"],
        TARGET_ACTITO_MAPPINGS=json.dumps(MAPPINGS),
        TARGET_ACTITO_CALLS_PER_MINUTE="1000000",
        TARGET_ACTITO_REJECTS_PATH=config["rejects_path"],
        TARGET_ACTITO_REPORT_PATH=config["report_path"],
        TAP_DIDOMI_LEDGER_URL=(ledger := f"sqlite:///{tmp_path / 'ledger.db'}"),
        TARGET_ACTITO_LEDGER_URL=ledger,
        TAP_ACTITO_LEDGER_URL=ledger,
        TARGET_DIDOMI_LEDGER_URL=ledger,
        TARGET_ACTITO_RETRY_TRIES="2",
        TARGET_ACTITO_RETRY_SECONDS="0",
        TARGET_ACTITO_RETRY_MAX_WAIT="0.1",
    )


def meltano(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Meltano in the project."""
    return subprocess.run(
        [str(MELTANO), *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=800,
    )


@pytest.mark.skipif(
    not MELTANO.exists() and not os.environ.get("CI"),
    reason="Meltano isn't installed; `make test` installs it",
)
@pytest.mark.xdist_group("meltano")
@pytest.mark.timeout(850)  # the first run installs both plugins
def test_meltano_run(actito: Actito, exports: Path, meltano_environment: dict[str, str]) -> None:
    """The job does what the pipe does, keeps its state, and fails when opt-outs are rejected."""
    before = actito.all()
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 500}
    actito.steer("faults", {**fault, "skip": 100, "count": 100_000})
    broken = meltano(meltano_environment, "run", "didomi-to-actito")
    assert broken.returncode == 1, broken.stdout[-3000:]
    actito.steer("reset", {})
    done = meltano(meltano_environment, "run", "didomi-to-actito")
    assert done.returncode == 0, done.stdout[-3000:]
    after = actito.all()
    assert {p: v["subscriptions"] for p, v in after.items()} == expected(before, exports)
    assert "sandbox-actito-key" not in done.stdout + broken.stdout
    writes = actito.stats()["writes"]
    again = meltano(meltano_environment, "run", "didomi-to-actito")
    assert again.returncode == 0
    assert actito.stats()["writes"] == writes


@pytest.mark.long
@pytest.mark.skipif(
    not MELTANO.exists() and not os.environ.get("CI"),
    reason="Meltano isn't installed; `make test` installs it",
)
@pytest.mark.xdist_group("meltano")
@pytest.mark.timeout(850)  # the first run installs both plugins
def test_meltano_runs_again_and_without_the_ledger(
    actito: Actito, exports: Path, meltano_environment: dict[str, str], tmp_path: Path
) -> None:
    """What other tests say of the plugins, through Meltano."""
    before = actito.all()
    assert meltano(meltano_environment, "run", "didomi-to-actito").returncode == 0
    after = actito.all()
    assert {p: v["subscriptions"] for p, v in after.items()} == expected(before, exports)
    writes = actito.stats()["writes"]
    # All of it once more, and from a state of version 0.1: the ledger makes repeats harmless.
    assert meltano(meltano_environment, "run", "--full-refresh", "didomi-to-actito").returncode == 0
    name = "sandbox:tap-didomi-to-target-actito"
    old = {
        "singer_state": {"bookmarks": {"consent_events": {"exports": {"sandbox": "2026-10-01"}}}}
    }
    assert (
        meltano(meltano_environment, "state", "set", "--force", name, json.dumps(old)).returncode
        == 0
    )
    assert meltano(meltano_environment, "run", "didomi-to-actito").returncode == 0
    assert actito.stats()["writes"] == writes
    # A lost ledger is an error; after it was given up, an opt-out that Actito refuses fails the run
    # each time, and the next one writes it.
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"ledger.db{end}").unlink(missing_ok=True)
    lost = meltano(meltano_environment, "run", "didomi-to-actito")
    assert lost.returncode == 1
    assert "on_lost_ledger" in lost.stdout
    opted_out = next(
        person
        for person, choices in newest_choices(exports).items()
        if person in after and choices.get("Newsletter") is False
    )
    actito.change(opted_out, Newsletter=True)
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 400}
    actito.steer("faults", {**fault, "count": 1})
    given_up = {
        **meltano_environment,
        "TAP_DIDOMI_ON_LOST_LEDGER": "baseline",
        "TARGET_ACTITO_ON_LOST_LEDGER": "baseline",
        "TAP_DIDOMI_BASELINE": "opt_out",
        "TARGET_ACTITO_BASELINE": "opt_out",
    }
    refused = meltano(given_up, "run", "--full-refresh", "didomi-to-actito")
    assert refused.returncode == 1
    assert "opt_outs_owed" in refused.stdout
    state = meltano(meltano_environment, "state", "get", name).stdout
    assert '"2026-10-03"' in state
    assert meltano(meltano_environment, "run", "didomi-to-actito").returncode == 0
    assert actito.subscriptions(opted_out)["Newsletter"] is False


@pytest.mark.skipif(
    not MELTANO.exists() and not os.environ.get("CI"),
    reason="Meltano isn't installed; `make test` installs it",
)
@pytest.mark.xdist_group("meltano")
@pytest.mark.timeout(850)  # the first run installs both plugins
def test_meltano_runs_the_way_back(
    url: str, actito: Actito, meltano_environment: dict[str, str]
) -> None:
    """Who unsubscribes in Actito is opted out in Didomi; the state is the direction's own."""
    environment = {
        **meltano_environment,
        "TAP_ACTITO_API_URL": f"{url}/actito",
        "TAP_ACTITO_CALLS_PER_MINUTE": "1000000",
        "TARGET_DIDOMI_API_URL": f"{url}/didomi/v1",
    }
    didomi = Didomi(url)
    first = meltano(environment, "run", "actito-to-didomi")
    assert first.returncode == 0, first.stdout[-3000:]
    assert actito.stats("didomi")["writes"] == 0
    person = next(
        p
        for p, profile in actito.all().items()
        if profile["subscriptions"]["Newsletter"]
        and didomi.users(p)
        and didomi.state(p).get("email")
    )
    actito.change(person, Newsletter=False)
    second = meltano(environment, "run", "actito-to-didomi")
    assert second.returncode == 0, second.stdout[-3000:]
    assert didomi.state(person)["email"] is False
    assert actito.stats("didomi")["writes"] == 1
    states = meltano(environment, "state", "list").stdout
    assert "sandbox:tap-actito-to-target-didomi" in states
    assert "sandbox:tap-didomi-to-target-actito" not in states


@pytest.mark.skipif(
    not MELTANO.exists() and not os.environ.get("CI"),
    reason="Meltano isn't installed; `make test` installs it",
)
@pytest.mark.xdist_group("meltano")
def test_meltano_lists_jobs_and_schedules(meltano_environment: dict[str, str]) -> None:
    """An orchestrator finds both directions."""
    listed = meltano(meltano_environment, "schedule", "list", "--format=json").stdout
    assert "actito-to-didomi-hourly" in listed
    assert "didomi-to-actito-hourly" in listed


def test_the_sandbox_command_serves_and_stops(tmp_path: Path) -> None:
    """It says where it is, writes exports, and ends on SIGINT; its errors are clear."""
    command = [str(BIN / "actito-didomi"), "sandbox", "--port=0", "--people=20"]
    command += [f"--exports={tmp_path / 'exports'}", "--switch=put_replaces=true"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = "".join(process.stderr.readline() for _ in range(4))
            url = said.split("Actito")[1].split()[0].removesuffix("/actito")
            assert len(Actito(url).all()) == 18
            assert list((tmp_path / "exports").rglob("_SUCCESS"))
            port = url.rsplit(":", 1)[1]
            taken = subprocess.run(
                [str(BIN / "actito-didomi"), "sandbox", f"--port={port}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert taken.returncode == 1
            assert "can't be used" in taken.stderr
            process.send_signal(signal.SIGINT)
            assert process.wait(10) is not None
        finally:
            process.kill()
    wrong = subprocess.run(
        [str(BIN / "actito-didomi"), "sandbox", "--switch=nonsense=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "nonsense" in wrong.stderr
