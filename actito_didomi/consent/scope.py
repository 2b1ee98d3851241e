"""Which consent records count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.consent.identity import SUSPECTS, is_placeholder
from actito_didomi.consent.records import CONFIRMED
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    from actito_didomi.codes import Code


@dataclass(frozen=True)
class Scope:
    """The settings that leave records out; statuses and regulations are compared without case.

    Attributes:
        regulation: Records of any other one are skipped.
        skip_delegates: Ids of delegates whose records are skipped.
    """

    regulation: str
    skip_delegates: frozenset[str]

    def reason_to_skip(
        self, person: str | None, status: str | None, regulation: str | None, delegate: str | None
    ) -> Code | None:
        """Return the code of the reason to skip a record; None if it counts.

        Args:
            person: None or empty for a guest.
            status: None or empty counts as confirmed.
            regulation: None for a record that holds for all.
            delegate: Who made the choice in the person's place, if anybody.

        Raises:
            BadInputError: The record counts, and what stands in the place of the person is a
                placeholder such as `undefined`: somebody's choice that can't be assigned.
        """
        if not person:
            return codes.GUEST
        if status and status.lower() != CONFIRMED:
            return codes.NOT_CONFIRMED
        if regulation is not None and regulation.lower() != self.regulation.lower():
            return codes.OTHER_REGULATION
        if person[0] in SUSPECTS and is_placeholder(person):
            raise BadInputError(
                codes.PLACEHOLDER_ID,
                "`organization_user_id` is a placeholder such as undefined or null, so it isn't "
                "known whose choices these are.",
            )
        if delegate is not None and delegate in self.skip_delegates:
            return codes.DELEGATE
        return None
