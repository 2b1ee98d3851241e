"""A target that runs inside of another program leaves that program as it was."""

from __future__ import annotations

import gc
import io
from typing import Any

import pytest
from singer_sdk.plugin_base import _ConfigInput
from support import Actito, event, lines, listen, stream_of

from target_actito.target import TargetActito


@pytest.fixture(params=[True, False])
def enabled(request: pytest.FixtureRequest) -> Any:
    """Whether the host's garbage collector is on."""
    was = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was else gc.disable)()


def test_the_garbage_collector_is_left_as_found(
    enabled: bool, actito: Actito, config: dict[str, Any]
) -> None:
    """Also after a write, by the command line's own function and as an object."""
    actito.create_many(["ann", "bob"])
    frozen = gc.get_freeze_count()
    TargetActito.run(
        _ConfigInput(config=config, parse_env=False),
        file_input=io.StringIO(lines(stream_of(event("ann", channels={"email": True})))),
    )
    assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, frozen)
    assert actito.subscriptions("ann")["Newsletter"]
    listen(config, stream_of(event("bob", channels={"email": True})))
    assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, frozen)
    assert actito.subscriptions("bob")["Newsletter"]
