"""All profiles of a table, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import _wire
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from actito_didomi.actito.table import TableStructure
    from actito_didomi.http import ApiSession
    from actito_didomi.runtime import Runtime


@dataclass(frozen=True)
class Profile:
    """A profile as it was read.

    Attributes:
        id: `profileId`.
        attributes: Values as Actito returns them, by name.
        subscriptions: By name; those that the response doesn't hold are absent.
        segmentations: As Actito returns them, by name.
    """

    id: int
    attributes: dict[str, Any]
    subscriptions: dict[str, bool]
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


def list_profiles(
    session: ApiSession,
    structure: TableStructure,
    page_size: int,
    runtime: Runtime,
    since: str | None = None,
) -> Iterator[ProfilePage]:
    """Read all profiles of a table, with one request per page.

    Args:
        session: Session with Actito.
        structure: The table.
        page_size: Profiles per page.
        runtime: Clock.
        since: Only those updated since, in Actito's form. That filter is inferred.

    Raises:
        BadInputError: A response is not a page of profiles.
        ApiError: As `ApiSession.request`.
    """
    number, first = 0, None
    while True:
        query = _wire.page_query(number, page_size, since)
        asked_at = runtime.now()
        body = session.request("GET", _wire.PROFILES, structure.key, params=query).body
        read_at = runtime.now()
        found = [_read(body) for body in _wire.profiles_of(body)]
        if not found:
            return
        if found[0].id == first:
            raise BadInputError(
                codes.UNEXPECTED_RESPONSE,
                "Actito returned the same page of profiles twice, so it doesn't support the "
                "expected paging. Set change_source to exports.",
            )
        first = found[0].id
        yield ProfilePage(found, asked_at, read_at)
        if len(found) < page_size and not _has_more(body, number, len(found)):
            return
        number += 1


def _has_more(body: Any, number: int, found: int) -> bool:
    """Return whether a page that is shorter than requested isn't the last one."""
    total = body.get("total") if isinstance(body, dict) else None
    return isinstance(total, int) and (number + 1) * found < total


def _read(body: dict[str, Any]) -> Profile:
    attributes = _wire.attributes_of(body)
    profile_id = attributes.get("profileId", body.get("profileId"))
    if profile_id is None:
        raise BadInputError(
            codes.UNEXPECTED_RESPONSE, "Actito's list of profiles holds one without profileId."
        )
    segmentations = body.get("segmentations")
    return Profile(
        int(profile_id),
        attributes,
        _wire.states_of(body),
        segmentations if isinstance(segmentations, dict) else {},
    )
