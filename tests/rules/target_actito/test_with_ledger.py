"""target-actito with a ledger: it looks before it writes, and what is owed is written later."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from support import (
    Actito,
    Run,
    event,
    lines,
    rejects,
    report,
    run_target,
    schema,
    stream_of,
    with_ledger,
)

from actito_didomi.commands import main


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with a ledger."""
    return {**config, **with_ledger(tmp_path), "lookup_hours": 0}


def sync(config: dict[str, Any], tmp_path, *events: dict[str, Any]) -> Run:
    """Run target-actito over events."""
    return run_target(config, tmp_path, stream_of(*events))


def on(person: str, when: str = "2026-10-01T10:00:00Z", **more: Any) -> dict[str, Any]:
    """An opt-in to mail."""
    return event(person, when, channels={"email": True}, **more)


def off(person: str, when: str = "2026-10-01T10:00:00Z", **more: Any) -> dict[str, Any]:
    """An opt-out of mail."""
    return event(person, when, channels={"email": False}, **more)


def test_a4_an_unsubscribe_in_actito_is_not_overwritten(config, actito: Actito, tmp_path) -> None:
    """Both on; the person turns it on again in Didomi, then unsubscribes in Actito."""
    actito.create("ann", Newsletter=True)
    assert sync(config, tmp_path, on("ann")).exit_code == 0
    actito.change("ann", Newsletter=False)
    run = sync(config, tmp_path, on("ann", "2026-10-02T10:00:00Z"))
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"] is False


def test_a5_a_first_run_defers_what_nobody_can_know(config, actito, tmp_path) -> None:
    """Off in Actito, nobody knows since when: exit 4 until `baseline` decides."""
    actito.create("ann", Newsletter=False)
    actito.create("bob", Newsletter=True)
    unset = {name: value for name, value in config.items() if name != "baseline"}
    run = sync(unset, tmp_path, on("ann"), off("bob"))
    assert run.exit_code == 4, run.err
    assert "AD708 changes_deferred" in run.err
    assert run.states == [{"read": 2}]
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.subscriptions("bob")["Newsletter"] is False
    again = sync({**config, "baseline": "didomi"}, tmp_path)
    assert again.exit_code == 0, again.err
    assert actito.subscriptions("ann")["Newsletter"] is True


def arrived(messages: list[dict[str, Any]], when: str) -> list[dict[str, Any]]:
    """Date the arrival of records."""
    return [{**m, "time_extracted": when} if m["type"] == "RECORD" else m for m in messages]


def as_messages(folder, when: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Return events as a tap emits them that reads the export of the day before again."""
    return arrived(stream_of(*events), when)


def as_odd_messages(folder, when: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the same in a form that isn't decoded by type."""
    odd = [{**event, "consents": {**event["consents"], "new": [{"id": 1}]}} for event in events]
    return arrived(stream_of(*odd), when)


def as_file(folder, when: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the same as a file of that day, named in a BATCH message."""
    day = datetime.fromisoformat(when) - timedelta(days=1)
    file = folder / f"date={day:%Y-%m-%d}" / "events.jsonl"
    file.parent.mkdir()
    file.write_text(lines(events))
    encoding = {"format": "jsonl", "compression": "none"}
    batch = {"type": "BATCH", "stream": "consent_events", "encoding": encoding}
    return [schema(), {**batch, "manifest": [str(file)]}]


@pytest.mark.parametrize("give", [as_messages, as_odd_messages, as_file])
def test_what_is_dated_after_its_arrival_says_nothing_of_the_order(
    give, config, actito, tmp_path
) -> None:
    """A replay ends at the day of its partition, opt-out or opt-in, in 2099 or before today."""
    for person in ("ann", "bob", "cy"):
        actito.create(person, Newsletter=True)
    known = [on("ann", "2026-10-10T10:00:00Z"), off("bob", "2026-10-10T10:00:00Z")]
    known.append(on("cy", "2026-10-10T10:00:00Z"))
    assert run_target(config, tmp_path, stream_of(*known)).exit_code == 0
    odd = [off("ann", "2099-01-01T00:00:00Z"), on("bob", "2026-10-15T00:00:00Z")]
    odd.append(off("cy", "2026-10-15T00:00:00Z"))
    run = run_target(config, tmp_path, give(tmp_path, "2026-10-02T00:00:00+00:00", *odd))
    assert run.exit_code == 0, run.err
    found = {person: actito.subscriptions(person)["Newsletter"] for person in ("ann", "bob", "cy")}
    assert found == {"ann": True, "bob": False, "cy": True}


def test_a12_an_opt_in_dated_2099_blocks_no_opt_out(config, actito, tmp_path) -> None:
    """In one run, in either order, and in a later run."""
    for person in ("ann", "bob", "cy"):
        actito.create(person, Newsletter=True)
    future = "2099-01-01T00:00:00Z"
    today = "2026-11-20T10:00:00Z"
    run = sync(config, tmp_path, on("ann", future), off("ann", today), off("bob", today),
               on("bob", future), on("cy", future))  # fmt: skip
    assert run.exit_code == 0, run.err
    assert sync(config, tmp_path, off("cy", today)).exit_code == 0
    for person in ("ann", "bob", "cy"):
        assert actito.subscriptions(person)["Newsletter"] is False, person


def test_a14_a_late_opt_in_does_not_replace_a_newer_opt_out(config, actito, tmp_path) -> None:
    """The later run reads the earlier event."""
    actito.create("ann", Newsletter=True)
    sync(config, tmp_path, off("ann", "2026-10-02T10:00:00Z"))
    run = sync(config, tmp_path, on("ann", "2026-10-01T10:00:00Z"))
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"] is False


def test_a15_one_person_in_two_spellings(config, actito, tmp_path) -> None:
    """Keys are folded where they are e-mail addresses."""
    actito.create("c1", Newsletter=True, attributes={"emailAddress": "ann@ex.com"})
    folded = {**config, "user_unique_key": "emailAddress"}
    run = sync(
        folded,
        tmp_path,
        on("ann@ex.com", "2026-10-01T10:00:00Z"),
        off(" Ann@Ex.com", "2026-10-02T10:00:00Z"),
    )
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("c1")["Newsletter"] is False


def test_an_opt_out_goes_to_each_profile_of_a_key_and_an_opt_in_to_one(
    config, actito, tmp_path
) -> None:
    """Their keys differ in case alone."""
    actito.create("c1", Newsletter=True, attributes={"emailAddress": "ann@ex.com"})
    actito.create("c2", Newsletter=True, attributes={"emailAddress": "Ann@Ex.com"})
    actito.create("c3", Newsletter=True, attributes={"emailAddress": "bob@ex.com"})
    folded = {**config, "user_unique_key": "emailAddress"}

    def receive() -> list[str]:
        return [p for p in ("c1", "c2", "c3") if actito.subscriptions(p)["Newsletter"]]

    fault = {
        "side": "actito",
        "action": "status",
        "status": 400,
        "route": "patch_profile",
        "skip": 1,
    }
    actito.steer("faults", fault)
    run = sync(folded, tmp_path, off("ANN@ex.com", "2026-10-01T10:00:00Z"))
    assert run.exit_code == 3, run.err
    assert len(receive()) == 2  # of one, the opt-out was refused, and is owed
    again = sync(folded, tmp_path)
    assert again.exit_code == 0, again.err
    assert receive() == ["c3"]
    calls = actito.calls("patch_profile")
    assert sync(folded, tmp_path).exit_code == 0
    assert actito.calls("patch_profile") == calls
    last = sync(folded, tmp_path, on("ann@ex.com", "2026-10-03T10:00:00Z"))
    assert last.exit_code == 0, last.err
    assert len(receive()) == 2


def test_b4_an_opt_out_waits_for_its_profile(config, actito, tmp_path) -> None:
    """Quietly; it is written by a run that brings nothing new."""
    run = sync(config, tmp_path, off("ann"))
    assert run.exit_code == 0, run.err
    assert report(config)["unmatched"] == 1
    actito.create("ann", Newsletter=True)
    again = sync(config, tmp_path)
    assert again.exit_code == 0, again.err
    assert actito.subscriptions("ann")["Newsletter"] is False


def test_b7_a_refused_opt_out_is_owed_until_it_is_written(config, actito, tmp_path) -> None:
    """Exit 3 each time; the reject heals by itself."""
    actito.create("ann", Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", {**fault, "count": 1})
    run = sync(config, tmp_path, off("ann"))
    assert run.exit_code == 3, run.err
    assert "AD707 opt_outs_owed" in run.err
    assert len(rejects(config)) == 1
    assert run.states == [{"read": 1}]
    again = sync(config, tmp_path)
    assert again.exit_code == 0, again.err
    assert actito.subscriptions("ann")["Newsletter"] is False


def test_what_is_owed_is_written_without_any_input(config, actito, tmp_path) -> None:
    """A tap that fails, or has nothing to say, keeps no opt-out from being written."""
    actito.create("ann", Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", {**fault, "count": 1})
    assert sync(config, tmp_path, off("ann")).exit_code == 3
    again = run_target(config, tmp_path, [])
    assert again.exit_code == 0, again.err
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert "requests                0" in run_target(config, tmp_path, []).err


def test_commands_call_people_as_the_log_does(config, actito, tmp_path) -> None:
    """The hash of a line of the log is the id in `rejects list`, which can be filtered by code."""
    actito.create("ann", Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", {**fault, "count": 1})
    run = sync(config, tmp_path, off("ann"))
    assert run.exit_code == 3
    (named,) = re.findall(r"person (\w{10}): AD302 change_refused", run.err)
    file = tmp_path / "commands.json"
    file.write_text(json.dumps(with_ledger(tmp_path)))
    listed = CliRunner().invoke(
        main, ["rejects", "list", "--code", "change_refused", "--config", str(file)]
    )
    assert listed.output.split()[0] == named, listed.output


def test_a_newer_choice_is_written_whatever_was_refused_before(config, actito, tmp_path) -> None:
    """After three refusals an opt-in waits for a day; the opt-out that follows it does not."""
    actito.create("ann", Newsletter=True, SmsAlerts=False)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", {**fault, "count": 3})
    opt_in = event("ann", channels={"sms": True})
    for _ in range(4):
        assert sync(config, tmp_path, opt_in).exit_code == 0
    assert actito.subscriptions("ann")["SmsAlerts"] is False
    run = sync(config, tmp_path, off("ann", "2026-10-03T10:00:00Z"))
    assert run.exit_code == 0, run.err
    shown = actito.subscriptions("ann")
    assert (shown["Newsletter"], shown["SmsAlerts"]) == (False, True)


def test_a_second_run_writes_nothing(config, actito, tmp_path) -> None:
    """The same records again are harmless and cost no write."""
    actito.create("ann", Newsletter=True)
    sync(config, tmp_path, off("ann"))
    actito.steer("reset", {})
    run = sync(config, tmp_path, off("ann"))
    assert run.exit_code == 0, run.err
    assert actito.calls("patch_profile") == 0


BY_IMPORT = {"write_mode": "bulk", "bulk_empty_cells": "unchanged", "bulk_poll_interval": 0.1}


def test_people_are_learned_looked_at_and_imported_in_one_step(config, actito, tmp_path) -> None:
    """What a person chose in Actito since is seen by the look, and survives the import."""
    config |= BY_IMPORT
    for person, state in (("ann", True), ("bob", True), ("cy", False)):
        actito.create(person, Newsletter=state)
    run = sync(config, tmp_path, off("ann"), on("bob"), on("cy"), off("dan"))
    assert run.exit_code == 0, run.err
    assert [actito.subscriptions(p)["Newsletter"] for p in ("ann", "bob", "cy")] == [
        False,
        True,
        True,
    ]
    assert actito.calls("one_shot") == 1
    actito.change("bob", Newsletter=False)
    later = "2026-10-02T10:00:00Z"
    run = sync(config, tmp_path, on("bob", later), off("cy", later))
    assert run.exit_code == 0, run.err
    assert [actito.subscriptions(p)["Newsletter"] for p in ("bob", "cy")] == [False, False]
    assert actito.calls("one_shot") == 2
    run = sync(config, tmp_path, on("bob", later), off("cy", later))
    assert run.exit_code == 0, run.err
    assert actito.calls("one_shot") == 2


def test_a_guard_keeps_an_import_from_being_sent_that_is_recorded(config, actito, tmp_path) -> None:
    """The opt-out is written, the opt-in is deferred, and written once the guard allows it."""
    config |= BY_IMPORT
    actito.create("ann", Newsletter=True)
    actito.create("cy", Newsletter=False)
    run = sync({**config, "max_opt_ins": 0}, tmp_path, off("ann"), on("cy"))
    assert run.exit_code == 4, run.err
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.subscriptions("cy")["Newsletter"] is False
    run = sync(config, tmp_path)
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("cy")["Newsletter"] is True


def test_an_invalid_attribute_never_blocks_a_choice(config, actito, tmp_path) -> None:
    """Refused together, the choice is written alone, and the attribute alone is rejected."""
    actito.create("ann", Newsletter=True)
    bad = off("ann", metadata={"emailAddress": "not an address"})
    run = sync(config, tmp_path, bad)
    assert actito.subscriptions("ann")["Newsletter"] is False, run.err


def test_an_event_of_ours_is_no_choice(config, actito, tmp_path) -> None:
    """A1, A2: what target-didomi posted comes back, and is no newer choice of the person."""
    from actito_didomi.consent.config import LedgerSettings
    from actito_didomi.consent.event_ids import make_event_id
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.schema import LedgerScope
    from actito_didomi.runtime import Runtime

    actito.create("ann", Newsletter=True)
    assert sync(config, tmp_path, off("ann", "2026-10-02T10:00:00Z")).exit_code == 0
    settings = LedgerSettings(ledger_url=config["ledger_url"])
    ledger = Ledger.open(
        settings, LedgerScope(regulation="gdpr", entity="demo", table="Profiles"), Runtime()
    )
    scope = ledger.scope_text
    ledger.close()
    ours = {**on("ann", "2026-10-05T10:00:00Z"), "id": make_event_id(scope, ["a"], "u", "")}
    run = sync(config, tmp_path, ours)
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"] is False
