"""Which choice in Didomi a subscription in Actito probably stands for, by their names. Pure."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_LEAST = 0.6
"""Similarity from which on a name is suggested."""
_BEGINNING = 0.7
_SHORTEST = 3
_NODES = frozenset(
    {
        "consents", "channels", "channel", "purposes", "preferences", "preference", "values",
        "value", "enabled",
    }
)  # fmt: skip
"""Parts of names that say nothing of what is chosen."""
_SUFFIX = re.compile(r"-[0-9A-Za-z]{2,8}$")
"""What Didomi appends to the ids of purposes, preferences and values (seen in exports)."""


class Suggestion(NamedTuple):
    """A mapping that is probably meant.

    Attributes:
        id: The subscription in Actito.
        value: The name of the choice in Didomi.
        similarity: From 0 to 1, of their names.
    """

    id: str
    value: str
    similarity: float


def suggest(subscriptions: Iterable[str], names: Collection[str]) -> list[Suggestion]:
    """Return a mapping for each subscription whose name is similar to that of a choice.

    Each choice is suggested once, for the subscription that is most similar to it.

    Args:
        subscriptions: Names of subscriptions.
        names: Names of choices, such as `consents_channels_email_enabled`.
    """
    pairs = [
        Suggestion(subscription, name, similarity)
        for subscription in subscriptions
        for name in names
        if (similarity := _similarity(subscription, name)) >= _LEAST
    ]
    pairs.sort(key=lambda pair: (-pair.similarity, len(pair.value), pair.id, pair.value))
    found: dict[str, Suggestion] = {}
    taken: set[str] = set()
    for pair in pairs:
        if pair.id not in found and pair.value not in taken:
            found[pair.id] = pair
            taken.add(pair.value)
    return sorted(found.values())


def _similarity(subscription: str, name: str) -> float:
    own = _normalised(subscription)
    return max((_alike(own, other) for other in _meanings(name)), default=0.0)


def _alike(own: str, other: str) -> float:
    """Return the similarity of two names; one that begins with the other is more than that."""
    found = difflib.SequenceMatcher(None, own, other).ratio()
    shorter, longer = sorted((own, other), key=len)
    is_beginning = len(shorter) >= _SHORTEST and longer.startswith(shorter)
    return max(found, _BEGINNING) if is_beginning else found


def _meanings(name: str) -> Iterator[str]:
    """Yield what a name may say of what is chosen: its ids, and the last of them."""
    parts = [part for part in name.split("_") if part not in _NODES]
    ids = [_normalised(_SUFFIX.sub("", part)) for part in parts]
    for at in range(len(ids)):
        if text := "".join(ids[at:]):
            yield text


def _normalised(text: str) -> str:
    return re.sub(r"[^0-9a-z]", "", text.casefold())
