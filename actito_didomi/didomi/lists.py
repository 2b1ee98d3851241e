"""Lists of the Didomi API, in any of the three forms that its documentation shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from actito_didomi.http import ApiSession


@dataclass(frozen=True)
class Page:
    """A page of a list.

    Attributes:
        items: Its objects.
        next: Query parameters of the next page; None on the last one.
    """

    items: list[dict[str, Any]]
    next: dict[str, Any] | None


def read_page(body: Any, what: str, skipped: int = 0) -> Page:
    """Read one response: a bare list, or an envelope with `cursor`, or with `total` and `skip`.

    Args:
        body: The decoded body.
        what: Name of the list for messages.
        skipped: Objects on the pages before, where the response doesn't say.

    Raises:
        BadInputError: It has none of the three forms.
    """
    if isinstance(body, list):
        return Page(body, None)
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise BadInputError(
            codes.UNEXPECTED_RESPONSE,
            f"Didomi's response to {what} must be a list or an object with `data`. Check api_url.",
        )
    if isinstance(cursor := body.get("cursor"), str) and cursor:
        return Page(items, {"$cursor": cursor})
    total, skip = body.get("total"), body.get("skip", skipped)
    if isinstance(total, int) and isinstance(skip, int) and items and skip + len(items) < total:
        return Page(items, {"$skip": skip + len(items)})
    return Page(items, None)


def pages(
    session: ApiSession,
    path: str,
    params: Mapping[str, Any],
    *,
    start: Mapping[str, Any] | None = None,
) -> Iterator[Page]:
    """Read a list page by page.

    Args:
        session: Session with Didomi.
        path: Path of the list; it must identify no person, since it is logged.
        params: Query parameters of every page.
        start: `Page.next` of a page read before, to continue after it.
    """
    here = dict(start or {})
    while True:
        answer = session.request("GET", path, params={**params, **here})
        page = read_page(answer.body, path, here.get("$skip", 0))
        yield page
        if page.next is None or page.next == here:
            return
        here = page.next
