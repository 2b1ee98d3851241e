"""Switches of the sandbox. Each default is the documented behaviour, or the likeliest guess."""

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
    """What the sandbox does where the real systems leave a choice, and its limits.

    Attributes:
        database: SQLite file; None for a fresh temporary one.
        people: People to fill both sides with.
        seed: Seed of the people.
        limits: Whether Actito's limits hold at all.
        max_concurrency: More requests at once are answered 429 (documented: 5).
        calls_per_minute: Beyond this in a minute, answers get slower (documented: 100).
        slowdown: Seconds added for each call beyond the minute's limit, up to `slowest` (guess).
        slowest: Longest delay by throttling, in seconds (guess).
        latency: Seconds added to each call.
        token_ttl: Life of an Actito token in seconds (documented: 900).
        didomi_token_ttl: Life of a Didomi token in seconds (documented: 3600).
        actito_key: The API key that Actito takes.
        put_replaces: PUT on an existing profile clears attributes that are left out (unknown; the
            likeliest is that it merges).
        subscription_moves_update_moment: A change of subscriptions alone moves `updateMoment`
            (unknown).
        knows_patch: The server knows PATCH for profiles (documented, path inferred).
        patch_status: Answer to a successful PATCH: 200 with `profileId`, or 204 without a body
            (unknown).
        put_update_status: The same for a PUT that updated.
        conflict_status: Answer when a unique value belongs to another profile (unknown).
        strict_technical: Technical attributes in a body are refused; else ignored (unknown).
        unprefixed_urls: The old URLs without a category are served as well (announced to end).
        page_size: Profiles a page when the caller names no size (unknown).
        etl_per_day: ETL executions a day (documented: 24; older pages say 12).
        etl_quota_scope: What is counted together (unknown).
        etl_max_bytes: Largest file (documented: 100 MB; more is answered 400).
        etl_rows_per_second: Speed of an execution, after a quarter of a second for its validation
            (guess); 0 for one that never ends.
        etl_empty_clears: An empty cell clears the value; else it leaves it as it is (unknown).
        etl_definition_part: Name of the part that holds a one-shot definition (unknown).
        etl_lists_executions: The list of executions can be read (unknown).
        etl_tells_rows: An execution tells how many rows it created and updated (unknown).
        etl_fail_next: So many executions, the next ones, fail their validation.
        etl_bad_person: Text that makes a row fail when its key holds it; for tests of errors.
        etl_bad_file: Text that makes the validation of a whole file fail when it is in it.
        knows_update_filter: The list of profiles takes `updateMoment=>=MOMENT` (unknown); else it
            is compared as it is.
        duplicate_event_status: Didomi's answer to an event `id` that exists: 409 or 400 (unknown).
        array_per_item: In an array of events, good ones are stored beside a bad one; else none is
            (unknown).
        late_events_last: A late event is applied last, not slotted in by its `created_at`
            (unknown).
        reject_unknown_filters: Unknown query parameters on Didomi's lists are refused (unknown).
        event_list_form: How events are listed: `envelope` with `cursor`, `total` with `skip`, or
            a bare `list` (unknown).
        user_list_form: The same for users (documented: envelope with `cursor`).
        export_pending: Batch exports hold unapproved events too (unknown).
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
    etl_fail_next: int = 0
    etl_bad_person: str = ""
    etl_bad_file: str = ""
    knows_update_filter: bool = True
    duplicate_event_status: Literal[400, 409] = 409
    array_per_item: bool = False
    late_events_last: bool = False
    reject_unknown_filters: bool = False
    event_list_form: Literal["envelope", "total", "list"] = "envelope"
    user_list_form: Literal["envelope", "total", "list"] = "envelope"
    export_pending: bool = True
