"""The commands on the ledger: what they show, and what they change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ledger_databases import DATABASES, SCOPE, postgres, sqlite

from actito_didomi.commands import main
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.conflicts import DIDOMI, Act
from actito_didomi.consent.entries import Entry, Held, Place
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.person import Owed, Retry
from actito_didomi.consent.rejects import NewReject, RejectDetails
from actito_didomi.runtime import Runtime

T = 1_790_000_000_000_000
EMAIL = ("consents", "channels", "email", "enabled")
PERSON = "anna@example.com"


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerSettings:
    """A ledger of the test's own in each kind of database."""
    return request.param(tmp_path)


@pytest.fixture
def config(settings: LedgerSettings, tmp_path: Path) -> str:
    """A file with the settings."""
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"ledger_url": settings.ledger_url, "ledger_key": settings.ledger_key})
    )
    return str(file)


@pytest.fixture
def ledger(settings: LedgerSettings) -> Iterator[Ledger]:
    opened = Ledger.open(settings, SCOPE, Runtime())
    with opened.change([PERSON, "bob@example.com"]) as change:
        person = change.people[PERSON]
        person.entries[EMAIL] = Entry(
            {DIDOMI: Act(False, T, T, DIDOMI, "event")}, {"d:00000001": Place(Held(False, T, T))}
        )
        person.owed = Owed.ACTITO | Owed.OPT_OUT_ACTITO
        person.retries["actito"] = Retry("change_refused:422", 3, T, T, "words of Actito")
        change.people["bob@example.com"].entries[EMAIL] = person.entries[EMAIL]
    details = RejectDetails(
        "can't be read", raw=b"secret line", first_at=T, file="users/1.json.gz", line=7
    )
    opened.add_reject(NewReject(code="invalid_line", opt_out=True, due=T, details=details))
    yield opened
    opened.close()


def run(config: str, *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments, "--config", config], input=answer)


def test_info_shows_what_is_owed_and_nobody(ledger: Ledger, config: str) -> None:
    number = ledger.start_run("target-actito", "forward")
    ledger.end_run(number, "opt-outs owed", 3, {"records": 7, "skipped": {"guest": 2}, "x": 0})
    ledger.start_run("tap-didomi", "forward")
    result = run(config, "ledger", "info", "--output", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["id"] == ledger.id
    assert (
        "ledger" in found["database"] or "***" in found["database"] or "test_" in found["database"]
    )
    (pair,) = found["pairs"]
    assert pair["organization"] == "org"
    assert pair["people"] == 2
    assert pair["owed"] == {"actito": 1, "opt_out_actito": 1}
    assert pair["rejects"] == {"invalid_line": 1}
    killed, ended = pair["last_runs"]
    assert (ended["outcome"], ended["exit_status"]) == ("opt-outs owed", 3)
    assert ended["counts"] == {"records": 7, "skipped": {"guest": 2}, "x": 0}
    assert killed["ended"] is None
    text = run(config, "ledger", "info")
    assert text.exit_code == 0
    assert "owed: actito 1, opt_out_actito 1" in text.stdout
    assert "run 1: target-actito, " in text.stdout
    assert "exit 3 (opt-outs owed); records 7, skipped: guest 2\n" in text.stdout
    assert "run 2: tap-didomi, " in text.stdout
    assert "not finished" in text.stdout
    assert PERSON not in result.output + text.output


def test_info_makes_no_ledger(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"ledger_url": f"sqlite:///{tmp_path}/none.db"}))
    result = run(str(file), "ledger", "info")
    assert result.exit_code == 1
    assert "ledger_missing" in result.output
    assert not (tmp_path / "none.db").exists()


def test_settings_come_from_the_environment_of_any_plugin(
    ledger: Ledger, settings: LedgerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAP_DIDOMI_LEDGER_URL", settings.ledger_url)
    monkeypatch.setenv("TAP_DIDOMI_LEDGER_KEY", settings.ledger_key)
    assert CliRunner().invoke(main, ["ledger", "info"]).exit_code == 0
    monkeypatch.setenv("TARGET_ACTITO_LEDGER_URL", "sqlite:///other.db")
    result = CliRunner().invoke(main, ["ledger", "info"])
    assert result.exit_code == 2
    assert "TARGET_ACTITO_LEDGER_URL and TAP_DIDOMI_LEDGER_URL differ" in result.output


def test_rejects_are_listed_by_hash(ledger: Ledger, config: str) -> None:
    result = run(config, "rejects", "list", "--output", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(line["id"], line["code"], line["opt_out"]) for line in found] == [
        ("1", "invalid_line", True),
        (ledger.hash(PERSON), "change_refused", True),
    ]
    only = json.loads(
        run(config, "rejects", "list", "--code", "change_refused", "--output", "json").stdout
    )
    assert len(only) == 1
    text = run(config, "rejects", "list", "--opt-outs", "--limit", "1")
    assert "and more" in text.stdout
    assert PERSON not in result.output + text.output


def test_personal_data_is_shown_after_a_question_only(ledger: Ledger, config: str) -> None:
    refused = run(config, "rejects", "show", "1", answer="n\n")
    assert refused.exit_code == 1
    assert "secret line" not in refused.output
    shown = run(config, "rejects", "show", "1", answer="y\n")
    found = json.loads(shown.stdout)
    assert (found["raw"], found["file"], found["line"]) == ("secret line", "users/1.json.gz", 7)
    person = json.loads(run(config, "rejects", "show", ledger.hash(PERSON), "--yes").stdout)
    assert person["key"] == PERSON
    assert person["refusals"] == {"actito": "words of Actito"}
    assert person["choices"][0]["choice"] == "opt-out"
    assert run(config, "rejects", "show", "99", "--yes").exit_code == 2


def test_retry_makes_due_what_was_refused(ledger: Ledger, config: str) -> None:
    assert run(config, "rejects", "retry").exit_code == 2
    dry = run(config, "rejects", "retry", "--all", "--dry-run")
    assert dry.stdout == "1 reject(s) and owed changes of 1 people would be due.\n"
    assert ledger.owed(Owed.ACTITO, due_at=0) == []
    done = run(config, "rejects", "retry", ledger.hash(PERSON))
    assert done.stdout == "0 reject(s) and owed changes of 1 people are due.\n"
    assert [key for key, _ in ledger.owed(Owed.ACTITO, due_at=0)] == [PERSON]
    assert ledger.list_rejects(due_at=0) == []
    run(config, "rejects", "retry", "--code", "invalid_line")
    assert len(ledger.list_rejects(due_at=0)) == 1


def test_a_reject_can_be_dismissed_with_a_reason(ledger: Ledger, config: str) -> None:
    assert run(config, "rejects", "dismiss", "1").exit_code == 2
    assert run(config, "rejects", "dismiss", "99", "--because", "x").exit_code == 2
    assert run(config, "rejects", "dismiss", ledger.hash(PERSON), "--because", "x").exit_code == 2
    assert run(config, "rejects", "dismiss", "1", "--because", "a duplicate").exit_code == 0
    assert ledger.list_rejects() == []
    every = json.loads(run(config, "rejects", "list", "--all", "--output", "json").stdout)
    assert every[0]["state"] == "dismissed"


def test_an_export_is_for_its_owner_only(ledger: Ledger, config: str, tmp_path: Path) -> None:
    file = tmp_path / "rejects.jsonl"
    assert run(config, "rejects", "export", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    lines: list[Any] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["key"] for line in lines] == [None, PERSON]
    assert run(config, "rejects", "export", str(file)).exit_code == 1  # never over another file


@pytest.mark.parametrize("make", [sqlite, postgres])
def test_a_copy_is_the_same_ledger(
    ledger: Ledger, settings: LedgerSettings, config: str, make: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    target = make(folder)
    number = ledger.add_import("file.csv", T)
    result = run(config, "ledger", "copy", "--to", target.ledger_url)
    assert result.exit_code == 0, result.output
    assert "ledger_people: 2 rows" in result.stdout
    copied = Ledger.open(target, SCOPE, Runtime())
    assert copied.id == ledger.id
    assert copied.hash(PERSON) == ledger.hash(PERSON)
    assert copied.read([PERSON]) == ledger.read([PERSON])
    assert copied.list_rejects() == ledger.list_rejects()
    assert copied.add_import("next.csv", T) == number + 1
    copied.close()
    again = run(config, "ledger", "copy", "--to", target.ledger_url)
    assert again.exit_code == 1
    assert "there is a ledger already" in again.output


def test_the_key_goes_with_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"ledger_url": f"sqlite:///{tmp_path}/one.db"}))
    one = Ledger.open(LedgerSettings(ledger_url=f"sqlite:///{tmp_path}/one.db"), SCOPE, Runtime())
    assert run(str(file), "ledger", "copy", "--to", f"sqlite:///{tmp_path}/two.db").exit_code == 0
    two = Ledger.open(LedgerSettings(ledger_url=f"sqlite:///{tmp_path}/two.db"), SCOPE, Runtime())
    assert one.hash(PERSON) == two.hash(PERSON)
    one.close()
    two.close()


def test_of_several_pairs_the_one_that_is_meant_must_be_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.db"
    for name in ("first", "second"):
        settings = LedgerSettings(ledger_url=url, ledger_scope=name)
        pair = Ledger.open(settings, SCOPE, Runtime())
        details = RejectDetails(name)
        pair.add_reject(NewReject(code="invalid_line", opt_out=False, due=T, details=details))
        pair.close()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"ledger_url": url}))
    assert len(json.loads(run(str(file), "rejects", "list", "--output", "json").stdout)) == 2
    result = run(str(file), "rejects", "dismiss", "1", "--because", "x")
    assert result.exit_code == 2
    assert "first, second" in result.output
    file.write_text(json.dumps({"ledger_url": url, "ledger_scope": "second"}))
    assert run(str(file), "rejects", "dismiss", "1", "--because", "x").exit_code == 0
    (left,) = json.loads(run(str(file), "rejects", "list", "--all", "--output", "json").stdout)
    assert left["state"] == "dismissed"


def test_nothing_is_copied_while_a_run_writes(ledger: Ledger, config: str, tmp_path: Path) -> None:
    with ledger.lease("reverse", 0, holder="target-didomi"):
        result = run(config, "ledger", "copy", "--to", f"sqlite:///{tmp_path}/copy.db")
    assert result.exit_code == 1
    assert "target-didomi" in result.output


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("actito-didomi.db", "must be a URL of SQLAlchemy, such as sqlite:///actito-didomi.db"),
        ("sqlite:///{folder}/none.db", "there is no ledger at {folder}/none.db"),
    ],
)
def test_a_ledger_that_is_not_there_is_named(tmp_path: Path, url: str, shown: str) -> None:
    """With what was expected, and without a traceback."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"ledger_url": url.format(folder=tmp_path)}))
    result = run(str(file), "ledger", "info")
    assert result.exit_code == 1
    assert shown.format(folder=tmp_path) in result.output
