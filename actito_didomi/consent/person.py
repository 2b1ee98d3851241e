"""What the ledger holds about one person. Pure."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import MutableMapping
from typing import Any

import msgspec

from actito_didomi.consent.choices import Path
from actito_didomi.consent.conflicts import Micros, Side
from actito_didomi.consent.entries import Entry


class Owed(enum.IntFlag):
    """What is owed to whom, and why it waits. Kept in a column of its own, for queries.

    `IN_IMPORT` stands where an import was overtaken by another write, and may yet be carried out:
    when it has ended, it is decided again what is owed. Any other import leads to what it was
    presumed to lead to, so its end is read from the row of the import.
    """

    NONE = 0
    ACTITO = 1
    DIDOMI = 2
    OPT_OUT_ACTITO = 4
    OPT_OUT_DIDOMI = 8
    NO_PROFILE = 16
    NO_USER = 32
    DEFERRED = 64
    IN_IMPORT = 128


_FLAGS = {owed: Owed(owed) for owed in range(2 * max(Owed))}


def flags_of(owed: int) -> Owed:
    """Return flags from their number; quicker than `Owed`."""
    return _FLAGS.get(owed) or Owed(owed)


class AttributeState(msgspec.Struct, frozen=True):
    """The newest value of an attribute.

    Attributes:
        timestamp: When it was given.
        digest: Keyed hash of the value (`digest_of`).
        value: The value itself, as JSON has it, while it is owed; else UNSET.
    """

    timestamp: Micros
    digest: bytes
    value: Any = msgspec.UNSET


def digest_of(value: Any, key: bytes) -> bytes:
    """Return 8 bytes that stand for a value of JSON, keyed."""
    encoded = msgspec.json.encode(value, order="sorted")
    return hashlib.blake2s(encoded, key=key, digest_size=8).digest()


class Retry(msgspec.Struct, frozen=True):
    """Why the last attempt to write what is owed failed, and when to try again.

    Attributes:
        code: Name of the code of the refusal; after a colon the status, if there is one.
        attempts: How often it was refused in the same way, in a row.
        next_at: Not tried before this timestamp.
        first_at: When it was first refused in this way.
        detail: Words of the API that refused; may hold personal data.
    """

    code: str
    attempts: int
    next_at: Micros
    first_at: Micros
    detail: str = ""

    @property
    def name(self) -> str:
        """Name of the code, without the status."""
        return self.code.partition(":")[0]


class Person(msgspec.Struct, gc=False):
    """One person, as the ledger knows them; empty for one whom it doesn't know.

    Attributes:
        entries: What is known of each choice.
        attributes: The newest value of each attribute, by its name.
        spelling: The key as the profile spells it; None if no look found the profile.
        profile_id: Id of the profile; None if no look found it.
        owed: What is owed; set by the code that changes the person.
        retries: Why the last attempt to write to a side failed; absent if it didn't.
    """

    entries: MutableMapping[Path, Entry] = msgspec.field(default_factory=dict)
    attributes: dict[str, AttributeState] = msgspec.field(default_factory=dict)
    spelling: str | None = None
    profile_id: str | None = None
    owed: Owed = Owed.NONE
    retries: dict[Side, Retry] = msgspec.field(default_factory=dict)

    def entry(self, path: Path) -> Entry:
        """Return the entry of a choice; an empty one is added if there is none."""
        found = self.entries.get(path)
        if found is None:
            found = self.entries[path] = Entry()
        return found
