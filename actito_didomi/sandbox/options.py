"""Switches of the sandbox. A default is the documented behaviour, or the most likely one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ACTITO_KEY = "sandbox-actito-key"
DIDOMI_KEY = "sandbox-didomi-key"
DIDOMI_SECRET = "sandbox-didomi-secret"  # noqa: S105 - opens nothing but the sandbox
ENTITY = "demo"
ORGANIZATION = "org-current"
LEGACY_ORGANIZATION = "org-legacy"


@dataclass
class SandboxOptions:
    """Behaviour of the sandbox where that of the real systems is not certain, and its limits.

    Attributes:
        database: SQLite file; None for a new temporary one.
        people: Number of people to create on both sides.
        seed: Seed of the people.
        limits: Whether Actito's limits apply at all.
        max_concurrency: More concurrent requests get status 429 (documented: 5).
        calls_per_minute: Beyond this number per minute, responses get slower (documented: 100).
        slowdown: Seconds added for each request beyond the minute's limit, up to `slowest` (guess).
        slowest: Longest delay by throttling, in seconds (guess).
        latency: Seconds added to each request.
        token_ttl: Lifetime of an Actito token, in seconds (documented: 900).
        didomi_token_ttl: Lifetime of a Didomi token, in seconds (documented: 3600).
        actito_key: The API key that Actito accepts.
        put_replaces: PUT on an existing profile clears attributes that are left out (unknown; it
            probably merges).
        subscription_moves_update_moment: A change of subscriptions alone changes `updateMoment`
            (unknown).
        knows_patch: The server supports PATCH for profiles (documented, path inferred).
        patch_status: Status of a successful PATCH: 200 with `profileId`, or 204 without a body
            (unknown).
        put_update_status: The same for a PUT that updated a profile.
        conflict_status: Status if a unique value belongs to another profile (unknown).
        strict_technical: Technical attributes in a body are refused; else ignored (unknown).
        unprefixed_urls: The old URLs without a category are served as well (announced to end).
        page_size: Profiles per page if the request names no size (unknown).
        etl_per_day: ETL executions per day (documented: 24; older pages say 12).
        etl_quota_scope: What the executions are counted by (unknown).
        etl_max_bytes: Maximum file size (documented: 100 MB; a larger file gets status 400).
        etl_rows_per_second: Speed of an execution, after a quarter of a second for its validation
            (guess); 0 for one that never ends.
        etl_empty_clears: An empty cell clears the value; else it leaves the value (unknown).
        etl_definition_part: Name of the part that holds a one-shot definition (unknown).
        etl_lists_executions: The list of executions can be read (unknown).
        etl_tells_rows: An execution reports how many rows it created and updated (unknown).
        etl_errors_shown: Maximum number of rows in error that are listed (unknown).
        etl_fail_next: Number of next executions that fail their validation.
        etl_bad_person: A row fails if its key contains this text; for tests of errors.
        etl_bad_file: The validation of a file fails if it contains this text.
        knows_update_filter: The list of profiles accepts `updateMoment=>=TIMESTAMP` (unknown); else
            the parameter is compared as it is.
        largest_page: Maximum of profiles per page, whatever is requested (unknown).
        page_names_total: A page of profiles names the total (unknown).
        page_list: Name of the list in a page of profiles (inferred).
        page_subscriptions: How a page shows a profile's subscriptions: `whole`, or as a server in
            trouble might: `absent`, `empty`, or `null`.
        duplicate_event_status: Didomi's status for an event `id` that exists: 409 or 400 (unknown).
        array_per_item: Good events of an array are stored although another one is refused; else
            none is stored (unknown).
        late_events_last: A late event is applied last, not in the order of `created_at`
            (unknown).
        reject_unknown_filters: Unknown query parameters of Didomi's lists are refused (unknown).
        event_list_form: Form of a list of events: `envelope` with `cursor`, `total` with `skip`,
            or a bare `list` (unknown).
        user_list_form: The same for users (documented: envelope with `cursor`).
        export_pending: Batch exports include unapproved events (unknown).
    """

    database: str | None = None
    people: int = 0
    seed: int = 1
    limits: bool = True
    max_concurrency: int = 5
    calls_per_minute: int = 100
    slowdown: float = 0.25
    slowest: float = 30.0
    latency: float = 0.0
    token_ttl: float = 900.0
    didomi_token_ttl: float = 3600.0
    actito_key: str = ACTITO_KEY
    put_replaces: bool = False
    subscription_moves_update_moment: bool = False
    knows_patch: bool = True
    patch_status: Literal[200, 204] = 200
    put_update_status: Literal[200, 204] = 200
    conflict_status: Literal[400, 409] = 409
    strict_technical: bool = False
    unprefixed_urls: bool = False
    page_size: int = 100
    etl_per_day: int = 24
    etl_quota_scope: Literal["etl", "table", "licence"] = "licence"
    etl_max_bytes: int = 100_000_000
    etl_rows_per_second: float = 20_000.0
    etl_empty_clears: bool = True
    etl_definition_part: Literal["etlDefinition", "parameters"] = "etlDefinition"
    etl_lists_executions: bool = True
    etl_tells_rows: bool = True
    etl_errors_shown: int = 1_000_000
    etl_fail_next: int = 0
    etl_bad_person: str = ""
    etl_bad_file: str = ""
    knows_update_filter: bool = True
    largest_page: int = 1000
    page_names_total: bool = True
    page_list: str = "profiles"
    page_subscriptions: Literal["whole", "absent", "empty", "null"] = "whole"
    duplicate_event_status: Literal[400, 409] = 409
    array_per_item: bool = False
    late_events_last: bool = False
    reject_unknown_filters: bool = False
    event_list_form: Literal["envelope", "total", "list"] = "envelope"
    user_list_form: Literal["envelope", "total", "list"] = "envelope"
    export_pending: bool = True
