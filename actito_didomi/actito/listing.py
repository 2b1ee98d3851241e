"""All profiles of a table, page by page."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito.session import unexpected
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from actito_didomi.actito._wire import ProfileFacts
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.actito.table import TableStructure
    from actito_didomi.runtime import Runtime

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Profile:
    """A profile as it was read.

    Attributes:
        id: `profileId`.
        attributes: Values as Actito returns them, by name.
        subscriptions: By name; None where the response holds none although the table has some, so
            that nothing is known of them. One whose value can't be read is absent.
        segmentations: As Actito returns them, by name.
    """

    id: int
    attributes: dict[str, Any]
    subscriptions: dict[str, bool] | None
    segmentations: dict[str, Any]


@dataclass(frozen=True)
class ProfilePage:
    """A page of profiles.

    Attributes:
        profiles: The profiles.
        asked_at: When the request was made: none of them had been read; aware of its zone.
        read_at: When the response had come: all of them had been read.
    """

    profiles: list[Profile]
    asked_at: datetime
    read_at: datetime

    @property
    def unknown(self) -> int:
        """Number of profiles whose subscriptions are unknown."""
        return sum(profile.subscriptions is None for profile in self.profiles)

    def highest_id(self, before: int | None) -> int:
        """Return the highest `profileId` of this page and those before it.

        Args:
            before: That of those before it; None if there are none.
        """
        return max([before or 0, *(profile.id for profile in self.profiles)])


def list_profiles(
    session: ActitoSession,
    structure: TableStructure,
    page_size: int,
    runtime: Runtime,
    since: str | None = None,
) -> Iterator[ProfilePage]:
    """Read all profiles of a table, with one request per page.

    Pages may be shorter than requested: reading ends at the total that a page names, or else at an
    empty page.

    Args:
        session: Session with Actito.
        structure: The table.
        page_size: Profiles per page.
        runtime: Clock.
        since: Only those updated since, in Actito's form. That filter is inferred.

    Raises:
        BadInputError: A response is not a page of profiles, the same page comes again, or the list
            ends before the total that it names.
        ApiError: As `ApiSession.request`.
    """
    number, read, unknown, first = 0, 0, 0, None
    total: int | None = None
    lists_off = False
    path, facts = session.facts.paths.profiles, session.facts.profiles
    while True:
        query = facts.page_query(number, page_size, since)
        asked_at = runtime.now()
        body = session.request("GET", path, structure.key, params=query).body
        read_at = runtime.now()
        bodies, named = _profiles_of(facts, body), facts.total_of(body)
        total = total if named is None else named  # an empty page may lack it
        lists_off = lists_off or any(map(facts.lists_off, bodies))
        found = [_read(facts, profile, structure, lists_off=lists_off) for profile in bodies]
        if not found:
            if total is not None and read < total:
                raise BadInputError(
                    codes.UNEXPECTED_RESPONSE,
                    f"Actito's list of profiles ends after {read} of {total}. Run again; if it "
                    "stays so, report it to Actito.",
                )
            break
        if found[0].id == first:
            raise BadInputError(
                codes.UNEXPECTED_RESPONSE,
                "Actito returned the same page of profiles twice, so it doesn't support the "
                "expected paging. Set change_source to exports.",
            )
        first = found[0].id
        read += len(found)
        page = ProfilePage(found, asked_at, read_at)
        unknown += page.unknown
        yield page
        if total is not None and read >= total:
            break
        number += 1
    if unknown:
        logger.warning(
            "%s: %d of %d profiles came without subscriptions. Nothing is known of theirs, and "
            "nothing is taken for a change. If it stays so, report it to Actito.",
            codes.UNEXPECTED_RESPONSE,
            unknown,
            read,
        )


def _profiles_of(facts: ProfileFacts, body: Any) -> list[dict[str, Any]]:
    found = facts.profiles_of(body)
    if found is None:
        expected = f"a list of objects or an object with such a list as `{facts.profiles}`"
        raise BadInputError(
            codes.UNEXPECTED_RESPONSE, unexpected("the list of profiles", expected, body)
        )
    return found


def _read(
    facts: ProfileFacts, body: dict[str, Any], structure: TableStructure, *, lists_off: bool
) -> Profile:
    attributes = facts.attributes_of(body)
    try:
        number = int(facts.id_of(body, attributes or {}))
    except (TypeError, ValueError):
        number = None
    if attributes is None or number is None:
        expected = f"an object with `{facts.attributes}` and a numeric `{facts.id}`"
        raise BadInputError(
            codes.UNEXPECTED_RESPONSE, unexpected("a profile of the list", expected, body)
        )
    segmentations = body.get(facts.segmentations)
    return Profile(
        number,
        attributes,
        facts.states_of(body, structure.subscriptions, lists_off=lists_off),
        segmentations if isinstance(segmentations, dict) else {},
    )
