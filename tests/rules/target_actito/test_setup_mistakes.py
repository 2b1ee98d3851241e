"""Eleven mistakes of a set-up: each ends the run with what is wrong, and nothing is lost."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from singer_sdk.plugin_base import _ConfigInput
from support import Actito, event, lines, stream_of, with_ledger

from actito_didomi.errors import ActitoDidomiError
from actito_didomi.runtime import Runtime
from target_actito.target import TargetActito

OUT = [f"out{number}" for number in range(30)]
IN = [f"in{number}" for number in range(10)]
EVENTS = [event(person, channels={"email": person in IN}) for person in OUT + IN]
MAIL = "consents_channels_email_enabled"
REFUSED = {"side": "actito", "action": "status", "status": 403, "count": 1000}


@dataclass(frozen=True)
class Mistake:
    """A mistake.

    Attributes:
        wrong: Settings that are wrong.
        status: Exit status.
        words: What the message must contain: what is wrong, and what would be right.
        options: Options of the sandbox.
        refused: Route that is refused with status 403.
    """

    wrong: dict[str, Any]
    status: int
    words: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


MISTAKES = {
    "key": Mistake({"api_key": "wrong-actito-key"}, 1, ("401", "api_key", "127.0.0.1", "api_url")),
    "entity": Mistake({"entity_id": "dmeo"}, 1, ("dmeo", "demo", "entity_id")),
    "table": Mistake({"table_name": "Profils"}, 1, ("Profils", "Profiles", "table_name")),
    "unique key missing": Mistake(
        {"user_unique_key": "customerID"}, 1, ("customerID", "customerId", "user_unique_key")
    ),
    "unique key wrong but unique": Mistake(
        {"user_unique_key": "emailAddress"}, 3, ("max_unmatched_pct", "user_unique_key")
    ),
    "mapping id": Mistake(
        {"mappings": [{"id": "Newsleter", "value": MAIL}]}, 1, ("Newsleter", "Newsletter")
    ),
    "mapping value": Mistake(
        {"mappings": [{"id": "Newsletter", "value": MAIL.replace("mai", "mia")}]},
        5,
        (MAIL.replace("mai", "mia"), MAIL),
    ),
    "swapped invert": Mistake(
        {
            "mappings": [
                {"id": "Newsletter", "value": MAIL, "invert": True},
                {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"},
            ]
        },
        3,
        ("max_opt_in_pct", "invert"),
    ),
    "wrong environment": Mistake(
        {"api_url": "", "environment": "env3"}, 1, ("api3.actito.com", "env3", "environment")
    ),
    "expired key": Mistake({}, 1, ("401", "api_key"), options={"actito_key": "a-newer-actito-key"}),
    "missing right": Mistake({}, 1, ("403", "right", "Actito"), refused="patch_profile"),
}


class QuickRuntime(Runtime):
    """A clock by which a second of patience is soon over."""

    def monotonic(self) -> float:
        """Return a time that passes a hundred times as fast."""
        return super().monotonic() * 100


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings with the guards as they are by default."""
    right = {**config, **with_ledger(tmp_path), "mappings": [{"id": "Newsletter", "value": MAIL}]}
    return {name: right[name] for name in right if not name.startswith("max_")}


def run(config: dict[str, Any]) -> tuple[int, str]:
    """Run over all events in this process; return the exit status, and the error's text."""
    given = _ConfigInput(config=dict(config), parse_env=False)
    try:
        TargetActito.run(given, file_input=io.StringIO(lines(stream_of(*EVENTS))))
    except ActitoDidomiError as error:
        return error.exit_code, "\n".join([str(error), *getattr(error, "errors", [])])
    return 0, ""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_the_set_up_is_shown_and_loses_nothing(
    actito: Actito, config: dict[str, Any], name: str, caplog, monkeypatch
) -> None:
    """Its message names what is wrong and what would be right; the mended run writes everything."""
    mistake = MISTAKES[name]
    for person in OUT:
        actito.create(person, Newsletter=name != "swapped invert")
    actito.create_many(IN)
    if mistake.options:
        actito.steer("options", mistake.options)
    if mistake.refused:
        actito.steer("faults", {**REFUSED, "route": mistake.refused})
    if "environment" in mistake.wrong:
        monkeypatch.setattr(TargetActito, "runtime", QuickRuntime())
    caplog.set_level("INFO")
    status, text = run({**config, **mistake.wrong})
    text += "\n" + caplog.text
    assert status == mistake.status, text
    assert [word for word in mistake.words if word not in text] == [], text
    actito.steer("options", {"actito_key": config["api_key"]})
    actito.steer("reset", {})
    assert not any(actito.subscriptions(person)["Newsletter"] for person in IN)
    monkeypatch.undo()
    status, text = run(config)
    assert status == 0, text
    assert {p for p in OUT + IN if actito.subscriptions(p)["Newsletter"]} == set(IN)
