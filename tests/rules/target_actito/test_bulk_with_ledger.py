"""Bulk imports with a ledger: what is known of an import that doesn't end as it should."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import pytest
from support import (
    Actito,
    event,
    feed,
    lines,
    rejects,
    run_target,
    start_plugin,
    stream_of,
    with_ledger,
)

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.copying import list_pairs, open_pair
from actito_didomi.consent.entries import Held, Intent
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.person import Owed
from actito_didomi.runtime import Runtime

EMAIL = ("consents", "channels", "email", "enabled")
NEWSLETTER = "a:subscription:Newsletter"


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings that make an import of anything, and look at it soon."""
    own = {"write_mode": "bulk", "bulk_threshold": 1, "bulk_poll_interval": 0.05}
    return {**config, **with_ledger(tmp_path), **own}


def test_an_import_that_fails_as_a_whole_ends_no_run(config, actito: Actito, tmp_path) -> None:
    """Its halves are imported, and everybody's choice is written."""
    for person in ("ann", "bob"):
        actito.create(person, Newsletter=person == "ann")
    actito.steer("options", {"etl_fail_next": 1})
    events = [event("ann", channels={"email": False}), event("bob", channels={"email": True})]
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 0, run.err
    assert rejects(config) == []
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.subscriptions("bob")["Newsletter"] is True


def opt_outs(actito: Actito, *people: str) -> list[dict[str, Any]]:
    """Create people who receive the newsletter; return events by which they opt out."""
    for person in people:
        actito.create(person, Newsletter=True)
    return [event(person, channels={"email": False}) for person in people]


def open_ledger(config: dict[str, Any]) -> Ledger:
    """Open the ledger, which has one pair."""
    settings, runtime = LedgerSettings(ledger_url=config["ledger_url"]), Runtime()
    return open_pair(settings, list_pairs(settings, runtime)[0], runtime)


def receivers(actito: Actito) -> list[str]:
    """Return who receives the newsletter."""
    found = actito.all()
    return sorted(p for p in found if found[p]["subscriptions"]["Newsletter"])


def test_an_opt_out_waits_for_no_import_that_hangs(config, actito: Actito, tmp_path) -> None:
    """It is written by a single request; the run says what to do, and so does the next one."""
    stream = stream_of(*opt_outs(actito, "ann", "bob"))
    actito.steer("options", {"etl_rows_per_second": 0})
    limited = {**config, "bulk_timeout": 0.2}
    run = run_target(limited, tmp_path, stream)
    assert run.exit_code == 1
    assert "Look it up in Actito, and stop it there if it hangs" in run.err
    assert run.states == [{"read": 2}]
    assert receivers(actito) == []
    limited["max_buffered_people"] = 1  # nor does what comes after the first ones
    events = [*opt_outs(actito, "carl"), event("ann", channels={"sms": True})]
    again = run_target(limited, tmp_path, stream_of(*events))
    assert again.exit_code == 1
    assert receivers(actito) == []
    assert actito.subscriptions("ann")["SmsAlerts"] is True


def test_an_opt_out_waits_for_no_import_that_cant_be_read(config, actito: Actito, tmp_path) -> None:
    """Nor does that of anybody else, in this run and the next."""
    stream = stream_of(*opt_outs(actito, "ann", "bob"))
    actito.steer("options", {"etl_rows_per_second": 0})
    fault = {"side": "actito", "action": "status", "route": "execution", "count": 1000}
    actito.steer("faults", fault)
    assert run_target(config, tmp_path, stream).exit_code == 1
    assert receivers(actito) == []
    assert run_target(config, tmp_path, stream_of(*opt_outs(actito, "carl"))).exit_code == 1
    assert receivers(actito) == []


def test_a_row_in_error_that_isnt_listed_counts_as_written_nowhere(
    config, actito: Actito, tmp_path
) -> None:
    """Fewer rows are listed than are in error: all of them are found."""
    events = opt_outs(actito, "bad1", "bad2", "good")
    actito.steer("options", {"etl_bad_person": "bad", "etl_errors_shown": 1})
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 3, run.err
    assert {found["person"] for found in rejects(config)} == {"bad1", "bad2"}
    assert receivers(actito) == ["bad1", "bad2"]


def test_no_file_is_sent_twice_under_one_name(config, actito: Actito, tmp_path) -> None:
    """It isn't known whether the first one arrived."""
    stream = stream_of(*opt_outs(actito, "ann", "bob"))
    actito.steer("options", {"etl_lists_executions": False})
    actito.steer("faults", {"side": "actito", "action": "drop_after", "route": "one_shot"})
    run = run_target(config, tmp_path, stream)
    assert run.exit_code == 0, run.err
    assert receivers(actito) == []
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        found = database.execute("SELECT file_name, state FROM ledger_imports ORDER BY number")
        (first, _), (second, _) = imports = found.fetchall()
    assert first != second
    assert [state for _, state in imports] == ["unknown", "ended"]


def test_an_opt_out_survives_an_import_that_was_given_up(config, actito: Actito, tmp_path) -> None:
    """What may be carried out late is looked at again, though the opt-out is written."""
    for person in ("ann", "bob"):
        actito.create(person, Newsletter=False)
    actito.steer("options", {"etl_lists_executions": False})
    actito.steer("faults", {"side": "actito", "action": "drop_before", "route": "one_shot"})
    opt_ins = [event(person, channels={"email": True}) for person in ("ann", "bob")]
    assert run_target(config, tmp_path, stream_of(*opt_ins)).exit_code == 0
    single = {**config, "write_mode": "single"}
    later = event("ann", channels={"email": False}, when="2026-10-02T00:00:00Z")
    assert run_target(single, tmp_path, stream_of(later)).exit_code == 0
    assert receivers(actito) == ["bob"]
    actito.change("ann", Newsletter=True)  # the file that got lost is carried out now
    assert run_target(single, tmp_path, stream_of()).exit_code == 0
    assert receivers(actito) == ["bob"]


def test_a_kill_between_an_end_and_its_flags_forgets_nothing(
    config, actito: Actito, tmp_path
) -> None:
    """An import has overwritten an opt-out, and its run was killed before that was noted."""
    assert run_target(config, tmp_path, stream_of(*opt_outs(actito, "ann", "bob"))).exit_code == 0
    actito.change("ann", Newsletter=True)
    ledger = open_ledger(config)
    now = to_micros(Runtime().now())
    number = ledger.add_import("file.zip", now - 9)
    with ledger.change(["ann"]) as change:
        person = change.people["ann"]
        person.entries[EMAIL].places[NEWSLETTER].late = [Intent(True, now - 9, "1", number)]
        person.owed |= Owed.IN_IMPORT
    ledger.set_import(number, state="ended", ended=now)
    ledger.close()
    assert run_target(config, tmp_path, stream_of()).exit_code == 0
    assert receivers(actito) == []


@pytest.mark.parametrize("empty_cells", ["unknown", "unchanged"])
def test_an_import_opts_in_nobody_whom_no_look_has_shown(
    config, actito: Actito, tmp_path, empty_cells
) -> None:
    """A look during which something else was noted shows nothing for certain."""
    people = ("ann", "bob", "carl")
    config["bulk_empty_cells"] = empty_cells
    assert run_target(config, tmp_path, stream_of(*opt_outs(actito, *people))).exit_code == 0
    ledger = open_ledger(config)
    now = to_micros(Runtime().now())
    with ledger.change(["ann"]) as change:
        place = change.people["ann"].entries[EMAIL].places[NEWSLETTER]
        place.held = Held(False, now, now + 600_000_000, doubtful=True)
    ledger.close()
    later = "2026-10-02T00:00:00Z"
    opt_ins = [event(person, later, channels={"email": True}) for person in people]
    run = run_target(config, tmp_path, stream_of(*opt_ins))
    assert run.exit_code == 0, run.err
    assert receivers(actito) == ["bob", "carl"]


def test_a_look_serves_one_import(config, actito: Actito, tmp_path) -> None:
    """What people turn off during an import is known before the next one, and written."""
    mapped = [found for found in config["mappings"] if found["id"] != "SmsAlerts"]
    config["mappings"] = [*mapped, {"id": "SmsAlerts", "value": mapped[0]["value"]}]
    for person in ("ann", "bob", "carl", "dora"):
        actito.create(person, Newsletter=True)
    actito.steer("options", {"etl_rows_per_second": 0})
    more: dict[str, Any] = {"purposes": {"partner_offers": True}}
    events = [event(person, channels={"email": True}) for person in ("ann", "bob")]
    events += [event(person, channels={"email": True}, **more) for person in ("carl", "dora")]
    process = start_plugin("target-actito", config, tmp_path)  # two sets of columns are two imports
    feed(process, lines(stream_of(*events)))
    while actito.calls("one_shot") == 0 and process.poll() is None:
        time.sleep(0.02)
    for person in ("bob", "dora"):
        actito.change(person, Newsletter=False)
    actito.steer("options", {"etl_rows_per_second": 1000})
    with process:
        assert process.wait() == 0
    found = {p: actito.subscriptions(p)["SmsAlerts"] for p in ("ann", "bob", "carl", "dora")}
    assert actito.calls("one_shot") >= 2
    assert found == {"ann": True, "bob": False, "carl": True, "dora": False}


def test_rule_5_a_refused_attribute_of_a_row_blocks_no_choice(
    config, actito: Actito, tmp_path
) -> None:
    """The row is written by single requests: the choice in this run, the attribute is rejected."""
    for person in ("ann", "bob"):
        actito.create(person, Newsletter=True)
    actito.steer("options", {"etl_bad_person": "ann"})
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 400}
    actito.steer("faults", {**fault, "count": 1})
    opted_out = [
        event(person, channels={"email": False}, metadata={"firstName": person})
        for person in ("ann", "bob")
    ]
    run = run_target(config, tmp_path, stream_of(*opted_out))
    assert run.exit_code == 0, run.err
    assert receivers(actito) == []
    assert actito.attributes("bob")["firstName"] == "bob"
    (reject,) = rejects(config)
    assert (reject["person"], reject["opt_out"]) == ("ann", False)
    assert reject["change"] == {"attributes": {"firstName": "ann"}, "subscriptions": {}}
