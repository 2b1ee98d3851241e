"""Lists of the Didomi API, in any of the three forms that its documentation shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi.errors import UnexpectedResponseError
from actito_didomi.privacy import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from actito_didomi.http import ApiSession


_PAGING = {"cursor": str, "total": int, "skip": int, "limit": int}
"""What an envelope may say of the pages."""


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
        UnexpectedResponseError: It has none of the three forms, or ends before the total that it
            names.
    """
    if isinstance(body, list):
        return Page(_objects(body, what), None)
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise UnexpectedResponseError(
            f"Didomi's response to {what} must be a list or an object with a list `data`, and is "
            f"{shape_of(body)}. Check api_url.",
        )
    items = _objects(items, what)
    for name, kind in _PAGING.items():  # else what follows would be missed
        if not isinstance(body.get(name), (kind, type(None))):
            expected = "a string" if kind is str else "a whole number"
            raise UnexpectedResponseError(
                f"Didomi's list {what} must name {expected} or null as `{name}`, and names "
                f"{shape_of(body[name])}. Check api_url."
            )
    if isinstance(cursor := body.get("cursor"), str) and cursor:
        return Page(items, {"$cursor": cursor})
    total, skip = body.get("total"), body.get("skip", skipped)
    if isinstance(total, int) and isinstance(skip, int) and skip + len(items) < total:
        if not items:
            raise UnexpectedResponseError(
                f"Didomi's list {what} ends after {skip} of {total} objects. Run again; if it "
                "stays so, report it to Didomi.",
            )
        return Page(items, {"$skip": skip + len(items)})
    limit = body.get("limit")
    if isinstance(limit, int) and 0 < limit <= len(items) and not {"cursor", "total"} & set(body):
        return Page(items, {"$skip": skipped + len(items)})  # full, and it doesn't say what follows
    return Page(items, None)


def with_id(items: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the objects of a list that have an `id`, as users and events do.

    One odd object among others is passed over.

    Raises:
        UnexpectedResponseError: None has one: they are something else.
    """
    found = [item for item in items if isinstance(item.get("id"), str) and item["id"]]
    if items and not found:
        raise UnexpectedResponseError(
            f"Didomi's list {what} must hold objects with a text `id`, and is {shape_of(items)}. "
            "Check api_url."
        )
    return found


def _objects(items: list[Any], what: str) -> list[dict[str, Any]]:
    if not all(isinstance(item, dict) for item in items):
        raise UnexpectedResponseError(
            f"Didomi's list {what} must hold objects only, and is {shape_of(items)}. Check api_url."
        )
    return items


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

    Raises:
        UnexpectedResponseError: A response is not a page, or the same page comes again.
    """
    here = dict(start or {})
    before: Any = None
    while True:
        answer = session.request("GET", path, params={**params, **here})
        page = read_page(answer.body, path, here.get("$skip", 0))
        first = page.items[0].get("id") if page.items else None
        if (page.next is not None and page.next == here) or (
            first is not None and first == before and "$skip" in here
        ):
            raise UnexpectedResponseError(
                f"Didomi returned the same page of {path} twice, so the list has no end. Report "
                "it to Didomi.",
            )
        before = first
        yield page
        if page.next is None:
            return
        here = page.next
