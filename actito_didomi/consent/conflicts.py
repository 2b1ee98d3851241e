"""When a choice was made, as far as that is known, and which of two was made later. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime


class Window(NamedTuple):
    """When a choice was made.

    Where it was made neither earlier nor later than another one for certain, the opt-out wins: both
    directions settle by that.

    Attributes:
        until: At this timestamp at the latest; just then, where `after` is None.
        after: Later than this.
    """

    until: datetime
    after: datetime | None = None

    def is_later_than(self, timestamp: datetime) -> bool:
        """Tell whether it was made later than this, for certain."""
        return timestamp <= self.after if self.after is not None else timestamp < self.until

    def is_earlier_than(self, timestamp: datetime) -> bool:
        """Tell whether it was made earlier than this, for certain."""
        return timestamp > self.until
