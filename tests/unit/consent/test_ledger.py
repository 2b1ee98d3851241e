"""The ledger's database: transactions, imports, looks, pairs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from ledger_databases import DATABASES, SCOPE
from msgspec.structs import replace

from actito_didomi import codes
from actito_didomi.consent import runs
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.conflicts import DIDOMI, Act
from actito_didomi.consent.entries import Entry, Held, Intent, Place, Write, begin_write
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.looks import FoundChange, Look
from actito_didomi.consent.person import Owed, Person, Retry
from actito_didomi.consent.rejects import NewReject, RejectDetails
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.errors import SettingsError
from actito_didomi.runtime import Runtime

T = 1_790_000_000_000_000
EMAIL = ("consents", "channels", "email", "enabled")
SMS = ("consents", "channels", "sms", "enabled")
NEWS = "a:subscription:News"


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerSettings:
    """A ledger of the test's own in each kind of database."""
    return request.param(tmp_path)


@pytest.fixture
def ledger(settings: LedgerSettings) -> Iterator[Ledger]:
    with_ledger = Ledger.open(settings, SCOPE, Runtime())
    yield with_ledger
    with_ledger.close()


def opted(value: bool, at: int = T) -> Entry:
    return Entry(
        {DIDOMI: Act(value, at, at, DIDOMI, "event")}, {"d:12345678": Place(Held(value, at, at))}
    )


def rows_written(ledger: Ledger) -> list[str]:
    """Record the statements that write people, from now on."""
    statements: list[str] = []

    @sa.event.listens_for(ledger._store.engine, "before_cursor_execute")
    def record(connection, cursor, statement, parameters, context, many) -> None:
        if "people" in statement and not statement.startswith("SELECT"):
            statements.extend([statement] * (len(parameters) if many else 1))

    return statements


def test_a_new_ledger_knows_nobody_and_has_an_id(ledger: Ledger, settings: LedgerSettings) -> None:
    assert ledger.is_new
    assert ledger.read(["anna"]) == {}
    other = Ledger.open(settings, SCOPE, Runtime())  # of the same first run
    assert other.is_new
    with ledger.change(["anna"]) as change:
        change.people["anna"].entries[EMAIL] = opted(True)
    again = Ledger.open(settings, SCOPE, Runtime())
    assert not again.is_new
    assert again.id == other.id == ledger.id
    assert again.hash("anna") == ledger.hash("anna") != ledger.hash("bob")
    again.close()
    other.close()


def test_a_state_of_a_lost_ledger_is_noticed(ledger: Ledger, settings: LedgerSettings) -> None:
    assert ledger.check_state(ledger.id, on_lost="fail")
    assert not ledger.check_state(None, on_lost="fail")  # the first run reads all
    with pytest.raises(SettingsError, match="on_lost_ledger") as caught:
        ledger.check_state("another", on_lost="fail")
    assert caught.value.code is codes.LEDGER_MISSING
    assert not ledger.check_state("another", on_lost="baseline")
    ledger.record_look(Look(T, T))
    again = Ledger.open(settings, SCOPE, Runtime())
    assert again.check_state(None, on_lost="fail")  # a replay is harmless
    again.close()


def test_what_was_changed_is_there_for_the_next_process(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    retry = Retry("change_refused", 2, T + 5, T, "no")
    with ledger.change(["bob", "anna"]) as change:
        change.people["anna"].entries[EMAIL] = opted(False)
        change.people["anna"].owed = Owed.ACTITO | Owed.OPT_OUT_ACTITO
        change.people["anna"].retries["actito"] = retry
        change.people["bob"] = Person({SMS: opted(True)}, spelling="Bob", profile_id="7")
    again = Ledger.open(settings, SCOPE, Runtime())
    found = again.read(["anna", "bob", "carl"])
    again.close()
    assert found == {
        "anna": Person({EMAIL: opted(False)}, owed=Owed(5), retries={"actito": retry}),
        "bob": Person({SMS: opted(True)}, spelling="Bob", profile_id="7"),
    }


def test_only_rows_that_differ_are_written(ledger: Ledger) -> None:
    with ledger.change(["anna", "bob", "carl"]) as change:
        for person in change.people.values():
            person.entries[EMAIL] = opted(True)
    statements = rows_written(ledger)
    with ledger.change(["anna", "bob", "carl"]):
        pass
    with ledger.change(["anna"]) as change:
        change.people["anna"].entries[EMAIL] = opted(True)
        change.people["anna"].entries[SMS] = Entry()
    assert statements == []
    with ledger.change(["anna", "bob", "carl"]) as change:
        change.people["bob"].entries[EMAIL] = opted(False)
    assert len(statements) == 1
    assert ledger.read(["bob"])["bob"].entries[EMAIL] == opted(False)


def test_nobody_is_left_of_people_of_whom_nothing_was_learned(ledger: Ledger) -> None:
    with ledger.change(["anna", "bob"]) as change:
        change.people["anna"].entries[EMAIL] = opted(True)
    with ledger.change(["anna", "carl"]) as change:
        change.people["anna"] = Person()
    with ledger._store.read() as transaction:
        assert transaction.one("SELECT count(*) FROM ledger_people")[0] == 0


def test_an_exception_leaves_all_as_it_was(ledger: Ledger, settings: LedgerSettings) -> None:
    with ledger.change(["anna"]) as change:
        change.people["anna"].entries[EMAIL] = opted(True)
    with pytest.raises(KeyError), ledger.change(["anna", "bob"]) as change:
        change.people["anna"].entries[EMAIL] = opted(False)
        change.people["anna"].entries["never", "seen"] = opted(False)
        change.add_found(FoundChange("x", None, "subscription", "News", EMAIL, True, T, T))
        raise KeyError
    assert ledger.read(["anna", "bob"]) == {"anna": Person({EMAIL: opted(True)})}
    assert ledger.found_after(0, 10) == []
    # A name that was numbered in a transaction that failed gets its number again.
    with pytest.raises(ValueError, match="place"), ledger.change(["anna"]) as change:
        change.people["anna"].entries["never", "seen"] = opted(False)
        change.people["anna"].entries["x",] = Entry(places={"wrong": Place(Held(True, 0, 0))})
    with ledger.change(["anna"]) as change:
        change.people["anna"].entries["another", "one"] = opted(False)
    again = Ledger.open(settings, SCOPE, Runtime())
    assert set(again.read(["anna"])["anna"].entries) == {EMAIL, ("another", "one")}
    again.close()


def test_an_import_that_ended_is_held_for_every_reader(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    number = ledger.add_import("file.csv", T)
    other = ledger.add_import("other.csv", T)
    with ledger.change(["anna", "bob", "carl"]) as change:
        for name, person in change.people.items():
            intent = Intent(False, T, "1", other if name == "carl" else number)
            person.entry(EMAIL).places[NEWS] = Place(intent=intent)
    assert [row.number for row in ledger.open_imports()] == [number, other]
    again = Ledger.open(settings, SCOPE, Runtime())
    assert again.read(["anna"])["anna"].entries[EMAIL].places[NEWS].intent is not None
    ledger.set_import(number, state="started", execution="17")
    assert ledger.open_imports()[0].execution == "17"
    ledger.set_import(number, state="ended", ended=T + 9)
    ledger.set_import(other, state="never_received")
    held = Place(Held(False, T, T + 9, ours=True), writes=[Write(False, T, T + 9)])
    for reader in (ledger, again):
        assert reader.read(["anna"])["anna"].entries[EMAIL].places[NEWS] == held
        assert reader.read(["carl"])["carl"].entries.get(EMAIL, Entry()).places.get(NEWS) in (
            None,
            Place(),
        )
        with reader.change(["bob"]) as change:
            assert change.people["bob"].entries[EMAIL].places[NEWS] == held
    again.close()
    assert ledger.open_imports() == []
    # What has ended can't become open again.
    ledger.set_import(number, state="unknown", ended=T)
    assert ledger.open_imports() == []


def test_an_import_of_unknown_end_may_be_carried_out_late(ledger: Ledger) -> None:
    number = ledger.add_import("file.csv", T)
    intent = Intent(False, T, "1", number)
    with ledger.change(["anna"]) as change:
        change.people["anna"].entry(EMAIL).places[NEWS] = Place(intent=intent, late=[intent])
    ledger.set_import(number, state="unknown", ended=T + 9)
    late = Intent(False, T, "1", None, T + 9 + ledger.rules.late_bound)
    place = ledger.read(["anna"])["anna"].entries[EMAIL].places[NEWS]
    assert place == Place(late=[late, late])
    # Its end may be learned later, and counts for those who weren't changed since.
    ledger.set_import(number, state="ended", ended=T + 20)
    place = ledger.read(["anna"])["anna"].entries[EMAIL].places[NEWS]
    assert place.held == Held(False, T, T + 20, ours=True)


def test_imports_of_a_day_are_counted_by_the_day_of_actito(ledger: Ledger) -> None:
    brussels = ZoneInfo("Europe/Brussels")
    midnight = datetime(2026, 11, 24, 23, tzinfo=timezone.utc)  # in Brussels
    micros = int(midnight.timestamp()) * 1_000_000
    ledger.add_import("yesterday", micros - 1)
    ledger.add_import("today", micros)
    ledger.add_import("tomorrow", micros + 24 * 3600 * 1_000_000)
    lost = ledger.add_import("never received", micros + 1)
    ledger.set_import(lost, state="never_received")
    assert ledger.imports_today(datetime(2026, 11, 25, 22, 59, tzinfo=brussels)) == 1


def test_what_is_owed_is_read_in_order_and_in_parts(ledger: Ledger) -> None:
    with ledger.change([f"p{n:02}" for n in range(20)]) as change:
        for n, person in enumerate(change.people.values()):
            person.entries[EMAIL] = opted(False)
            if n % 2:
                person.owed = Owed.ACTITO | (Owed.OPT_OUT_ACTITO if n % 4 == 1 else Owed.NONE)
            if n == 3:
                person.owed = Owed.DIDOMI | Owed.OPT_OUT_DIDOMI
            if n == 5:
                person.retries["actito"] = Retry("x", 1, T, T)
    first = [key for key, _ in ledger.owed(Owed.ACTITO, limit=3)]
    assert first == ["p01", "p05", "p07"]
    second = [key for key, _ in ledger.owed(Owed.ACTITO, after="p07", limit=3)]
    assert second == ["p09", "p11", "p13"]
    now = [key for key, _ in ledger.owed(Owed.ACTITO, limit=2, due_at=T - 1)]
    assert now == ["p01", "p07"]
    opt_outs = [key for key, _ in ledger.owed(Owed.ACTITO, opt_outs_only=True)]
    assert opt_outs == ["p01", "p05", "p09", "p13", "p17"]
    assert [key for key, _ in ledger.owed(Owed.DIDOMI)] == ["p03"]
    owed = ledger.count_owed()
    flags = (Owed.ACTITO, Owed.OPT_OUT_ACTITO, Owed.DIDOMI, Owed.OPT_OUT_DIDOMI, Owed.DEFERRED)
    assert [owed.having(flag) for flag in flags] == [9, 5, 1, 1, 0]
    assert (owed.opt_outs("forward"), owed.opt_outs("reverse"), owed.deferred) == (5, 1, 0)


def test_the_last_complete_look_is_kept(ledger: Ledger) -> None:
    assert ledger.last_look() is None
    places = frozenset({"a:subscription:A", "a:subscription:B"})
    look = Look(T, T + 5, places, 7, 12)
    ledger.record_look(look)
    ledger.record_look(Look(T - 9, T + 9, frozenset({"a:subscription:A"}), 8))
    assert ledger.last_look() == look


def test_changes_found_by_looks_are_numbered(ledger: Ledger) -> None:
    def found(name: str) -> FoundChange:
        return FoundChange(
            name, "1", "subscription", "News", EMAIL, False, T, T + 1, seen_value="0"
        )

    for name in ("anna", "bob", "carl"):
        with ledger.change([]) as change:
            change.add_found(found(name))
    assert ledger.found_after(0, 2) == [(1, found("anna")), (2, found("bob"))]
    ledger.prune_found(3)
    assert ledger.found_after(0, 9) == [(3, found("carl"))]


def test_facts_are_replaced(ledger: Ledger) -> None:
    assert ledger.read_fact("names", list[str]) is None
    ledger.store_fact("names", ["a"])
    ledger.store_fact("names", ["a", "b"])
    ledger.store_fact("others", {"a": 1})
    assert ledger.read_fact("names", list[str]) == ["a", "b"]
    assert ledger.read_fact("others", list[str]) is None


def test_runs_are_numbered(ledger: Ledger) -> None:
    assert ledger.start_run("target-actito", "forward") == 1
    assert ledger.start_run("target-didomi", "reverse") == 2
    ledger.end_run(1, "success", 0, {"people": 3, "skipped": {"guest": 1}})
    second, first = ledger.last_runs()
    assert (first.plugin, first.outcome, first.exit_status) == ("target-actito", "success", 0)
    assert first.counts == {"people": 3, "skipped": {"guest": 1}}
    assert first.ended is not None
    assert (second.direction, second.ended, second.exit_status) == ("reverse", None, None)


def test_the_last_runs_of_each_plugin_are_kept(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_KEPT", 10)
    rare = ledger.start_run("tap-actito", "reverse")
    numbers = [ledger.start_run("target-actito", "forward") for _ in range(13)]
    kept = [run.number for run in ledger.last_runs(1000)]
    assert kept == [*reversed(numbers[3:]), rare]


@pytest.mark.parametrize("parts", [4, 500])
def test_many_choices_of_many_people(ledger: Ledger, parts: int) -> None:
    names = [f"{n:05}-ä" for n in range(500)]
    with ledger.change(names) as change:
        for n, person in enumerate(change.people.values()):
            for choice in range(n % 5 + parts):
                person.entries["consents", "purposes", str(choice), "enabled"] = opted(n % 2 == 0)
        expected = dict(change.people)
    assert ledger.read(names) == expected


DYING = """
import os, signal, sys
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.runtime import Runtime
from ledger_databases import SCOPE
ledger = Ledger.open(LedgerSettings(ledger_url=sys.argv[1], ledger_key="key"), SCOPE, Runtime())
with ledger.change(["anna", "bob"]) as change:
    entries = change.people["anna"].entries
    (path,) = entries
    entries["other",] = entries.pop(path)
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
    commit = ledger._store.engine.dialect.do_commit
    def die(connection):
        if sys.argv[2] == "after":
            commit(connection)
        os.kill(os.getpid(), signal.SIGKILL)
    ledger._store.engine.dialect.do_commit = die
"""


@pytest.mark.parametrize("place", ["inside", "before", "after"])
def test_a_killed_process_leaves_the_row_as_it_was_or_as_it_is(
    ledger: Ledger, settings: LedgerSettings, place: str
) -> None:
    with ledger.change(["anna"]) as change:
        change.people["anna"].entries[EMAIL] = opted(True)
    code = run_python(DYING, settings.ledger_url, place).wait(60)
    assert code == -signal.SIGKILL
    expected = {("other",): opted(True)} if place == "after" else {EMAIL: opted(True)}
    assert ledger.read(["anna", "bob"]) == {"anna": Person(expected)}
    with ledger.change(["anna"]) as change:  # no lock is left
        change.people["anna"].entries[SMS] = opted(False)
    assert ledger.read(["anna"])["anna"].entries == {**expected, SMS: opted(False)}


COUNTING = """
import sys
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.person import Retry
from actito_didomi.consent.ledger import Ledger
from actito_didomi.runtime import Runtime
from ledger_databases import SCOPE
ledger = Ledger.open(LedgerSettings(ledger_url=sys.argv[1], ledger_key="key"), SCOPE, Runtime())
for turn in range(int(sys.argv[2])):
    people = [f"p{(turn * 7 + n) % 40}" for n in range(20)]
    with ledger.change(people if turn % 2 else people[::-1]) as change:
        for person in change.people.values():
            known = person.retries["actito"].attempts if person.retries else 0
            person.retries["actito"] = Retry("count", known + 1, 0, 0)
"""


def test_of_many_processes_none_loses_the_change_of_another(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    turns = 50
    processes = [run_python(COUNTING, settings.ledger_url, str(turns)) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    people = ledger.read([f"p{n}" for n in range(40)])
    counted = sum(person.retries["actito"].attempts for person in people.values())
    assert counted == 4 * turns * 20


def run_python(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    tests = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)


# Pairs


def opening(settings: LedgerSettings) -> Callable[..., str]:
    def open_ledger(**parts: str) -> str:
        ledger = Ledger.open(settings, LedgerScope(**parts), Runtime())
        text = ledger.scope_text
        ledger.close()
        return text

    return open_ledger


def test_plugins_that_know_one_side_each_meet_in_one_pair(settings: LedgerSettings) -> None:
    tap = Ledger.open(settings, LedgerScope("Org", "gdpr"), Runtime())
    target = Ledger.open(settings, LedgerScope("", "GDPR", "E", "People"), Runtime())
    with target.change(["anna"]) as change:
        change.people["anna"].entries[EMAIL] = opted(False)
    assert tap.read(["anna"]) == {"anna": Person({EMAIL: opted(False)})}
    assert tap.scope_text == target.scope_text == "org/gdpr/e/people"
    tap.close()
    target.close()


def test_what_event_ids_derive_from_stays_once_it_was_used(settings: LedgerSettings) -> None:
    open_ledger = opening(settings)
    assert open_ledger(entity="e", table="people") == "//e/people"
    assert open_ledger(organization="org", regulation="gdpr") == "//e/people"


def test_a_second_pair_needs_a_name(settings: LedgerSettings) -> None:
    open_ledger = opening(settings)
    open_ledger(organization="org", regulation="gdpr", entity="e", table="people")
    with pytest.raises(SettingsError, match=r"ledger_scope.*table_name is 'other'") as caught:
        open_ledger(entity="e", table="other")
    assert caught.value.code is codes.AMBIGUOUS_SCOPE


def test_a_pair_whose_runs_have_all_failed_can_be_corrected(settings: LedgerSettings) -> None:
    def run(table: str, exit_status: int | None) -> None:
        ledger = Ledger.open(settings, LedgerScope(entity="e", table=table), Runtime())
        number = ledger.start_run("target-actito", "forward")
        if exit_status is not None:
            ledger.end_run(number, "failed" if exit_status else "success", exit_status, {})
        ledger.close()

    run("poeple", 1)
    run("people", None)
    with pytest.raises(SettingsError, match="of its only pair it is 'people'"):
        run("other", 1)


# Rejects and files


def test_rejects_are_kept_until_they_are_settled(ledger: Ledger) -> None:
    details = RejectDetails("can't be read", raw=b"\xff", run="1", first_at=T)
    line = NewReject(code="invalid_line", opt_out=True, due=T + 5, details=details)
    first = ledger.add_reject(line)
    again = replace(details, run="2", first_at=T + 9)
    assert ledger.add_reject(replace(line, due=T + 10, details=again)) == first
    second = ledger.add_reject(
        NewReject(
            code="change_refused",
            person="anna",
            opt_out=False,
            due=T,
            direction="forward",
            details=RejectDetails("no", choices={"News": True}, events=(("e1", "2026"),)),
        )
    )
    found = ledger.get_reject(first)
    assert found is not None
    assert (found.due, found.details.attempts, found.details.first_at) == (T + 10, 2, T)
    assert found.details.raw == b"\xff"
    assert [r.number for r in ledger.list_rejects()] == [first, second]
    assert [r.number for r in ledger.list_rejects(due_at=T)] == [second]
    assert [r.number for r in ledger.list_rejects(code="change_refused")] == [second]
    assert [r.number for r in ledger.list_rejects(opt_outs_only=True)] == [first]
    assert ledger.count_rejects() == {("invalid_line", True): 1, ("change_refused", False): 1}
    assert ledger.count_rejects("forward") == ledger.count_rejects()
    assert ledger.count_rejects("reverse") == {("invalid_line", True): 1}
    assert ledger.retry_rejects([first, 99]) == 1
    assert [r.number for r in ledger.list_rejects(due_at=0)] == [first]
    assert ledger.set_reject_state(first, "dismissed", because="a test")
    assert not ledger.set_reject_state(99, "done")
    assert [r.number for r in ledger.list_rejects()] == [second]
    (dismissed,) = ledger.list_rejects(["dismissed", "done"])
    assert dismissed.details.because == "a test"
    # The same again, by a replay, stays dismissed; what failed after it was done is a new one.
    assert ledger.add_reject(line) == first
    assert [r.number for r in ledger.list_rejects()] == [second]
    ledger.set_reject_state(first, "done")
    assert ledger.add_reject(line) == second + 1


def test_what_was_refused_can_be_made_due(ledger: Ledger) -> None:
    with ledger.change(["anna", "bob", "carl"]) as change:
        for key, person in change.people.items():
            person.owed = Owed.ACTITO
            if key != "carl":
                code = "change_refused" if key == "anna" else "other"
                person.retries["actito"] = Retry(code, 3, T, T)
    assert [key for key, _ in ledger.owed(Owed.ACTITO, due_at=0)] == ["carl"]
    assert ledger.retry_people(["anna", "carl"]) == 1
    assert [key for key, _ in ledger.owed(Owed.ACTITO, due_at=0)] == ["anna", "carl"]
    assert ledger.retry_people(code="other") == 1
    assert len(ledger.owed(Owed.ACTITO, due_at=0)) == 3
    assert ledger.read(["bob"])["bob"].retries["actito"].attempts == 3


def test_the_people_of_an_import_are_found(ledger: Ledger) -> None:
    number, other = ledger.add_import("a.zip", T), ledger.add_import("b.zip", T)
    with ledger.change(["ann", "ben"]) as change:
        for person in change.people.values():
            person.entries[EMAIL] = opted(True)
            begin_write(person.entries[EMAIL], NEWS, Intent(True, T, "1", number), ledger.rules)
        ben = change.people["ben"]
        ben.entries[SMS] = opted(True)
        begin_write(
            ben.entries[SMS], "a:subscription:Sms", Intent(True, T, "1", other), ledger.rules
        )
    assert ledger.in_import(number) == ["ann", "ben"]
    assert ledger.in_import(other) == ["ben"]

    ledger.set_import(number, state="ended", ended=T + 9)

    people = ledger.read(["ann", "ben"])
    assert people["ann"].entries[EMAIL].places[NEWS].held == Held(True, T, T + 9, ours=True)
    assert people["ben"].entries[SMS].places["a:subscription:Sms"].intent is not None
