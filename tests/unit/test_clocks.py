"""How far a server's clock is ahead of ours."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Actito, event, lines, stream_of, tap_config, with_ledger

from actito_didomi.clocks import RESOLUTION, ServerClock, to_server_time
from actito_didomi.consent.records import format_timestamp
from actito_didomi.didomi.session import open_session
from actito_didomi.runtime import Runtime
from tap_didomi.config import Settings
from tap_didomi.tap import TapDidomi
from target_actito.target import TargetActito

NOON = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)


def answer(clock: ServerClock, at: float, ahead: float, there: float, back: float) -> None:
    """Add a response to a request that was sent `at` seconds after noon."""
    sent = NOON + timedelta(seconds=at)
    server = (sent + timedelta(seconds=there + ahead)).replace(microsecond=0)
    clock.add(
        {"Date": format_datetime(server, usegmt=True)}, sent, sent + timedelta(seconds=there + back)
    )


@given(
    st.floats(-100_000, 100_000),
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)), min_size=1, max_size=20),
)
def test_the_skew_is_known_within_two_seconds(
    ahead: float, trips: list[tuple[float, float]]
) -> None:
    """From whole seconds, whatever the round trips."""
    clock = ServerClock()
    for number, (there, back) in enumerate(trips):
        answer(clock, number * 1.7, ahead, there, back)
    assert abs(clock.skew - ahead) <= 3
    if abs(ahead) < 1:
        assert clock.skew == 0


def test_a_slow_or_odd_response_moves_nothing() -> None:
    """The shortest round trips count, and of these the median; a clock that is set right counts."""
    clock = ServerClock()
    for number in range(3):
        answer(clock, number, 7200, 0.05, 0.05)
    answer(clock, 5, 7200, 40, 0.05)
    answer(clock, 50, -90_000, 0.04, 0.04)
    assert clock.skew == pytest.approx(7200, abs=1)
    for number in range(60, 80):
        answer(clock, number, 0, 0.05, 0.05)
    assert clock.skew == 0


@pytest.mark.parametrize(
    "headers",
    [{}, {"Date": ""}, {"Date": "soon"}, {"Date": "Wed, 25 Nov 2020 12:00:00 GMT", "Age": "9"},
     {"Date": "Wed, 25 Nov 2020 12:00:00"}, {"Date": "Wed, 99 Nov 2020 12:00:00 GMT"}],
)  # fmt: skip
def test_what_is_no_date_tells_nothing(headers: dict[str, str]) -> None:
    """Nor the date of a response that a proxy kept."""
    clock = ServerClock()
    clock.add(headers, NOON, NOON)
    assert clock.skew == 0


def test_a_timestamp_is_shifted_as_a_whole() -> None:
    """By seconds, in either direction."""
    assert to_server_time(NOON, -7200) == NOON - timedelta(hours=2)


class TwoHoursAhead(Runtime):
    """A machine whose clock is two hours ahead."""

    def now(self) -> datetime:
        """Return a wrong time."""
        return super().now() + timedelta(hours=2)


def test_a13_a_session_knows_the_apis_clock(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and `now` is the API's time."""
    plugin = TapDidomi(config=tap_config(url))
    settings: Settings = plugin.settings
    runtime = TwoHoursAhead()
    session = open_session(settings.didomi, settings.client, stop=runtime.event(), runtime=runtime)
    assert session.skew == 0
    for _ in range(3):
        session.request("GET", "/consents/users", params={"organization_id": "org-current"})
    assert session.skew == pytest.approx(-7200, abs=2)
    assert abs((session.now() - Runtime().now()).total_seconds()) < 4
    warnings = [r.getMessage() for r in caplog.records if "clock_skew" in r.getMessage()]
    assert len(warnings) == 1
    warning = warnings[0].replace("7199", "7200")
    assert "our clock shows a time 7200 s later than that of Didomi" in warning


def test_a13_a_clock_that_is_ahead_makes_no_opt_in_newer(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """What a look found before the opt-out isn't taken for a choice of two hours later."""

    class Wrong(TargetActito):
        runtime = TwoHoursAhead()

    def write(*events: dict[str, Any]) -> None:
        settings = {**config, **with_ledger(tmp_path)}
        Wrong(config=settings).listen(io.StringIO(lines(stream_of(*events))))

    actito.create("ann", Newsletter=True)
    write(event("ann", "2026-10-01T10:00:00Z", channels={"email": False}))
    assert actito.subscriptions("ann")["Newsletter"] is False
    actito.change("ann", Newsletter=True)
    sleep(RESOLUTION)  # two runs may measure Actito's clock differently by as much
    write(event("ann", format_timestamp(Runtime().now()), channels={"email": True}))  # it looks
    write(event("ann", format_timestamp(Runtime().now()), channels={"email": False}))
    assert actito.subscriptions("ann")["Newsletter"] is False
