"""`forget`: all that names a person goes, and no opt-out that is owed goes unasked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ledger_databases import DATABASES, SCOPE

from actito_didomi.commands import main
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.conflicts import DIDOMI, Act
from actito_didomi.consent.entries import Entry, Held, Place
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.looks import FoundChange
from actito_didomi.consent.person import Owed
from actito_didomi.consent.rejects import NewReject, RejectDetails
from actito_didomi.runtime import Runtime

T = 1_790_000_000_000_000
EMAIL = ("consents", "channels", "email", "enabled")
PLACE = "a:subscription:Newsletter"
PERSON, OTHER = "Anna@planted.example", "bob@planted.example"


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path) -> LedgerSettings:
    """A ledger of the test's own in each kind of database."""
    found: LedgerSettings = request.param(tmp_path)
    return found


@pytest.fixture
def config(settings: LedgerSettings, tmp_path) -> str:
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"ledger_url": settings.ledger_url, "ledger_key": settings.ledger_key})
    )
    return str(file)


def fill(settings: LedgerSettings, *, owed: bool = False) -> None:
    """Make a ledger know two people, and be owed an opt-out by the first."""
    ledger = Ledger.open(settings, SCOPE, Runtime())
    ledger.matching("folded")
    number = ledger.start_run("target-actito", "forward")
    ledger.end_run(number, "success", 0, {})
    keys = [PERSON.casefold(), OTHER]
    with ledger.change(keys) as change:
        for key, person in change.people.items():
            held = Held(owed and key != OTHER, T, T + 1)
            act = Act(False, T, T, DIDOMI, "event")
            person.entries[EMAIL] = Entry({DIDOMI: act}, {PLACE: Place(held)})
            if owed and key != OTHER:
                person.owed = Owed.ACTITO | Owed.OPT_OUT_ACTITO
            change.add_found(
                FoundChange(key, "7", "subscription", "Newsletter", EMAIL, False, T, T, False)
            )
    for person in (PERSON, OTHER):
        details = RejectDetails("can't be read", raw=person.encode(), first_at=T)
        ledger.add_reject(
            NewReject(code="invalid_record", person=person, opt_out=False, due=T, details=details)
        )
    ledger.note_skips("not_confirmed", dict.fromkeys(keys, T))
    ledger.close()


def forget(config: str, *arguments: str, answer: str = f"{PERSON}\n") -> Result:
    given = ["forget", *arguments, "--config", config]
    return CliRunner().invoke(main, given, input=answer)


def explain(config: str, person: str) -> Result:
    given = ["explain", "-", "--output", "json", "--config", config]
    return CliRunner().invoke(main, given, input=person)


def test_all_that_names_a_person_goes(settings: LedgerSettings, config: str, tmp_path) -> None:
    """Of any spelling; others stay, and a hash with the date is left."""
    fill(settings)
    result = forget(config, "-", "--yes", "--output", "json")
    assert result.exit_code == 0, result.output
    (removed,) = json.loads(result.stdout)["removed"]
    counts = {name: count for name, count in removed.items() if name != "pair"}
    assert counts == {"people": 1, "changes": 1, "rejects": 1, "skips": 1}
    known = explain(config, PERSON)
    assert known.exit_code == 5
    assert json.loads(known.stdout)["forgotten_at"]
    assert explain(config, OTHER).exit_code == 0
    assert forget(config, "-", "--yes").exit_code == 5
    for file in tmp_path.glob("ledger.db*"):
        if file.is_file():
            assert PERSON.casefold().encode() not in file.read_bytes(), file
    assert "planted" not in result.output


def test_an_opt_out_that_is_owed_is_not_lost_unasked(settings, config: str) -> None:
    fill(settings, owed=True)
    result = forget(config, "-", "--yes")
    assert result.exit_code == 3
    assert "an opt-out of this person is owed" in result.output
    assert explain(config, PERSON).exit_code == 3
    assert forget(config, "-", "--yes", "--lose-opt-outs").exit_code == 0
    assert explain(config, PERSON).exit_code == 5


def test_it_asks_first(settings, config: str) -> None:
    fill(settings)
    assert forget(config, answer=f"{PERSON}\nn\n").exit_code == 1
    assert explain(config, PERSON).exit_code == 0
    assert forget(config, "-").exit_code == 2
    assert forget(config, answer=f"{PERSON}\ny\n").exit_code == 0
    assert explain(config, PERSON).exit_code == 5


def test_it_waits_for_no_run_that_writes(settings, config: str) -> None:
    """What a run is writing must not be removed under its hands."""
    fill(settings)
    ledger = Ledger.open(settings, SCOPE, Runtime())
    try:
        with ledger.lease("forward", 0):
            result: Any = forget(config, "-", "--yes")
            assert result.exit_code == 1
            assert "direction_in_use" in result.output
    finally:
        ledger.close()
    assert explain(config, PERSON).exit_code == 0
