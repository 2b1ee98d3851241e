"""Facts of the installed SDK that the target is built around, so that a change shows.

Each holds the SDK against what it was measured to do. When one fails after an upgrade, look whether
our own way around it is still needed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from singer_sdk import BatchSink, RecordSink, Stream, Target
from singer_sdk.exceptions import InvalidRecord
from singer_sdk.singerlib.exceptions import InvalidInputLine
from support import clean_environment, lines, record, schema, state

SCHEMA = {"type": "object", "properties": {"id": {"type": "integer"}}}


def plain_target(sink: type, **methods: Any) -> Target:
    kind = type("Plain", (Target,), {"name": "plain", "default_sink_class": sink, **methods})
    return kind(config={})


def run(target: Target, messages: list[Any]) -> None:
    target.listen(io.StringIO(lines(messages)))


def test_state_leaves_at_the_end_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty STATE messages become one."""

    class Quiet(RecordSink):
        def process_record(self, record: dict, context: dict) -> None: ...

    messages: list[Any] = [schema(schema=SCHEMA)]
    for n in range(20):
        messages += [record({"id": n}), state({"n": n})]
    run(plain_target(Quiet), messages)
    assert capsys.readouterr().out == '{"n": 19}\n'


def test_a_changed_schema_reorders_writes() -> None:
    """What came before the change is written after what came later."""
    written: list[list[int]] = []

    class Small(BatchSink):
        max_size = 2

        def process_batch(self, context: dict) -> None:
            written.append([r["id"] for r in context["records"]])

    other = {**SCHEMA, "properties": {**SCHEMA["properties"], "x": {}}}
    run(
        plain_target(Small),
        [
            schema(schema=SCHEMA),
            record({"id": 1}),
            schema(schema=other),
            record({"id": 2}),
            record({"id": 3}),
        ],
    )
    assert written == [[2, 3], [1]]


def test_sinks_of_different_streams_drain_at_the_same_time() -> None:
    """Two streams that speak of one person race."""
    running: list[int] = []
    most: list[int] = []

    class Slow(BatchSink):
        def process_batch(self, context: dict) -> None:
            running.append(1)
            time.sleep(0.3)
            most.append(len(running))
            running.pop()

    messages = [schema(s, schema=SCHEMA) for s in "ab"]
    messages += [record({"id": 1}, s) for s in "ab"]
    run(plain_target(Slow), messages)
    assert max(most) == 2


def test_a_signal_acknowledges_what_was_never_written(tmp_path: Path) -> None:
    """SIGTERM while a batch is written: STATE is printed and the status is 0 (sdk issue 3775)."""
    program = tmp_path / "plain.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, time
            from singer_sdk import BatchSink, Target

            class Slow(BatchSink):
                def process_batch(self, context):
                    records = context.get("records", [])
                    if records:
                        print("writing", file=sys.stderr, flush=True)
                        time.sleep(5)
                        print("written", file=sys.stderr, flush=True)

            class Plain(Target):
                name = "plain"
                default_sink_class = Slow

            Plain.cli()
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert process.stdin
    assert process.stderr
    assert process.stdout
    with process:
        process.stdin.write(lines([schema(schema=SCHEMA), record({"id": 1}), state({"n": 1})]))
        process.stdin.close()
        while "writing" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0
    assert out == '{"n": 1}\n'
    assert "written" not in err


def _leaks_line(target: Target) -> None:
    run(target, ["person@example.com is not valid JSON"])


def _leaks_key(target: Target) -> None:
    run(target, [json.dumps({"type": "RECORD", "stream": "s", "who": "person@example.com"})])


def _leaks_record(target: Target) -> None:
    run(target, [schema(schema=SCHEMA), record({"id": "person@example.com"})])


@pytest.mark.parametrize(
    ("leak", "error"),
    [
        (_leaks_line, InvalidInputLine),
        (_leaks_key, InvalidInputLine),
        (_leaks_record, InvalidRecord),
    ],
)
def test_the_sdk_shows_records_in_errors(
    leak: Callable[[Target], None], error: type[Exception]
) -> None:
    """Lines that can't be parsed or lack a key, and records that fail validation."""

    class Quiet(RecordSink):
        def process_record(self, record: dict, context: dict) -> None: ...

    with pytest.raises(error) as caught:
        leak(plain_target(Quiet))
    assert "person@example.com" in repr(caught.value.args) + str(caught.value)


def test_the_methods_we_override_are_still_there() -> None:
    """A renamed hook would silently bring the SDK's behaviour back."""
    for name in (
        "_handle_termination",
        "_process_schema_message",
        "_process_record_message",
        "_process_state_message",
        "_process_batch_message",
        "_process_activate_version_message",
        "_write_state_message",
        "_handle_max_record_age",
        "process_endofpipe",
        "_validate_config",
    ):
        assert callable(getattr(Target, name)), name
    for name in ("_validate_and_parse", "_singer_validate_message"):
        assert callable(getattr(RecordSink, name)), name
    for name in ("_increment_stream_state", "_sync_records", "_write_schema_message"):
        assert callable(getattr(Stream, name)), name
    assert os.name == "posix"
