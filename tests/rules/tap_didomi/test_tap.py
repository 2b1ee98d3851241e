"""tap-didomi: batch exports and the API, as processes."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import time
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support import (
    BIN,
    Actito,
    Didomi,
    Run,
    clean_environment,
    event,
    rejects_kept,
    run_plugin,
    select_all,
    tap_config,
)

from actito_didomi.didomi.exports import ExportFolder
from actito_didomi.didomi.lists import read_page
from actito_didomi.errors import UnexpectedResponseError
from actito_didomi.runtime import Runtime
from tap_didomi.tap import TapDidomi


def line(person: str, *events: dict[str, Any]) -> dict[str, Any]:
    """Make a line of an export."""
    user = {"id": f"user-{person}", "organization_user_id": person, "consents": {}}
    return {"user": user, "events": list(events)}


def write_partition(
    root: Path,
    date: str,
    lines: list[Any],
    *,
    export: str = "e1",
    success: bool = True,
    name: str = "part-0.json.gz",
) -> Path:
    """Write one file of a partition; texts go in as they are."""
    folder = root / "data" / f"export-id={export}" / f"date={date}" / "users"
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        for item in lines:
            file.write((item if isinstance(item, str) else json.dumps(item)) + "\n")
    if success:
        (folder.parent / "_SUCCESS").touch()
    return folder / name


def tap(folder: Path, root: Path, *arguments: str, state: Any = None, **config: Any) -> Run:
    """Run the tap over exports."""
    if state is not None:
        path = folder / "state.json"
        path.write_text(json.dumps(state))
        arguments = (*arguments, "--state", str(path))
    return run_plugin("tap-didomi", {"export_root": f"file://{root}", **config}, folder, *arguments)


def last_state(run: Run) -> Any:
    """Return the last STATE."""
    return [m["value"] for m in run.messages if m["type"] == "STATE"][-1]


def ids(run: Run, stream: str = "consent_events") -> list[str]:
    """Return the ids of the records."""
    return [r["id"] for r in run.records(stream)]


def days(run: Run) -> list[str]:
    """Return the days of the events."""
    return [r["created_at"][:10] for r in run.records("consent_events")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three days of one export, in a folder of their own."""
    folder = tmp_path / "exports"
    for day in (3, 1, 2):
        date = f"2026-10-0{day}"
        write_partition(folder, date, [line("ann", event("ann", f"{date}T10:00:00Z"))])
    return folder


def test_partitions_are_read_in_order_of_their_dates_and_once(tmp_path: Path, root: Path) -> None:
    """The state is the last finished date of each export; a second run finds nothing."""
    run = tap(tmp_path, root)
    assert run.exit_code == 0
    assert [r["created_at"][:10] for r in run.records("consent_events")] == [
        "2026-10-01",
        "2026-10-02",
        "2026-10-03",
    ]
    own = last_state(run)["bookmarks"]["consent_events"]
    assert own["exports"] == {"e1": "2026-10-03"}
    assert {day: len(marks) for day, marks in own["files"]["e1"].items()} == {
        "2026-10-01": 8,
        "2026-10-02": 8,
        "2026-10-03": 8,
    }
    assert ids(tap(tmp_path, root, state=last_state(run))) == []


def test_the_bookmark_stays_before_an_unfinished_partition(tmp_path: Path, root: Path) -> None:
    """None is skipped: it is read when it is finished. What comes after it doesn't wait."""
    (root / "data/export-id=e1/date=2026-10-02/_SUCCESS").unlink()
    run = tap(tmp_path, root)
    assert run.exit_code == 0
    assert days(run) == ["2026-10-01", "2026-10-03"]
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-01"}
    assert "2026-10-02 has no _SUCCESS yet" in run.err
    assert days(tap(tmp_path, root, state=last_state(run))) == []
    (root / "data/export-id=e1/date=2026-10-02/_SUCCESS").touch()
    again = tap(tmp_path, root, state=last_state(run))
    assert days(again) == ["2026-10-02"]
    assert last_state(again)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-03"}


@pytest.mark.parametrize("batches", [False, True])
def test_b14_what_comes_late_is_read(tmp_path: Path, root: Path, *, batches: bool) -> None:
    """A late partition, a second file in one, and a grown file; each once."""
    config: dict[str, Any] = {}
    if batches:
        config["batch_config"] = {
            "encoding": {"format": "jsonl", "compression": "gzip"},
            "storage": {"root": "file:///unused"},
        }

    def files(run: Run) -> int:
        if not batches:
            return len(set(ids(run)))
        return sum(len(m["manifest"]) for m in run.messages if m["type"] == "BATCH")

    state = last_state(tap(tmp_path, root, **config))
    write_partition(root, "2026-09-30", [line("late", event("late"))])
    write_partition(root, "2026-10-02", [line("bob", event("bob"))], name="part-1.json.gz")
    write_partition(root, "2026-10-03", [line("ann", event("ann")), line("eve", event("eve"))])
    run = tap(tmp_path, root, state=state, **config)
    assert run.exit_code == 0, run.err
    assert files(run) == (3 if batches else 4)
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-03"}
    assert files(tap(tmp_path, root, state=last_state(run), **config)) == 0
    # Killed before that STATE came back: they come again.
    assert files(tap(tmp_path, root, state=state, **config)) == (3 if batches else 4)


def test_b14_what_comes_after_late_days_is_not_read(tmp_path: Path, root: Path) -> None:
    """And STATE forgets the files of those days."""
    for day in range(4, 18):
        write_partition(root, f"2026-10-{day:02}", [])
    run = tap(tmp_path, root)
    assert min(last_state(run)["bookmarks"]["consent_events"]["files"]["e1"]) == "2026-10-03"
    for day in (2, 3):
        late = [line("bob", event("bob", f"2026-10-0{day}T10:00:00Z"))]
        write_partition(root, f"2026-10-0{day}", late, name="part-1.json.gz")
    assert days(tap(tmp_path, root, state=last_state(run))) == ["2026-10-03"]


def test_a_missing_day_is_reported_and_holds_the_bookmark(tmp_path: Path, root: Path) -> None:
    """Until it comes, or `late_days` have passed; later days are read at once."""
    write_partition(root, "2026-10-05", [line("ann", event("ann", "2026-10-05T10:00:00Z"))])
    run = tap(tmp_path, root)
    assert run.exit_code == 0
    assert days(run) == ["2026-10-01", "2026-10-02", "2026-10-03", "2026-10-05"]
    assert "AD213 missing_day: export e1 has no partition of 2026-10-04 (1 day(s))" in run.err
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-03"}
    write_partition(root, "2026-10-20", [line("ann", event("ann", "2026-10-20T10:00:00Z"))])
    for day in range(6, 20):
        write_partition(root, f"2026-10-{day:02}", [])
    later = tap(tmp_path, root, state=last_state(run))
    assert days(later) == ["2026-10-20"]
    assert "2026-10-04" in later.err
    own = last_state(later)["bookmarks"]["consent_events"]
    assert own["exports"] == {"e1": "2026-10-20"}
    assert min(own["files"]["e1"]) == "2026-10-06"
    assert len(json.dumps(last_state(later))) < 1000


def test_b13_success_among_proofs_closes_nothing(tmp_path: Path, root: Path) -> None:
    """It counts in `users`, or next to it."""
    day = root / "data/export-id=e1/date=2026-10-03"
    (day / "proofs").mkdir()
    (day / "_SUCCESS").rename(day / "proofs/_SUCCESS")
    run = tap(tmp_path, root)
    assert days(run) == ["2026-10-01", "2026-10-02"]
    (day / "proofs/_SUCCESS").rename(day / "users/_SUCCESS")
    assert days(tap(tmp_path, root, state=last_state(run))) == ["2026-10-03"]


@pytest.mark.parametrize("case", ["no file", "0 bytes", ".json", ".ndjson.gz", ".json.GZ"])
def test_b13_an_incomplete_partition_fails_the_run_and_holds_the_bookmark(
    tmp_path: Path, root: Path, case: str
) -> None:
    """Everything else is read, once; with `skip` the bookmark moves on."""
    users = root / "data/export-id=e1/date=2026-10-02/users"
    good = users / "part-0.json.gz"
    if case == "no file":
        good.unlink()
    elif case == "0 bytes":
        (users / "part-1.json.gz").touch()
    else:
        (users / f"part-1{case}").write_bytes(good.read_bytes())
    run = tap(tmp_path, root)
    assert run.exit_code == 1
    assert "AD212 incomplete_export: Export e1, 2026-10-02:" in run.err
    expected = ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert days(run) == ([expected[0], expected[2]] if case == "no file" else expected)
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-01"}
    again = tap(tmp_path, root, state=last_state(run))
    assert (again.exit_code, days(again)) == (1, [])
    skipped = tap(tmp_path, root, state=last_state(run), on_bad_line="skip")
    assert skipped.exit_code == 0
    assert last_state(skipped)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-03"}


@pytest.mark.parametrize("events", [{"events": None}, {"history": [event("bob")]}, {}])
def test_b13_a_line_without_events_fails_the_run_and_stops_nobody(
    tmp_path: Path, root: Path, events: dict[str, Any]
) -> None:
    """The message names the keys found; the file is read again when it was repaired."""
    lines = [{"user": line("bob")["user"], **events}, line("eve", event("eve"))]
    write_partition(root, "2026-10-02", lines, name="part-1.json.gz")
    run = tap(tmp_path, root)
    assert run.exit_code == 1
    assert "part-1.json.gz, line 1: no `events`" in run.err
    assert f"Found: {', '.join(sorted(['user', *events]))}." in run.err
    assert "bob" not in run.err
    assert len(ids(run)) == 4
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-01"}
    write_partition(root, "2026-10-02", [line("bob", event("bob"))], name="part-1.json.gz")
    again = tap(tmp_path, root, state=last_state(run))
    assert (again.exit_code, len(ids(again))) == (0, 1)
    assert last_state(again)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-03"}


@pytest.mark.parametrize("bookmark", ["garbage", "2099-01-01"])
def test_a_bookmark_that_is_no_day_of_the_past_does_not_count(
    tmp_path: Path, root: Path, bookmark: str
) -> None:
    """Everything is read again, and it is logged."""
    state = {"bookmarks": {"consent_events": {"exports": {"e1": bookmark}}}}
    run = tap(tmp_path, root, state=state, ledger_url="none")
    assert len(ids(run)) == 3
    assert "not a day of the past" in run.err


@pytest.mark.parametrize("maps", [{}, {"stream_maps": {"other": {"x": "y"}}}])
def test_a12_records_of_an_export_say_when_they_had_arrived(
    tmp_path: Path, root: Path, maps: dict[str, Any]
) -> None:
    """At the end of their partition's day, whenever they are read."""
    run = tap(tmp_path, root, **maps)
    records = [m for m in run.messages if m["type"] == "RECORD"]
    assert [m["time_extracted"][:19] for m in records] == [
        "2026-10-02T00:00:00",
        "2026-10-03T00:00:00",
        "2026-10-04T00:00:00",
    ]


def test_exports_are_read_each_for_itself(tmp_path: Path, root: Path) -> None:
    """An unfinished partition of one export holds up no other; `export_ids` limits them."""
    second = [line("bob", event("bob"))]
    write_partition(root, "2026-10-01", second, export="e2", success=False)
    write_partition(root, "2026-10-01", second, export="e3")
    run = tap(tmp_path, root)
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {
        "e1": "2026-10-03",
        "e3": "2026-10-01",
    }
    assert len(ids(tap(tmp_path, root, export_ids=["e3"]))) == 1
    run = tap(tmp_path, root, export_ids=["e9"])
    assert run.exit_code == 1
    assert "no export e9" in run.err
    assert "e1, e2, e3" in run.err


def test_start_date_leaves_out_earlier_days(tmp_path: Path, root: Path) -> None:
    """The first day is part of it."""
    assert len(ids(tap(tmp_path, root, start_date="2026-10-02"))) == 2


def test_events_carry_their_user(tmp_path: Path) -> None:
    """An event of a line that doesn't say whose it is gets the line's user."""
    root = tmp_path / "exports"
    bare = event("ann")
    del bare["user"]
    partly = {**event("ann"), "id": "second", "user": {"id": "user-ann"}}
    entry = line("ann", bare, partly)
    entry["user"]["metadata"] = {"shop": "Gent"}
    write_partition(root, "2026-10-01", [entry])
    first, second = tap(tmp_path, root).records("consent_events")
    owner = {"id": "user-ann", "organization_user_id": "ann"}
    assert first["user"] == {**owner, "metadata": {"shop": "Gent"}}
    assert second["user"] == owner


def test_records_go_out_as_they_came(tmp_path: Path) -> None:
    """Nulls, unknown fields, metadata and values of any form are kept."""
    root = tmp_path / "exports"
    odd = event("ann", channels={"email": None}, metadata={"a": {"b": [1, 2.5, None]}})
    odd["future_field"] = {"x": 1}
    odd["consents"]["purposes"] = [{"id": "p", "enabled": None, "values": {"q": {"value": "1,2"}}}]
    write_partition(root, "2026-10-01", [line("ann", odd)])
    assert tap(tmp_path, root).records("consent_events") == [odd]


def test_users_of_exports_are_read_with_read_users_only(tmp_path: Path, root: Path) -> None:
    """Even a catalog that selects them can't: a whole status would hide newer choices."""
    run = tap(tmp_path, root)
    assert ids(run, "consent_users") == []
    assert "both selected" not in run.err
    catalog = tap(tmp_path, root, "--discover", read_users=True).out
    path = tmp_path / "catalog.json"
    path.write_text(catalog)
    refused = tap(tmp_path, root, "--catalog", str(path))
    assert ids(refused, "consent_users") == []
    assert "The catalog selects consent_users, which this tap doesn't offer" in refused.err
    run = tap(tmp_path, root, "--catalog", str(path), read_users=True)
    assert ids(run, "consent_users") == ["user-ann"] * 3
    assert len(ids(run)) == 3
    assert "consent_events and consent_users are both selected" in run.err


@pytest.mark.parametrize("damage", ["no JSON", "no user", "truncated", "not gzip"])
def test_a_broken_line_names_the_file_and_the_line(tmp_path: Path, damage: str) -> None:
    """`fail` fails the run, with the bookmark before it; `skip` counts and reports it.

    In both ways everything else is read.
    """
    root = tmp_path / "exports"
    write_partition(root, "2026-10-01", [line("ann", event("ann"))])
    good = [line(f"p{n}", event(f"p{n}")) for n in range(300)]
    broken = {"no JSON": '{"user": ', "no user": '{"events": []}'}.get(damage)
    items = [*good[:2], broken, *good[2:]] if broken else good
    path = write_partition(root, "2026-10-02", items)
    write_partition(root, "2026-10-03", [line("zoe", event("zoe"))])
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    if damage == "not gzip":
        path.write_bytes(b"plain text\n")
    run = tap(tmp_path, root)
    assert run.exit_code == 1
    assert "part-0.json.gz" in run.err
    if broken:
        assert "part-0.json.gz, line 3:" in run.err
    assert "on_bad_line" in run.err
    assert last_state(run)["bookmarks"]["consent_events"]["exports"] == {"e1": "2026-10-01"}
    assert "event-zoe-2026-10-01T10:00:00Z" in ids(run)
    if broken:
        assert len(ids(run)) == 302
    run = tap(tmp_path, root, on_bad_line="skip")
    assert run.exit_code == 0
    assert "1 broken line(s) or file(s) were skipped" in run.err
    assert "event-zoe-2026-10-01T10:00:00Z" in ids(run)
    if broken:
        assert len(ids(run)) == 302


def test_b15_a_broken_line_is_kept_until_its_file_can_be_read(tmp_path: Path, root: Path) -> None:
    """With its bytes, whether it is skipped or not: it may hold an opt-out."""
    url = f"sqlite:///{tmp_path / 'actito-didomi.db'}"
    lines = [line("bob", event("bob")), '{"user": "secret', line("eve", event("eve"))]
    write_partition(root, "2026-10-02", lines, name="part-1.json.gz")
    assert tap(tmp_path, root).exit_code == 1
    (failed,) = rejects_kept(url)
    run = tap(tmp_path, root, on_bad_line="skip")
    assert run.exit_code == 0
    assert "`actito-didomi rejects list`" in run.err
    assert "secret" not in run.err
    (skipped,) = rejects_kept(url)
    assert skipped.number == failed.number
    details = skipped.details
    assert (skipped.code, skipped.opt_out) == ("invalid_line", True)
    assert details.raw == b'{"user": "secret'
    assert details.file.endswith("date=2026-10-02/users/part-1.json.gz")
    assert (details.line, details.attempts) == (2, 2)
    lines[1] = line("joe", event("joe"))
    write_partition(root, "2026-10-02", lines, name="part-1.json.gz")
    assert tap(tmp_path, root, state=last_state(run)).exit_code == 0
    assert rejects_kept(url) == []


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """The setting is named."""
    run = tap(tmp_path, tmp_path / "nowhere")
    assert run.exit_code == 1
    assert "export_root: there is nothing at" in run.err


def test_a_file_system_without_its_library_names_the_extra(tmp_path: Path) -> None:
    """The base package brings no cloud libraries."""
    run = run_plugin("tap-didomi", {"export_root": "s3://bucket/x"}, tmp_path)
    assert run.exit_code == 1
    assert "pip install 'actito-didomi[s3]'" in run.err


def test_any_file_system_of_fsspec_can_hold_exports() -> None:
    """Here one in memory stands for a bucket."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.makedirs("/bucket/data/export-id=e/date=2026-10-01/users", exist_ok=True)
    path = "/bucket/data/export-id=e/date=2026-10-01/users/a.json.gz"
    memory.pipe(path, gzip.compress(json.dumps(line("ann")).encode()))
    memory.pipe("/bucket/data/export-id=e/date=2026-10-01/_SUCCESS", b"")
    folder = ExportFolder("memory://bucket")
    (partition,) = folder.partitions()["e"]
    assert partition.complete
    assert partition.files[0].size
    memory.pipe(path.replace("a.json", "b.json"), b"")
    (empty,) = folder.lines(path.replace("a.json", "b.json"))
    assert "empty (0 bytes)" in (empty.problem or "")
    (read,) = folder.lines(partition.files[0].path)
    assert read.value
    assert read.value["user"]["organization_user_id"] == "ann"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of ten times the lines is read in the same memory."""
    random = Random(1)
    peaks = []
    for count in (500, 5000):
        entries = [
            line("ann", {**event("ann"), "padding": random.randbytes(1000).hex()})
            for _ in range(count)
        ]
        path = write_partition(tmp_path / str(count), "2026-10-01", entries)
        del entries
        folder = ExportFolder(f"file://{tmp_path / str(count)}")
        tracemalloc.start()
        assert sum(1 for _ in folder.lines(str(path))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5


def test_a_killed_run_reads_its_partition_again(tmp_path: Path, root: Path) -> None:
    """The state of a run that broke off inside a partition is that of the one before."""
    path = root / "data/export-id=e1/date=2026-10-02/users/part-0.json.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    run = tap(tmp_path, root)
    path.write_bytes(whole)
    assert days(tap(tmp_path, root, state=last_state(run))) == ["2026-10-02"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_sigterm_ends_the_tap_between_two_records(tmp_path: Path, unbuffered: str) -> None:
    """Exit 143, whole lines only, and no state of a partition that wasn't read to its end."""
    root = tmp_path / "exports"
    entries = [line(f"p{n}", event(f"p{n}")) for n in range(20_000)]
    write_partition(root, "2026-10-01", entries)
    config = tmp_path / "tap.json"
    config.write_text(json.dumps({"export_root": f"file://{root}"}))
    with subprocess.Popen(
        [str(BIN / "tap-didomi"), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(PYTHONUNBUFFERED=unbuffered),
    ) as process:
        assert process.stdout
        first = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read().splitlines()
    assert process.returncode == 143
    messages = [json.loads(text) for text in [*first, *rest]]
    assert len(messages) < 20_000
    assert not any(m["type"] == "STATE" and m["value"].get("bookmarks", {}).get(
        "consent_events", {}).get("exports") for m in messages)  # fmt: skip


# Through the API


@pytest.fixture
def people(actito: Actito) -> Actito:
    """A sandbox with 250 persons: three pages of Didomi users."""
    actito.steer("reset", {"people": 250})
    return actito


def every(url: str, folder: Path, state: Any = None, **config: Any) -> Run:
    """Run the tap through the API with both streams selected."""
    settings = tap_config(url, **config)
    path = folder / "catalog.json"
    catalog = json.loads(run_plugin("tap-didomi", settings, folder, "--discover").out)
    path.write_text(json.dumps(select_all(catalog)))
    arguments = ["--catalog", str(path)]
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
        arguments += ["--state", str(folder / "state.json")]
    return run_plugin("tap-didomi", settings, folder, *arguments)


@pytest.mark.parametrize("form", ["envelope", "total", "list"])
def test_all_three_forms_of_lists_are_read(
    url: str, people: Actito, tmp_path: Path, form: str
) -> None:
    """In each form of Didomi's response, all users and their events come."""
    people.steer("options", {"user_list_form": form, "event_list_form": form})
    run = every(url, tmp_path)
    assert run.exit_code == 0
    users = run.records("consent_users")
    assert len(users) > 230
    assert len({u["id"] for u in users}) == len(users)
    events = run.records("consent_events")
    assert len(events) > len(users)
    assert {e["user"]["id"] for e in events} == {u["id"] for u in users}
    assert {e["status"] for e in events} == {"confirmed", "pending_approval"}


def test_without_a_catalog_users_only_are_read(url: str, people: Actito, tmp_path: Path) -> None:
    """Events cost one request per user; they come when a catalog selects them."""
    run = run_plugin("tap-didomi", tap_config(url), tmp_path)
    assert len(run.records("consent_users")) > 230
    assert run.records("consent_events") == []
    assert "list_events" not in people.stats("didomi")["routes"]


def test_several_users_of_one_person_are_all_given(
    url: str, people: Actito, tmp_path: Path
) -> None:
    """The person's id ties them together."""
    users = run_plugin("tap-didomi", tap_config(url), tmp_path).records("consent_users")
    persons = [u["organization_user_id"] for u in users if "organization_user_id" in u]
    assert len(persons) > len(set(persons))
    assert any("organization_user_id" not in u for u in users)  # guests


def test_with_a_bookmark_only_changed_users_are_given(
    url: str, people: Actito, tmp_path: Path
) -> None:
    """The scan is whole; what hasn't changed since is left out on our side, events as well."""
    first = every(url, tmp_path)
    state = last_state(first)
    # The seeded people date from before; the bookmark is the newest of their timestamps.
    again = every(url, tmp_path, state=state)
    newest = max(u["updated_at"] for u in first.records("consent_users"))
    assert state["bookmarks"]["consent_users"]["replication_key_value"] == newest
    assert again.records("consent_users") == []
    assert again.records("consent_events") == []
    assert "scan" not in last_state(again)["bookmarks"]["consent_users"]


def test_a13_the_bookmark_stays_before_the_scan(url: str, tmp_path: Path) -> None:
    """What is newer comes again; nothing that changes during the scan is passed by."""
    didomi = Didomi(url)
    for person in ("ann", "bob"):
        didomi.say(event(person, channels={"email": True}))
    first = every(url, tmp_path)
    bookmark = last_state(first)["bookmarks"]["consent_users"]["replication_key_value"]
    assert bookmark < min(u["updated_at"] for u in first.records("consent_users"))
    didomi.say(event("bob", "2026-10-02T10:00:00Z", channels={"email": False}))
    again = every(url, tmp_path, state=last_state(first))
    assert len(again.records("consent_users")) == 2
    assert {e["created_at"] for e in again.records("consent_events")} == {
        "2026-10-01T10:00:00Z",
        "2026-10-02T10:00:00Z",
    }


def test_an_event_that_is_dated_long_ago_is_read_when_it_comes(url: str, tmp_path: Path) -> None:
    """The program that posts it sets its date; Didomi says when it came."""
    didomi = Didomi(url)
    for person in ("ann", "bob"):
        didomi.say(event(person, channels={"email": True}))
    bookmark = didomi.events("ann")[0]["updated_at"], didomi.events("bob")[0]["updated_at"]
    late = event("bob", "2025-01-02T10:00:00Z", channels={"email": False})
    time.sleep(0.01)
    didomi.say(late)
    own = {"replication_key": "updated_at", "replication_key_value": max(bookmark)}
    state = {"bookmarks": {name: dict(own) for name in ("consent_users", "consent_events")}}
    run = every(url, tmp_path, state=state)
    assert [u["organization_user_id"] for u in run.records("consent_users")] == ["bob"]
    assert ids(run) == [late["id"]]


class TwoHoursAhead(Runtime):
    """A machine whose clock is two hours ahead."""

    def now(self) -> datetime:
        """Return a wrong time."""
        return super().now() + timedelta(hours=2)


def test_a13_a_clock_that_is_ahead_moves_no_bookmark(url: str, tmp_path: Path, capsys: Any) -> None:
    """Didomi's clock counts: for the bookmark, and for when records had arrived."""

    class Tap(TapDidomi):
        runtime = TwoHoursAhead()

    Didomi(url).say(event("ann", channels={"email": True}))
    Tap(config=tap_config(url)).sync_all()
    messages = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    state = [m["value"] for m in messages if m["type"] == "STATE"][-1]
    bookmark = state["bookmarks"]["consent_users"]["replication_key_value"]
    now = Runtime().now()
    assert datetime.fromisoformat(bookmark) < now - timedelta(minutes=4)
    (arrived,) = [m["time_extracted"] for m in messages if m["type"] == "RECORD"]
    assert abs(datetime.fromisoformat(arrived.replace("Z", "+00:00")) - now) < timedelta(seconds=9)


@pytest.mark.parametrize("bookmark", ["garbage", "2099-01-01T00:00:00Z"])
def test_a_bookmark_of_the_future_is_not_used(url: str, tmp_path: Path, bookmark: str) -> None:
    """Everything is read again, and it is logged."""
    Didomi(url).say(event("ann", channels={"email": True}))
    state = {"bookmarks": {"consent_users": {"replication_key_value": bookmark}}}
    run = every(url, tmp_path, state=state)
    assert len(run.records("consent_users")) == 1
    assert "not a timestamp of the past" in run.err


def test_events_selected_later_are_given_from_the_bookmark_on(url: str, tmp_path: Path) -> None:
    """Users that were given before don't hide them."""
    Didomi(url).say(event("ann", channels={"email": True}))
    users = run_plugin("tap-didomi", tap_config(url), tmp_path)
    assert users.records("consent_events") == []
    again = every(url, tmp_path, state=last_state(users))
    assert len(again.records("consent_events")) == 1


def test_events_alone_keep_a_bookmark_of_their_own(url: str, tmp_path: Path) -> None:
    """Users needn't be read for them; users that are read later don't move their bookmark."""
    didomi = Didomi(url)
    didomi.say(event("ann", channels={"email": True}))
    settings = tap_config(url)
    catalog = json.loads(run_plugin("tap-didomi", settings, tmp_path, "--discover").out)
    (tmp_path / "both.json").write_text(json.dumps(select_all(catalog)))
    for stream in catalog["streams"]:
        (root,) = (item for item in stream["metadata"] if not item["breadcrumb"])
        root["metadata"]["selected"] = stream["stream"] == "consent_events"
    (tmp_path / "events.json").write_text(json.dumps(catalog))

    def read(streams: str, state: Any = None) -> Run:
        (tmp_path / "state.json").write_text(json.dumps(state or {}))
        arguments = ["--catalog", str(tmp_path / streams), "--state", str(tmp_path / "state.json")]
        return run_plugin("tap-didomi", settings, tmp_path, *arguments)

    first = read("events.json")
    assert len(first.records("consent_events")) == 1
    assert first.records("consent_users") == []
    own = last_state(first)["bookmarks"]["consent_events"]
    assert own["replication_key_value"]
    state = last_state(first)
    state["bookmarks"]["consent_users"] = {
        "replication_key": "updated_at", "replication_key_value": "2100-01-01T00:00:00.000Z"
    }  # fmt: skip
    didomi.say(event("ann", "2026-10-02T10:00:00Z", channels={"email": False}))
    again = read("both.json", state)
    assert {e["created_at"] for e in again.records("consent_events")} == {
        "2026-10-01T10:00:00Z",
        "2026-10-02T10:00:00Z",
    }


def test_a_scan_that_stopped_is_resumed(url: str, people: Actito, tmp_path: Path) -> None:
    """After the failure of the third page the next run reads from there, and misses no one."""
    fault = {"side": "didomi", "route": "list_users", "action": "status", "status": 500}
    people.steer("faults", {**fault, "skip": 2, "count": 100})
    broken = run_plugin("tap-didomi", tap_config(url), tmp_path)
    assert broken.exit_code == 1
    assert len(broken.records("consent_users")) == 200
    people.steer("reset", {})
    (tmp_path / "state.json").write_text(json.dumps(last_state(broken)))
    rest = run_plugin(
        "tap-didomi", tap_config(url), tmp_path, "--state", str(tmp_path / "state.json")
    )
    seen = [u["id"] for u in [*broken.records("consent_users"), *rest.records("consent_users")]]
    whole = run_plugin("tap-didomi", tap_config(url), tmp_path).records("consent_users")
    assert seen == [u["id"] for u in whole]
    assert people.stats("didomi")["routes"]["list_users"]["calls"] == 1 + 3


def test_a_cursor_that_is_no_longer_accepted_starts_the_scan_again(
    url: str, people: Actito, tmp_path: Path
) -> None:
    """Nothing is missed for it."""
    scan = {"next": {"$cursor": "stale"}, "started_at": "2026-10-01T00:00:00+00:00", "newest": None}
    (tmp_path / "state.json").write_text(
        json.dumps({"bookmarks": {"consent_users": {"scan": scan}}})
    )
    run = run_plugin(
        "tap-didomi", tap_config(url), tmp_path, "--state", str(tmp_path / "state.json")
    )
    assert run.exit_code == 0
    assert "starting again from the first page" in run.err
    assert len(run.records("consent_users")) > 230


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_secret": "wrong-secret"}, "refuses api_key and api_secret"),
        ({"organization_id": "other"}, "status 403"),
        ({"api_key": None}, "api_key missing"),
        ({"on_bad_line": "ignore"}, "on_bad_line: must be one of fail, skip"),
    ],
)
def test_wrong_settings_say_what_to_do(
    url: str, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """The message names the setting."""
    run = run_plugin("tap-didomi", tap_config(url, **changes), tmp_path)
    assert run.exit_code == 1
    assert words in run.err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"users": [], "limit": 100}, "is an object with limit, users"),
        ({}, "an object with no key"),
        ("<html>", "is a string"),
        (None, "is empty"),
        ({"data": {"id": "ann"}}, "an object with data"),
        ({"data": [], "cursor": 7}, "string or null as `cursor`, and names a number"),
        ({"data": [], "total": "700"}, "whole number or null as `total`, and names a string"),
        ({"data": ["ann"]}, "objects only"),
        (["ann"], "objects only"),
        ({"data": [], "total": 7, "skip": 5}, "ends after 5 of 7"),
    ],
)
def test_a_list_of_no_known_form_is_refused(body: Any, words: str) -> None:
    """Rather than take it for an empty one; the message names the keys found, never values."""
    with pytest.raises(UnexpectedResponseError, match=words):
        read_page(body, "users")


def test_a_full_page_that_does_not_say_what_follows_is_not_the_last() -> None:
    """The list is read on, to an empty page."""
    page = read_page({"data": [{"id": "a"}], "limit": 1}, "users", 4)
    assert page.next == {"$skip": 5}
    assert read_page({"data": [{"id": "a"}], "limit": 2}, "users").next is None
    assert read_page({"data": [{"id": "a"}], "limit": 1, "cursor": None}, "users").next is None


def test_discovery_needs_no_settings(tmp_path: Path) -> None:
    """The streams are always the same two."""
    run = run_plugin("tap-didomi", {}, tmp_path, "--discover")
    assert run.exit_code == 0
    assert [s["stream"] for s in json.loads(run.out)["streams"]] == [
        "consent_events",
        "consent_users",
    ]


def test_the_connection_test_reads_a_record_of_each_stream(
    url: str, people: Actito, tmp_path: Path
) -> None:
    """`--test` works, and fails clearly with wrong credentials."""
    assert run_plugin("tap-didomi", tap_config(url), tmp_path, "--test").exit_code == 0
    run = run_plugin("tap-didomi", tap_config(url, api_secret="wrong-one"), tmp_path, "--test")
    assert run.exit_code == 1
    assert "refuses api_key" in run.err
