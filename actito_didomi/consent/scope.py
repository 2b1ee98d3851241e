"""Which consent records count."""

from __future__ import annotations

from dataclasses import dataclass

from actito_didomi.consent.records import CONFIRMED

BY_DELEGATE = "by a skipped delegate"
"""Reason of records whose choices came from Actito: it holds them already."""


@dataclass(frozen=True)
class Scope:
    """The settings that leave records out.

    Attributes:
        regulation: Records of any other one are skipped.
        skip_delegates: Ids of delegates whose records are skipped.
    """

    regulation: str
    skip_delegates: frozenset[str]

    def reason_to_skip(
        self, person: str | None, status: str | None, regulation: str | None, delegate: str | None
    ) -> str | None:
        """Give the reason to leave a record out, in words that follow "records"; None to take it.

        Args:
            person: None or empty for a guest.
            status: None or empty counts as confirmed.
            regulation: None for a record that holds for all.
            delegate: Who made the choice in the person's place, if anybody.
        """
        if not person:
            return "of guests"
        if status and status != CONFIRMED:
            return "not confirmed"
        if regulation is not None and regulation != self.regulation:
            return "of another regulation"
        if delegate is not None and delegate in self.skip_delegates:
            return BY_DELEGATE
        return None
