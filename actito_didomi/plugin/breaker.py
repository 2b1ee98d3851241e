"""The circuit breaker: a uniform refusal concerns the configuration, not people."""

from __future__ import annotations

from typing import Generic, TypeVar

from actito_didomi import codes
from actito_didomi.errors import ApiError

Result = TypeVar("Result")

_FORBIDDEN = 403


class RefusalBreaker(Generic[Result]):
    """Keep refusals waiting until it is clear that they concern single people.

    A refusal concerns one person once another response differs from it. Until then it may be due
    to the settings or the rights of the key, so nobody is rejected. After `threshold` refusals
    alike, at the beginning of a run or later, the run stops.

    Args:
        threshold: How many refusals alike, one after the other, stop the run; 0 for never.
        system: The system written to, as people call it.
    """

    def __init__(self, threshold: int, system: str) -> None:
        self._threshold = threshold
        self._system = system
        self._held: list[Result] = []
        self._status: int | None = None
        self._alike = 0
        self._accepts = False

    def accept(self) -> list[Result]:
        """Record that a request was accepted; return the refusals before it that count."""
        self._accepts = True
        self._alike = 0
        return self._take()

    def refuse(self, result: Result, status: int | None) -> list[Result]:
        """Record that a request was refused.

        Args:
            result: What waits.
            status: HTTP status; None if there was none.

        Returns:
            The refusals that count now.

        Raises:
            ApiError: Enough were refused alike: this concerns the configuration.
        """
        if not self._threshold:
            return [result]
        counting: list[Result] = []
        if status != self._status:
            counting, self._alike = self._take(), 0
        self._status = status
        self._held.append(result)
        self._alike += 1
        if self._alike >= self._threshold:
            raise self._error(self._alike)
        return counting

    def finish(self) -> list[Result]:
        """Return the refusals that still wait: no more responses come for now.

        Raises:
            ApiError: All requests of the run were forbidden, which concerns the key.
        """
        if self._held and self._status == _FORBIDDEN and not self._accepts:
            raise self._error(len(self._held))
        return self._take()

    def _take(self) -> list[Result]:
        held, self._held = self._held, []
        return held

    def _error(self, count: int) -> ApiError:
        status = "" if self._status is None else f" with status {self._status}"
        if self._status == _FORBIDDEN:
            advice = "Check that the key has the right to change them."
        else:
            advice = (
                "Check the settings that name the account, and the mappings. If these people are "
                "at fault after all, raise `breaker_threshold`."
            )
        return ApiError(
            codes.UNIFORM_REFUSAL,
            f"{self._system} refuses the changes of people alike{status}: {count} in a row. This "
            "concerns the settings or the rights of the key, not people: nobody is rejected, "
            f"nothing is lost, and the next run attempts them again. {advice}",
        )
