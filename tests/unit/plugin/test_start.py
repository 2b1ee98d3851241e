"""What is refused, or put right, before anything is read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actito_didomi.plugin.config import read_settings
from actito_didomi.plugin.reports import write_reports
from actito_didomi.plugin.summary import Summary
from actito_didomi.plugin.tap import _load
from actito_didomi.runtime import Runtime
from tap_didomi.config import Settings, find_problems


@pytest.mark.parametrize("date", ["2026/11/01", "20261002", "31/12/2025", "tomorrow", "2026-13-01"])
def test_b16_a_start_date_that_is_no_day_is_refused(date: str) -> None:
    """It would read nothing, or everything."""
    settings = read_settings(Settings, {"export_root": "file:///x", "start_date": date})
    assert any("start_date: must be a day" in line for line in find_problems(settings, None))


@pytest.mark.parametrize("date", ["2026-11-01", "2026-11-01T00:00:00Z", ""])
def test_b16_a_day_or_timestamp_is_a_start_date(date: str) -> None:
    """As the SDK's taps take them."""
    settings = read_settings(Settings, {"export_root": "file:///x", "start_date": date})
    assert find_problems(settings, None) == []


STATE = {"bookmarks": {"consent_events": {"exports": {"x": "2026-11-01"}}}}


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"type": "STATE", "value": STATE},
        {"singer_state": STATE},
        {"type": "STATE", "value": {"singer_state": STATE}},
    ],
)
def test_b16_a_wrapped_state_is_unwrapped(wrapped: dict[str, Any]) -> None:
    """Else everything would be read again, without a word."""
    file = io.StringIO(msgspec.json.encode(wrapped).decode())
    assert _load(file, "--state") == STATE


def test_a_report_replaces_no_device_and_no_link(tmp_path: Path) -> None:
    """Only a file."""
    kept = tmp_path / "kept"
    kept.write_text("x")
    link = tmp_path / "link"
    link.symlink_to(kept)
    for path in ("/dev/null", str(link)):
        with pytest.raises(OSError, match="link, a folder or a device"):
            write_reports(path, _Counts(), None, None, Runtime())
    assert kept.read_text() == "x"
    write_reports(str(kept), _Counts(), None, None, Runtime())
    assert kept.read_text() != "x"
    with pytest.raises(OSError, match="needs a ledger"):
        write_reports(str(tmp_path / "page.html"), _Counts(), None, None, Runtime())


class _Counts(Summary):
    """A summary of nothing."""
