"""Runs on record, that one has finished lately, and how long opt-outs took."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import (
    Actito,
    Didomi,
    event,
    lines,
    listen,
    post_config,
    report,
    stream_of,
    with_ledger,
)

from actito_didomi.commands import main
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.runtime import Runtime
from target_didomi.target import TargetDidomi


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with a ledger."""
    return {**config, **with_ledger(tmp_path)}


def ago(**period: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**period)).isoformat(timespec="milliseconds")


def ask(config: dict[str, Any], tmp_path, *arguments: str) -> Result:
    file = tmp_path / "runs.json"
    file.write_text(json.dumps({"ledger_url": config["ledger_url"]}))
    return CliRunner().invoke(main, ["runs", *arguments, "--config", str(file)])


def test_how_long_opt_outs_took_is_measured(config, actito: Actito, tmp_path, caplog) -> None:
    """In the report, in the summary and in the ledger; per person, opt-ins don't count."""
    caplog.set_level("INFO")
    for person in ("p1", "p2", "p3", "p4"):
        actito.create(person, Newsletter=person != "p4", SmsAlerts=True)
    off = [event("p1", ago(minutes=10), channels={"email": False, "sms": False})]
    off += [event("p2", ago(hours=3), channels={"email": False})]
    off += [event("p3", ago(days=2), channels={"email": False})]
    listen(config, stream_of(*off, event("p4", ago(days=9), channels={"email": True})))
    found = report(config)
    latency = found["opt_out_latency"]
    assert latency["count"] == 3
    assert latency["median"] == pytest.approx(3 * 3600, abs=60)
    assert latency["worst"] == pytest.approx(2 * 86_400, abs=60)
    assert len(latency["quantiles"]) == 21
    assert found["opt_outs"] == {"written": 3}
    assert found["changes"]["Newsletter"] == {"opt_ins": 1, "opt_outs": 3}
    assert found["changes"]["SmsAlerts"] == {"opt_ins": 0, "opt_outs": 1}
    assert "(people; after the choice: median 3 h, 95 % 2 d, worst 2 d)" in caplog.text
    shown = json.loads(ask(config, tmp_path, "show", "1").stdout)
    assert shown["counts"]["opt_out_latency"] == latency
    assert (shown["plugin"], shown["exit_status"]) == ("target-actito", 0)


def test_opt_outs_posted_to_didomi_are_measured(url: str, tmp_path) -> None:
    """One that a look found from the look before it, so that no time is understated."""
    Didomi(url).say(event("p1", ago(days=1), channels={"email": True}, status="confirmed"))
    post = post_config(url, tmp_path, **with_ledger(tmp_path))
    said = event("p1", ago(), channels={"email": False}, changed_after=ago(hours=2))
    TargetDidomi(config=post).listen(io.StringIO(lines(stream_of(said))))
    found = report(post)
    assert found["opt_out_latency"]["worst"] == pytest.approx(7200, abs=60)
    assert found["opt_outs"] == {"written": 1}
    assert found["changes"] == {"consents/channels/email/enabled": {"opt_ins": 0, "opt_outs": 1}}


def test_a_check_fails_unless_a_run_has_finished_lately(config, tmp_path) -> None:
    """A failed one doesn't count, nor one that is too old; each direction that runs must."""
    ledger = Ledger.open(LedgerSettings(ledger_url=config["ledger_url"]), LedgerScope(), Runtime())
    try:
        assert ask(config, tmp_path, "check").exit_code == 5
        failed = ledger.start_run("target-actito", "forward")
        ledger.end_run(failed, "failed", 1, {})
        result = ask(config, tmp_path, "check")
        assert (result.exit_code, result.stdout) == (5, "✗ forward: no run has finished yet.\n")
        owed = ledger.start_run("target-actito", "forward")
        ledger.end_run(owed, "opt-outs owed", 3, {})
        assert ask(config, tmp_path, "check").exit_code == 0
        assert ask(config, tmp_path, "check", "--max-age", "0min").exit_code == 5
        assert ask(config, tmp_path, "check", "--direction", "both").exit_code == 5
        ledger.start_run("target-actito", "forward")
        result = ask(config, tmp_path, "check", "--output", "json")
        assert result.exit_code == 0
        (line,) = json.loads(result.stdout)["checks"]
        assert (line["ok"], line["last_exit_status"]) == (True, None)
        assert "the last one did not end" in ask(config, tmp_path, "check").stdout
        assert ask(config, tmp_path, "check", "--max-age", "soon").exit_code == 2
    finally:
        ledger.close()


def test_runs_are_listed(config, actito: Actito, tmp_path) -> None:
    actito.create("ann@example.com", Newsletter=True)
    listen(config, stream_of(event("ann@example.com", ago(hours=1), channels={"email": False})))
    listen(config, stream_of())
    result = ask(config, tmp_path, "list", "--output", "json")
    (pair,) = json.loads(result.stdout)["pairs"]
    assert [run["number"] for run in pair["runs"]] == [2, 1]
    text = ask(config, tmp_path, "list", "--limit", "1").stdout
    assert "target-actito" in text
    assert "ann@example.com" not in result.stdout + text
    assert ask(config, tmp_path, "show", "9").exit_code == 2
