"""Settings of tap-didomi."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.didomi.config import (
    REQUIRED,
    DidomiSettings,
    find_organization_problems,
    missing_settings,
)
from actito_didomi.files import MAX_COMPRESSION_RATIO
from actito_didomi.http import ClientSettings
from actito_didomi.lines import MAX_LINE_BYTES
from actito_didomi.plugin.config import (
    MaxCompressionRatio,
    MaxLineBytes,
    OnBadLine,
    StorageOptions,
)
from actito_didomi.settings import setting

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATE = re.compile(r"\d{4}-\d\d-\d\d(T|$)", re.ASCII)
GROUPS = [["export_root"], list(REQUIRED)]
"""Settings that are complete together, each list by itself."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of tap-didomi."""

    export_root: Annotated[
        str | None,
        setting(
            "Export folder",
            "URL of the folder that batch exports arrive in: `s3://...`, `gs://...`, "
            "`file:///...`. With it, exports are read and the API is not called.",
        ),
    ] = None
    didomi: DidomiSettings
    storage_options: StorageOptions = {}
    export_ids: Annotated[
        tuple[str, ...],
        setting("Export ids", "Read these exports only; all of them when not set.", advanced=True),
    ] = ()
    start_date: Annotated[
        str | None,
        setting("Start date", "First day to read (`yyyy-MM-dd`), as long as there is no state."),
    ] = None
    read_users: Annotated[
        bool,
        setting(
            "Read users",
            "Offer the stream `consent_users` of batch exports. It holds whole statuses: written "
            "to Actito, they can overwrite newer choices that were made there.",
            advanced=True,
        ),
    ] = False
    on_bad_line: OnBadLine = "fail"
    max_line_bytes: MaxLineBytes = MAX_LINE_BYTES
    max_compression_ratio: MaxCompressionRatio = MAX_COMPRESSION_RATIO
    client: ClientSettings
    ledger: LedgerSettings


def find_problems(settings: Settings, batch_config: Mapping[str, Any] | None) -> list[str]:
    """Check that there is something to read from; return one line per problem.

    Args:
        settings: The settings.
        batch_config: The SDK's setting of this name.
    """
    if batch_config:
        encoding = batch_config.get("encoding") or {}
        if (encoding.get("format"), encoding.get("compression")) != ("jsonl", "gzip"):
            how = '{"format": "jsonl", "compression": "gzip"}'
            return [f"batch_config: exports are gzip JSON lines. Set encoding to {how}."]
        if not settings.export_root:
            how = "Set export_root, or remove batch_config."
            return [f"batch_config: only batch exports are emitted as BATCH messages. {how}"]
    if problem := _find_date_problem(settings.start_date):
        return [problem]
    missing = missing_settings(settings.didomi)
    if settings.export_root:
        return []
    if missing:
        how = "Set export_root to read batch exports, or all three to read through the API."
        return [f"{', '.join(missing)} missing. {how}"]
    return find_organization_problems(settings.didomi, settings.client)


def _find_date_problem(start_date: str | None) -> str | None:
    """Return what is wrong with the setting `start_date`; None if nothing is."""
    if not start_date:
        return None
    try:
        datetime.fromisoformat(start_date.replace("Z", "+00:00"))
        is_date = _DATE.match(start_date) is not None
    except ValueError:
        is_date = False
    if is_date:
        return None
    return f"start_date: must be a day such as 2026-10-01, found {start_date[:30]!r}."
