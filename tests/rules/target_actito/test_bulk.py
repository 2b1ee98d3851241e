"""Bulk imports end to end, against the sandbox: loads, failures, limits, kills."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import forks
import pytest
from support import (
    Actito,
    Run,
    event,
    feed,
    lines,
    rejects,
    report,
    run_plugin,
    run_target,
    start_plugin,
    state,
    stream_of,
    with_ledger,
)

from actito_didomi.runtime import Runtime
from actito_didomi.sandbox.actito_tables import TABLES
from actito_didomi.sandbox.app import Sandbox
from actito_didomi.sandbox.options import ACTITO_KEY, SandboxOptions
from actito_didomi.sandbox.server import BackgroundSandbox
from benchmarks import data
from target_actito.workspace import Workspace


@pytest.fixture
def config(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that make imports early, and look at them soon."""
    return {**config, "bulk_threshold": 5, "bulk_poll_interval": 0.1, "calls_per_minute": 100_000}


def people(count: int, **choices: bool | None) -> list[dict[str, Any]]:
    """Events of `count` people with the same choices; every fifth opts out of mail."""
    return [event(f"p{n}", channels={"email": n % 5 != 0, **choices}) for n in range(count)]


def fill(actito: Actito, count: int) -> None:
    """Create the people, with the opposite of what they will choose."""
    actito.create_many(f"p{n}" for n in range(count))


def expect_right(actito: Actito, count: int, *, but: tuple[str, ...] = ()) -> None:
    """Check that everybody's choice stands in Actito."""
    found = actito.all()
    wrong = [
        n
        for n in range(count)
        if found[f"p{n}"]["subscriptions"]["Newsletter"] is not (n % 5 != 0) and f"p{n}" not in but
    ]
    assert wrong == []


def imports(actito: Actito) -> int:
    """Count the imports that Actito took."""
    routes = actito.stats()["routes"]
    return sum(routes.get(name, {}).get("writes", 0) for name in ("one_shot", "trigger"))


def test_many_changes_take_a_handful_of_calls(config, actito, tmp_path) -> None:
    """One set of columns is one import; unknown people are counted, and none is created."""
    fill(actito, 300)
    actito.steer("reset", {})
    run = run_target(config, tmp_path, stream_of(*people(320)))
    assert run.exit_code == 0, run.err
    assert run.states == [{"read": 320}]
    expect_right(actito, 300)
    assert len(actito.all()) == 300
    counts = report(config)
    assert (counts["updated"], counts["unmatched"], counts["imports"]) == (300, 20, 1)
    assert "Write plan: 1 import(s) with 320 rows" in run.err
    stats = actito.stats()
    polls = stats["routes"]["execution"]["calls"]
    assert counts["requests"] - polls <= 12
    assert stats["routes"].get("patch_profile", {}).get("calls", 0) == 0


@pytest.mark.parametrize("clears", [True, False])
def test_a_column_that_a_person_said_nothing_of_stays(config, actito, tmp_path, clears) -> None:
    """Whatever an empty cell does: a file of several sets of columns has none."""
    actito.steer("options", {"etl_empty_clears": clears})
    for n in range(30):
        actito.create(f"p{n}", Newsletter=True, SmsAlerts=True, attributes={"firstName": "Old"})
    events = [
        event(
            f"p{n}",
            channels={"email": False} if n % 2 else {"sms": False},
            metadata={"firstName": "New"} if n % 3 == 0 else None,
        )
        for n in range(30)
    ]
    assert run_target(config, tmp_path, stream_of(*events)).exit_code == 0
    assert imports(actito) >= 1
    found = actito.all()
    for n in range(30):
        one = found[f"p{n}"]
        assert one["subscriptions"]["Newsletter"] is not bool(n % 2)
        assert one["subscriptions"]["SmsAlerts"] is bool(n % 2)
        assert one["attributes"]["firstName"] == ("New" if n % 3 == 0 else "Old")


def test_one_file_for_all_where_empty_cells_leave_values(config, actito, tmp_path) -> None:
    """`bulk_empty_cells: unchanged`, once that is verified."""
    actito.steer("options", {"etl_empty_clears": False})
    for n in range(30):
        actito.create(f"p{n}", Newsletter=True, SmsAlerts=True)
    events = [
        event(f"p{n}", channels={"email": False} if n % 2 else {"sms": False}) for n in range(30)
    ]
    config["bulk_empty_cells"] = "unchanged"
    assert run_target(config, tmp_path, stream_of(*events)).exit_code == 0
    assert imports(actito) == 1
    found = actito.all()
    assert all(found[f"p{n}"]["subscriptions"]["Newsletter"] is not bool(n % 2) for n in range(30))
    assert all(found[f"p{n}"]["subscriptions"]["SmsAlerts"] is bool(n % 2) for n in range(30))


def test_upsert_mode_creates_by_import(config, actito, tmp_path) -> None:
    """Create or update: a new profile gets all its values at once."""
    fill(actito, 10)
    events = [
        event(f"p{n}", channels={"email": True}, metadata={"lastName": "B"}) for n in range(20)
    ]
    run = run_target({**config, "upsert_mode": True}, tmp_path, stream_of(*events))
    assert run.exit_code == 0, run.err
    assert len(actito.all()) == 20
    counts = report(config)
    assert (counts["created"], counts["updated"], counts["unmatched"]) == (10, 10, 0)


def test_values_keep_their_forms_in_a_file(config, actito, tmp_path) -> None:
    """Text that looks like CSV, numbers, booleans, dates and timestamps arrive as they are."""
    odd = {f"p{n}": text for n, text in enumerate(['a;b"c', "line\nbreak\r", " é ", "=1+1", "0"])}
    actito.create_many([*odd, *(f"p{n}" for n in range(5, 12))])
    events = [
        event(
            f"p{n}",
            metadata={
                "firstName": odd.get(f"p{n}", "plain"),
                "averageBasket": 12.5,
                "loyaltyPoints": 7,
                "vip": True,
                "birthDate": "1980-02-29",
                "lastVisit": "2026-09-10T10:30:00Z",
            },
        )
        for n in range(12)
    ]
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 0, run.err
    assert imports(actito) == 1
    for person, text in odd.items():
        found = actito.attributes(person)
        assert found["firstName"] == text
        assert found["averageBasket"] == 12.5
        assert (found["loyaltyPoints"], found["vip"]) == (7, True)
        assert (found["birthDate"], found["lastVisit"]) == ("1980-02-29", "2026-09-10 12:30:00")


def test_rows_in_error_become_rejects_with_the_reason(config, actito, tmp_path) -> None:
    """Three rows of a thousand are wrong: they are rejected, and all others are written."""
    fill(actito, 1_000)
    actito.steer("options", {"etl_bad_person": "p77", "etl_rows_per_second": 100_000})
    events = [e for e in people(1_000) if not e["user"]["organization_user_id"].startswith("p77")]
    events += [event(p, channels={"email": True}) for p in ("p77", "p771", "p772")]
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 0, run.err
    assert imports(actito) == 1
    found = rejects(config)
    assert sorted(r["person"] for r in found) == ["p77", "p771", "p772"]
    assert {r["code"] for r in found} == {"change_refused"}
    assert {r["response"] for r in found} == {"The row can't be loaded"}
    assert "p771" not in run.err


def test_a_rejected_opt_out_ends_with_status_3(config, actito, tmp_path) -> None:
    """As with single requests."""
    fill(actito, 20)
    actito.steer("options", {"etl_bad_person": "p15"})
    run = run_target(config, tmp_path, stream_of(*people(20)))
    assert run.exit_code == 3
    expect_right(actito, 20, but=("p15",))
    assert [r["opt_out"] for r in rejects(config)] == [True]


@pytest.mark.parametrize("mode", ["auto", "bulk"])
def test_a_failed_file_is_cut_until_the_bad_row_is_found(config, actito, tmp_path, mode) -> None:
    """All rows but the one at fault are written."""
    fill(actito, 60)
    actito.steer("options", {"etl_bad_file": "p33"})
    run = run_target({**config, "write_mode": mode}, tmp_path, stream_of(*people(60)))
    if mode == "auto":  # in the end a single request, which is right for that person
        assert run.exit_code == 0, run.err
        expect_right(actito, 60)
    else:
        assert run.exit_code == 0, run.err
        assert [r["person"] for r in rejects(config)] == ["p33"]
        assert "a value that can't be loaded" in rejects(config)[0]["reason"]
        expect_right(actito, 60, but=("p33",))
    assert 3 < imports(actito) <= 24


def test_imports_that_always_fail_give_way_to_single_calls(config, actito, tmp_path) -> None:
    """The fault isn't in the rows, so no more of the day's imports are spent on them."""
    fill(actito, 60)
    actito.steer("options", {"etl_fail_next": 1000})
    run = run_target(config, tmp_path, stream_of(*people(60)))
    assert run.exit_code == 0, run.err
    expect_right(actito, 60)
    assert rejects(config) == []
    assert imports(actito) < 10
    assert "although their rows are valid" in run.err


@pytest.mark.parametrize("skip", [0, 4])
def test_a_429_now_and_then_is_tried_again(config, actito, tmp_path, skip) -> None:
    """It may mean too many concurrent requests: the first or fifth import is refused once."""
    fill(actito, 120)
    if skip:
        config["bulk_max_bytes"] = 4096
        config["bulk_threshold"] = 1
    actito.steer(
        "faults",
        {"side": "actito", "action": "status", "route": "one_shot", "status": 429, "skip": skip},
    )
    events = people(1000 if skip else 120)
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 0, run.err
    expect_right(actito, 120)
    assert actito.stats()["routes"]["one_shot"]["statuses"]["429"] == 1
    assert actito.calls("patch_profile") == 0


def test_without_imports_opt_outs_go_first_and_the_rest_if_it_is_quick(
    config, actito, tmp_path
) -> None:
    """Every bulk request is refused: single requests take over."""
    fill(actito, 60)
    actito.steer("options", {"etl_per_day": 0})
    run = run_target(config, tmp_path, stream_of(*people(60)))
    assert run.exit_code == 0, run.err
    expect_right(actito, 60)
    assert run.states == [{"read": 60}]
    assert "accepts no more imports today" in run.err


def test_without_imports_a_long_rest_waits_for_the_next_run(config, actito, tmp_path) -> None:
    """Opt-outs are written, the run fails, STATE stays, and the next run writes the rest."""
    fill(actito, 60)
    actito.steer("options", {"etl_per_day": 0})
    limited = {**config, "max_single_minutes": 0}
    messages = [*stream_of(*people(60)), state("end")]
    run = run_target(limited, tmp_path, messages)
    assert run.exit_code == 1
    assert run.states == []
    assert "48 without an opt-out are deferred" in run.err
    assert "max_single_minutes" in run.err
    found = actito.all()
    assert all(found[f"p{n}"]["subscriptions"]["Newsletter"] is False for n in range(60))
    assert report(config)["deferred"] == 48
    actito.steer("options", {"etl_per_day": 24})
    assert run_target(limited, tmp_path, messages).states == [{"read": 60}, "end"]
    expect_right(actito, 60)


def test_the_days_imports_are_counted_over_runs(config, actito, tmp_path) -> None:
    """The second run knows that the only import of the day is used."""
    fill(actito, 20)
    limited = {**config, "bulk_calls_per_day": 1, **with_ledger(tmp_path)}
    for day in (1, 2):
        choice = {"email": day == 1}
        events = [event(f"p{n}", f"2026-10-0{day}T10:00:00Z", channels=choice) for n in range(20)]
        run = run_target(limited, tmp_path, stream_of(*events))
        assert run.exit_code == 0, run.err
        assert imports(actito) == 1
        found = actito.all()
        assert all(found[f"p{n}"]["subscriptions"]["Newsletter"] is (day == 1) for n in range(20))
    assert actito.calls("one_shot") == 1


def test_an_import_that_never_ends_fails_the_run(config, actito, tmp_path) -> None:
    """Opt-outs are written by single requests, and the next run waits for that import first."""
    fill(actito, 20)
    actito.steer("options", {"etl_rows_per_second": 0})
    limited = {**config, "bulk_timeout": 0.5, "max_single_minutes": 0}
    run = run_target(limited, tmp_path, stream_of(*people(20)))
    assert run.exit_code == 1
    assert "has not ended within bulk_timeout" in run.err
    assert run.states == []
    again = run_target(limited, tmp_path, stream_of(*people(20)))
    assert again.exit_code == 1
    assert "could overwrite newer choices" in again.err
    actito.steer("options", {"etl_rows_per_second": 1000})
    last = run_target({**config, "write_mode": "single"}, tmp_path, stream_of(*people(20)))
    assert last.exit_code == 0, last.err
    expect_right(actito, 20)


@pytest.mark.parametrize("action", ["drop_after", "half_body"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_broken_answer_does_not_use_up_the_day(config, actito, tmp_path, action, listed) -> None:
    """The list of executions shows that the import started; without a list it is sent again."""
    fill(actito, 20)
    actito.steer("options", {"etl_lists_executions": listed})
    actito.steer("faults", {"side": "actito", "action": action, "route": "one_shot"})
    run = run_target(config, tmp_path, stream_of(*people(20)))
    assert run.exit_code == 0, run.err
    expect_right(actito, 20)
    assert imports(actito) == (1 if listed else 2)


def test_a_predefined_etl_is_sent_the_file_only(config, actito, tmp_path) -> None:
    """Its mode must be that of the settings, and it must exist."""
    fill(actito, 20)
    run = run_target({**config, "bulk_etl_id": "501"}, tmp_path, stream_of(*people(25)))
    assert run.exit_code == 0, run.err
    expect_right(actito, 20)
    assert (actito.calls("trigger"), actito.calls("one_shot")) == (1, 0)
    wrong = run_target({**config, "bulk_etl_id": "502"}, tmp_path, stream_of(*people(25)))
    assert wrong.exit_code == 1
    assert "ETL 502 has the mode CREATE_UPDATE" in wrong.err
    missing = run_target({**config, "bulk_etl_id": "999"}, tmp_path, stream_of(*people(25)))
    assert "has no ETL '999'" in missing.err
    assert len(actito.all()) == 20


def test_a_definition_of_ones_own_is_checked_and_used(config, actito, tmp_path) -> None:
    """It must take table, key and mode from the settings."""
    fill(actito, 20)
    own = {
        "profileTableId": "$table",
        "keyColumn": "$key",
        "mode": "$mode",
        "reportRecipients": ["ops@example.com"],
    }
    run = run_target({**config, "bulk_definition": own}, tmp_path, stream_of(*people(20)))
    assert run.exit_code == 0, run.err
    expect_right(actito, 20)
    for broken in ({**own, "mode": "CREATE_UPDATE"}, {}):
        wrong = run_target({**config, "bulk_definition": broken}, tmp_path, stream_of())
        assert wrong.exit_code == 1
        assert "bulk_definition" in wrong.err
        assert '"$mode"' in wrong.err or "$mode" in wrong.err


def test_files_are_private_and_removed(config, actito, tmp_path) -> None:
    """Nothing is left when the run has ended, nor after the start that follows a crash."""
    folder = tmp_path / "state" / "actito-didomi"
    left = Workspace("account", Runtime(), folder)
    (left.folder / "actito-didomi-x.zip").write_bytes(b"personal data")
    left._lock.release()  # the process is gone
    again = Workspace("account", Runtime(), folder)
    assert not left.folder.exists()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert again.folder.stat().st_mode & 0o777 == 0o700
    again.close()
    fill(actito, 20)
    assert run_target(config, tmp_path, stream_of(*people(20))).exit_code == 0
    assert [p for p in folder.iterdir() if p.is_dir()] == []


def test_a_living_runs_files_are_left_alone(tmp_path: Path) -> None:
    """Two runs at once keep out of each other's way."""
    first = Workspace("account", Runtime(), tmp_path / "w")
    (first.folder / "file.zip").write_bytes(b"x")
    second = Workspace("account", Runtime(), tmp_path / "w")
    assert (first.folder / "file.zip").exists()
    first.close()
    second.close()


def kill_when(process: forks.Process, condition: Any) -> Run:
    """Kill a target as soon as a condition holds."""
    for _ in range(3000):
        if condition() or process.poll() is not None:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    with process.stdout:
        out = process.stdout.read().decode()
    return Run(process.wait(), out, "")


@pytest.mark.parametrize("has_ledger", [True, False])
@pytest.mark.parametrize("when", ["upload", "polling", "between"])
def test_killed_during_an_import_nothing_is_lost(
    config, actito, tmp_path, when, has_ledger
) -> None:
    """STATE is unmoved, the next run waits for what is under way, and all is right."""
    if has_ledger:
        config |= with_ledger(tmp_path)
    fill(actito, 40)
    events = [
        event(f"p{n}", channels={"email": n % 5 != 0, **({"sms": True} if n % 2 else {})})
        for n in range(40)
    ]
    if when == "upload":
        actito.steer(
            "faults", {"side": "actito", "action": "stall", "route": "one_shot", "seconds": 2}
        )
    if when == "polling":
        actito.steer("options", {"etl_rows_per_second": 5})
    process = start_plugin("target-actito", {**config, "write_mode": "bulk"}, tmp_path)
    feed(process, lines(stream_of(*events)))
    conditions = {
        "upload": lambda: actito.calls("one_shot") == 1,
        "polling": lambda: actito.calls("execution") >= 1,
        "between": lambda: imports(actito) == 1 and actito.calls("execution") >= 3,
    }
    killed = kill_when(process, conditions[when])
    assert killed.states == [] or when == "between"
    # Meanwhile somebody opts out again: the import under way must not undo it.
    newer = event("p1", "2026-10-02T10:00:00Z", channels={"email": False, "sms": False})
    run = run_target(config, tmp_path, stream_of(*events, newer))
    assert run.exit_code == 0, run.err
    if when == "polling":
        assert "from an earlier run" in run.err
    found = actito.all()
    assert found["p1"]["subscriptions"]["Newsletter"] is False
    assert found["p1"]["subscriptions"]["SmsAlerts"] is False
    for n in range(40):
        if n != 1:
            assert found[f"p{n}"]["subscriptions"]["Newsletter"] is (n % 5 != 0), n
            assert found[f"p{n}"]["subscriptions"]["SmsAlerts"] is bool(n % 2), n


def test_a_large_load_takes_a_dozen_calls_and_a_look_per_import(tmp_path: Path) -> None:
    """27,000 events of 9,000 people, documented limits, settings as they come."""
    options = SandboxOptions(database=str(tmp_path / "sandbox.db"))
    prepared = Sandbox(options)
    prepared.database.run("BEGIN")
    for number in range(9_000):
        attributes = {"customerId": data.person_id(number), "lastName": "Doe"}
        prepared.actito.profiles.create(TABLES[0], attributes, {})
    prepared.database.run("COMMIT")
    prepared.database.close()
    data.write_messages(tmp_path / "messages.jsonl", 27_000, 9_000)
    with BackgroundSandbox(options) as sandbox:
        actito = Actito(sandbox.url)
        config = {
            "api_key": ACTITO_KEY,
            "api_url": f"{sandbox.url}/actito",
            "entity_id": "demo",
            "table_name": "Profiles",
            "user_unique_key": "customerId",
            "mappings": data.MAPPINGS,
            "report_path": str(tmp_path / "report.json"),
            "baseline": "didomi",
            "max_opt_in_pct": 100,
        }
        run = run_plugin(
            "target-actito", config, tmp_path, "--input", str(tmp_path / "messages.jsonl")
        )
        assert run.exit_code == 0, run.err
        assert run.states[-1] == {"read": 27_000}
        stats = actito.stats()
        looks = stats["routes"]["execution"]["calls"]
        pages = 10 * stats["routes"]["one_shot"]["calls"]
        assert stats["calls"] - looks <= 12 + pages + 10  # and the first look of every ledger
        assert stats["refusals"] == 0
        found = actito.all()
    for person, choices in data.expected(27_000, 9_000).items():
        for name, value in choices.items():
            assert found[person]["subscriptions"][name] is value
    assert report(config)["updated"] == 9_000
