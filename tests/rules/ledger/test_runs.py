"""Runs of the plugins, as the ledger records them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    Actito,
    Didomi,
    back_config,
    email_choice,
    event,
    feed,
    lines,
    post_config,
    run_plugin,
    run_target,
    start_plugin,
    stream_of,
    tap_config,
    target_config,
    with_ledger,
)

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.runtime import Runtime


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Any]:
    """Settings that put all plugins on one ledger."""
    return with_ledger(tmp_path)


@pytest.fixture
def ledger(shared: dict[str, Any]) -> Iterator[Ledger]:
    """The ledger, opened as the commands do."""
    opened = Ledger.open(LedgerSettings(ledger_url=shared["ledger_url"]), LedgerScope(), Runtime())
    yield opened
    opened.close()


def ends(ledger: Ledger) -> list[tuple[str, str, str | None, int | None]]:
    """Return plugin, direction, outcome and exit status of all runs, oldest first."""
    return [
        (run.plugin, run.direction, run.outcome, run.exit_status)
        for run in reversed(ledger.last_runs(100))
    ]


def test_all_plugins_record_their_runs(url: str, ledger: Ledger, shared, tmp_path) -> None:
    """Both directions, and a tap that fails."""
    Actito(url).create("ann")
    Didomi(url).say(email_choice("ann", enabled=True))
    tap = run_plugin("tap-didomi", tap_config(url, **shared), tmp_path)
    assert tap.exit_code == 0, tap.err
    target = target_config(url, tmp_path, **shared)
    assert run_plugin("target-actito", target, tmp_path, stdin=tap.out).exit_code == 0
    back = run_plugin("tap-actito", back_config(url, tmp_path, **shared), tmp_path)
    assert back.exit_code == 0, back.err
    post = post_config(url, tmp_path, **shared)
    assert run_plugin("target-didomi", post, tmp_path, stdin=back.out).exit_code == 0
    exports = {"change_source": "exports", "export_root": f"file://{tmp_path}/absent"}
    failing = back_config(url, tmp_path, **shared, **exports)
    assert run_plugin("tap-actito", failing, tmp_path).exit_code == 1

    assert ends(ledger) == [
        ("tap-didomi", "forward", "success", 0),
        ("target-actito", "forward", "success", 0),
        ("tap-actito", "reverse", "success", 0),
        ("target-didomi", "reverse", "success", 0),
        ("tap-actito", "reverse", "failed", 1),
    ]
    runs = {run.plugin: run for run in ledger.last_runs()}
    assert runs["tap-didomi"].counts["records"] == len(tap.records("consent_users"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert runs["target-actito"].counts == report
    assert all(run.ended is not None and run.ended >= run.began for run in runs.values())


def test_a_run_says_how_it_ended(url: str, ledger: Ledger, shared, tmp_path) -> None:
    """With an opt-out that is owed, or by a signal."""
    Actito(url).create("ann", Newsletter=True)
    config = target_config(url, tmp_path, **shared)
    broken = {**event("ann", "2026-10-01T10:00:00Z", channels={"email": False}), "created_at": 7}
    assert run_target(config, tmp_path, stream_of(broken)).exit_code == 3
    process = start_plugin("target-actito", config, tmp_path)
    feed(process, lines(stream_of(broken)[:1]), close=False)
    wait_for_a_run(ledger, process.pid)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    process.stdin.close()
    process.stdout.close()
    assert ends(ledger) == [
        ("target-actito", "forward", "opt-outs owed", 3),
        ("target-actito", "forward", "stopped by SIGTERM", 143),
    ]
    (reject,) = ledger.list_rejects()
    assert reject.details.run == "1"


def wait_for_a_run(ledger: Ledger, process: int) -> None:
    """Wait until a process has recorded its run."""
    runtime = Runtime()
    until = runtime.monotonic() + 60
    while not any(f"process {process}" in run.process for run in ledger.last_runs()):
        assert runtime.monotonic() < until
        runtime.event().wait(0.05)
