"""`dry_run`: it shows what would be written, and nothing is: nowhere, not even in the ledger."""

from __future__ import annotations

import hashlib
import io
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support import (
    ACTITO_KEY,
    Actito,
    Didomi,
    event,
    lines,
    listen,
    post_config,
    report,
    run_target,
    stream_of,
    with_ledger,
)

from actito_didomi.actito import read_table
from actito_didomi.actito.session import open_session
from actito_didomi.errors import ApiError
from actito_didomi.runtime import Runtime
from target_actito.target import TargetActito
from target_didomi.target import TargetDidomi

MAIL = {"id": "Newsletter", "value": "consents_channels_email_enabled"}
PEOPLE = [f"p{number:02}" for number in range(12)]


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of a dry run of target-actito."""
    return {**config, **with_ledger(tmp_path), "mappings": [MAIL], "dry_run": True}


def off(person: str) -> dict[str, Any]:
    when = (datetime.now(timezone.utc) - timedelta(hours=1)).isoformat(timespec="milliseconds")
    return event(person, when, channels={"email": False})


def digests(folder: Path) -> dict[str, str]:
    """Return the content of all files of a ledger but its log's index."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("ledger.db*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.parametrize("more", [{}, {"write_mode": "bulk"}, {"max_buffered_people": 5}])
def test_nothing_is_written_and_all_is_shown(
    config, actito: Actito, tmp_path, caplog, capsys, more
) -> None:
    """Also of an import, and in parts; then the same settings write it."""
    caplog.set_level("INFO")
    actito.create_many(PEOPLE)
    for person in PEOPLE:
        actito.change(person, Newsletter=True)
    events = [*map(off, PEOPLE), off("nobody")]
    before = actito.stats()["writes"]
    listen({**config, **more}, stream_of(*events))
    assert capsys.readouterr().out == ""
    assert actito.stats()["writes"] == before
    assert not (tmp_path / "ledger.db").exists()
    assert "Newsletter: yes -> no" in caplog.text
    assert "Write plan: " in caplog.text
    found = report(config)
    assert (found["status"], found["updated"], found["unmatched"]) == ("dry run", 12, 1)
    assert found["changes"] == {"Newsletter": {"opt_ins": 0, "opt_outs": 12}}
    assert not any(person in caplog.text for person in PEOPLE)
    assert not list((tmp_path / "state").glob("**/dry-run*"))
    listen({**config, **more, "dry_run": False}, stream_of(*events))
    assert not any(actito.subscriptions(person)["Newsletter"] for person in PEOPLE)


def test_a_ledger_stays_as_it_is(config, actito: Actito, tmp_path, caplog) -> None:
    """What is owed is shown; what is equal isn't."""
    caplog.set_level("INFO")
    actito.create_many(PEOPLE[:3])
    for person in PEOPLE[:3]:
        actito.change(person, Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", fault)
    assert run_target({**config, "dry_run": False}, tmp_path, stream_of(off("p00"))).exit_code == 3
    before, writes = digests(tmp_path), actito.stats()["writes"]
    run = run_target(config, tmp_path, stream_of(off("p01")))
    assert (run.exit_code, run.out) == (0, "")
    assert digests(tmp_path) == before
    assert actito.stats()["writes"] == writes
    assert report(config)["updated"] == 2
    assert run_target({**config, "dry_run": False}, tmp_path, stream_of()).exit_code == 0
    assert actito.subscriptions("p00")["Newsletter"] is False
    assert actito.subscriptions("p01")["Newsletter"] is True


def test_without_a_ledger_nothing_is_written(config, actito: Actito, capsys) -> None:
    actito.create("p00", Newsletter=True)
    config = {**config, "ledger_url": "none"}
    listen(config, stream_of(off("p00")))
    assert capsys.readouterr().out == ""
    assert actito.subscriptions("p00")["Newsletter"] is True
    assert report(config)["changes"]["Newsletter"]["opt_outs"] == 1


def test_nothing_is_posted_to_didomi(url: str, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    didomi = Didomi(url)
    didomi.say(event("p00", channels={"email": True}, status="confirmed"))
    post = {**post_config(url, tmp_path), **with_ledger(tmp_path), "dry_run": True}
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    said = event("p00", now, channels={"email": False}, delegate={"id": "actito"})
    TargetDidomi(config=post).listen(io.StringIO(lines(stream_of(said))))
    assert didomi.state("p00")["email"] is True
    assert len(didomi.events("p00")) == 1
    assert "consents/channels/email/enabled: unknown -> no" in caplog.text
    assert report(post)["written_opt_outs"] == 1
    TargetDidomi(config={**post, "dry_run": False}).listen(io.StringIO(lines(stream_of(said))))
    assert didomi.state("p00")["email"] is False


def test_a_dry_run_sends_no_request_that_could_change_anything(config, actito: Actito) -> None:
    """Whatever else goes wrong: the session refuses it."""
    actito.create("p00")
    target = TargetActito(config=dict(config))
    settings = target.settings
    assert settings.actito.api_key == ACTITO_KEY
    runtime = Runtime()
    session = open_session(
        settings.actito, settings.client, max_concurrency=1, stop=runtime.event(), runtime=runtime
    )
    session.read_only = True
    assert read_table(session, "demo", "Profiles", "customerId").name == "Profiles"
    for method in ("PATCH", "PUT", "POST", "DELETE"):
        with pytest.raises(ApiError, match="dry_run"):
            session.request(method, "/profiles/v5/anything", json={})
    if target.trial is not None:
        target.trial.close()
