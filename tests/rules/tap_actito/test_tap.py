"""tap-actito as a process against the sandbox: both sources, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ledger_databases import postgres
from support import (
    BIN,
    MAPPINGS,
    back_config,
    clean_environment,
    rejects_kept,
    run_plugin,
    start_plugin,
)
from tap_runs import HEADER, read, row, write

from benchmarks.data import write_changes

STREAMS = ("profiles", "subscription_changes", "consent_events")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that exports arrive in."""
    folder = tmp_path / "changes"
    folder.mkdir()
    return folder


@pytest.fixture
def exports(url: str, tmp_path: Path, root: Path) -> dict[str, Any]:
    """Settings for exports."""
    return back_config(
        url, tmp_path, change_source="exports", export_root=f"file://{root}", export_grace=0
    )


@pytest.fixture
def api(url: str, tmp_path: Path) -> dict[str, Any]:
    """Settings for looks at the table."""
    return back_config(url, tmp_path)


# Profiles


def test_profiles_hold_attributes_and_subscriptions(api, actito, tmp_path) -> None:
    """Types follow the table; timestamps are in UTC; state limits a run to later updates."""
    actito.create("ann", Newsletter=True, attributes={"loyaltyPoints": 5, "vip": True})
    run, state = read(api, tmp_path, "profiles")
    assert run.exit_code == 0, run.err
    (ann,) = run.records("profiles")
    assert (ann["customerId"], ann["loyaltyPoints"], ann["vip"]) == ("ann", 5, True)
    assert (ann["subscription_Newsletter"], ann["subscription_Surveys"]) == (True, False)
    assert ann["updateMoment"].endswith("Z")
    bookmark = state["bookmarks"]["profiles"]["replication_key_value"]
    assert bookmark <= ann["updateMoment"]
    later = json.loads(json.dumps(state).replace(bookmark, "2100-01-01T00:00:00.000Z"))
    again, _ = read(api, tmp_path, "profiles", later)
    assert again.records("profiles") == []


def test_one_stream_costs_no_calls_for_the_others(exports, actito, root, tmp_path) -> None:
    """Reading exports lists no profiles, but for the baseline at the very first run."""
    write(root / "a.csv", row("ann", "Newsletter", "N", "2026-10-01 10:00:00"))
    run, _ = read({**exports, "ledger_url": "none"}, tmp_path)
    assert run.exit_code == 0, run.err
    assert actito.calls("list_profiles") == 0
    _, state = read(exports, tmp_path)
    once = actito.calls("list_profiles")
    assert once > 0
    read(exports, tmp_path, state=state)
    assert actito.calls("list_profiles") == once


def test_discovery_needs_the_key_only(url, tmp_path) -> None:
    """Where the key sees several tables, it says so and lists the streams all the same."""
    config = {"api_key": "sandbox-actito-key", "api_url": f"{url}/actito"}
    run = run_plugin("tap-actito", config, tmp_path, "--discover")
    assert run.exit_code == 0, run.err
    assert [s["stream"] for s in json.loads(run.out)["streams"]] == sorted(STREAMS)
    one = run_plugin("tap-actito", {**config, "table_name": "Contacts"}, tmp_path, "--discover")
    assert "contactNumber" in one.out
    sync = run_plugin("tap-actito", config, tmp_path)
    assert sync.exit_code == 1
    assert "entity_id, table_name, user_unique_key missing" in sync.err
    without = run_plugin("tap-actito", {**config, "api_key": None}, tmp_path, "--discover")
    assert without.exit_code == 1
    assert "api_key is missing" in without.err
    assert "GET /auth/token" not in without.err


# Exports


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "c.zip"])
def test_files_are_read_once_and_their_changes_become_events(exports, root, tmp_path, name) -> None:
    """Changes of one person at one timestamp are one event; what has no mapping is logged once."""
    write(
        root / name,
        row("ann", "Newsletter", "N", "2026-10-01 10:00:00"),
        row("bob", "SmsAlerts", "Y", "2026-10-01 10:00:05"),
        row("ann", "PartnerOffers", "true", "2026-10-01 10:00:00"),
        row("ann", "LegacyMagazine", "1", "2026-10-01 10:00:00"),
        row("ann", "", "", "2026-10-01 10:00:00", "DELETED"),
    )
    run, state = read(exports, tmp_path)
    assert run.exit_code == 0, run.err
    ann, bob = run.records("consent_events")
    # Brussels is two hours ahead, and a whole second is a window.
    assert ann["changed_after"] == "2026-10-01T08:00:00.000Z"
    assert ann["created_at"] == "2026-10-01T08:00:00.999Z"
    assert ann["consents"] == {
        "channels": [{"id": "email", "enabled": False}],
        "purposes": [{"id": "partner_offers", "enabled": True}],
    }
    assert ann["user"] == {"organization_user_id": "ann"}
    assert ann["delegate"]["id"] == "actito"
    assert bob["consents"] == {"channels": [{"id": "sms", "enabled": True}]}
    assert "LegacyMagazine (1 changes)" in run.err
    assert "ann" not in run.err
    write(root / "d.csv", row("eve", "Newsletter", "N", "2026-10-02 10:00:00"))
    second, state = read(exports, tmp_path, state=state)
    (eve,) = second.records("consent_events")
    assert eve["user"] == {"organization_user_id": "eve"}
    third, _ = read(exports, tmp_path, state=state)
    assert third.records("consent_events") == []
    fresh, _ = read(exports, tmp_path)
    assert [e["id"] for e in fresh.records("consent_events")] == [ann["id"], bob["id"], eve["id"]]


@pytest.mark.parametrize("order", ["NY", "YN"])
def test_of_two_changes_at_one_timestamp_the_opt_out_counts(exports, root, tmp_path, order) -> None:
    """In whatever order they stand in the file."""
    rows = [row("ann", "Newsletter", state, "2026-10-01 10:00:00") for state in order]
    write(root / "a.csv", *rows)
    run, _ = read(exports, tmp_path)
    (event,) = run.records("consent_events")
    assert event["consents"] == {"channels": [{"id": "email", "enabled": False}]}


def test_subscription_changes_hold_every_change(exports, root, tmp_path) -> None:
    """Mapped or not; with the columns that the settings name."""
    header = "id;customerId;list;state;when"
    exports["export_columns"] = {
        "profile_id": "id", "subscription": "list", "subscribed": "state", "timestamp": "when",
    }  # fmt: skip
    write(root / "a.csv", '9;"a;b";LegacyMagazine;unsubscribed;2026-10-01T10:00:00Z', header=header)
    run, _ = read(exports, tmp_path, "subscription_changes")
    assert run.records("subscription_changes") == [
        {
            "profileId": 9,
            "key": "a;b",
            "subscription": "LegacyMagazine",
            "subscribed": False,
            "changed_at": "2026-10-01T10:00:00.999Z",
            "changed_after": "2026-10-01T10:00:00.000Z",
            "source": "export",
        }
    ]


def test_a_file_that_may_be_incomplete_is_left_for_the_next_run(exports, root, tmp_path) -> None:
    """And so are those after it."""
    exports["export_grace"] = 3600
    write(root / "a.csv", row("ann", "Newsletter", "N", "2026-10-01 10:00:00"))
    write(root / "b.csv", row("bob", "Newsletter", "N", "2026-10-01 10:00:00"))
    os.utime(root / "a.csv", (time.time() - 7200, time.time() - 7200))
    run, state = read(exports, tmp_path)
    assert len(run.records("consent_events")) == 1
    assert "b.csv may still be uploading" in run.err
    os.utime(root / "b.csv", (time.time() - 7200, time.time() - 7200))
    run, _ = read(exports, tmp_path, state=state)
    assert len(run.records("consent_events")) == 1


GOOD = row("ann", "Newsletter", "N", "2026-10-01 10:00:00")
BROKEN = {
    "unknown column": ("profileId;customerId;list;state;timestamp", [GOOD], "export_columns"),
    "wrong separator": (HEADER.replace(";", ","), [GOOD.replace(";", ",")], "semicolon"),
    "cut line": (HEADER, [GOOD, "7;ann;UPDATED_SUBSC"], "x.csv, line 3: 3 cells"),
    "unknown subscription": (
        HEADER, [row("ann", "Gone", "N", "2026-10-01 10:00:00")],
        "x.csv: the table has no subscription of those in the file (Gone)",
    ),
    "no state": (HEADER, [row("ann", "Newsletter", "?", "2026-10-01 10:00:00")], "line 2"),
    "no timestamp": (HEADER, [row("ann", "Newsletter", "N", "yesterday")], "line 2: the timestamp"),
    "open quote": (HEADER, [GOOD, '7;"ann;x'], "x.csv, line"),
    "empty": ("", [], "the file is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_ends_the_run_with_file_line_and_what_to_do(
    exports, root, tmp_path, case
) -> None:
    """And the state stays before it."""
    header, rows, expected = BROKEN[case]
    write(root / "a.csv", GOOD)
    write(root / "x.csv", *rows, header=header)
    if case == "empty":
        (root / "x.csv").write_bytes(b"")
    run, state = read(exports, tmp_path)
    assert run.exit_code == 1
    assert expected in run.err
    assert "x.csv" in run.err
    assert "Traceback" not in run.err
    (root / "x.csv").unlink()
    later, _ = read(exports, tmp_path, state=state)
    assert "1 file(s), 0 of them new" in later.err


@pytest.mark.parametrize("name", ["x.csv.gz", "x.zip"])
def test_a_cut_archive_ends_the_run(exports, root, tmp_path, name) -> None:
    """With its name, and how far it was read."""
    rows = [row(f"p{n}-{n * n}", "Newsletter", "N", "2026-10-01 10:00:00") for n in range(5000)]
    write(root / name, *rows)
    (root / name).write_bytes((root / name).read_bytes()[:-20])
    run, _ = read(exports, tmp_path)
    assert run.exit_code == 1
    assert name in run.err
    assert "archive truncated or corrupt after line" in run.err


def test_broken_lines_can_be_skipped(exports, root, tmp_path) -> None:
    """They are counted and logged."""
    exports["on_bad_line"] = "skip"
    write(root / "x.csv", "7;ann", GOOD)
    run, _ = read(exports, tmp_path)
    assert run.exit_code == 0, run.err
    assert len(run.records("consent_events")) == 1
    assert "1 broken line(s)" in run.err


def test_b15_a_broken_line_is_kept_and_stops_no_other(exports, root, tmp_path) -> None:
    """With its bytes; the run fails, and the file is read again, until it can be read."""
    undated = row("bob", "Newsletter", "Y", "yesterday")
    write(root / "x.csv", "7;ann", undated, GOOD)
    write(root / "y.csv", row("joe", "Newsletter", "N", "2026-10-01 10:00:00"))
    run, state = read(exports, tmp_path)
    assert run.exit_code == 1
    assert len(run.records("consent_events")) == 2
    first, second = rejects_kept(exports["ledger_url"])
    assert (first.details.raw, first.details.line, first.opt_out) == (b"7;ann", 2, True)
    assert (second.details.raw, second.opt_out) == (undated.encode(), False)
    write(root / "x.csv", GOOD)
    run, state = read(exports, tmp_path, state=state)
    assert run.exit_code == 0, run.err
    assert rejects_kept(exports["ledger_url"]) == []
    assert "2 file(s), 1 of them new or grown" in run.err


def test_memory_does_not_grow_with_the_file(exports, root, tmp_path) -> None:
    """Ten times the lines take at most a tenth more."""
    peaks = []
    for count in (10_000, 100_000):
        write_changes(root / "a.csv", count, count)
        with (tmp_path / "out").open("wb") as out:
            config = tmp_path / "tap.json"
            config.write_text(json.dumps(exports))
            process = subprocess.Popen(
                [BIN / "tap-actito", "--config", config],
                stdout=out, stderr=subprocess.DEVNULL, env=clean_environment(),
            )  # fmt: skip
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert (tmp_path / "out").read_bytes().count(b'"RECORD"') == count
        peaks.append(used.ru_maxrss)
    assert peaks[1] <= 1.1 * peaks[0]


# The API


def test_the_first_look_gives_nothing_and_the_next_what_changed(api, actito, tmp_path) -> None:
    """With the window in which it changed; `updateMoment` needn't move."""
    actito.create("ann", Newsletter=True)
    actito.create("bob")
    first, state = read(api, tmp_path)
    assert first.exit_code == 0, first.err
    assert first.records("consent_events") == []
    actito.change("ann", Newsletter=False)
    actito.create("eve", SmsAlerts=True)
    second, state = read(api, tmp_path, state=state)
    ann, eve = second.records("consent_events")
    assert ann["consents"] == {"channels": [{"id": "email", "enabled": False}]}
    assert ann["changed_after"] < ann["created_at"]
    assert eve["consents"] == {"channels": [{"id": "sms", "enabled": True}]}
    third, _ = read(api, tmp_path, state=state)
    assert third.records("consent_events") == []


@pytest.mark.parametrize("shown", ["absent", "empty", "null"])
def test_a16_profiles_without_subscriptions_are_no_change(api, actito, tmp_path, shown) -> None:
    """Neither when they are missing, nor when they are there again; it is logged."""
    actito.create("ann", Newsletter=True)
    _, state = read(api, tmp_path)
    actito.steer("options", {"page_subscriptions": shown})
    second, state = read(api, tmp_path, state=state)
    assert second.records("consent_events") == []
    assert "1 of 1 profiles came without subscriptions" in second.err
    actito.steer("options", {"page_subscriptions": "whole"})
    third, state = read(api, tmp_path, state=state)
    assert third.records("consent_events") == []
    actito.change("ann", Newsletter=False)
    fourth, _ = read(api, tmp_path, state=state)
    assert len(fourth.records("consent_events")) == 1


def test_a_change_that_no_state_has_passed_comes_again(api, actito, tmp_path) -> None:
    """As it was, with the same id, though the ledger has moved on: the target may have died."""
    actito.create("ann", Newsletter=True)
    _, state = read(api, tmp_path)
    actito.change("ann", Newsletter=False)
    second, later = read(api, tmp_path, state=state)
    again, _ = read(api, tmp_path, state=state)
    lost, _ = read(api, tmp_path)
    (event,) = second.records("consent_events")
    assert again.records("consent_events") == [event]
    assert lost.records("consent_events") == [event]
    settled, _ = read(api, tmp_path, state=later)
    assert settled.records("consent_events") == []


def test_marketing_consent_is_read_back(api, actito, tmp_path) -> None:
    """A boolean attribute that a mapping names is compared as well."""
    api["mappings"] = [{"id": "marketingConsent", "type": "attribute", "invert": True,
                        "value": "consents_purposes_marketing_enabled"}]  # fmt: skip
    actito.create("ann", attributes={"marketingConsent": False})
    _, state = read(api, tmp_path)
    actito.patch("ann", {"marketingConsent": True})
    run, _ = read(api, tmp_path, state=state)
    (event,) = run.records("consent_events")
    assert event["consents"] == {"purposes": [{"id": "marketing", "enabled": False}]}


KILLS = 12


def test_killed_at_any_time_no_change_is_lost(api, actito, tmp_path) -> None:
    """SIGKILL again and again, each run going on from the last STATE that came out."""
    people = [f"p{n:03}" for n in range(300)]
    actito.create_many(people)
    config = {**api, "page_size": 20}
    _, state = read(config, tmp_path, "consent_events")
    for person in people:
        actito.change(person, Newsletter=True)
    seen: set[str] = set()
    for kill in range(KILLS + 1):
        (tmp_path / "state.json").write_text(json.dumps(state))
        files = [f"--{name}={tmp_path / name}.json" for name in ("catalog", "state")]
        out = tmp_path / "out"
        with out.open("wb") as file:
            process = start_plugin("tap-actito", config, tmp_path, *files, stdout=file)
        process.stdin.close()
        if kill == KILLS:
            assert process.wait(60) == 0
        else:
            time.sleep(kill * 0.06)
            process.kill()
            process.wait()
        for line in out.read_bytes().split(b"\n")[:-1]:
            message = json.loads(line)
            if message["type"] == "RECORD":
                seen.add(message["record"]["user"]["organization_user_id"])
            elif message["type"] == "STATE":
                state = message["value"]
    assert seen == set(people)


# Settings


@pytest.mark.parametrize(
    ("mappings", "expected"),
    [
        ([{"id": "A", "value": "consents_channels_a_enabled"},
          {"id": "B", "value": "consents_channel_a_enabled"}], "'A' (consents_channels_a"),
        ([{"id": "A", "value": "consents_channels_a_enabled"},
          {"id": "A", "value": "consents_channels_b_enabled"}], "consents_channels_b_enabled"),
        ([{"id": "A", "value": "consents_purposes_a_channels_b_enabled"}], "Ambiguous name"),
        ([{"id": "A", "value": "metadata_shop"}], "can't be synced to Didomi"),
        ([{"id": "A", "value": "x", "path": ["consents", "tcfcs"]}],
         "Expected the path of `enabled`"),
        ([{"id": "Gone", "value": "consents_channels_a_enabled"}], "has no subscription 'Gone'"),
        ([{"id": "shop", "type": "attribute", "value": "consents_channels_a_enabled"}],
         "must be a boolean"),
    ],
)  # fmt: skip
def test_a_mapping_without_one_path_is_an_error_at_start(api, tmp_path, mappings, expected) -> None:
    """The error shows what it is about, and what to do."""
    run = run_plugin("tap-actito", {**api, "mappings": mappings}, tmp_path)
    assert run.exit_code == 1
    assert expected in run.err
    assert "mappings" in run.err
    assert run.records("consent_events") == []


def test_a_wrong_ledger_url_shows_no_password(api, tmp_path) -> None:
    """Nor does a driver's text."""
    config = {
        **api,
        "ledger_url": "postgresql+psycopg://u:hunter22@127.0.0.1:1/none",
        "ledger_key": "key",
    }
    run = run_plugin("tap-actito", config, tmp_path)
    assert run.exit_code == 1
    assert "ledger_url" in run.err
    assert "hunter22" not in run.err


# A target that isn't ours


def test_a_public_target_stores_profiles_and_changes(api, actito, tmp_path) -> None:
    """One row per profile and one per change, as the table has them."""
    target = Path(__file__).parents[3] / ".venv-jsonl" / "bin" / "target-jsonl"
    if not target.exists() and not os.environ.get("CI"):
        pytest.skip("target-jsonl is not installed; `make test` installs it")
    actito.create("ann", Newsletter=True, attributes={"loyaltyPoints": 5})
    actito.create("bob", attributes={"firstName": "Zoé"})
    config = {k: v for k, v in api.items() if k != "mappings"}
    first = run_plugin("tap-actito", config, tmp_path)
    actito.change("ann", Newsletter=False)
    actito.change("bob", Surveys=True, SmsAlerts=True)
    (tmp_path / "state.json").write_text(json.dumps(first.messages[-1]["value"]))
    run = run_plugin("tap-actito", config, tmp_path, "--state", str(tmp_path / "state.json"))
    assert run.exit_code == 0, run.err
    (tmp_path / "jsonl.json").write_text(
        json.dumps({"destination_path": str(tmp_path), "do_timestamp_file": False})
    )
    done = subprocess.run(
        [target, "--config", tmp_path / "jsonl.json"],
        input=run.out, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def rows(stream: str) -> list[dict[str, Any]]:
        text = (tmp_path / f"{stream}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    stored = actito.all()
    assert len(rows("profiles")) == len(stored) == 2
    for profile in rows("profiles"):
        own = stored[profile["customerId"]]
        for name, state in own["subscriptions"].items():
            assert profile[f"subscription_{name}"] is state
        for name in ("firstName", "lastName", "loyaltyPoints"):
            assert profile.get(name) == own["attributes"].get(name)
    changes = {(r["key"], r["subscription"]): r["subscribed"] for r in rows("subscription_changes")}
    assert changes == {
        ("ann", "Newsletter"): False,
        ("bob", "Surveys"): True,
        ("bob", "SmsAlerts"): True,
    }


# PostgreSQL


def test_the_ledger_can_be_in_postgresql(api, actito, tmp_path) -> None:
    """The same as in SQLite."""
    config = {**api, "ledger_url": postgres(tmp_path).ledger_url, "ledger_key": "key"}
    actito.create("ann", Newsletter=True)
    _, state = read(config, tmp_path)
    actito.change("ann", Newsletter=False)
    run, later = read(config, tmp_path, state=state)
    assert run.exit_code == 0, run.err
    (event,) = run.records("consent_events")
    lost, _ = read(config, tmp_path, state=state)
    assert lost.records("consent_events") == [event]
    settled, _ = read(config, tmp_path, state=later)
    assert settled.records("consent_events") == []


def test_all_mappings_of_the_tests_have_a_reverse_mapping() -> None:
    """The same list serves both ways."""
    import msgspec

    from actito_didomi.consent.mapping import Mapping
    from actito_didomi.consent.reverse_mapping import reverse_mappings

    assert len(reverse_mappings(msgspec.convert(MAPPINGS, list[Mapping]))) == len(MAPPINGS)


@pytest.mark.parametrize("understood", [True, False])
def test_trust_update_moment_asks_for_what_was_updated(api, actito, tmp_path, understood) -> None:
    """Where Actito doesn't understand the filter, the whole table is read, and that is logged."""
    actito.steer(
        "options",
        {"knows_update_filter": understood, "subscription_moves_update_moment": True},
    )
    config = {**api, "trust_update_moment": True}
    actito.create_many(f"p{n}" for n in range(5))
    _, state = read(config, tmp_path)
    time.sleep(1.1)  # timestamps in Actito are whole seconds
    actito.change("p3", Newsletter=True)
    run, _ = read(config, tmp_path, state=state)
    assert run.exit_code == 0, run.err
    (event,) = run.records("consent_events")
    assert event["user"] == {"organization_user_id": "p3"}
    assert ("doesn't seem to understand" in run.err) is not understood
