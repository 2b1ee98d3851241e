"""What each direction does about what the other one wrote or found."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    MAPPINGS,
    Actito,
    back_config,
    event,
    report,
    run_plugin,
    run_target,
    stream_of,
    target_config,
)
from target_actito.known import is_superseded

from actito_didomi.consent.coalesce import Value
from actito_didomi.consent.ledger import Entry, Ledger, PersonField
from actito_didomi.consent.records import format_timestamp, parse_timestamp
from actito_didomi.errors import SettingsError
from actito_didomi.runtime import Runtime

START = datetime(2026, 10, 1, tzinfo=timezone.utc)
timestamps = st.integers(0, 9).map(lambda hours: START + timedelta(hours=hours))


class Pipelines:
    """target-actito and tap-actito, which share a database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        snapshot = f"sqlite:///{folder / 'shared' / 'snapshot.db'}"
        self.forward = target_config(url, folder, snapshot_url=snapshot, mappings=MAPPINGS[:2])
        self.back = back_config(url, folder, snapshot_url=snapshot, mappings=MAPPINGS[:2])

    def write(self, *events: Any, **changes: Any) -> dict[str, Any]:
        """Bring events to Actito; give the report."""
        done = run_target({**self.forward, **changes}, self.folder, stream_of(*events))
        assert done.exit_code == 0, done.err
        return report(self.forward)

    def look(self) -> list[dict[str, Any]]:
        """Look for changes in Actito."""
        state = self.folder / "state.json"
        known = ["--state", str(state)] if state.exists() else []
        done = run_plugin("tap-actito", self.back, self.folder, *known)
        assert done.exit_code == 0, done.err
        last = [m for m in done.messages if m["type"] == "STATE"][-1]
        state.write_text(json.dumps(last["value"]))
        return done.records("consent_events")


@pytest.fixture
def pipelines(url: str, tmp_path: Path, actito: Actito) -> Pipelines:
    """Both, after the first look at two people."""
    for person in ("ann", "bob"):
        actito.create(person)
    made = Pipelines(url, tmp_path)
    made.look()
    return made


def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.mark.parametrize("mode", ["single", "bulk"])
def test_what_was_written_is_dated_by_the_writing(pipelines, mode) -> None:
    """It was chosen before that: whatever Didomi has from later on is newer."""
    pipelines.write(
        event("ann", format_timestamp(START), channels={"email": True}), write_mode=mode
    )
    written = now()
    found = pipelines.look()
    assert [e["user"]["organization_user_id"] for e in found] == ["ann"]
    assert parse_timestamp(found[0]["created_at"], "created_at") <= written


def test_what_people_change_is_dated_by_the_look(pipelines, actito) -> None:
    """An entry of an earlier write doesn't change that."""
    pipelines.write(event("ann", format_timestamp(START), channels={"email": True}))
    pipelines.look()
    actito.change("ann", Newsletter=False)
    changed = now()
    found = pipelines.look()
    assert len(found) == 1
    assert parse_timestamp(found[0]["created_at"], "created_at") >= changed


def test_a_window_begins_before_the_look_that_did_not_see_it(pipelines, actito) -> None:
    """What changed while a response was under way is not dated after it."""
    fault = {"side": "actito", "route": "list_profiles", "action": "stall", "seconds": 2}
    actito.steer("faults", {**fault, "count": 1})
    pipelines.look()
    looked = now()
    actito.change("ann", Newsletter=True)
    found = pipelines.look()
    after = parse_timestamp(found[0]["changed_after"], "changed_after")
    assert after <= looked - timedelta(seconds=2)


def test_what_a_person_takes_back_after_a_writing_is_found(pipelines, actito) -> None:
    """Though the table looks as it did before: it was written in between."""
    before = now()
    pipelines.write(event("ann", format_timestamp(START), channels={"email": True}))
    actito.change("ann", Newsletter=False)
    found = pipelines.look()
    assert [e["consents"]["channels"] for e in found] == [[{"id": "email", "enabled": False}]]
    assert parse_timestamp(found[0]["changed_after"], "changed_after") >= before
    assert pipelines.look() == []


def test_an_old_opt_in_is_not_written_over_a_new_opt_out(pipelines, actito) -> None:
    """Neither from before the change, nor where the order can't be known."""
    pipelines.write(event("ann", format_timestamp(START), channels={"email": True}))
    pipelines.look()
    in_doubt = now()
    actito.change("ann", Newsletter=False)
    pipelines.look()
    for timestamp in (START + timedelta(hours=1), in_doubt):
        said = pipelines.write(
            event("ann", format_timestamp(timestamp), channels={"email": True, "sms": True})
        )
        assert said["superseded"] == 1
        assert actito.subscriptions("ann")["Newsletter"] is False
        assert actito.subscriptions("ann")["SmsAlerts"] is True
    pipelines.write(event("ann", format_timestamp(now()), channels={"email": True}))
    assert actito.subscriptions("ann")["Newsletter"] is True


def test_an_opt_out_in_doubt_is_written(pipelines, actito) -> None:
    """Only an opt-in that is newer for certain goes before it."""
    before = now()
    actito.change("ann", Newsletter=True)
    actito.change("bob", Newsletter=True)
    pipelines.look()
    pipelines.write(
        event("ann", format_timestamp(before), channels={"email": False}),
        event("bob", format_timestamp(START), channels={"email": False}),
    )
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.subscriptions("bob")["Newsletter"] is True


def test_opt_outs_out_of_exports_are_known_as_well(pipelines, actito, tmp_path) -> None:
    """An old opt-in isn't written over them, a new one is; what was written isn't anyone's own."""
    files = tmp_path / "changes"
    files.mkdir()
    pipelines.back |= {
        "change_source": "exports",
        "export_root": f"file://{files}",
        "export_grace": 0,
        "time_zone": "UTC",
    }
    pipelines.write(
        event("ann", format_timestamp(START), channels={"email": True, "sms": False}),
        event("bob", format_timestamp(START), channels={"sms": False}),
    )
    written = now()
    actito.change("ann", Newsletter=False)
    (files / "changes-1.csv").write_text(
        "profileId;customerId;eventType;subscription;subscribed;timestamp;source\n"
        "1;ann;UPDATED_SUBSCRIPTION;Newsletter;N;2026-10-02 12:00:00;LINK\n"
        f"2;bob;UPDATED_SUBSCRIPTION;SmsAlerts;N;{written:%Y-%m-%d %H:%M:%S};API\n"
    )
    assert len(pipelines.look()) == 2
    noon = datetime(2026, 10, 2, 12, tzinfo=timezone.utc)
    said = pipelines.write(
        event("ann", format_timestamp(noon - timedelta(hours=1)), channels={"email": True})
    )
    assert said["superseded"] == 1
    assert actito.subscriptions("ann")["Newsletter"] is False
    pipelines.write(
        event("ann", format_timestamp(noon + timedelta(hours=1)), channels={"email": True}),
        event("bob", format_timestamp(noon), channels={"sms": True}),
    )
    assert actito.subscriptions("ann")["Newsletter"] is True
    assert actito.subscriptions("bob")["SmsAlerts"] is True


def test_an_older_file_of_an_export_does_not_replace_a_newer_one(
    pipelines, actito, tmp_path
) -> None:
    """Files are read in the order of their names, in which 10 comes before 9."""
    files = tmp_path / "changes"
    files.mkdir()
    pipelines.back |= {
        "change_source": "exports",
        "export_root": f"file://{files}",
        "export_grace": 0,
        "time_zone": "UTC",
    }
    pipelines.write(event("ann", format_timestamp(START), channels={"email": True}))
    actito.change("ann", Newsletter=False)
    for number, hour in (("10", 14), ("9", 12)):
        (files / f"changes-{number}.csv").write_text(
            "profileId;customerId;eventType;subscription;subscribed;timestamp;source\n"
            f"1;ann;UPDATED_SUBSCRIPTION;Newsletter;N;2026-10-02 {hour}:00:00;LINK\n"
        )
    assert len(pipelines.look()) == 2
    between = datetime(2026, 10, 2, 13, tzinfo=timezone.utc)
    pipelines.write(event("ann", format_timestamp(between), channels={"email": True}))
    assert actito.subscriptions("ann")["Newsletter"] is False


def test_a_database_that_fails_is_named(url: str, tmp_path: Path, actito: Actito) -> None:
    """Before anything is written, and without the password."""
    actito.create("ann")
    wrong = target_config(url, tmp_path, snapshot_url="postgresql+nothing://me:secret@here/x")
    run = run_target(wrong, tmp_path, stream_of(event("ann", channels={"email": True})))
    assert (run.exit_code, run.states) == (1, [])
    assert "snapshot_url" in run.err
    assert "me:secret" not in run.err
    assert actito.subscriptions("ann")["Newsletter"] is False


def entry(value: bool, earliest: int, latest: int | None = None) -> Entry:
    """Return an entry by hours; an exact one without `latest`."""
    times = [START + timedelta(hours=h) for h in (earliest, earliest if latest is None else latest)]
    return Entry(value, *times)


def test_entries_are_kept_by_table_and_origin(tmp_path: Path) -> None:
    """Of a pipeline the last one counts; entries of another table are not seen."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    one, other = (Ledger(url, ["a", name], Runtime()) for name in "bc")
    field = PersonField("ann", "subscription", "Newsletter")
    one.record_writes({field: entry(True, 0)})
    one.record_writes({field: entry(False, 0, 1)})
    assert one.read("pipeline", ["ann", "bob"]) == {field: entry(False, 0, 1)}
    assert one.read("pipeline", ["ann"], since=START + timedelta(hours=2)) == {}
    assert one.read("person", ["ann"]) == other.read("pipeline", ["ann"]) == {}
    many = {PersonField(f"p{n}", "subscription", "Newsletter"): entry(True, 0) for n in range(1200)}
    one.learn(many.items(), ())
    assert one.read("person", [field.person for field in many]) == many
    one.close()
    other.close()
    with pytest.raises(SettingsError):
        Ledger(f"sqlite:///{tmp_path}", ["a"], Runtime())


@pytest.mark.parametrize("inverted", [False, True])
def test_of_what_people_chose_the_newest_counts_in_any_order(tmp_path: Path, inverted) -> None:
    """An older row that comes later changes nothing; at the same second the opt-out counts."""
    field = PersonField("ann", "subscription", "Newsletter")
    on, off = not inverted, inverted
    found = []
    for number, order in enumerate(permutations([(off, 5), (on, 5), (off, 3), (on, 1)])):
        ledger = Ledger(f"sqlite:///{tmp_path / f'{number}.db'}", ["a"], Runtime())
        for value, hour in order[:2]:
            ledger.learn([(field, entry(value, hour))], {field[1:]} if inverted else ())
        rest = [(field, entry(value, hour)) for value, hour in order[2:]]
        ledger.learn(rest, {field[1:]} if inverted else ())
        found.append(ledger.read("person", ["ann"])[field])
        ledger.learn([(field, entry(on, 4, 6))], {field[1:]} if inverted else ())
        assert ledger.read("person", ["ann"])[field] == entry(on, 4, 6)  # a look
        ledger.close()
    assert set(found) == {entry(off, 5)}


@given(
    theirs=st.tuples(timestamps, st.booleans()),
    own=st.tuples(timestamps, timestamps, st.booleans(), st.booleans()),
    inverted=st.booleans(),
)
def test_conflicts_end_as_on_the_other_side(theirs, own, inverted) -> None:
    """An opt-in is written only where it is newer for certain, an opt-out unless it is older."""
    timestamp, choice = theirs
    latest, earliest = max(own[:2]), min(own[:2]) if own[3] else max(own[:2])
    value = Value(timestamp, choice is not inverted, choice)
    superseded = is_superseded(value, Entry(own[2] is not inverted, earliest, latest))
    if choice is own[2]:
        # The same choice: the later one counts, and it is written already.
        is_look = earliest < latest
        assert superseded is (timestamp <= latest if is_look else timestamp < latest)
    elif choice:
        assert superseded is (timestamp <= latest)
    else:
        assert superseded is (timestamp < earliest)
