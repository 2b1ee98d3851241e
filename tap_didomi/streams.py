"""The streams: consent events and consent users, from batch exports or the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
from singer_sdk.helpers.types import Context  # noqa: TC002 - the SDK reads annotations

from actito_didomi.plugin.tap import CheckpointStream
from tap_didomi import schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tap_didomi.sources import ConsentSource, ExportSource


class DidomiTap(Protocol):
    """What the streams need of the tap."""

    @property
    def source(self) -> ConsentSource:
        """Where consents come from."""

    @property
    def export_source(self) -> ExportSource:
        """The same, if it is batch exports."""


class DidomiStream(CheckpointStream):
    """A stream of tap-didomi."""

    @property
    def didomi(self) -> DidomiTap:
        """The tap."""
        return cast("DidomiTap", self._tap)

    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """Return None: records are emitted one by one."""
        del config
        return None


class ConsentEvents(DidomiStream):
    """Consent events. Through the API they cost one request per user that changed."""

    name = "consent_events"
    primary_keys = ("id",)
    schema = schemas.CONSENT_EVENTS

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield the events."""
        del context
        self._start_where_users_are()
        for events in self.follow(self.didomi.source.events(self.resume_state)):
            yield from events

    def raw_records(self, context: Context | None) -> Iterable[Any]:
        """Yield the events, with their parts not decoded where they come as bytes."""
        del context
        self._start_where_users_are()
        for events in self.follow(self.didomi.source.raw_events(self.resume_state)):
            yield from events

    def _start_where_users_are(self) -> None:
        """Begin at the bookmark of the users, where events are selected later than users."""
        users = self.tap_state.get("bookmarks", {}).get(ConsentUsers.name, {})
        if bookmark := users.get("replication_key_value"):
            self.stream_state.setdefault("replication_key_value", bookmark)


class ExportLines(DidomiStream):
    """Batch exports unchanged: their files are named in BATCH messages, and not read here.

    A record is a line: a user with the events of a day. The stream has the name and the state of
    `ConsentEvents`, so that `batch_config` can be set and removed at any time.
    """

    name = "consent_events"
    primary_keys = ()
    schema = schemas.EXPORT_LINES

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield the lines, for tests of the connection."""
        del context
        for lines in self.follow(self.didomi.export_source.lines(self.resume_state)):
            yield from lines

    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """Return the setting."""
        return BatchConfig.from_dict(config["batch_config"])

    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        """Yield the files of each partition; its state follows once they are named."""
        del context
        for files in self.follow(self.didomi.export_source.files(self.resume_state)):
            if manifest := list(files):
                yield batch_config.encoding, manifest


class ConsentUsers(DidomiStream):
    """Consent users, each with the whole status.

    Of batch exports they are offered only with the setting `read_users`: written to Actito, a whole
    status would overwrite newer choices that were made there.
    """

    name = "consent_users"
    primary_keys = ("id",)
    schema = schemas.CONSENT_USERS

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield the users."""
        del context
        for users in self.follow(self.didomi.source.users(self.resume_state)):
            yield from users
