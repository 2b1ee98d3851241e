"""All profiles of a table, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import _wire
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actito_didomi.actito.table import TableStructure
    from actito_didomi.http import ApiSession


@dataclass(frozen=True)
class Profile:
    """A profile as it was read.

    Attributes:
        id: `profileId`.
        attributes: Values as Actito gives them, by name.
        subscriptions: By name; those that the answer doesn't hold are absent.
        segmentations: As Actito gives them, by name.
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
        asked_at: A timestamp when none of them was read yet; aware of its zone.
        read_at: One when all of them were.
    """

    profiles: list[Profile]
    asked_at: datetime
    read_at: datetime


def list_profiles(
    session: ApiSession, structure: TableStructure, page_size: int, since: str | None = None
) -> Iterator[ProfilePage]:
    """Read all profiles of a table; one request per page.

    Args:
        session: Session with Actito.
        structure: The table.
        page_size: Profiles per page.
        since: Only those updated since, in Actito's form, where Actito can filter so.

    Raises:
        BadInputError: The answers are no pages of profiles.
        ApiError: As `ApiSession.request`.
    """
    number, first = 0, None
    while True:
        query = _wire.page_query(number, page_size, since)
        asked_at = datetime.now(timezone.utc)
        body = session.request("GET", _wire.PROFILES, structure.key, params=query).body
        read_at = datetime.now(timezone.utc)
        found = [_read(body) for body in _wire.profiles_of(body)]
        if not found:
            return
        if found[0].id == first:
            raise BadInputError(
                codes.UNEXPECTED_RESPONSE,
                "Actito gives the same page of profiles again, so its list knows no paging of the "
                "kind that is expected. Set change_source to exports.",
            )
        first = found[0].id
        yield ProfilePage(found, asked_at, read_at)
        if len(found) < page_size and not _tells_more(body, number, len(found)):
            return
        number += 1


def _tells_more(body: Any, number: int, found: int) -> bool:
    """Return whether a page that is shorter than requested is not the last one."""
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
