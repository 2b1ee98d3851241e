"""Choices that Didomi doesn't have are refused one by one, before anything of them is posted."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from support import (
    Didomi,
    Run,
    event,
    lines,
    post_config,
    report,
    run_plugin,
    stream_of,
    with_ledger,
)

OFF = {"enabled": False}


@pytest.fixture
def didomi(url: str) -> Didomi:
    """The sandbox's Didomi, which knows ann."""
    didomi = Didomi(url)
    said = event("ann", "2026-10-10T10:00:00Z", channels={"email": True}, status="confirmed")
    said["user"]["id"] = "user-ann"
    didomi.say({**said, "id": "first"})
    return didomi


@pytest.fixture(params=["ledger", "none"])
def config(request, url, tmp_path) -> dict[str, Any]:
    """Settings of target-didomi, with a ledger and without."""
    more = with_ledger(tmp_path) if request.param == "ledger" else {"ledger_url": "none"}
    return post_config(url, tmp_path, clock_tolerance=0, **more)


def post(config: dict[str, Any], tmp_path, **consents: Any) -> Run:
    """Run target-didomi over one event of ann."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    given = event("ann", now, delegate={"id": "actito"}, **consents)
    return run_plugin("target-didomi", config, tmp_path, stdin=lines(stream_of(given)))


def purposes(didomi: Didomi) -> dict[str, Any]:
    """The purposes of ann."""
    return {p["id"]: p["enabled"] for p in didomi.users("ann")[0]["consents"]["purposes"]}


def test_b1_an_unknown_purpose_stops_no_other_choice(didomi, config, tmp_path) -> None:
    """The opt-out of the unknown one is rejected and owed; nothing was asked of Didomi for it."""
    wrong = {"surveys": OFF, "partner_offer": OFF}
    run = post(config, tmp_path, channels={"email": False}, purposes=wrong)
    assert run.exit_code == 3, run.err
    assert (
        "unknown_id: Didomi's configuration tree has no purpose 'partner_offer' (there" in run.err
    )
    assert "partner_offers" in run.err
    assert purposes(didomi) == {"surveys": False}
    assert [c["enabled"] for c in didomi.users("ann")[0]["consents"]["channels"]] == [False]
    assert report(config)["rejects"] == {"unknown_id": 1}
    assert report(config)["posted"] == 1
    sent = post({**config, "unknown_ids": "send"}, tmp_path, purposes=wrong)
    assert sent.exit_code == 3
    assert report(config)["rejects"] == {"event_refused": 1}


def test_a_former_purpose_that_didomi_holds_is_known(didomi, config, tmp_path) -> None:
    """It is no longer in the tree, and Didomi takes its opt-out."""
    former = {"old-campaign": {"enabled": True}}
    didomi.say(event("ann", "2026-10-10T11:00:00Z", purposes=former, status="confirmed"))
    run = post(config, tmp_path, purposes={"old-campaign": OFF})
    assert run.exit_code == 0, run.err
    assert purposes(didomi) == {"old-campaign": False}


def test_a_channel_that_was_not_seen_is_posted_and_read_back(didomi, config, tmp_path) -> None:
    """Channels are in no tree: the warning names those that were seen."""
    run = post(config, tmp_path, channels={"emial": False})
    assert run.exit_code == 0, run.err
    assert "channel_unseen: the channel 'emial' was not seen in Didomi yet (seen: email)" in run.err
    assert report(config)["written_opt_outs"] == 1
    again = post(config, tmp_path, channels={"email": False})
    assert again.exit_code == 0
    assert "channel_unseen" not in again.err
