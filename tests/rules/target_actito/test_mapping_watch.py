"""Rule 6: mappings are validated before the first write, and watched after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support import Actito, event, listen, report, run_target, stream_of, with_ledger

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.copying import open_pair
from actito_didomi.errors import ActitoDidomiError
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEOPLE = [f"p{number:02}" for number in range(25)]
MAIL = {"id": "Newsletter", "value": "consents_channels_email_enabled"}
TYPO = {"id": "Newsletter", "value": "consents_channels_emial_enabled"}


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with a ledger."""
    return {**config, **with_ledger(tmp_path), "mappings": [MAIL]}


@dataclass
class Ended:
    """How a run in this process ended: exit status, STATE messages, log."""

    exit_code: int
    states: list[str]
    err: str


@pytest.fixture
def sync(capsys, caplog) -> Callable[..., Ended]:
    """Runs target-actito over events in this process."""
    caplog.set_level("INFO")

    def run(config: dict[str, Any], *events: dict[str, Any]) -> Ended:
        caplog.clear()
        capsys.readouterr()
        status, error = 0, ""
        try:
            listen(config, stream_of(*events))
        except ActitoDidomiError as problem:
            status = problem.exit_code
            error = "\n".join([str(problem), *getattr(problem, "errors", [])])
        states = capsys.readouterr().out.splitlines()
        return Ended(status, states, "\n".join([*caplog.messages, error]))

    return run


def subscribed(actito: Actito) -> list[str]:
    """Return who gets mail."""
    return [person for person in actito.all() if actito.subscriptions(person)["Newsletter"]]


def opt_outs(people: Sequence[str] = PEOPLE) -> list[dict[str, Any]]:
    """Opt-outs of mail."""
    return [event(person, channels={"email": False}) for person in people]


@pytest.mark.parametrize(
    "value",
    [
        "channels_sms",
        "consent_channels_email_enabled",
        "consents_chanels_email_enabled",
        "metadata",
    ],
)
def test_rule_6_a_root_that_cannot_exist(config, sync, value) -> None:
    """The run ends before anything is read, and the message shows what a value looks like."""
    run = sync({**config, "mappings": [{"id": "Newsletter", "value": value}]})
    assert run.exit_code == 1
    assert "AD102 invalid_mapping" in run.err
    assert value in run.err
    assert "consents_channels_email_enabled" in run.err


@pytest.mark.parametrize("ledger_url", [None, "none"])
def test_b1_a_typing_error_in_a_mapping(config, actito, sync, ledger_url) -> None:
    """The name that is meant is shown, STATE stays, and the corrected run writes all."""
    actito.create_many(PEOPLE)
    actito.change(PEOPLE[0], Newsletter=True)
    if ledger_url:
        config = {**config, "ledger_url": ledger_url, "mapping_check_min_people": 25}
    run = sync({**config, "mappings": [TYPO]}, *opt_outs())
    assert run.exit_code == 5, run.err
    assert "AD122 mapping_missed" in run.err
    assert MAIL["value"] in run.err
    assert run.states == []
    assert subscribed(actito) == PEOPLE[:1]
    repeated = sync({**config, "mappings": [TYPO]}, *opt_outs())
    assert (repeated.exit_code, repeated.states) == (5, [])
    again = sync(config, *opt_outs())
    assert again.exit_code == 0, again.err
    assert len(again.states) == 1
    assert subscribed(actito) == []


def test_people_are_counted_over_runs(config, actito, sync) -> None:
    """Few people of each run are enough together; what is right about a mapping is remembered."""
    actito.create_many(PEOPLE)
    wrong = {**config, "mappings": [TYPO]}
    assert sync(wrong, *opt_outs(PEOPLE[:12])).exit_code == 0
    assert sync(wrong, *opt_outs(PEOPLE[12:])).exit_code == 5
    assert sync(config, *opt_outs(PEOPLE[:1])).exit_code == 0
    other = [event(person, channels={"emails": False}) for person in PEOPLE]
    assert sync(config, *other).exit_code == 0


def test_rule_6_a_silent_mapping_is_a_warning(config, actito, sync, tmp_path) -> None:
    """What else is mapped is written; `may_be_silent` mutes it, and so does a value before."""
    actito.create_many(PEOPLE)
    silent = {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"}
    given = {**config, "mappings": [MAIL, silent]}
    run = sync(given, *opt_outs())
    assert run.exit_code == 0, run.err
    assert "AD121 mapping_silent: mapping SmsAlerts: no record held a value for" in run.err
    muted = {**config, "mappings": [MAIL, {**silent, "may_be_silent": True}]}
    fresh = {**muted, **with_ledger(tmp_path / "other")}
    (tmp_path / "other").mkdir()
    assert "mapping_silent" not in sync(fresh, *opt_outs()).err
    said = [event(PEOPLE[0], channels={"sms": False})]
    assert sync(given, *said).exit_code == 0
    more = [f"q{number:03}" for number in range(210)]
    assert "mapping_silent" not in sync(given, *opt_outs(more)).err


def test_a_mapping_does_not_meet_its_own_copies(config, actito, sync) -> None:
    """What the reverse sync posted by a misspelt mapping comes back as misspelt."""
    actito.create_many(PEOPLE)
    delegate = {"id": "actito"}
    copies = [event(p, channels={"emial": False}, delegate=delegate) for p in PEOPLE]
    run = sync({**config, "mappings": [TYPO]}, *opt_outs(), *copies)
    assert run.exit_code == 5, run.err
    assert "AD122 mapping_missed" in run.err


def test_the_summary_has_a_line_per_mapping(config, actito, sync) -> None:
    """What its name is read as, and how many opt-ins and opt-outs it met."""
    actito.create_many(PEOPLE[:3])
    events = [*opt_outs(PEOPLE[:2]), event(PEOPLE[2], channels={"email": True})]
    run = sync(config, *events)
    assert (
        "mapping Newsletter <- consents_channels_email_enabled, read as "
        "consents.channels.email.enabled: choices 3, opt-ins 1, opt-outs 2" in run.err
    )
    assert report(config)["mappings"] == [
        {
            "value": MAIL["value"],
            "id": "Newsletter",
            "read_as": "consents.channels.email.enabled",
            "people": 3,
            "choices": 3,
            "opt_ins": 1,
            "opt_outs": 2,
            "is_silent": False,
            "nearest": "",
        }
    ]


def test_a_new_subscription_without_a_mapping_is_reported_once(config, actito, sync) -> None:
    """By the run that first finds it, with a warning and a line in the summary."""
    actito.create_many(PEOPLE[:1])
    assert "subscription_new" not in sync(config, *opt_outs(PEOPLE[:1])).err
    ledger = open_pair(LedgerSettings(ledger_url=config["ledger_url"]), "", Runtime())
    known = ledger.read_fact("subscriptions", list[str]) or []
    ledger.store_fact("subscriptions", [x for x in known if x not in {"Surveys", "Newsletter"}])
    ledger.close()
    run = sync(config, *opt_outs(PEOPLE[:1]))
    assert run.exit_code == 0
    assert "AD125 subscription_new: the table has the new subscription Surveys" in run.err
    assert "new subscription Surveys: no mapping names it" in run.err
    assert report(config)["new_subscriptions"] == ["Surveys"]
    assert "subscription_new" not in sync(config, *opt_outs(PEOPLE[:1])).err


def test_b1_another_regulation_alone(config, actito, sync) -> None:
    """Nothing was learned, so STATE stays; it may be so once people of the own one are known."""
    actito.create_many(PEOPLE[:2])
    other = [{**one, "regulation": "cpra"} for one in opt_outs()]
    run = sync(config, *other[:1])
    assert run.exit_code == 5, run.err
    assert "AD124 regulation_missed" in run.err
    assert "(seen: cpra)" in run.err
    assert run.states == []
    both = sync(config, *other[:1], *opt_outs(PEOPLE[:1]))
    assert (both.exit_code, len(both.states)) == (0, 1)
    few = sync(config, *other[:3])
    assert (few.exit_code, len(few.states)) == (0, 1)
    many = sync(config, *other)
    assert (many.exit_code, len(many.states)) == (5, 0)


def test_the_exit_status_of_a_mistake(config, actito, tmp_path) -> None:
    """The process ends with 5, and its summary names the code."""
    actito.create_many(PEOPLE)
    run = run_target({**config, "mappings": [TYPO]}, tmp_path, stream_of(*opt_outs()))
    assert (run.exit_code, run.states) == (5, [])
    assert "Summary (mistake found: mapping_missed)" in run.err
