"""The SDK's standard tests, for tap and target."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from singer_sdk import Tap
from singer_sdk.testing import (
    SuiteConfig,
    get_tap_test_class,
    get_target_test_class,
    target_test_streams,
)
from singer_sdk.testing.runners import TargetTestRunner
from support import (
    Actito,
    back_config,
    post_config,
    run_plugin,
    select_all,
    tap_config,
    target_config,
)

from actito_didomi.sandbox.options import SandboxOptions
from actito_didomi.sandbox.server import BackgroundSandbox
from tap_actito.tap import TapActito
from tap_didomi.tap import TapDidomi
from target_actito.target import TargetActito
from target_didomi.target import TargetDidomi

# Each class reads once what all of its tests look at, so they go together.
pytestmark = pytest.mark.xdist_group("standard")
# The test classes are made when this module is imported, so the sandbox stands that early.
_sandbox = BackgroundSandbox(SandboxOptions(limits=False, people=60))
_sandbox.__enter__()
_folder = tempfile.TemporaryDirectory()
requests.post(
    f"{_sandbox.url}/sandbox/exports", json={"root": _folder.name}, timeout=60
).raise_for_status()
_config = target_config(_sandbox.url, Path(_folder.name))


Actito(_sandbox.url).create("whole", attributes={"averageBasket": 12.5})
_changes = Path(_folder.name) / "changes"
_changes.mkdir()
(_changes / "changes-20261001.csv").write_text(
    "profileId;customerId;eventType;subscription;subscribed;timestamp;source\n"
    "1;customer-000001;UPDATED_SUBSCRIPTION;Newsletter;N;2026-10-01 10:00:00;LINK\n"
)


@pytest.fixture(scope="module", autouse=True)
def _stop_sandbox() -> Iterator[None]:
    yield
    _folder.cleanup()
    _sandbox.__exit__(None, None, None)


def every_stream(tap: type[Tap], config: dict[str, Any]) -> dict[str, Any]:
    """Return a catalog that selects all streams: the suite reads also those that are off."""
    return select_all(tap(config=config).catalog_dict)


def suite(tap: type[Tap], config: dict[str, Any], records: int) -> type[Any]:
    """Make the suite of a tap."""
    return get_tap_test_class(
        tap,
        config=config,
        suite_config=SuiteConfig(max_records_limit=records),
        catalog=every_stream(tap, config),
    )


TestTargetActito = get_target_test_class(TargetActito, config=_config)
TestTargetDidomi = get_target_test_class(
    TargetDidomi, config=post_config(_sandbox.url, Path(_folder.name))
)

TestTapDidomiApi = suite(TapDidomi, tap_config(_sandbox.url), 50)

TestTapDidomiExports = suite(
    TapDidomi, {"export_root": f"file://{_folder.name}", "read_users": True}, 50
)

_back = back_config(_sandbox.url, Path(_folder.name))
run_plugin("tap-actito", _back, Path(_folder.name))  # the baseline, after which there are changes
Actito(_sandbox.url).change("whole", Newsletter=True)

TestTapActitoApi = suite(TapActito, _back, 150)

TestTapActitoExports = suite(
    TapActito,
    back_config(
        _sandbox.url,
        Path(_folder.name),
        ledger_url=f"sqlite:///{_folder.name}/exports.db",
        change_source="exports",
        export_root=f"file://{_changes}",
        export_grace=0,
    ),
    150,
)


def test_every_state_is_passed_on_in_order_behind_its_records() -> None:
    """The SDK's file of several STATE messages, which its own suite leaves out.

    The SDK's template expects three of the five; here each one leaves, and none is lost.
    """
    runner = TargetTestRunner(TargetActito, config=_config)
    source = Path(target_test_streams.__file__).parent / "multiple_state_messages.singer"
    runner.target_input = source.open(encoding="utf-8")
    runner.sync_all()
    messages = [json.loads(line) for line in source.read_text().splitlines()]
    sent = [m["value"] for m in messages if m["type"] == "STATE"]
    assert len(sent) == 5
    assert [json.loads(m) if isinstance(m, str) else m for m in runner.state_messages] == sent
    runner.target_input.close()


def test_target_suite_is_whole() -> None:
    """All 16 of the SDK's target tests are run."""
    names = [n for n in dir(TestTargetActito) if n.startswith("test_target_")]
    assert len(names) == 16
