"""When what a side refused is tried again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actito_didomi.consent.person import Retry

if TYPE_CHECKING:
    from actito_didomi.consent.conflicts import Micros

_PATIENT_AFTER = 3
"""Refusals of one kind in a row after which a change is tried once per day only."""
_DAY = 86_400_000_000


def next_retry(known: Retry | None, code: str, now: Micros, *, wait: Micros = 0) -> Retry:
    """Return when a refused change is tried again: at each run, after three times once per day.

    Args:
        known: What is known of earlier attempts; None if there were none.
        code: Why it was refused now.
        now: The present time.
        wait: How long to wait in any case, in microseconds.
    """
    same = known is not None and known.code == code
    attempts = known.attempts + 1 if known is not None and same else 1
    first_at = known.first_at if known is not None and same else now
    if not wait and attempts >= _PATIENT_AFTER:
        wait = _DAY
    return Retry(code=code, attempts=attempts, next_at=now + wait, first_at=first_at)
