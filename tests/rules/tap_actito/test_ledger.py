"""tap-actito and the ledger, as a process against the sandbox; faults stand by their names."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIN,
    Didomi,
    back_config,
    event,
    run_plugin,
    start_plugin,
    tap_config,
)
from tap_runs import read, row, write

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.entries import Intent, begin_write, end_write, winner
from actito_didomi.consent.identity import keyless_row
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.person import Owed
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.runtime import Runtime

EMAIL = ("consents", "channels", "email", "enabled")
NEWSLETTER = "a:subscription:Newsletter"


@pytest.fixture
def api(url: str, tmp_path: Path) -> dict[str, Any]:
    """Settings for looks at the table."""
    return back_config(url, tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that exports arrive in."""
    folder = tmp_path / "changes"
    folder.mkdir()
    return folder


@pytest.fixture
def exports(api: dict[str, Any], root: Path) -> dict[str, Any]:
    """Settings for exports."""
    return {
        **api,
        "change_source": "exports",
        "export_root": f"file://{root}",
        "export_grace": 0,
        "time_zone": "UTC",
    }


def open_ledger(folder: Path) -> Ledger:
    """Open the ledger of a test as another process does."""
    settings = LedgerSettings(ledger_url=f"sqlite:///{folder / 'ledger.db'}")
    return Ledger.open(settings, LedgerScope(), Runtime())


def choices(events: list[dict[str, Any]]) -> dict[str, bool]:
    """Return what events say of `email`, by person, in their order."""
    return {
        found["user"]["organization_user_id"]: channel["enabled"]
        for found in events
        for channel in found["consents"].get("channels", [])
    }


def target_writes(
    folder: Path, person: str, value: bool, *, begun: datetime, ended: datetime | None
) -> None:
    """Record in the ledger what target-actito records of a write, begun or carried out."""
    ledger = open_ledger(folder)
    with ledger.change([person]) as change:
        entry = change.people[person].entry(EMAIL)
        intent = Intent(value, to_micros(begun), "7")
        begin_write(entry, NEWSLETTER, intent, ledger.rules)
        if ended is not None:
            end_write(entry, NEWSLETTER, to_micros(ended))
    ledger.close()


def now() -> datetime:
    """Return the present time."""
    return datetime.now(timezone.utc)


def say(timestamp: datetime) -> str:
    """Write a timestamp as an export does."""
    return timestamp.strftime("%Y-%m-%d %H:%M:%S")


# Our own writes


def test_a2_a_row_of_our_own_write_is_no_act(exports, actito, root, tmp_path) -> None:
    """It is emitted as no consent event; the raw stream shows it with its source."""
    actito.create("ann")
    actito.create("bob")
    _, state = read(exports, tmp_path)
    _, raw = read(exports, tmp_path, "subscription_changes")
    time.sleep(1)  # a row in the second of the look may be what it showed
    begun = now()
    target_writes(tmp_path, "ann", True, begun=begun, ended=begun + timedelta(seconds=1))
    write(
        root / "changes-1.csv",
        row("ann", "Newsletter", "Y", say(begun)),
        row("bob", "Newsletter", "Y", say(begun)),
    )
    run, _ = read(exports, tmp_path, state=state)
    assert run.exit_code == 0, run.err
    assert choices(run.records("consent_events")) == {"bob": True}
    shown, _ = read(exports, tmp_path, "subscription_changes", raw)
    sources = {r["key"]: r["source"] for r in shown.records("subscription_changes")}
    assert sources == {"ann": "target-actito", "bob": "LINK"}
    again, _ = read(exports, tmp_path)
    assert choices(again.records("consent_events")) == {"bob": True}, "however often it is read"


def test_an_opt_out_in_a_row_of_our_own_write_counts_but_is_no_news(
    exports, actito, root, tmp_path
) -> None:
    """It may be the person's; so an opt-in from before it, exported later, doesn't win."""
    actito.create("ann")
    _, state = read(exports, tmp_path)
    begun = now() - timedelta(minutes=10)
    target_writes(tmp_path, "ann", False, begun=begun, ended=begun + timedelta(seconds=1))
    write(root / "changes-1.csv", row("ann", "Newsletter", "N", say(begun)))
    run, state = read(exports, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {}
    write(root / "changes-2.csv", row("ann", "Newsletter", "Y", say(begun - timedelta(minutes=5))))
    run, _ = read(exports, tmp_path, state=state)
    assert run.exit_code == 0, run.err
    assert choices(run.records("consent_events")) == {}
    ledger = open_ledger(tmp_path)
    act = ledger.read(["ann"])["ann"].entries[EMAIL].acts["actito"]
    ledger.close()
    assert (act.value, act.source) == (False, "row")


def test_a7_what_a_person_does_after_our_write_is_an_act(api, actito, tmp_path) -> None:
    """Off at the last look, on by our write, off by the person: nothing seems to have changed."""
    actito.create("ann")
    _, state = read(api, tmp_path)
    begun = now()
    actito.change("ann", Newsletter=True)
    target_writes(tmp_path, "ann", True, begun=begun, ended=now())
    own, state = read(api, tmp_path, state=state)
    assert own.records("consent_events") == [], "our own write"
    actito.change("ann", Newsletter=False)
    run, _ = read(api, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {"ann": False}


def test_a24_a_look_at_what_is_being_written_counts_for_nothing(api, actito, tmp_path) -> None:
    """Nothing can be known from outside, until a look that begins after the end of the write."""
    actito.create("ann")
    _, state = read(api, tmp_path)
    target_writes(tmp_path, "ann", True, begun=now(), ended=None)
    actito.change("ann", Newsletter=True)
    run, state = read(api, tmp_path, state=state)
    assert run.records("consent_events") == []
    ledger = open_ledger(tmp_path)
    with ledger.change(["ann"]) as change:
        end_write(change.people["ann"].entry(EMAIL), NEWSLETTER, to_micros(now()))
    ledger.close()
    actito.change("ann", Newsletter=False)
    run, _ = read(api, tmp_path, state=state)
    (found,) = run.records("consent_events")
    assert choices([found]) == {"ann": False}


def test_a_look_during_a_dropped_write_dates_nothing(api, actito, tmp_path) -> None:
    """What it saw may have been there before, so the window of the next look begins earlier."""
    actito.create("ann", Newsletter=True)
    _, state = read(api, tmp_path)
    ledger = open_ledger(tmp_path)
    before = ledger.last_look()
    assert before is not None
    begun = now()
    target_writes(tmp_path, "ann", True, begun=begun, ended=None)
    actito.change("ann", Newsletter=False)
    run, state = read(api, tmp_path, state=state)
    assert run.records("consent_events") == []
    with ledger.change(["ann"]) as change:
        change.people["ann"].entry(EMAIL).place(NEWSLETTER).intent = None
    run, _ = read(api, tmp_path, state=state)
    (found,) = run.records("consent_events")
    after = datetime.fromisoformat(found["changed_after"].replace("Z", "+00:00"))
    assert after < begun
    ledger.close()


# Exports


def test_a9_b14_later_second_and_grown_files_are_read(exports, root, tmp_path) -> None:
    """In any order; an older row never replaces a newer one."""
    write(root / "changes-10.csv", row("ann", "Newsletter", "N", "2026-11-20 10:00:00"))
    run, state = read(exports, tmp_path)
    assert choices(run.records("consent_events")) == {"ann": False}
    write(root / "changes-9.csv", row("ann", "Newsletter", "Y", "2026-11-19 10:00:00"))
    late, state = read(exports, tmp_path, state=state)
    assert late.records("consent_events") == [], "it is older"
    write(
        root / "changes-9.csv",
        row("ann", "Newsletter", "Y", "2026-11-19 10:00:00"),
        row("ann", "Newsletter", "Y", "2026-11-21 10:00:00"),
    )
    grown, state = read(exports, tmp_path, state=state)
    assert choices(grown.records("consent_events")) == {"ann": True}
    rest, _ = read(exports, tmp_path, state=state)
    assert "2 file(s), 0 of them new" in rest.err
    assert rest.records("consent_events") == []


@pytest.mark.parametrize(
    ("timestamp", "zone", "window"),
    [
        ("2026-10-25 02:30:00", "Europe/Brussels",
         ("2026-10-25T00:30:00.000Z", "2026-10-25T01:30:00.999Z")),
        ("2026-11-20 10:00:00", "UTC", ("2026-11-20T10:00:00.000Z", "2026-11-20T10:00:00.999Z")),
    ],
)  # fmt: skip
def test_a10_a11_timestamps_are_windows(exports, root, tmp_path, timestamp, zone, window) -> None:
    """A local hour that occurs twice, and a whole second."""
    write(root / "a.csv", row("ann", "Newsletter", "N", timestamp))
    run, _ = read({**exports, "time_zone": zone}, tmp_path)
    (found,) = run.records("consent_events")
    assert (found["changed_after"], found["created_at"]) == window


def test_a12_a_row_later_than_its_file_tells_nothing_of_the_order(exports, root, tmp_path) -> None:
    """It reaches from the beginning of time to the arrival of the file."""
    write(root / "a.csv", row("ann", "Newsletter", "Y", "2099-01-01 00:00:00"))
    run, _ = read(exports, tmp_path)
    (found,) = run.records("consent_events")
    assert found["changed_after"].startswith("0001-01-01")
    assert found["created_at"] <= now().isoformat()


def test_a23_out_and_in_again_reaches_both_sides(exports, actito, root, tmp_path) -> None:
    """The last of both rows counts; at equal timestamps the opt-out, and that is due in Actito."""
    actito.create("ann", Newsletter=True)
    actito.create("bob", Newsletter=True)
    _, state = read(exports, tmp_path)
    start = now() + timedelta(seconds=1)
    write(
        root / "a.csv",
        row("ann", "Newsletter", "N", say(start - timedelta(seconds=5))),
        row("ann", "Newsletter", "Y", say(start - timedelta(seconds=3))),
        row("bob", "Newsletter", "N", say(start - timedelta(seconds=5))),
        row("bob", "Newsletter", "Y", say(start - timedelta(seconds=5))),
    )
    run, _ = read(exports, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {"ann": True, "bob": False}
    ledger = open_ledger(tmp_path)
    people = ledger.read(["ann", "bob"])
    ledger.close()
    assert people["bob"].owed & Owed.OPT_OUT_ACTITO


# Responses of another form


def test_a16_missing_subscriptions_are_no_change(api, actito, tmp_path) -> None:
    """Neither in the response that lacks them nor in the next one."""
    actito.create("ann", Newsletter=True)
    actito.create("bob")
    _, state = read(api, tmp_path)
    actito.steer("options", {"page_subscriptions": "absent"})
    lacking, state = read(api, tmp_path, state=state)
    actito.steer("options", {"page_subscriptions": "whole"})
    whole, state = read(api, tmp_path, state=state)
    assert lacking.records("consent_events") == whole.records("consent_events") == []
    actito.steer("options", {"page_subscriptions": "absent"})
    began = now()
    actito.change("ann", Newsletter=False)
    _, state = read(api, tmp_path, state=state)
    actito.steer("options", {"page_subscriptions": "whole"})
    run, _ = read(api, tmp_path, state=state)
    (found,) = run.records("consent_events")
    assert choices([found]) == {"ann": False}
    after = datetime.fromisoformat(found["changed_after"].replace("Z", "+00:00"))
    assert after < began, "the look that lacked them dates nothing"


def test_b10_a_look_that_shows_no_profiles_is_not_complete(api, actito, tmp_path) -> None:
    """It ends the run, names what was found, and is no baseline."""
    actito.create("ann", Newsletter=True)
    actito.steer("options", {"page_list": "items"})
    run, _ = read(api, tmp_path)
    assert run.exit_code == 1
    assert "items" in run.err
    ledger = open_ledger(tmp_path)
    assert ledger.last_look() is None
    ledger.close()


def test_b11_short_pages_are_read_to_the_end(api, actito, tmp_path) -> None:
    """A server may return fewer per page than requested, and name no total."""
    actito.create_many(f"p{n:02}" for n in range(55))
    actito.steer("options", {"largest_page": 20, "page_names_total": False})
    _, state = read(api, tmp_path)
    actito.change("p54", Newsletter=True)
    run, _ = read(api, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {"p54": True}


# The first look


def test_a25_what_is_off_at_the_first_look_is_an_opt_out_of_unknown_age(
    api, actito, tmp_path
) -> None:
    """It emits nothing, and what is on is held, not chosen."""
    actito.create("ann")
    actito.create("bob", Newsletter=True)
    run, _ = read(api, tmp_path)
    assert run.records("consent_events") == []
    ledger = open_ledger(tmp_path)
    people = ledger.read(["ann", "bob"])
    ann = winner(people["ann"].entries[EMAIL], ledger.rules)
    assert ann is not None
    assert (ann.value, ann.source) == (False, "baseline")
    assert people["bob"].entries[EMAIL].acts == {}
    assert ledger.last_look() is not None
    ledger.close()


def test_a_person_acts_during_the_first_look(api, actito, tmp_path) -> None:
    """Who was read before is compared at the next look; who is read after it, is baseline."""
    people = [f"p{n:03}" for n in range(120)]
    actito.create_many(people)
    for person in people[:60]:
        actito.change(person, Newsletter=True)
    config = {**api, "page_size": 5}
    with (tmp_path / "out").open("wb") as out:
        process = start_plugin("tap-actito", config, tmp_path, stdout=out)
    process.stdin.close()
    changed = []
    for person in people[:60]:
        actito.change(person, Newsletter=False)
        changed.append(person)
        if process.poll() is not None:
            break
    assert process.wait(60) == 0
    read(api, tmp_path)
    ledger = open_ledger(tmp_path)
    found = ledger.read(changed)
    for person in changed:
        act = winner(found[person].entries[EMAIL], ledger.rules)
        assert act is not None, "an opt-out is known, whenever it was made"
        assert act.value is False
    ledger.close()


# Numbered changes


def test_a6_b18_the_same_change_has_one_id_and_another_window_another(
    api, actito, tmp_path
) -> None:
    """Ids hold both ends of the window."""
    actito.create("ann", Newsletter=True)
    _, state = read(api, tmp_path)
    actito.change("ann", Newsletter=False)
    first, state = read(api, tmp_path, state=state)
    actito.change("ann", Newsletter=True)
    _, state = read(api, tmp_path, state=state)
    actito.change("ann", Newsletter=False)
    second, _ = read(api, tmp_path, state=state)
    ids = [r["id"] for run in (first, second) for r in run.records("consent_events")]
    assert len(set(ids)) == 2
    every, _ = read(api, tmp_path)
    assert [r["id"] for r in every.records("consent_events")][::2] == ids


def test_several_pipelines_read_the_same_changes(api, actito, tmp_path) -> None:
    """Each at its own pace: STATE holds the number that it has reached."""
    actito.create("ann", Newsletter=True)
    _, one = read(api, tmp_path)
    other = one
    actito.change("ann", Newsletter=False)
    first, one = read(api, tmp_path, state=one)
    second, other = read(api, tmp_path, state=other)
    assert first.records("consent_events") == second.records("consent_events") != []
    actito.change("ann", SmsAlerts=True)
    for state in (one, other):
        run, _ = read(api, tmp_path, state=state)
        assert len(run.records("consent_events")) == 1


def test_two_taps_at_once_on_one_ledger(api, actito, tmp_path) -> None:
    """Both end well, and each change is numbered once."""
    people = [f"p{n:03}" for n in range(100)]
    actito.create_many(people)
    config = {**api, "page_size": 10}
    _, state = read(config, tmp_path)
    for person in people:
        actito.change(person, Newsletter=True)
    command = [
        BIN / "tap-actito", "--config", tmp_path / "tap-actito.json",
        "--catalog", tmp_path / "catalog.json", "--state", tmp_path / "state.json",
    ]  # fmt: skip
    (tmp_path / "state.json").write_text(json.dumps(state))
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    for output in outputs:
        messages = [json.loads(line) for line in output.splitlines()]
        records = [m["record"] for m in messages if m["type"] == "RECORD"]
        assert choices(records).keys() == set(people)
    ledger = open_ledger(tmp_path)
    found = ledger.found_after(0, 1000)
    ledger.close()
    assert sorted(change.person for _, change in found) == people


def test_unchanged_profiles_write_nothing(api, actito, tmp_path) -> None:
    """A look at a table that didn't change writes the look, and no row of a person."""
    actito.create_many(f"p{n:03}" for n in range(300))
    _, state = read(api, tmp_path)

    def rows() -> list[tuple[Any, ...]]:
        database = sqlite3.connect(tmp_path / "ledger.db")
        database.execute("CREATE TABLE IF NOT EXISTS written (person)")
        database.execute(
            "CREATE TRIGGER IF NOT EXISTS note AFTER UPDATE ON ledger_people BEGIN "
            "INSERT INTO written VALUES (new.person); END"
        )
        database.execute(
            "CREATE TRIGGER IF NOT EXISTS note_new AFTER INSERT ON ledger_people BEGIN "
            "INSERT INTO written VALUES (new.person); END"
        )
        database.commit()
        found = database.execute("SELECT person FROM written").fetchall()
        database.close()
        return found

    assert rows() == []
    _, state = read(api, tmp_path, state=state)
    assert rows() == []
    actito.change("p007", Newsletter=True)
    read(api, tmp_path, state=state)
    assert set(rows()) == {("p007",)}


# Keys of profiles


def test_b17_a_profile_that_changes_its_key_keeps_its_past(api, actito, tmp_path) -> None:
    """What was on before is no opt-in of the new key; what is off stays known as chosen."""
    actito.create("ann", Newsletter=True, SmsAlerts=True)
    _, state = read(api, tmp_path)
    actito.change("ann", SmsAlerts=False)
    _, state = read(api, tmp_path, state=state)
    age_profiles()
    actito.patch("ann", {"customerId": "ann2"})
    run, state = read(api, tmp_path, state=state)
    (found,) = run.records("consent_events")
    assert found["user"] == {"organization_user_id": "ann2"}
    assert found["consents"] == {"channels": [{"id": "sms", "enabled": False}]}
    rest, _ = read(api, tmp_path, state=state)
    assert rest.records("consent_events") == []
    ledger = open_ledger(tmp_path)
    people = ledger.read(["ann", "ann2"])
    ledger.close()
    assert people["ann2"].profile_id == "1"
    assert "ann" not in people, "nothing is left there"
    assert "actito" not in people["ann2"].entries[EMAIL].acts


def age_profiles() -> None:
    """Wait until a look that follows is later than the second in which profiles were created."""
    time.sleep(1.1)


def test_b17_what_changes_while_a_profile_has_no_key_waits_for_it(api, actito, tmp_path) -> None:
    """A profile loses its key, unsubscribes, and gets another one."""
    config = {**api, "user_unique_key": "emailAddress"}
    actito.create("ann", Newsletter=True, attributes={"emailAddress": "ann@example.com"})
    _, state = read(config, tmp_path)
    age_profiles()
    actito.patch("ann", {"emailAddress": None})
    _, state = read(config, tmp_path, state=state)
    actito.change("ann", Newsletter=False)
    waiting, state = read(config, tmp_path, state=state)
    assert waiting.records("consent_events") == []
    assert "1 changes are of profiles without emailAddress" in waiting.err
    actito.patch("ann", {"emailAddress": "eve@example.com"})
    run, state = read(config, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {"eve@example.com": False}
    rest, _ = read(config, tmp_path, state=state)
    assert rest.records("consent_events") == []
    ledger = open_ledger(tmp_path)
    assert ledger.read([keyless_row("1")]) == {}
    ledger.close()


def test_b17_a_row_without_key_is_looked_up_by_its_profile(exports, actito, root, tmp_path) -> None:
    """At once; or it waits in the ledger until the profile has a key."""
    config = {**exports, "user_unique_key": "emailAddress"}
    actito.create("ann", Newsletter=True, attributes={"emailAddress": "ann@example.com"})
    actito.create("bob", Newsletter=True, attributes={"emailAddress": "bob@example.com"})
    _, state = read(config, tmp_path)
    actito.patch("bob", {"emailAddress": None})
    stamp = say(now())
    write(
        root / "a.csv",
        f"1;;UPDATED_SUBSCRIPTION;Newsletter;N;{stamp};LINK",
        f"2;;UPDATED_SUBSCRIPTION;Newsletter;N;{stamp};LINK",
        header="profileId;emailAddress;eventType;subscription;subscribed;timestamp;source",
    )
    run, state = read(config, tmp_path, state=state)
    assert run.exit_code == 0, run.err
    assert choices(run.records("consent_events")) == {"ann@example.com": False}
    actito.patch("bob", {"emailAddress": "bob2@example.com"})
    later, _ = read(config, tmp_path, state=state)
    assert choices(later.records("consent_events")) == {"bob2@example.com": False}


def test_one_key_in_two_spellings_keeps_its_profiles_apart(api, actito, tmp_path) -> None:
    """An opt-out of either is the person's; two different states are no changes."""
    actito.create("ann", Newsletter=True)
    actito.create("Ann", Newsletter=True, SmsAlerts=True)
    config = {**api, "key_matching": "folded"}
    _, state = read(config, tmp_path)
    same, state = read(config, tmp_path, state=state)
    assert same.records("consent_events") == []
    actito.change("Ann", Newsletter=False)
    run, state = read(config, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {"Ann": False}
    ledger = open_ledger(tmp_path)
    act = winner(ledger.read(["ann"])["ann"].entries[EMAIL], ledger.rules)
    ledger.close()
    assert act is not None
    assert act.value is False
    rest, _ = read(config, tmp_path, state=state)
    assert rest.records("consent_events") == []


# A lost ledger


def lose(folder: Path) -> None:
    """Delete the ledger, as a new container does."""
    for path in folder.glob("ledger.db*"):
        if path.is_file():
            path.unlink()


def test_b12_a_lost_ledger_ends_the_run(api, actito, tmp_path) -> None:
    """With what to do; `on_lost_ledger: baseline` begins again."""
    actito.create("ann", Newsletter=True)
    _, state = read(api, tmp_path)
    lose(tmp_path)
    for _ in range(2):
        run, _ = read(api, tmp_path, state=state)
        assert run.exit_code == 1
        assert "ledger_missing" in run.err
        assert "on_lost_ledger" in run.err
    given_up = {**api, "on_lost_ledger": "baseline"}
    run, _ = read({**given_up, "baseline": "didomi"}, tmp_path, state=state)
    assert run.exit_code == 1, "opt-ins of Didomi would count over opt-outs that were newer"
    assert "baseline: opt_out" in run.err
    again, state = read({**given_up, "baseline": "opt_out"}, tmp_path, state=state)
    assert again.exit_code == 0, again.err
    actito.change("ann", Newsletter=False)
    run, _ = read(api, tmp_path, state=state)
    assert choices(run.records("consent_events")) == {"ann": False}


def test_b12_bookmarks_without_a_ledger_are_not_used(exports, actito, root, tmp_path) -> None:
    """What they passed, the ledger doesn't know: it is read again, with a warning."""
    actito.create("ann")
    write(root / "a.csv", row("ann", "Newsletter", "N", "2026-11-20 10:00:00"))
    _, old = read({**exports, "ledger_url": "none"}, tmp_path)
    assert "ledger" not in old["bookmarks"]["consent_events"]
    run, state = read(exports, tmp_path, state=old)
    assert run.exit_code == 0, run.err
    assert "bookmarks of consent_events in STATE are not used" in run.err
    assert choices(run.records("consent_events")) == {"ann": False}
    assert state["bookmarks"]["consent_events"]["ledger"]


def test_b12_tap_didomi_checks_its_state_too(url, tmp_path, actito) -> None:
    """It opens the ledger for its id alone, so nothing becomes due."""
    Didomi(url).say(event("ann", "2026-10-01T10:00:00Z", channels={"email": False}))
    config = tap_config(url, ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}")
    run = run_plugin("tap-didomi", config, tmp_path)
    assert run.exit_code == 0, run.err
    state = [m["value"] for m in run.messages if m["type"] == "STATE"][-1]
    ledger = open_ledger(tmp_path)
    assert {s["ledger"] for s in state["bookmarks"].values()} == {ledger.id}
    assert ledger.read(["ann"]) == {}
    assert ledger.owed(Owed.ACTITO | Owed.DIDOMI, limit=10) == []
    ledger.close()
    lose(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps(state))
    lost = run_plugin("tap-didomi", config, tmp_path, "--state", str(tmp_path / "state.json"))
    assert lost.exit_code == 1
    assert "ledger_missing" in lost.err


def test_without_a_ledger_there_are_exports_only(exports, api, actito, root, tmp_path) -> None:
    """`change_source: api` is refused; exports say what can't be promised."""
    refused, _ = read({**api, "ledger_url": "none"}, tmp_path)
    assert refused.exit_code == 1
    assert "Set ledger_url, or read exports" in refused.err
    write(root / "a.csv", row("ann", "Newsletter", "N", "2026-11-20 10:00:00"))
    run, state = read({**exports, "ledger_url": "none"}, tmp_path)
    assert run.exit_code == 0, run.err
    assert choices(run.records("consent_events")) == {"ann": False}
    assert "read file by file" in run.err
    _, state = read(exports, tmp_path)
    refused, _ = read({**exports, "ledger_url": "none"}, tmp_path, state=state)
    assert refused.exit_code == 1
    assert "STATE belongs to a ledger" in refused.err


def test_a_change_is_owed_to_didomi_whatever_becomes_of_the_run(url, api, actito, tmp_path) -> None:
    """tap-actito is killed before it has emitted anything: the ledger holds what is owed."""
    Didomi(url).say(event("ann", "2026-10-01T10:00:00Z", channels={"email": True}))
    actito.create("ann", Newsletter=True)
    read(api, tmp_path)
    actito.change("ann", Newsletter=False)
    assert run_plugin("tap-actito", api, tmp_path).exit_code == 0
    ledger = open_ledger(tmp_path)
    (owed,) = ledger.owed(Owed.DIDOMI, opt_outs_only=True, limit=10)
    assert owed[0] == "ann"
    ledger.close()
