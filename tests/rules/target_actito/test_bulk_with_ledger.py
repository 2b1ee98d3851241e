"""Bulk imports with a ledger: what is known of an import that doesn't end as it should."""

from __future__ import annotations

from typing import Any

import pytest
from support import Actito, event, rejects, run_target, stream_of, with_ledger


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings that make an import of anything, and look at it soon."""
    own = {"write_mode": "bulk", "bulk_threshold": 1, "bulk_poll_interval": 0.05}
    return {**config, **with_ledger(tmp_path), **own}


def test_an_import_that_fails_as_a_whole_ends_no_run(config, actito: Actito, tmp_path) -> None:
    """Its halves are imported, and everybody's choice is written."""
    for person in ("ann", "bob"):
        actito.create(person, Newsletter=person == "ann")
    actito.steer("options", {"etl_fail_next": 1})
    events = [event("ann", channels={"email": False}), event("bob", channels={"email": True})]
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 0, run.err
    assert rejects(config) == []
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert actito.subscriptions("bob")["Newsletter"] is True
