"""The SDK's metrics of requests: how many went to which endpoint, and how long they took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singer_sdk import metrics

if TYPE_CHECKING:
    from actito_didomi.runtime import Runtime


class RequestMetrics:
    """Counts requests, and logs them as METRIC lines with the SDK's names.

    A line per request would drown the log of a target that writes thousands of them. So each
    endpoint has two lines a minute, and two at the end: `http_request_count`, and
    `http_request_duration` with the mean in seconds. Not safe for threads: the caller holds a lock.

    Args:
        runtime: The clock.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._logged_at = runtime.monotonic()
        self._found: dict[tuple[str, int | None], tuple[int, float]] = {}

    def add(self, endpoint: str, status: int | None, seconds: float) -> None:
        """Count one request.

        Args:
            endpoint: Method and path with placeholders; it names no person.
            status: Status of the response; None where there was none.
            seconds: From sending to the whole response, or to the failure.
        """
        count, total = self._found.get((endpoint, status), (0, 0.0))
        self._found[endpoint, status] = count + 1, total + seconds
        if self._runtime.monotonic() - self._logged_at >= metrics.DEFAULT_LOG_INTERVAL:
            self.log()

    def log(self) -> None:
        """Log what was counted since the last time."""
        logger = metrics.get_metrics_logger()
        for (endpoint, status), (count, seconds) in self._found.items():
            ok = status is not None and status < 400  # noqa: PLR2004
            tags: dict[str, Any] = {
                metrics.Tag.ENDPOINT: endpoint,
                metrics.Tag.HTTP_STATUS_CODE: status,
                metrics.Tag.STATUS: metrics.Status.SUCCEEDED if ok else metrics.Status.FAILED,
            }
            for point in (
                metrics.Point("counter", metrics.Metric.HTTP_REQUEST_COUNT, count, tags),
                metrics.Point(
                    "timer", metrics.Metric.HTTP_REQUEST_DURATION, round(seconds / count, 6), tags
                ),
            ):
                metrics.log(logger, point)
        self._found.clear()
        self._logged_at = self._runtime.monotonic()
