"""Lines about the progress of a flush."""

from __future__ import annotations

import logging

import pytest

from actito_didomi.plugin.progress import Progress
from actito_didomi.runtime import Runtime


class Clock(Runtime):
    """A clock that is set by hand."""

    seconds = 100.0

    def monotonic(self) -> float:
        """Return what was set."""
        return self.seconds


def test_a_line_comes_when_something_changed_and_else_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After 10 s with a change, after 60 s without one; with all counts of the flush."""
    caplog.set_level(logging.INFO)
    clock, waiting = Clock(), [None]
    progress = Progress(logging.getLogger("p"), "Actito", clock, lambda: waiting[0])
    progress.begin(1666, 1331)
    for second in range(1, 130):
        clock.seconds = 100.0 + second
        if second <= 15:
            progress.add(opt_out=True)
        if second == 60:
            waiting[0] = clock.seconds
        progress.check()
    waits = "waiting 20 s for Actito's limit; about 147 min left"
    assert [record.message for record in caplog.records] == [
        "Writing: opt-outs 10/1,331, all 10/1,666 (0 %); about 28 min left",
        "Writing: opt-outs 15/1,331, all 15/1,666 (0 %); about 37 min left",
        f"Writing: opt-outs 15/1,331, all 15/1,666 (0 %); {waits}",
    ]
    last = vars(caplog.records[-1])["progress"]
    assert (last["done"], last["total"], last["waiting_seconds"]) == (15, 1666, 20.0)


def test_nothing_is_said_of_an_empty_flush(caplog: pytest.LogCaptureFixture) -> None:
    """Neither before the first one."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    progress = Progress(logging.getLogger("p"), "Actito", clock, lambda: None)
    clock.seconds += 1000
    progress.check()
    assert caplog.records == []
