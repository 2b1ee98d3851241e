"""The SDK's metrics are right on every path, and an input that ends too early is reported."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.plugin_base import _ConfigInput
from support import Actito, event, lines, listen, report, state, stream_of, with_ledger

from actito_didomi.errors import UnavailableError
from target_actito.target import TargetActito

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def totals(caplog: pytest.LogCaptureFixture, metric: str) -> int:
    """Add up the points of one metric."""
    texts = [r.getMessage() for r in caplog.records if r.name == "singer_sdk.metrics"]
    points = [json.loads(text.removeprefix("METRIC: ")) for text in texts]
    return sum(point["value"] for point in points if point["metric"] == metric)


def run(config: dict[str, Any], messages: Iterable[Any]) -> None:
    """Run target-actito in this process, to its end."""
    TargetActito(config=dict(config)).listen(io.StringIO(lines(messages)))


@pytest.mark.parametrize("path", ["typed", "validated", "mapped", "batch"])
def test_metrics_count_all_records_and_requests(
    actito: Actito, config: dict[str, Any], caplog: pytest.LogCaptureFixture, path: str, tmp_path
) -> None:
    """Whatever way records take, each counts once; so does each request."""
    people = [f"p{n}" for n in range(20)]
    actito.create_many(people)
    events = [event(person, channels={"email": True}) for person in people]
    messages = stream_of(*events)
    if path == "batch":
        file = tmp_path / "batch.jsonl"
        file.write_text("".join(json.dumps(e) + "\n" for e in events))
        batch = {
            "type": "BATCH",
            "stream": messages[0]["stream"],
            "encoding": {"format": "jsonl", "compression": "none"},
            "manifest": [file.as_uri()],
        }
        config = {**config, "batch_root": str(tmp_path)}
        messages = [messages[0], batch, state({"n": 1})]
    elif path == "mapped":
        config = {**config, "stream_maps": {messages[0]["stream"]: {"added": "1"}}}
    elif path == "validated":
        config = {**config, "validate_records": True}
    caplog.set_level(logging.INFO)
    run(config, messages)
    assert totals(caplog, "record_count") == len(people)
    assert totals(caplog, "http_request_count") == report(config)["requests"]
    assert totals(caplog, "http_request_duration") > 0


@pytest.mark.parametrize("without", ["everything", "state", "last state"])
def test_an_input_that_ends_too_early_is_reported(
    actito: Actito, config: dict[str, Any], caplog: pytest.LogCaptureFixture, without: str
) -> None:
    """The tap may have failed, so this is no "success"; what came is written."""
    actito.create("ann", Newsletter=True)
    messages = [] if without == "everything" else stream_of(event("ann", channels={"email": False}))
    if without == "state":
        messages = [m for m in messages if m["type"] != "STATE"]
    elif without == "last state":
        messages.append(messages[1])
    listen(config, messages)
    assert report(config)["status"] == "input ended"
    assert "AD714 input_ended" in caplog.text
    assert actito.subscriptions("ann")["Newsletter"] is (without == "everything")


def test_what_was_not_written_does_not_count_as_unchanged(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Of a run that fails half-way, the rest waits for the next one; what was refused doesn't."""
    people = [f"p{n}" for n in range(10)]
    actito.create_many(people)
    refusal = {"side": "actito", "route": "patch_profile", "action": "status", "status": 400}
    actito.steer("faults", {**refusal, "skip": 2, "count": 1})
    actito.steer("faults", {**refusal, "status": 503, "skip": 4, "count": 1000})
    config = {**config, **with_ledger(tmp_path), "max_concurrency": 1}
    given = _ConfigInput(config=config, parse_env=False)
    events = [event(person, channels={"email": True}) for person in people]
    with pytest.raises(UnavailableError):
        TargetActito.run(given, file_input=io.StringIO(lines(stream_of(*events))))
    found = report(config)
    counts = [found[name] for name in ("updated", "rejected", "deferred", "unchanged")]
    assert counts == [4, 1, 5, 0]
