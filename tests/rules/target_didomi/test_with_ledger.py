"""target-didomi with a ledger: every user gets the opt-out, and what is refused is owed."""

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


@pytest.fixture
def didomi(url: str) -> Didomi:
    """The sandbox's Didomi."""
    return Didomi(url)


@pytest.fixture
def config(url, tmp_path) -> dict[str, Any]:
    """Settings of target-didomi with a ledger."""
    return post_config(url, tmp_path, **with_ledger(tmp_path), clock_tolerance=0)


def said(person: str, when: str, user: str = "", **channels: bool) -> dict[str, Any]:
    """An event of a Didomi user of a person, as a site stores it."""
    given = event(person, when, channels=channels, status="confirmed")
    given["user"]["id"] = user or f"user-{person}"
    given["id"] = f"{person}-{user}-{when}"
    return given


def chosen(person: str, when: str = "", **channels: bool) -> dict[str, Any]:
    """An event of tap-actito: a choice made in Actito, at a timestamp or just now."""
    when = when or datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return event(person, when, channels=channels, delegate={"id": "actito"})


def post(config: dict[str, Any], tmp_path, *events: dict[str, Any]) -> Run:
    """Run target-didomi over events."""
    return run_plugin("target-didomi", config, tmp_path, stdin=lines(stream_of(*events)))


def states(didomi: Didomi, person: str) -> dict[str, Any]:
    """The choice of mail of each Didomi user of a person."""
    return {
        user["id"]: {c["id"]: c["enabled"] for c in user["consents"]["channels"]}.get("email")
        for user in didomi.users(person)
    }


def test_what_is_dated_after_its_arrival_says_nothing_of_the_order(
    didomi, config, tmp_path
) -> None:
    """An old message that is read again ends at its own arrival, in 2099 or before today."""
    didomi.say(said("ann", "2026-10-10T10:00:00Z", email=True))
    didomi.say(said("bob", "2026-10-10T10:00:00Z", email=False))
    messages = stream_of(
        chosen("ann", "2099-01-01T00:00:00Z", email=False),
        chosen("bob", "2026-10-15T00:00:00Z", email=True),
    )
    arrived = [
        {**message, "time_extracted": "2026-10-02T00:00:00Z"}
        if message["type"] == "RECORD"
        else message
        for message in messages
    ]
    run = run_plugin("target-didomi", config, tmp_path, stdin=lines(arrived))
    assert run.exit_code == 0, run.err
    assert states(didomi, "ann") == {"user-ann": True}
    assert states(didomi, "bob") == {"user-bob": False}


def test_a8_an_opt_out_reaches_every_user_of_the_person(didomi, config, tmp_path) -> None:
    """Both users said yes; a second run has nothing to post."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", "u1", email=True))
    didomi.say(said("ann", "2026-10-01T11:00:00Z", "u2", email=True))
    opt_out = chosen("ann", email=False)
    run = post(config, tmp_path, opt_out)
    assert run.exit_code == 0, run.err
    assert states(didomi, "ann") == {"u1": False, "u2": False}
    assert report(config)["posted"] == 2
    again = post(config, tmp_path, opt_out)
    assert again.exit_code == 0, again.err
    assert report(config)["posted"] == 0
    assert len(didomi.events("ann")) == 4


def test_an_opt_in_goes_where_our_opt_out_stands(didomi, config, tmp_path) -> None:
    """And nowhere else: a user who said no is not made to say yes."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", "u1", email=True))
    didomi.say(said("ann", "2026-10-01T11:00:00Z", "u2", email=False))
    post(config, tmp_path, chosen("ann", email=False))
    run = post(config, tmp_path, chosen("ann", email=True))
    assert run.exit_code == 0, run.err
    assert states(didomi, "ann") == {"u1": True, "u2": False}


def test_a_newer_choice_in_didomi_stays(didomi, config, tmp_path) -> None:
    """Learned from Didomi just before the post."""
    didomi.say(said("ann", "2026-10-05T10:00:00Z", email=False))
    run = post(config, tmp_path, chosen("ann", "2026-10-02T10:00:00Z", email=True))
    assert run.exit_code == 0, run.err
    assert report(config)["newer"] == 1
    assert states(didomi, "ann") == {"user-ann": False}


@pytest.mark.parametrize("delegate", ["actito", "older-sync"])
def test_what_a_delegate_brought_from_actito_is_no_choice(
    didomi, config, tmp_path, delegate
) -> None:
    """An opt-in that another sync copied there never stands over an opt-out made in Actito."""
    copy = {**said("ann", "2026-10-05T10:00:00Z", email=True), "delegate": {"id": delegate}}
    didomi.say(copy)
    config |= {"skip_delegates": ["actito", "older-sync"]}
    run = post(config, tmp_path, chosen("ann", "2026-10-02T10:00:00Z", email=False))
    assert run.exit_code == 0, run.err
    assert report(config)["newer"] == 0
    assert states(didomi, "ann") == {"user-ann": False}


def test_events_are_dated_when_they_are_posted(didomi, config, tmp_path) -> None:
    """Never by the time of the choice: Didomi's newest event is ours then."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", email=True))
    post(config, tmp_path, chosen("ann", email=False))
    newest = max(didomi.events("ann"), key=lambda found: found["created_at"])
    assert newest["created_at"] > "2026-11"


def test_what_didomi_refuses_is_owed_and_written_later(didomi, config, tmp_path, actito) -> None:
    """B7: exit 3 until it is written, and by a run that brings nothing new."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", email=True))
    fault = {"side": "didomi", "action": "status", "route": "post_events", "status": 422}
    actito.steer("faults", {**fault, "count": 99})
    run = post(config, tmp_path, chosen("ann", email=False))
    assert run.exit_code == 3, run.err
    assert "AD707 opt_outs_owed" in run.err
    actito.steer("reset", {})
    again = post(config, tmp_path)
    assert again.exit_code == 0, again.err
    assert states(didomi, "ann") == {"user-ann": False}


def test_an_unknown_person_waits_quietly(didomi, config, tmp_path) -> None:
    """No user, no exit 3; the opt-out is posted once there is a user."""
    run = post(config, tmp_path, chosen("ann", email=False))
    assert run.exit_code == 0, run.err
    assert report(config)["unmatched"] == 1
    assert didomi.events("ann") == []
