"""What both kinds of streams share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from singer_sdk import Stream
from singer_sdk.helpers.conform import TypeConformanceLevel

if TYPE_CHECKING:
    from singer_sdk.helpers.types import Context

    from tap_didomi.tap import TapDidomi


class DidomiStream(Stream):
    """A stream whose records go out as they came, and whose state is its own.

    STATE is written where a stream can be taken up again, by `emit_state`, and not every so many
    records as the SDK does.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE
    STATE_MSG_FREQUENCY = sys.maxsize
    off_without_catalog = False
    """Whether the stream is read only when a catalog selects it."""

    @property
    def didomi(self) -> TapDidomi:
        """The tap."""
        return cast("TapDidomi", self._tap)

    def emit_state(self) -> None:
        """Write STATE: all before it has been written."""
        self.state_manager.is_flushed = False
        self._write_state_message()

    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Give none: bookmarks are limited where they are made."""
        del context

    def _increment_stream_state(
        self, latest_record: dict[str, Any], *, context: Context | None = None
    ) -> None:
        """Leave the state alone: one record doesn't move it."""
