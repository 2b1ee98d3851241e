"""What both kinds of streams share."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from actito_didomi.plugin.tap import CheckpointStream

if TYPE_CHECKING:
    from tap_didomi.tap import TapDidomi


class DidomiStream(CheckpointStream):
    """A stream of tap-didomi."""

    @property
    def didomi(self) -> TapDidomi:
        """The tap."""
        return cast("TapDidomi", self._tap)
