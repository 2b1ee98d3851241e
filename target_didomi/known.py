"""Which ids exist in Didomi: by its configuration tree, and by what it holds of people."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.consent.choices import read_choices, readable
from actito_didomi.consent.known_ids import KnownIds, ids_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.known_ids import UnknownId
    from actito_didomi.didomi.consents import ConsentApi
    from actito_didomi.runtime import Runtime

logger = logging.getLogger("target-didomi")


class KnownChoices:
    """Finds choices that Didomi doesn't have.

    Ids of purposes, preferences and values must be in the tree, or in what Didomi holds of the
    people seen in this run. Channels are in no tree: one that was not seen is posted, and its
    event is read back.

    Args:
        api: The organisation's consents.
        refuses: Whether ids that the tree should hold and doesn't are refused.
        runtime: Locks.
    """

    def __init__(self, api: ConsentApi, *, refuses: bool, runtime: Runtime) -> None:
        self._api = api
        self._refuses = refuses
        self._tree: KnownIds | None = None
        self._lock = runtime.lock()
        self._seen: set[tuple[str, str]] = set()
        self._announced: set[str] = set()

    @property
    def tree(self) -> KnownIds:
        """The ids of the configuration tree, which is read once; nothing if it is refused."""
        with self._lock:
            if self._tree is None:
                self._tree = KnownIds.read(self._api.config_tree())
            return self._tree

    def see(self, consents: Any) -> None:
        """Record the ids in the consents of an event or user that Didomi holds."""
        said = read_choices(readable(consents))
        for path in said.single:
            self._seen.update(ids_in(path))
        for path, answer in said.answers.items():
            for value in answer or ("",):
                self._seen.update(ids_in((*path, value)))

    def find_unknown(self, path: Path) -> UnknownId | None:
        """Return the id in the path of a choice that Didomi doesn't have; None if it may."""
        if not self._refuses or all(kind == "channel" for kind, _ in ids_in(path)):
            return None
        return self.tree.find_unknown(path, self._seen)

    def unproven(self, paths: Iterable[Path]) -> bool:
        """Return whether one of the channels is not known to exist, and log which."""
        found = {id_ for path in paths for kind, id_ in ids_in(path) if kind == "channel"}
        known = {id_ for kind, id_ in list(self._seen) if kind == "channel"}
        for channel in sorted(found - known - self._announced):
            self._announced.add(channel)
            logger.warning(
                "%s: the channel %r was not seen in Didomi yet (seen: %s). It is posted, and read "
                "back. If it is misspelt, correct the mapping of the tap.",
                codes.CHANNEL_UNSEEN,
                channel,
                ", ".join(sorted(known)) or "none",
            )
        return bool(found - known)
