"""How far the clock of a server is ahead of ours, by the `Date` headers of its responses. Pure."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_SKEW = 60.0
"""Seconds by which two clocks may differ before somebody should look at ours."""
_SAMPLES = 15
_BEST = 5
RESOLUTION = 2.0
"""Seconds by which a measured clock may be wrong: `Date` has whole seconds."""
_MIN_SAMPLES = 2


class _Sample(NamedTuple):
    round_trip: float
    ahead: float


class ServerClock:
    """Measures how far a server's clock is ahead of ours.

    `Date` has whole seconds, and a response takes its time, so one response shows little. Of the
    latest responses those with the shortest round trips count, and of these the median.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._skew = 0.0

    @property
    def skew(self) -> float:
        """Seconds that the server is ahead of us: whole ones, and 0 for less than two.

        It changes only when the measured difference has changed by two seconds or more, so that the
        order of our own timestamps is kept.
        """
        return self._skew

    @property
    def is_large(self) -> bool:
        """Whether the clocks differ by more than a minute, by several responses."""
        return abs(self._skew) > LARGEST_SKEW and len(self._samples) >= _MIN_SAMPLES

    def add(self, headers: Mapping[str, str], sent: datetime, received: datetime) -> None:
        """Add a response.

        Args:
            headers: Those of the response; without a readable `Date`, or with the `Age` of a cached
                response, they show nothing.
            sent: When the request was sent, by our clock; aware of its zone.
            received: When the response had come, by our clock.
        """
        written = _read_date(headers)
        round_trip = (received - sent).total_seconds()
        if written is None or round_trip < 0:
            return
        middle = sent + (received - sent) / 2
        ahead = (written + timedelta(seconds=0.5) - middle).total_seconds()
        self._samples.append(_Sample(round_trip, ahead))
        best = sorted(self._samples)[:_BEST]
        found = median_low(sample.ahead for sample in best)
        if abs(found - self._skew) >= RESOLUTION:
            self._skew = float(round(found)) if abs(found) >= RESOLUTION else 0.0


def to_server_time(ours: datetime, skew: float) -> datetime:
    """Return what a server's clock showed when ours showed a timestamp.

    Args:
        ours: A timestamp by our clock.
        skew: Seconds that the server is ahead of us.
    """
    return ours + timedelta(seconds=skew)


def _read_date(headers: Mapping[str, str]) -> datetime | None:
    if headers.get("Age", "0").strip() != "0":
        return None
    try:
        found = parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError, TypeError):
        return None
    return found if found.tzinfo else None
